"""What Chunked promises about memory, read from the compiled programs."""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.strategies.auto import Sizes
from rnnjax.strategies.measured import MEASURED
from tests.cases import CELLS

D, N = 8, 128
CELL = rnnjax.LSTM(N)
MIB = 2**20


def temporary_bytes(time, strategy, loss):
    """Return the temporaries of a gradient with respect to the params, compiled and not run."""

    def value(params, xs):
        return loss(rnnjax.scan(CELL, params, xs, strategy=strategy))

    params = jax.eval_shape(lambda: CELL.init(jax.random.key(0), D))
    xs = jax.ShapeDtypeStruct((time, 1, D), jnp.float32)
    compiled = jax.jit(jax.grad(value)).lower(params, xs).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def last_carry(result):
    return jnp.sum(result[0].h ** 2)


def every_step(result):
    return jnp.sum(result[1] ** 2)


@pytest.mark.slow
def test_loss_on_the_last_carry():
    sequential = temporary_bytes(100_000, rnnjax.Sequential(), last_carry)
    chunked = temporary_bytes(100_000, rnnjax.Chunked(), last_carry)
    assert chunked <= sequential / 20
    assert temporary_bytes(1_000_000, rnnjax.Chunked(), last_carry) <= 100 * MIB


@pytest.mark.slow
def test_loss_at_every_step_adds_outputs_and_their_cotangents_alone():
    time = 100_000
    last = temporary_bytes(time, rnnjax.Chunked(), last_carry)
    every = temporary_bytes(time, rnnjax.Chunked(), every_step)
    assert every - last <= 2 * time * N * 4


@pytest.mark.parametrize("size", [None, 7])
def test_a_stack_is_bounded_as_a_whole(size):
    stack = rnnjax.Stack((rnnjax.GRU(32), rnnjax.GRU(32)))

    def bytes_of(strategy):
        def loss(params, xs):
            return jnp.sum(rnnjax.scan(stack, params, xs, strategy=strategy)[0][1])

        params = jax.eval_shape(lambda: stack.init(jax.random.key(0), 4))
        xs = jax.ShapeDtypeStruct((1000, 4, 4), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(params, xs).compile().memory_analysis()

    whole = bytes_of(rnnjax.Sequential()).temp_size_in_bytes
    assert bytes_of(rnnjax.Chunked(size)).temp_size_in_bytes < whole / 5


def pick(cell, batch=4, in_dim=D, **options):
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_dim))
    xs = jax.ShapeDtypeStruct((1000, batch, in_dim), jnp.float32)
    return rnnjax.Auto(**options).select(cell, params, xs)


def test_auto_follows_the_bound():
    unbounded, roomy = pick(CELL), pick(CELL, memory_bytes=10**9)
    tight = pick(CELL, memory_bytes=10**6)
    assert unbounded[0] == roomy[0] != tight[0] == rnnjax.Chunked()
    assert "over the bound of 1,000,000" in tight[1]
    assert "within the bound of 1,000,000,000" in roomy[1]


def test_auto_picks_what_was_fastest_for_the_nearest_sizes():
    strategy, reason = pick(rnnjax.Zoneout(rnnjax.LSTM(120)), batch=18, in_dim=140, kernels=False)
    nearest = Sizes(gates=4, batch=16, in_dim=128, hidden=128)
    assert strategy == MEASURED[nearest]
    assert str(nearest) in reason
    nearest = Sizes(gates=3, batch=256, in_dim=64, hidden=64)
    assert pick(rnnjax.GRU(50), batch=300, in_dim=60, kernels=False)[0] == MEASURED[nearest]


def test_auto_leaves_a_plain_cell_and_each_layer_to_itself():
    plain = CELLS["attend"]
    assert pick(plain)[0] == rnnjax.Sequential()
    stack = rnnjax.Stack((rnnjax.LSTM(4), plain))
    assert pick(stack)[0] == (rnnjax.Auto(), rnnjax.Auto())
    params = stack.init(jax.random.key(0), D)
    xs, context = (
        jnp.ones((5, 2, D)),
        jax.tree.map(lambda s: jnp.ones((2, *s.shape), s.dtype), stack.context_shapes()),
    )
    _, ys = rnnjax.scan(stack, params, xs, context=context)
    _, expected = rnnjax.scan(stack, params, xs, context=context, strategy=rnnjax.Sequential())
    assert jnp.allclose(ys, expected, atol=1e-6)


@pytest.mark.parametrize("cell", [rnnjax.Elman(N), rnnjax.LSTM(N), rnnjax.GRU(N)])
def test_the_estimate_of_auto_is_what_is_saved(cell):
    time, batch = 500, 4

    def loss(params, xs):
        return jnp.sum(jax.tree.leaves(rnnjax.scan(cell, params, xs)[0])[0])

    params = cell.init(jax.random.key(0), D)
    xs = jax.ShapeDtypeStruct((time, batch, D), jnp.float32)
    memory = jax.jit(jax.grad(loss)).lower(params, xs).compile().memory_analysis()
    reason = rnnjax.Auto(memory_bytes=10**12).select(cell, params, xs)[1]
    estimate = int(reason.split("about ")[1].split(" bytes")[0].replace(",", ""))
    assert estimate / 2 < memory.temp_size_in_bytes < 2 * estimate
