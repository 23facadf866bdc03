"""Diagnostics against float64 autodiff by hand, known spectra and published orders of magnitude."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import diagnostics
from rnnjax.diagnostics import gradient_norms
from rnnjax.initializers import Chrono, Orthogonal
from rnnjax.testing import FAST_COMPILATION
from tests.cases import CELLS, LINEAR, case

QUICK = ("lstm", "attend")
"""Cells whose gradients are compared in every run; the others only in the long one."""


def every_cell():
    names = [name for name in CELLS if name not in LINEAR]
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


# Gradient norms


def window(name):
    """A case over 17 steps: padding, holes, one reset; rows that see all of it."""
    c = case(name, 17)
    resets = jnp.zeros_like(c.resets).at[6, 2].set(True)
    return dataclasses.replace(c, resets=resets)


def cotangent_for(c):
    leaves, structure = jax.tree.flatten(c.carry)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    drawn = [jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def by_hand(c, cotangent):
    """Return ∂L/∂ of zeros added to every carry, and to the params and inputs of every step."""
    time = c.mask.shape[0]
    valid = c.mask & (np.arange(time)[:, None] < np.asarray(c.lengths)[None])

    def row(carry, xs, mask, resets, context, cotangent):
        def run(carries, params, xs):
            def step(h, scanned):
                added, p, x, m, r = scanned
                h, _ = rnnjax.step(
                    c.cell, p, batched(x), h, mask=m[None], reset=r[None], context=batched(context)
                )
                return jax.tree.map(lambda a, b: a + b[None], h, added), None

            scanned = (carries, params, xs, mask, resets)
            h, _ = jax.lax.scan(step, batched(carry), scanned)
            products = jax.tree.map(lambda a, b: jnp.sum(a[0] * b), h, cotangent)
            return sum(jax.tree.leaves(products))

        carries = jax.tree.map(lambda a: jnp.zeros((time, *a.shape), a.dtype), carry)
        params = jax.tree.map(lambda a: jnp.broadcast_to(a, (time, *a.shape)), c.params)
        gradient = jax.grad(run, argnums=(0, 1, 2), allow_int=True)
        return gradient(carries, params, xs)

    xs_axes = jax.tree.map(lambda _: 1, c.xs)
    rows = jax.vmap(row, in_axes=(0, xs_axes, 1, 1, 0, 0), out_axes=1)
    run = jax.jit(rows, compiler_options=FAST_COMPILATION)
    return run(c.carry, c.xs, valid, c.resets, c.context, cotangent)


def batched(tree):
    return jax.tree.map(lambda a: a[None], tree)


def log_norms(tree):
    """Return log ‖·‖ (T, B) over all floating-point leaves (T, B, …)."""
    leaves = [np.asarray(a) for a in jax.tree.leaves(tree) if is_float(a)]
    square = sum((a.reshape(*a.shape[:2], -1) ** 2).sum(-1) for a in leaves)
    with np.errstate(divide="ignore"):
        return 0.5 * np.log(square)


def is_float(a):
    return a.dtype != jax.dtypes.float0 and jnp.issubdtype(a.dtype, jnp.inexact)


@pytest.mark.parametrize("name", every_cell())
def test_norms_are_those_of_float64_autodiff(name):
    c = window(name)
    cotangent = cotangent_for(c)
    norms = gradient_norms(
        c.cell,
        c.params,
        c.xs,
        c.carry,
        cotangent=cotangent,
        mask=c.mask,
        lengths=c.lengths,
        resets=c.resets,
        context=c.context,
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype("float64"), cotangent)
        carries, params, xs = by_hand(c.as_dtype("float64"), wide)
        expected = (
            [log_norms(leaf) for leaf in jax.tree.leaves(carries)],
            log_norms(carries),
            log_norms(params),
            log_norms(xs),
        )
    found = (jax.tree.leaves(norms.carry), norms.whole, norms.params, norms.xs)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def linear(a):
    return a


ELMAN = rnnjax.Elman(6)
LSTM = rnnjax.LSTM(5)
PARAMS = LSTM.init(jax.random.key(0), 3)
XS = jax.random.normal(jax.random.key(1), (12, 2, 3))


def norms_of(xs=XS, cell=LSTM, params=PARAMS, **options):
    return gradient_norms(cell, params, xs, **options)


@pytest.mark.parametrize("gain", [0.9, 1.1])
def test_an_orthogonal_rnn_at_rest_shrinks_by_its_gain(gain):
    cell = rnnjax.Elman(8, recurrent_kernel_init=Orthogonal(gain))
    params = cell.init(jax.random.key(0), 3)
    whole = np.asarray(norms_of(jnp.zeros((10_007, 1, 3)), cell, params).whole)[:, 0]
    for lag in (1, 100, 10_000):
        ratio = (whole[-1 - lag] - whole[-1]) / (lag * np.log(gain))
        assert abs(ratio - 1) < 1e-5


PUBLISHED = {
    "tanh": (rnnjax.Elman(128), 2.9e-15),
    "bias 0": (rnnjax.LSTM(128, forget_bias=0.0), 3.5e-18),
    "bias 1": (rnnjax.LSTM(128, forget_bias=1.0), 1.0e-6),
    "chrono": (rnnjax.LSTM(128, forget_bias=Chrono(200)), 0.40),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_decay_over_100_steps_is_of_the_measured_order(name):
    cell, expected = PUBLISHED[name]

    init, decays = jax.jit(cell.init, static_argnums=1), []
    for seed in range(10):
        k_params, k_xs = jax.random.split(jax.random.key(seed))
        norms = norms_of(jax.random.normal(k_xs, (200, 1, 32)), cell, init(k_params, 32))
        path = norms.carry.c if isinstance(cell, rnnjax.LSTM) else norms.whole
        decays.append(float(path[99, 0] - norms.whole[199, 0]))
    assert abs(np.median(decays) / np.log(10) - np.log10(expected)) < 1.5


def test_the_seeded_cotangent_has_norm_one_and_its_key_decides():
    norms = norms_of()
    assert norms.whole.shape == norms.carry.c.shape == norms.params.shape == norms.xs.shape
    np.testing.assert_allclose(norms.whole[-1], 0.0, atol=1e-6)
    np.testing.assert_array_equal(norms.whole, norms_of(key=jax.random.key(0)).whole)
    assert not np.allclose(norms.whole[:-1], norms_of(key=jax.random.key(1)).whole[:-1])
    both = np.logaddexp(2 * norms.carry.c, 2 * norms.carry.h) / 2
    np.testing.assert_allclose(both, norms.whole, atol=1e-6)


def test_a_loss_reads_the_last_carry_and_output():
    def loss(carry, y):
        return jnp.sum(y**2) + jnp.sum(carry.c)

    norms = norms_of(loss=loss)

    def total(carry):
        carry, ys = rnnjax.scan(LSTM, PARAMS, XS[-1:], carry)
        return jnp.sum(jax.vmap(loss)(carry, ys[-1]))

    before, _ = rnnjax.scan(LSTM, PARAMS, XS[:-1])
    expected = log_norms(jax.tree.map(lambda a: a[None], jax.grad(total)(before)))
    np.testing.assert_allclose(norms.whole[-2], expected[0], atol=1e-5)


def test_masks_hand_on_and_resets_cut():
    mask = jnp.ones((12, 2), bool).at[8, 0].set(False)
    resets = jnp.zeros((12, 2), bool).at[4, 1].set(True)
    norms = norms_of(mask=mask, resets=resets)
    np.testing.assert_allclose(norms.whole[7, 0], norms.whole[8, 0], atol=1e-6)
    assert norms.params[8, 0] == norms.xs[8, 0] == -np.inf
    assert np.isneginf(norms.whole[:4, 1]).all()
    assert np.isneginf(norms.params[:4, 1]).all()
    assert np.isfinite(norms.whole[4:, 1]).all()
    assert np.isfinite(norms.whole[:, 0]).all()


def test_all_masked_and_one_step():
    norms = norms_of(mask=jnp.zeros((12, 2), bool))
    np.testing.assert_allclose(norms.whole, 0.0, atol=1e-6)
    assert np.isneginf(norms.params).all()
    np.testing.assert_allclose(norms_of(XS[:1]).whole, np.zeros((1, 2)), atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Counting(rnnjax.Cell):
    """A complex memory, a step counter beside it, integers as inputs."""

    def init(self, key, in_dim):
        return {"rate": jnp.asarray([0.5j, 0.8 + 0.1j]), "table": jnp.arange(4.0)}

    def initial_carry(self, params):
        return jnp.zeros((2,), complex), jnp.zeros((), int)

    def step(self, params, carry, u):
        z, count = carry
        return params["rate"] * z + params["table"][u].astype(complex), count + 1


def test_complex_and_integer_leaves():
    cell = Counting()
    params = cell.init(jax.random.key(0), ())
    xs = jnp.ones((9, 2), int)
    start = jnp.array([1.0, 0.0], complex), jnp.zeros((), int)
    cotangent = jax.tree.map(lambda a: jnp.broadcast_to(a, (2, *a.shape)), start)
    norms = gradient_norms(cell, params, xs, cotangent=cotangent)
    lags = np.arange(9)[::-1, None] * np.ones((1, 2))
    np.testing.assert_allclose(norms.whole, lags * np.log(0.5), atol=1e-6)
    assert norms.xs is None
    assert np.isneginf(norms.carry[1]).all()
    found = diagnostics.singular_values(cell, params, xs)
    rates = np.log([abs(0.8 + 0.1j)] * 2 + [0.5] * 2)
    np.testing.assert_allclose(found[0], 9 * rates, atol=1e-5)


def test_compiled_inside_a_program():
    compiled = jax.jit(functools.partial(gradient_norms, LSTM))(PARAMS, XS)
    np.testing.assert_allclose(compiled.whole, norms_of().whole, atol=1e-5)


MEMORY_TIMES = (1_000, 10_000, 100_000)


def test_memory_grows_like_the_root_of_time():
    cell, features = rnnjax.Elman(128), 2
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), features))

    def temporary_bytes(time):
        xs = jax.ShapeDtypeStruct((time, 1, features), jnp.float32)
        compiled = jax.jit(functools.partial(gradient_norms, cell)).lower(params, xs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    sizes = [temporary_bytes(time) for time in MEMORY_TIMES]
    exponent = np.polyfit(np.log(MEMORY_TIMES), np.log(sizes), 1)[0]
    assert exponent < 0.6


@pytest.mark.slow
def test_a_hundred_thousand_steps():
    cell = rnnjax.LSTM(128)
    params = cell.init(jax.random.key(0), 2)
    xs = jax.random.normal(jax.random.key(1), (100_000, 1, 2))
    norms = gradient_norms(cell, params, xs)
    assert np.isfinite(norms.whole).all()
    assert norms.whole[0, 0] < -1000


# Growth and Lyapunov exponents

SPECTRUM = np.array([1.05, 0.9, 0.8, 0.6, 0.5, 0.3])


def with_spectrum():
    basis = np.random.default_rng(1).normal(size=(6, 6)) + 3 * np.eye(6)
    kernel = basis @ np.diag(SPECTRUM) @ np.linalg.inv(basis)
    cell = rnnjax.Elman(6, activation=linear)
    return cell, {**cell.init(jax.random.key(0), 3), "w_h": jnp.asarray(kernel, jnp.float32)}


def test_exponents_of_a_linear_rnn_are_the_logarithms_of_its_spectrum():
    cell, params = with_spectrum()
    xs = jnp.zeros((1000, 2, 3))
    found = diagnostics.lyapunov_exponents(cell, params, xs, k=6, discard=200)
    np.testing.assert_allclose(found.exponents, np.log(SPECTRUM), atol=1e-5)
    np.testing.assert_allclose(found.rows, np.log(SPECTRUM)[None] * np.ones((2, 1)), atol=1e-5)
    assert (found.errors < 1e-5).all()
    assert found.horizon == np.inf


def test_the_horizon_of_a_contraction_and_steps_not_taken():
    cell = rnnjax.Elman(6, recurrent_kernel_init=Orthogonal(0.8))
    params = cell.init(jax.random.key(0), 3)
    lengths = jnp.array([40, 0, 20])
    found = diagnostics.lyapunov_exponents(cell, params, jnp.zeros((40, 3, 3)), lengths=lengths)
    assert found.horizon == pytest.approx(-1 / np.log(0.8), rel=1e-5)
    np.testing.assert_allclose(found.rows[:, 0], [np.log(0.8), np.nan, np.log(0.8)], atol=1e-5)


def test_all_directions_together_grow_as_the_determinant():
    growth = diagnostics.growth_rates(LSTM, PARAMS, XS, k=10)
    values = diagnostics.singular_values(LSTM, PARAMS, XS[:3])
    np.testing.assert_allclose(growth[2].sum(axis=1), values.sum(axis=1), rtol=1e-4)
    largest = diagnostics.singular_values(LSTM, PARAMS, XS, k=1)
    assert (np.asarray(growth[-1, :, 0]) <= largest[:, 0] + 1e-4).all()


def test_nothing_is_left_of_a_difference_after_a_reset():
    resets = jnp.zeros((12, 2), bool).at[4, 1].set(True)
    growth = diagnostics.growth_rates(LSTM, PARAMS, XS, k=2, resets=resets)
    assert np.isneginf(growth[4:, 1]).all()
    assert np.isfinite(growth[:4, 1]).all()
    found = diagnostics.lyapunov_exponents(LSTM, PARAMS, XS, resets=resets)
    assert found.rows[1, 0] == found.exponents[0] == -np.inf


def test_context_noise_and_stacks_grow():
    c = window("stack")
    options = {"mask": c.mask, "lengths": c.lengths, "resets": c.resets, "context": c.context}
    growth = diagnostics.growth_rates(c.cell, c.params, c.xs, c.carry, k=2, **options)
    assert growth.shape == (17, 4, 2)
    np.testing.assert_array_equal(growth[:, 0], 0.0)


# Gates


def test_saturation_counts_the_steps_taken():
    mask = jax.random.bernoulli(jax.random.key(2), 0.6, (12, 2))
    params = jax.tree.map(lambda a: 4 * a, PARAMS)
    found = diagnostics.gate_saturation(LSTM, params, XS, mask=mask)
    seen = []
    carry = rnnjax.initial_carry(LSTM, params, 2)
    for x, m in zip(XS, mask, strict=True):
        rows = jax.vmap(lambda c, x: LSTM.gates(params, c, LSTM.encode(params, x))["f"])(carry, x)
        seen += [row for row, taken in zip(rows, m, strict=True) if taken]
        carry, _ = rnnjax.step(LSTM, params, x, carry, mask=m)
    np.testing.assert_allclose(found.high["f"], (np.array(seen) >= 0.95).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.low["f"], (np.array(seen) <= 0.05).mean(axis=0), atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Candidate(rnnjax.Wrapper):
    """A cell that shows its input through tanh, and a constant, as gates."""

    def gates(self, params, carry, u):
        return {"n": jnp.tanh(10 * u[:2]), "half": jnp.full((2,), 0.5)}


def test_a_gate_that_is_negative_lies_within_minus_one_and_one():
    cell = Candidate(rnnjax.GRU(3))
    params = cell.init(jax.random.key(0), 3)
    found = diagnostics.gate_saturation(cell, params, XS, limits={"half": (0.5, 2.0)})
    assert found.limits["n"].tolist() == [-1.0, 1.0]
    assert (np.asarray(found.low["n"] + found.high["n"]) > 0.3).all()
    assert found.low["half"].tolist() == [1.0, 1.0]
    layers = rnnjax.Stack((LSTM, rnnjax.Zoneout(rnnjax.GRU(5))))
    stacked = diagnostics.gate_saturation(layers, layers.init(jax.random.key(0), 3), XS)
    assert sorted(stacked.low) == ["0.f", "0.i", "0.o", "1.r", "1.z"]


# Horizon


def test_the_horizon_is_the_first_lag_below_the_factor():
    falling = np.linspace(-3.0, 0.0, 31)[:, None] * np.array([1.0, 2.0, 0.1])
    found = diagnostics.memory_horizon(falling, factor=np.exp(-1.05))
    assert found.lags.tolist() == [[11.0, 6.0, np.inf]]
    assert (found.lag, found.low, found.high) == (11.0, 6.0, np.inf)
    seeds = diagnostics.memory_horizon(np.stack([falling[:, :2]] * 4), factor=np.exp(-1.05))
    assert seeds.lags.shape == (4, 2)
    assert 6.0 <= seeds.low <= seeds.lag <= seeds.high <= 11.0
    assert diagnostics.memory_horizon(falling[:, 2:]).lag == np.inf


# Figures


def test_a_gap_in_a_figure_is_named():
    logs = np.array([[-np.inf, -np.inf], [-2.0, -np.inf], [0.0, 0.0]])
    ax = diagnostics.plot_gradient_norms(logs)
    assert "gap: exactly zero" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert np.isnan(ax.lines[0].get_ydata()[-1])
    assert diagnostics.plot_growth_rates(np.full((3, 2, 2), -np.inf), ax) is ax
    ax.figure.draw_without_rendering()
    found = diagnostics.memory_horizon(np.zeros((4, 3)))
    texts = diagnostics.plot_memory_horizon(found).get_legend().get_texts()
    assert "3 of 3 not fallen in the window" in [text.get_text() for text in texts]


# Bad input


def exploding():
    cell = rnnjax.Elman(3, activation=linear)
    params = {**cell.init(jax.random.key(0), 3), "w_h": 1e10 * jnp.eye(3)}
    return {"cell": cell, "params": params}


def of(function, **options):
    options = {"cell": LSTM, "params": PARAMS, "xs": XS} | options
    return lambda: function(**options)


ERRORS = {
    "no steps": (of(gradient_norms, xs=XS[:0]), "gradient_norms: xs must hold .* got T = 0"),
    "no batch axis": (
        of(gradient_norms, xs=XS[:, 0]),
        r"gradient_norms: xs must be \(T, B, 3\) for LSTM\(5\); got \(12, 3\). Add a batch",
    ),
    "both": (
        of(gradient_norms, loss=lambda h, y: 0.0, cotangent=XS),
        "cotangent and loss must not both be given.* Leave one out",
    ),
    "structure": (
        of(gradient_norms, cotangent=XS[0]),
        r"cotangent must be like the last carry of LSTM\(5\), of the structure .*LSTMCarry",
    ),
    "shape": (
        of(gradient_norms, cotangent=rnnjax.LSTMCarry(jnp.ones((2, 5)), jnp.ones((5,)))),
        r"cotangent.h must be float32\[2, 5\], batch first, .*got float32\[5\]",
    ),
    "explosion": (
        of(gradient_norms, **exploding()),
        r"gradient_norms: the carry must stay finite; got Inf or NaN in row 0 after step 4 .*:4\]",
    ),
    "explosion of growth": (of(diagnostics.growth_rates, **exploding()), "after step 4"),
    "explosion of gates": (
        of(
            diagnostics.gate_saturation,
            **exploding() | {"cell": Candidate(rnnjax.Elman(3, activation=linear))},
        ),
        "after step 4",
    ),
    "k": (of(diagnostics.growth_rates, k=11), r"k must be at most 10, .* LSTM\(5\); got 11"),
    "k is 0": (of(diagnostics.lyapunov_exponents, k=0), "k must be at least 1; got 0"),
    "blocks": (
        of(diagnostics.lyapunov_exponents, discard=5),
        r"blocks must be within 2…T − discard = 7, .*got 10",
    ),
    "ratio": (
        lambda: diagnostics.singular_values(*with_spectrum(), jnp.zeros((100, 2, 3))),
        r"must be at most 1e\+12 in float64; got \d.*e\+.* Pass k=2 or fewer",
    ),
    "no gates": (
        of(diagnostics.gate_saturation, cell=ELMAN, params=ELMAN.init(jax.random.key(0), 3)),
        r"cell must define gates; Elman\(6\).gates returned {}. Override Cell.gates",
    ),
    "no gates in a stack": (
        of(
            diagnostics.gate_saturation,
            cell=rnnjax.Stack((ELMAN,)),
            params=rnnjax.Stack((ELMAN,)).init(jax.random.key(0), 3),
        ),
        "gates returned {}; none of its layers has any",
    ),
    "limits": (
        of(diagnostics.gate_saturation, limits={"g": (0, 1)}),
        r"limits must be for gates of LSTM\(5\), \['f', 'i', 'o'\]; got 'g'",
    ),
    "margin": (of(diagnostics.gate_saturation, margin=0.5), "margin must be within 0 … 0.5"),
    "rank": (lambda: diagnostics.memory_horizon(XS[0, 0]), r"norms must be \(T, B\) or \(S"),
    "factor": (lambda: diagnostics.memory_horizon(XS[0], factor=2), "factor must be within 0 … 1"),
    "dead": (
        lambda: diagnostics.memory_horizon(np.full((3, 2), -np.inf)),
        "norms must be finite at the last step",
    ),
    "rank of a figure": (
        lambda: diagnostics.plot_gradient_norms(XS),
        r"plot_gradient_norms: norms must be \(T, B\); got \(12, 2, 3\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_named(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_loss_must_be_a_function():
    with pytest.raises(TypeError, match="loss must be a function"):
        norms_of(loss=3.0)
