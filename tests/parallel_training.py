"""Training on 8 virtual devices and on one, in a process of its own.

python -m tests.parallel_training FOLDER
"""

import sys
from pathlib import Path

from tests.sharding import collectives_inside_loops  # first: it asks for 8 devices

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax
from rnnjax import training

CELL, SIZE, BATCH = rnnjax.LSTM(6), 5, 16
STEPS, OPTIMISER = 6, optax.sgd(0.5, momentum=0.9)


def loss(params, carry, batch, key):
    """A mean over steps that are not padding, of which each device has another number."""
    xs, lengths = batch
    carry, ys = rnnjax.scan(CELL, params, xs, carry, lengths=lengths)
    valid = jnp.arange(len(xs))[:, None] < lengths[None]
    count = valid.sum()
    total = jnp.sum((ys - 0.3) ** 2, where=valid[..., None])
    metrics = {"tokens": count, "magnitude": jnp.abs(ys).sum() / count.astype(float)}
    metrics["longest"] = jnp.max(lengths * 0 + 7)  # an integer
    return total / count.astype(float), (carry, metrics)  # NaN where there is no token


def fit(folder, parallel, steps=STEPS):
    """Train on batches of sequences of very different lengths."""
    draw = np.random.default_rng(0)
    xs = draw.normal(size=(7, 64, SIZE)).astype(np.float32)
    lengths = np.sort(draw.integers(0, 8, 64)).astype(np.int32)
    lengths[:4] = 0  # the first device of the first batch has no token
    data = training.ArrayBatches((xs, lengths), BATCH, in_axes=(1, 0), shuffle=False)
    params = CELL.init(jax.random.key(0), SIZE)
    return training.fit(
        loss,
        params,
        OPTIMISER,
        data,
        steps=steps,
        key=jax.random.key(1),
        carry=rnnjax.initial_carry(CELL, params, BATCH),
        average=0.9,
        checkpoints=training.Checkpoints(folder),
        log_every=1,
        parallel=parallel,
    )


def check_same(a, b):
    """Compare states and all that was measured, but for times."""
    for one, other in zip(
        jax.tree.leaves(a.state._replace(key=0)),
        jax.tree.leaves(b.state._replace(key=0)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(a.records, b.records, strict=True):
        for name in one.keys() - {"seconds", "tokens_per_second"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, err_msg=name)


def check_collectives(state, eight):
    """The sum over devices stands after the loop over time."""
    batch = (jnp.ones((7, BATCH, SIZE)), jnp.full(BATCH, 7))
    step = jax.jit(
        lambda state, batch: training.compiled_step(
            loss, OPTIMISER, state, batch, decay=0.9, parallel=eight
        )
    )
    text = step.lower(state, batch).compile().as_text()
    assert "all-reduce" in text
    assert not collectives_inside_loops(text)


def check_buckets(eight):
    """Batches of padded sequences, whose filling rows have no token, need no words of their own."""
    draw = np.random.default_rng(0)
    sequences = [draw.normal(size=(n, SIZE)).astype(np.float32) for n in range(1, 20)]

    def padded(params, carry, batch, key):
        return loss(params, carry, batch["xs"], key)

    def run(parallel):
        return training.fit(
            padded,
            CELL.init(jax.random.key(0), SIZE),
            OPTIMISER,
            training.Buckets({"xs": sequences}, boundaries=(19,), batch_size=BATCH),
            steps=4,
            key=jax.random.key(1),
            carry=rnnjax.initial_carry(CELL, CELL.init(jax.random.key(0), SIZE), BATCH),
            parallel=parallel,
        )

    check_same(run(eight), run(None))
    uneven = {"xs": np.zeros((3, 12, 2))}
    with pytest.raises(ValueError, match="split evenly over the 8 devices"):
        eight.specs(uneven)


def main():
    """Train on one device, on eight, and on eight after one."""
    folder = Path(sys.argv[1])
    eight = training.DataParallel(jax.make_mesh((8,), ("batch",)))
    one = fit(folder / "one", None)
    check_same(fit(folder / "eight", eight), one)
    fit(folder / "moved", None, steps=3)
    moved = fit(folder / "moved", eight)
    assert moved.resumed_from == 3
    check_same(moved, one)
    print("same on 8 devices")
    check_collectives(moved.state, eight)
    check_buckets(eight)
    print("no collective inside a loop")


if __name__ == "__main__":
    main()
