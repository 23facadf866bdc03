"""``Associative``: its promises beyond the table of cells and strategies."""

import functools

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.testing import TOLERANCE, largest_difference
from tests.cases import PARALLEL, B, D, T, case


def value_and_grad(c, strategy, carry, xs, resets):
    """Return (carry, ys), and gradients in params and carry."""

    def loss(params, carry):
        results = rnnjax.scan(c.cell, params, xs, carry, resets=resets, strategy=strategy)
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(results)), results

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(c.params, carry)


@pytest.mark.parametrize("name", ["min_lstm"])
@pytest.mark.parametrize("strategy", PARALLEL)
def test_a_reset_before_the_first_step_keeps_a_nan_carry_out(name, strategy):
    c = case(name)
    xs = jax.random.normal(jax.random.key(3), (T, B, D))
    resets = jnp.zeros((T, B), bool).at[0].set(True).at[3, 1].set(True)
    spoilt, clean = (jax.tree.map(lambda a, k=k: a * k, c.carry) for k in (jnp.nan, 1.0))
    got = value_and_grad(c, PARALLEL[strategy], spoilt, xs, resets)
    expected = value_and_grad(c, rnnjax.Sequential(), clean, xs, resets)
    assert largest_difference(expected, got) < TOLERANCE["float32"]


@pytest.mark.parametrize("name", ["min_lstm"])
@pytest.mark.parametrize("strategy", PARALLEL)
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
