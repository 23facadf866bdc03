"""A small run in a process of its own, for tests that kill it.

    python -m tests.training_worker FOLDER STEPS

Prints what it is about to do, a line each, and at the end a hash of all that it leaves.
"""

import json
import sys
import time
from hashlib import sha256
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from rnnjax import training
from rnnjax.training import checkpoints

SYMBOLS, BATCH, EVERY = 11, 4, 5
CELL = rnnjax.LSTM(24)
TIMES = ("seconds", "tokens_per_second")


class Paced(training.TokenStreams):
    """Batches that take a little time, so that a kill finds every phase of a run."""

    def batch(self, epoch, number):
        time.sleep(0.01)
        return super().batch(epoch, number)


def loss(params, carry, batch, key):
    """Cross-entropy of the next symbol, with noise on the inputs."""
    xs = jax.nn.one_hot(batch.inputs, SYMBOLS)
    if key is not None:
        xs += 0.1 * jax.random.normal(key, xs.shape)
    carry, ys = rnnjax.scan(CELL, params["rnn"], xs, carry, resets=batch.resets)
    nats = optax.softmax_cross_entropy_with_integer_labels(ys @ params["head"], batch.targets)
    return nats.mean(), (carry, {"tokens": jnp.array(nats.size)})


def run(folder, steps, **options):
    """Train for so many steps in all, from wherever the folder stands."""
    symbols = np.random.default_rng(0).integers(0, SYMBOLS, 2000)
    data = Paced(symbols, batch_size=BATCH, chunk=13)
    params = {"rnn": CELL.init(jax.random.key(1), SYMBOLS), "head": jnp.zeros((24, SYMBOLS))}
    carry = rnnjax.initial_carry(CELL, params["rnn"], BATCH)
    held_out = list(training.TokenStreams(symbols[::-1], batch_size=BATCH, chunk=50).once())[:2]

    def score(params):
        return training.evaluate(loss, params, held_out, carry)["loss"]

    return training.fit(
        loss,
        params,
        optax.adamw(1e-2),
        data,
        steps=steps,
        key=jax.random.key(2),
        carry=carry,
        average=0.9,
        validation=training.Validation(score, every=7),
        checkpoints=training.Checkpoints(folder, every=EVERY, keep=2, config={"cell": CELL}),
        log_every=4,
        deterministic=True,
        **options,
    )


def digest(fitted, folder):
    """Hash state, best params and log, without what is measured in seconds."""
    log = training.read_json_lines(Path(folder, "log.jsonl"))
    log = [{name: value for name, value in r.items() if name not in TIMES} for r in log]
    state = fitted.state._replace(key=jax.random.key_data(fitted.state.key))
    whole = sha256(json.dumps(log).encode())
    for leaf in jax.tree.leaves((state, fitted.best)):
        whole.update(np.asarray(leaf).tobytes())
    return whole.hexdigest()


def announce():
    """Print before and after each save."""
    save = checkpoints.save

    def announced(folder, shot, config, progress):
        print("saving", shot.step, flush=True)
        save(folder, shot, config, progress)
        print("saved", shot.step, flush=True)

    checkpoints.save = announced


def main():
    """Run, and say what came of it."""
    folder, steps = sys.argv[1], int(sys.argv[2])
    announce()
    print("started", flush=True)
    fitted = run(folder, steps, progress=False)
    print("resumed", fitted.resumed_from)
    print("digest", digest(fitted, folder), flush=True)


if __name__ == "__main__":
    main()
