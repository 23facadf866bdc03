"""Every strategy under every transform and dtype, on two cells."""

import functools

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.testing import TOLERANCE, largest_difference, random_like
from tests.cases import (
    CELLS,
    DEFERRED,
    FUSED,
    REPRESENTATIVES,
    RUNNERS,
    STRATEGIES,
    case,
    everything,
    scalar,
    skip_without_compiler,
)
from tests.cases import oracle as oracle_of

TIME = 4


def transformed(name, strategy, compiler_options=None):
    """Return one program's results of vmap, mapped weights, jvp, grad and grad of grad."""
    c = case(name, TIME)

    def loss(params, carry, x):
        xs = c.xs._replace(x=x) if isinstance(c.xs, rnnjax.Keyed) else x
        options = {"mask": c.mask, "resets": c.resets, "strategy": strategy}
        return scalar(rnnjax.scan(c.cell, params, xs, carry, **options))

    x = jnp.nan_to_num(c.xs.x if isinstance(c.xs, rnnjax.Keyed) else c.xs)
    primal = c.params, c.carry, x
    tangent = random_like(jax.random.key(8), primal, ())
    several = random_like(jax.random.key(9), primal, (2,))

    def all_of(primal, tangent, several):
        gradient = jax.grad(loss, argnums=(0, 1, 2))

        def directional(*primal):
            products = jax.tree.map(jnp.vdot, gradient(*primal), tangent)
            return sum(jax.tree.leaves(products), jnp.zeros(()))

        params, _, _ = primal
        _, carries, inputs = several
        return {
            "vmap": jax.vmap(loss, in_axes=(None, 0, 0))(params, carries, inputs),
            "vmap over weights": jax.vmap(gradient)(*several),
            "jvp": jax.jvp(loss, primal, tangent)[1],
            "vjp": directional(*primal),
            "grad of grad": jax.grad(directional, argnums=(0, 1, 2))(*primal),
            "forward over reverse": jax.jvp(gradient, primal, tangent)[1],
        }

    return jax.jit(all_of, compiler_options=compiler_options)(primal, tangent, several)


@functools.cache
def reference(name):
    return transformed(name, rnnjax.Sequential())


@pytest.mark.parametrize("name", REPRESENTATIVES)
@pytest.mark.parametrize("strategy", RUNNERS | DEFERRED | FUSED)
def test_transforms(name, strategy):
    skip_without_compiler(strategy)
    got, expected = transformed(name, STRATEGIES[strategy]), reference(name)
    for transform in expected:
        difference = largest_difference(expected[transform], got[transform])
        assert difference < TOLERANCE["float32"], transform
    assert largest_difference(got["jvp"], got["vjp"]) < TOLERANCE["float32"]
    both_ways = got["grad of grad"], got["forward over reverse"]
    assert largest_difference(*both_ways) < TOLERANCE["float32"]


@pytest.mark.parametrize("name", REPRESENTATIVES)
@pytest.mark.parametrize("strategy", RUNNERS | DEFERRED)
def test_float64(name, strategy):
    c = case(name)
    with jax.enable_x64(True):
        wide = c.as_dtype("float64")
        scan = functools.partial(rnnjax.scan, strategy=STRATEGIES[strategy])
        got = jax.jit(lambda: everything(wide, scan))()
        assert largest_difference(oracle_of(name), got) < TOLERANCE["float64"]


HALF = {
    "zoneout": rnnjax.Zoneout(rnnjax.LSTM(5, dtype="bfloat16"), rate=(0.3, 0.1)),
    "gru": rnnjax.GRU(5, dtype="bfloat16"),
}


@pytest.mark.parametrize("name", REPRESENTATIVES)
@pytest.mark.parametrize("strategy", RUNNERS | DEFERRED)
def test_bfloat16_keeps_a_float32_carry(name, strategy):
    c = case(name)

    def run(cell, strategy):
        def loss(params):
            options = {"mask": c.mask, "lengths": c.lengths, "resets": c.resets}
            result = rnnjax.scan(cell, params, c.xs, c.carry, strategy=strategy, **options)
            return scalar(result), result

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(c.params)

    (_, (carry, ys)), gradients = run(HALF[name], STRATEGIES[strategy])
    (_, expected), expected_gradients = run(c.cell, rnnjax.Sequential())
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype("float32")}
    assert ys.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    assert largest_difference(expected, (carry, ys)) < TOLERANCE["bfloat16"]
    assert largest_difference(expected_gradients, gradients) < TOLERANCE["bfloat16"]


def test_parameters_in_bfloat16():
    cell = rnnjax.LSTM(5, param_dtype="bfloat16")
    params = cell.init(jax.random.key(0), 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    carry, ys = rnnjax.scan(cell, params, jnp.ones((7, 4, 3)))
    assert carry.c.dtype == jnp.float32
    assert ys.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", REPRESENTATIVES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_lowers_for_cpu_cuda_and_tpu(name, strategy):
    c = case(name, TIME)

    def gradient(params, x):
        def loss(params):
            xs = c.xs._replace(x=x) if isinstance(c.xs, rnnjax.Keyed) else x
            options = {"mask": c.mask, "resets": c.resets, "strategy": STRATEGIES[strategy]}
            return scalar(rnnjax.scan(CELLS[name], params, xs, **options))

        return jax.grad(loss)(params)

    x = jnp.ones((TIME, 4, 3))
    exported = jax.export.export(jax.jit(gradient), platforms=["cpu", "cuda", "tpu"])(c.params, x)
    assert exported.platforms == ("cpu", "cuda", "tpu")
