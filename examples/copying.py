"""The copying problem: ten symbols are read, a long silence follows, then all ten are to be said.

    read    3 7 1 1 8 2 5 6 4 2  _ _ _ … _ _ _ :  _ _ _ _ _ _ _ _ _ _
    say     _ _ _ _ _ _ _ _ _ _  _ _ _ … _ _ _ _  3 7 1 1 8 2 5 6 4 2

The symbols are drawn from eight; the silence is T − 1 blanks and a colon, the sign to begin. So a
sequence has T + 20 steps, and each symbol is asked for T + 10 steps after it was read.

The loss is the cross-entropy of every step. Whoever remembers nothing knows the blanks and guesses
the ten symbols, which costs ln 8 nats each: 10 ln 8 / (T + 20) a step. The share of all steps that
such an answer gets right is high (93 % for T = 100) and says nothing; what counts here is recall,
the share of the ten symbols said right, where chance is 1/8.

The task is that of Hochreiter and Schmidhuber ("Long Short-Term Memory", 1997) in the form of
Arjovsky et al. ("Unitary Evolution Recurrent Neural Networks", 2016). For the chrono
initialisation see Tallec and Ollivier ("Can recurrent neural networks warp time?", 2018).

    python -m examples.copying                                      five cells, ten minutes
    python -m examples.copying --cells lstm-chrono --minutes 10
    python -m examples.copying --T 100 --steps 20000
    python -m examples.copying --resume                             go on where it was stopped
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from examples.support import memory, memory_results
from examples.support.cli import at_least_one
from examples.support.memory import Batch, Fresh, Task

BLANK, COLON, SYMBOLS = 0, 9, 8  # the symbols are 1 … 8


@dataclass(frozen=True)
class Options(memory.Options):
    """The copying problem: ten symbols are said again after a silence."""

    T: int = 50
    """Steps of silence."""
    recall: int = 10
    """Symbols to say again."""


FULL = Options(out=Path("runs/copying"), size=128, batch=128, learning_rate=0.01)
QUICK = Options(
    out=Path("runs/copying"),
    cells=("tanh", "lstm-chrono"),
    steps=300,
    size=32,
    learning_rate=0.02,
    T=2,
    recall=3,
)


def draw(options: Options, generator: np.random.Generator, size: int) -> Batch:
    """Draw sequences (T + 2K, B, 10), one-hot, and what is to be said at each step (T + 2K, B)."""
    steps, recall = options.T + 2 * options.recall, options.recall
    symbols = generator.integers(1, SYMBOLS + 1, (recall, size))
    read, said = np.full((2, steps, size), BLANK, np.int32)
    read[:recall] = said[-recall:] = symbols
    read[-recall - 1] = COLON
    return Batch(np.eye(COLON + 1, dtype=np.float32)[read], said)


def loss(cell, params, carry, batch, key):
    """Nats a step; beside it the share of symbols that are said right."""
    del key
    _, hs = rnnjax.scan(cell, params["cell"], batch.xs)
    logits = memory.answer(params, hs)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    right = jnp.argmax(logits, axis=-1) == batch.targets
    recall = jnp.mean(right, where=batch.targets != BLANK, dtype=nats.dtype)
    return nats.mean(), (carry, {"recall": recall})


def baseline(options: Options) -> float:
    """Nats a step of an answer without memory."""
    return options.recall * math.log(SYMBOLS) / (options.T + 2 * options.recall)


def task_of(options: Options) -> Task:
    """Make the task: fresh batches to train on, twice 1,000 sequences held out."""
    drawn = functools.partial(draw, options)
    what = f"copying, T = {options.T}, {options.recall} symbols"
    return Task(
        loss=loss,
        batches=Fresh(drawn, options.batch, seed=options.seed, what=what),
        validation=memory.held_out(drawn, memory.VALIDATION, 1),
        test=memory.held_out(drawn, memory.TEST, 1),
        outputs=COLON,  # never said
        lag=options.T + options.recall,
        measure="loss",
        label="nats a step",
        baselines={"without memory": baseline(options)},
        levels={"without memory": baseline(options)},
        goal=0.8 * baseline(options),
    )


def main(options: Options) -> None:
    """Train cell by cell, compare with the baseline."""
    memory.check(options)
    for name in ("T", "recall"):
        at_least_one(name, getattr(options, name))
    memory.open_folder(options)
    memory_results.train_and_report(task_of(options), options)
    print(f"Of recall, chance is {1 / SYMBOLS:.1%}.")


def command(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    memory.command(main, FULL, QUICK, argv)


if __name__ == "__main__":
    command()
