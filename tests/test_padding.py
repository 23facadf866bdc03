"""What stands in padding reaches nothing: bit for bit."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import rnnjax
from tests.cases import STRATEGIES, case, scalar, skip_without_compiler

TIME = 5
RUBBISH = st.sampled_from([np.nan, np.inf, -np.inf, 1e38, -0.0, 3.0])


@functools.cache
def program(name, strategy):
    c = case(name, TIME)

    @jax.jit
    def run(params, x, mask, resets):
        def loss(params, x):
            xs = c.xs._replace(x=x) if isinstance(c.xs, rnnjax.Keyed) else x
            options = {"mask": mask, "resets": resets, "context": c.context}
            result = rnnjax.scan(
                c.cell, params, xs, c.carry, strategy=STRATEGIES[strategy], **options
            )
            return scalar(result), result

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    return functools.partial(run, c.params)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("lstm", "sequential"),
        ("stack", "sequential"),
        ("stack_residual", "sequential_hoist"),
        ("gru_reset_before", "chunked"),
        ("lstm", "fused"),
    ],
)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
    mask=npst.arrays(bool, (TIME, 4)),
    resets=npst.arrays(bool, (TIME, 4)),
    x=npst.arrays(np.float32, (TIME, 4, 3), elements=st.floats(-2, 2, width=32)),
    rubbish=npst.arrays(np.float32, (TIME, 4, 3), elements=RUBBISH),
)
def test_rubbish_in_padding_changes_no_bit(name, strategy, mask, resets, x, rubbish):
    skip_without_compiler(strategy)
    run = program(name, strategy)
    clean = run(np.where(mask[..., None], x, 0), mask, resets)
    dirty = run(np.where(mask[..., None], x, rubbish), mask, resets)
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert bool(jnp.isfinite(a).all())


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(lengths=npst.arrays(np.int32, (4,), elements=st.integers(0, TIME)))
def test_lengths_are_a_mask_of_right_padding(lengths):
    c = case("gru", TIME)
    mask = np.arange(TIME)[:, None] < lengths[None]
    by_lengths = rnnjax.scan(c.cell, c.params, c.xs, c.carry, lengths=lengths)
    by_mask = rnnjax.scan(c.cell, c.params, c.xs, c.carry, mask=mask)
    for a, b in zip(jax.tree.leaves(by_lengths), jax.tree.leaves(by_mask), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
