"""``causal_conv`` against plain loops: masks, resets, parts and single steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.testing import FAST_COMPILATION, TOLERANCE, largest_difference

T, B, D, K = 5, 4, 3, 3
KEYS = jax.random.split(jax.random.key(5), 6)
PARAMS = {
    "w": jax.random.normal(KEYS[0], (K, D)),
    "b": jax.random.normal(KEYS[1], (D,)),
}
LENGTHS = jnp.array([0, 1, T, 3])
VALID = jnp.arange(T)[:, None] < LENGTHS[None]
MASK = jax.random.bernoulli(KEYS[2], 0.7, (T, B)) & VALID
RESETS = jax.random.bernoulli(KEYS[3], 0.3, (T, B))
CLEAN = jax.random.normal(KEYS[4], (T, B, D))
XS = jnp.where(MASK[..., None], CLEAN, jnp.nan)
CARRY = jax.random.normal(KEYS[5], (B, K - 1, D))


def by_loops(xs, carry, mask, resets):
    """Return (carry, ys) in float64, row by row."""
    w, b = (np.asarray(PARAMS[name], float) for name in "wb")
    carries, ys = [], np.zeros((T, B, D))
    for row in range(B):
        seen = list(np.asarray(carry[row], float))
        for t in range(T):
            if resets[t, row]:
                seen = [np.zeros(D)] * (K - 1)
            if mask[t, row]:
                seen.append(np.asarray(xs[t, row], float))
                ys[t, row] = b + sum(w[k] * seen[-1 - k] for k in range(K))
        carries.append(np.stack(seen[len(seen) - K + 1 :]))
    return np.stack(carries), ys


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_plain_loops(masked, packed):
    xs = XS if masked else CLEAN
    mask, resets = MASK if masked else None, RESETS if packed else None
    got = rnnjax.causal_conv(PARAMS, xs, CARRY, mask=mask, resets=resets)
    full = jnp.ones((T, B), bool)
    expected = by_loops(xs, CARRY, MASK if masked else full, RESETS if packed else ~full)
    assert largest_difference(expected, got) < TOLERANCE["float32"]


def test_parts_and_steps_equal_the_whole_with_their_gradients():
    def loss(run):
        def value(params, xs, carry):
            carry, ys = run(params, xs, carry)
            return jnp.sum(jnp.sin(ys)) + jnp.sum(jnp.cos(carry)), (carry, ys)

        gradient = jax.value_and_grad(value, (0, 1, 2), has_aux=True)
        return jax.jit(gradient, compiler_options=FAST_COMPILATION)(PARAMS, XS, CARRY)

    def in_parts(params, xs, carry):
        ys = []
        for part in (slice(0, 2), slice(2, 3), slice(3, T)):
            options = {"mask": MASK[part], "resets": RESETS[part]}
            carry, y = rnnjax.causal_conv(params, xs[part], carry, **options)
            ys.append(y)
        return carry, jnp.concatenate(ys)

    def in_steps(params, xs, carry):
        ys = []
        for t in range(T):
            options = {"mask": MASK[t], "reset": RESETS[t]}
            carry, y = rnnjax.causal_conv_step(params, xs[t], carry, **options)
            ys.append(y)
        return carry, jnp.stack(ys)

    def as_whole(params, xs, carry):
        return rnnjax.causal_conv(params, xs, carry, mask=MASK, resets=RESETS)

    expected = loss(as_whole)
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(expected))
    for run in (in_parts, in_steps):
        assert largest_difference(expected, loss(run)) < TOLERANCE["float32"]


def test_nothing_crosses_a_reset():
    spoilt, nan = CLEAN.at[2].set(jnp.nan), CARRY * jnp.nan
    border = jnp.arange(T) == 3

    def loss(params, xs, carry, reset):
        resets = jnp.broadcast_to(reset[:, None], (T, B))
        ys = rnnjax.causal_conv(params, xs, carry, resets=resets)[1]
        return jnp.sum(jnp.sin(ys[3:]))

    later = jax.value_and_grad(loss, (1, 2))
    expected, got = (later(PARAMS, *a, border) for a in ((CLEAN, CARRY), (spoilt, nan)))
    assert largest_difference(expected, got) < TOLERANCE["float32"]
    first = jax.value_and_grad(loss, (0, 1, 2))
    expected, got = (first(PARAMS, CLEAN, a, border | (jnp.arange(T) == 0)) for a in (CARRY, nan))
    assert largest_difference(expected, got) < TOLERANCE["float32"]


def test_lengths_and_no_steps_and_no_memory():
    by_mask = rnnjax.causal_conv(PARAMS, CLEAN, CARRY, mask=VALID)
    got = rnnjax.causal_conv(PARAMS, CLEAN, CARRY, lengths=LENGTHS)
    assert largest_difference(by_mask, got) == 0
    carry, ys = rnnjax.causal_conv(PARAMS, CLEAN[:0], CARRY)
    assert (carry == CARRY).all()
    assert ys.shape == (0, B, D)
    one = rnnjax.init_causal_conv(KEYS[0], D, width=1)
    carry, ys = rnnjax.causal_conv(one, CLEAN)
    assert carry.shape == (B, 0, D)
    assert jnp.allclose(ys, CLEAN * one["w"][None])


def test_bfloat16_is_summed_up_in_float32():
    narrow = CLEAN.astype("bfloat16")
    carry, ys = rnnjax.causal_conv(PARAMS, narrow)
    expected = rnnjax.causal_conv(PARAMS, narrow.astype("float32"))[1]
    assert carry.dtype == ys.dtype == jnp.bfloat16
    assert (ys == expected.astype("bfloat16")).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rnnjax.causal_conv({"w": PARAMS["w"]}, CLEAN), TypeError, "params must be a dict"),
        (lambda: rnnjax.causal_conv(PARAMS, CLEAN[0]), ValueError, r"xs must be \(T, B, 3\); got"),
        (lambda: rnnjax.causal_conv(PARAMS, CLEAN[..., :2]), ValueError, r"\(5, 4, 2\)"),
        (lambda: rnnjax.causal_conv(PARAMS, CLEAN > 0), TypeError, "must be floating point"),
        (lambda: rnnjax.causal_conv(PARAMS, CLEAN, CARRY[:, 1:]), ValueError, "carry must be"),
        (
            lambda: rnnjax.causal_conv(PARAMS, CLEAN, CARRY.astype("bfloat16")),
            TypeError,
            "carry must be float32",
        ),
        (lambda: rnnjax.causal_conv(PARAMS, CLEAN, mask=MASK[0]), ValueError, "mask must be"),
        (lambda: rnnjax.causal_conv_step(PARAMS, CLEAN), ValueError, r"x must be \(B, 3\); got"),
        (lambda: rnnjax.init_causal_conv(KEYS[0], 3, 0), ValueError, "width must be at least 1"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
