"""``Associative``: its promises beyond the table of cells and strategies."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.strategies.linear_recurrence import linear_recurrence
from rnnjax.testing import FAST_COMPILATION, TOLERANCE, largest_difference
from tests.cases import PARALLEL, B, D, T, case
from tests.test_transforms import transformed


def value_and_grad(c, strategy, carry, xs, resets):
    """Return (carry, ys), and gradients in params and carry."""

    def loss(params, carry):
        results = rnnjax.scan(c.cell, params, xs, carry, resets=resets, strategy=strategy)
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(results)), results

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return jax.jit(gradient, compiler_options=FAST_COMPILATION)(c.params, carry)


PAIRS = [("min_lstm", "associative"), ("min_lstm", "associative_block")]
PAIRS += [("gated_delta", "associative"), ("gated_delta", "associative_block")]


@pytest.mark.parametrize(("name", "strategy"), PAIRS[:2] + PAIRS[3:])
def test_a_reset_before_the_first_step_keeps_a_nan_carry_out(name, strategy):
    c = case(name)
    xs = jax.random.normal(jax.random.key(3), (T, B, D))
    resets = jnp.zeros((T, B), bool).at[0].set(True).at[3, 1].set(True)
    spoilt, clean = (jax.tree.map(lambda a, k=k: a * k, c.carry) for k in (jnp.nan, 1.0))
    got = value_and_grad(c, PARALLEL[strategy], spoilt, xs, resets)
    expected = value_and_grad(c, rnnjax.Sequential(), clean, xs, resets)
    assert largest_difference(expected, got) < TOLERANCE["float32"]


@pytest.mark.parametrize(("name", "strategy"), PAIRS[:3])
@pytest.mark.parametrize("rubbish", [jnp.inf, jnp.nan])
def test_nothing_crosses_a_later_reset(name, strategy, rubbish):
    c = case(name)
    clean = jax.random.normal(jax.random.key(3), (T, B, D))
    resets = jnp.zeros((T, B), bool).at[3].set(True)
    run = functools.partial(rnnjax.scan, c.cell, c.params, resets=resets)
    for spoilt in (clean.at[1].set(rubbish), clean.at[2].set(rubbish)):
        carry, ys = run(spoilt, strategy=PARALLEL[strategy])
        expected_carry, expected = run(clean, strategy=rnnjax.Sequential())
        assert largest_difference((expected_carry, expected[3:]), (carry, ys[3:])) < 1e-6
        assert not bool(jnp.isfinite(ys[2]).all())


def test_transforms():
    """Of an affine cell, in blocks: the tangent is a scan as well, and so is its transpose."""
    got, expected = (
        transformed("zoneout_min_lstm", each, FAST_COMPILATION)
        for each in (PARALLEL["associative_block"], rnnjax.Sequential())
    )
    for transform in expected:
        difference = largest_difference(expected[transform], got[transform])
        assert difference < TOLERANCE["float32"], transform


def test_transforms_of_an_operator():
    """Against one another: values and first gradients are held to the oracle elsewhere."""
    got = transformed("gated_delta", PARALLEL["associative"], FAST_COMPILATION)
    assert largest_difference(got["jvp"], got["vjp"]) < TOLERANCE["float32"]
    both_ways = got["grad of grad"], got["forward over reverse"]
    assert largest_difference(*both_ways) < TOLERANCE["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [rnnjax.Associative(), rnnjax.Associative(block=256)])
def test_long_sequences_against_float64(strategy):
    """The carry takes up numbers of all sizes: a random walk of 131,072 steps that forgets."""
    cell = rnnjax.MinGRU(4, update_bias=-6.0)
    params = cell.init(jax.random.key(0), 2)
    xs = jax.random.normal(jax.random.key(1), (131_072, 1, 2))
    _, got = rnnjax.scan(cell, params, xs, strategy=strategy)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype("float64"), (params, xs))
        _, expected = rnnjax.scan(cell, *wide, strategy=rnnjax.Sequential())
    error = np.abs(np.asarray(got, float) - np.asarray(expected)).max()
    assert error < 1e-5 * np.abs(np.asarray(expected)).max()


def test_training_keeps_memory_in_proportion_to_time():
    """What encode and readout keep, a, h and what is in work: a number of arrays (T, B, N)."""
    cell, time, batch = rnnjax.MinGRU(64), 1024, 2

    def loss(params, xs):
        return jnp.sum(rnnjax.scan(cell, params, xs, strategy=rnnjax.Associative())[0] ** 2)

    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 4))
    xs = jax.ShapeDtypeStruct((time, batch, 4), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(params, xs).compile()
    arrays = compiled.memory_analysis().temp_size_in_bytes / (time * batch * 64 * 4)
    # Differentiated as it stands, the scan alone would keep as many as this has in all.
    assert arrays < 14


@pytest.mark.parametrize("strategy", [rnnjax.Associative(), rnnjax.Associative(block=64)])
def test_one_step_and_none(strategy):
    c = case("zoneout_min_lstm")
    for time in (0, 1):
        xs = jax.tree.map(lambda a, time=time: a[:time], c.xs._replace(x=jnp.nan_to_num(c.xs.x)))
        got, expected = (
            rnnjax.scan(c.cell, c.params, xs, c.carry, resets=c.resets[:time], strategy=each)
            for each in (strategy, rnnjax.Sequential())
        )
        assert largest_difference(expected, got) < TOLERANCE["float32"]


def test_bfloat16_accumulates_in_float32():
    cell = rnnjax.MinLSTM(5, dtype="bfloat16")
    c = case("min_lstm")
    xs = jnp.nan_to_num(c.xs)
    carry, ys = rnnjax.scan(cell, c.params, xs, c.carry, strategy=rnnjax.Associative())
    expected = rnnjax.scan(cell, c.params, xs, c.carry, strategy=rnnjax.Sequential())
    assert carry.dtype == jnp.float32
    assert ys.dtype == jnp.bfloat16
    # The carry is the one of float32 to its rounding; an output is rounded once.
    assert largest_difference(expected[0], carry) < TOLERANCE["float32"]
    assert largest_difference(expected[1], ys) < TOLERANCE["bfloat16"]


def test_an_operator_comes_before_the_claims():
    """A cell that brings an operator knows better than its derivative."""

    @dataclasses.dataclass(frozen=True)
    class Counting(rnnjax.MinLSTM):
        def operator(self):
            return rnnjax.Operator(
                element=lambda params, u: jnp.ones((self.size,)),
                combine=jnp.add,
                apply=lambda steps, carry: carry + steps,
            )

    c = case("min_lstm")
    mask = jnp.arange(T)[:, None] < c.lengths[None]
    options = {"mask": mask, "strategy": rnnjax.Associative()}
    carry, _ = rnnjax.scan(Counting(5), c.params, jnp.nan_to_num(c.xs), c.carry, **options)
    assert jnp.allclose(carry, c.carry + c.lengths[:, None].astype(float), atol=1e-6)


def test_the_derivative_is_one_more_scan():
    """Not the derivative of the rounds: its program has as many additions as two scans."""
    a = jnp.full((64, 3), 0.5)

    def products(function):
        text = str(jax.make_jaxpr(function)(a))
        return text.count(" = mul ")

    forward = products(lambda b: linear_recurrence(a, b))
    both = products(jax.grad(lambda b: linear_recurrence(a, b).sum()))
    assert both <= 2 * forward + 8


@dataclasses.dataclass(frozen=True)
class Rotation(rnnjax.Cell):
    """Affine, but not elementwise."""

    affine = True

    def init(self, key, in_dim):
        return {}

    def initial_carry(self, params):
        return jnp.zeros((3,))

    def step(self, params, carry, u):
        return jnp.roll(carry, 1) + u


@dataclasses.dataclass(frozen=True)
class Counter(Rotation):
    """Affine and elementwise, in integers."""

    elementwise = True

    def initial_carry(self, params):
        return jnp.zeros((3,), int)

    def step(self, params, carry, u):
        return carry + 1


def open_time():
    """Export with T left open."""
    (time,) = jax.export.symbolic_shape("t")
    xs = jax.ShapeDtypeStruct((time, 2, 3), jnp.float32)
    cell = rnnjax.MinGRU(4)
    params = cell.init(jax.random.key(0), 3)
    scan = functools.partial(rnnjax.scan, cell, params, strategy=rnnjax.Associative())
    return jax.export.export(jax.jit(scan))(xs)


def scan_with(cell):
    params = cell.init(jax.random.key(0), 3)
    return rnnjax.scan(cell, params, jnp.ones((5, 2, 3)), strategy=rnnjax.Associative())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: scan_with(rnnjax.LSTM(4)),
            r"scan: Associative\(\) cannot run LSTM\(4\): its step is not affine and elementwise "
            r"in the carry, and it has no operator\(\). Use Sequential\(\)",
        ),
        (lambda: scan_with(Rotation()), r"Rotation\(\): its step is not elementwise in the carry"),
        (
            lambda: scan_with(rnnjax.Stack((rnnjax.MinGRU(4), rnnjax.GRU(4)))),
            r"cannot run GRU\(4\)",
        ),
        (lambda: scan_with(Counter()), r"floating-point or complex .* of Counter\(\) holds int32"),
        (open_time, "Associative must know T, and it is open in this program, t"),
        (lambda: rnnjax.Associative(block=0), "Associative: block must be at least 1; got 0"),
        (lambda: rnnjax.LRU(4, r_max=1.1), r"LRU: \|λ\| must start inside the unit disc.* 1.1"),
        (lambda: rnnjax.LRU(4, r_min=0.9, r_max=0.5), "0 ≤ r_min < r_max ≤ 1"),
        (lambda: rnnjax.LRU(4, max_phase=7.0), r"LRU: max_phase must be in \(0, 2π\] radians"),
        (lambda: rnnjax.S5(4, dt_min=-0.1), r"S5: \|λ\| = .* must start inside the unit disc"),
        (lambda: rnnjax.S5(4, blocks=3), "S5: blocks must divide size = 4; got 3"),
        (lambda: rnnjax.RGLRU(4, a_max=1.0), "RGLRU: a must start inside the unit disc"),
        (lambda: rnnjax.RGLRU(4, heads=3), "RGLRU: heads must divide size = 4; got 3"),
        (lambda: scan_with(rnnjax.RGLRU(4)), "RGLRU: in_dim must be size = 4.* got 3"),
        (lambda: rnnjax.GatedDelta(4, heads=3), "GatedDelta: heads must divide size = 4; got 3"),
        (lambda: rnnjax.GatedDelta(4, key_size=0), "GatedDelta: key_size must be at least 1"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_a_stack_of_linear_cells():
    """Layers of different kinds, with residuals, from a carry, in reverse."""
    stack = rnnjax.Stack((rnnjax.MinGRU(6), rnnjax.RGLRU(6)), residual=True)
    params = stack.init(jax.random.key(0), 6)
    xs = jax.random.normal(jax.random.key(1), (T, B, 6))
    carry = tuple(jax.random.normal(key, (B, 6)) for key in jax.random.split(jax.random.key(2)))
    options = {"lengths": jnp.array([0, 1, T, 2]), "reverse": True}

    def run(strategy):
        scan = functools.partial(rnnjax.scan, stack, strategy=strategy, **options)
        return jax.jit(scan, compiler_options=FAST_COMPILATION)(params, xs, carry)

    got, expected = (run(strategy) for strategy in (rnnjax.Associative(), rnnjax.Sequential()))
    assert largest_difference(expected, got) < TOLERANCE["float32"]
