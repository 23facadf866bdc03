"""The adding problem: two numbers out of a long sequence, and their sum at its end.

Every step shows a number from U(0, 1) and a mark. The mark is 1 at two steps, one in each half of
the sequence, and 0 elsewhere; after the last step the sum of the two marked numbers is to be named:

    number  .31 .92 .05 .77 .48 .60 .13 .84
    mark     0   1   0   0   0   0   1   0        →   .92 + .13 = 1.05

The loss is the mean squared error. Whoever remembers nothing does best to answer the mean, always
1, with the error Var(a + b) = 2 · 1/12 = 1/6. Whoever sees only the second number gets half of it,
1/12; below that, something reached the first, which lies 3T/4 steps back on average.

The task is that of Hochreiter and Schmidhuber ("Long Short-Term Memory", 1997), in the form of Le
et al. ("A Simple Way to Initialize Recurrent Networks of Rectified Linear Units", 2015) and
Arjovsky et al. ("Unitary Evolution Recurrent Neural Networks", 2016). In the form of 1997 numbers
are from U(−1, 1) and the answer is 0.5 + (a + b) / 4, which makes the baseline 1/24 ≈ 0.0417; the
0.1767 that is sometimes printed belongs to neither.

    python -m examples.adding                                       five cells, ten minutes
    python -m examples.adding --cells lstm-1 --minutes 4
    python -m examples.adding --cells tanh --tanh-search
    python -m examples.adding --T 200 --steps 10000
    python -m examples.adding --resume                              go on where it was stopped
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import rnnjax
from examples.support import memory, memory_results
from examples.support.cli import OptionError
from examples.support.memory import Batch, Fresh, Task


@dataclass(frozen=True)
class Options(memory.Options):
    """The adding problem: two marked numbers out of a long sequence, and their sum at its end."""

    T: int = 100
    """Steps of a sequence."""


FULL = Options(out=Path("runs/adding"))
QUICK = Options(
    out=Path("runs/adding"),
    cells=("tanh", "lstm-1"),
    steps=250,
    size=16,
    learning_rate=0.02,
    T=8,
)
BASELINE = 1 / 6


def draw(steps: int, generator: np.random.Generator, size: int) -> Batch:
    """Draw sequences (T, B, 2) of numbers and marks, and their sums (B,)."""
    numbers = generator.random((steps, size), np.float32)
    marks = np.zeros_like(numbers)
    rows = np.arange(size)
    marks[generator.integers(0, steps // 2, size), rows] = 1
    marks[generator.integers(steps // 2, steps, size), rows] = 1
    return Batch(np.stack([numbers, marks], axis=-1), (numbers * marks).sum(axis=0))


def loss(cell, params, carry, batch, key):
    """The mean squared error of what is read from the last output."""
    del key
    _, hs = rnnjax.scan(cell, params["cell"], batch.xs)
    errors = memory.answer(params, hs[-1])[:, 0] - batch.targets
    return jnp.mean(errors**2), (carry, {})


def task_of(options: Options) -> Task:
    """Make the task: fresh batches to train on, 2,000 and 10,000 sequences held out."""
    drawn = functools.partial(draw, options.T)
    return Task(
        loss=loss,
        batches=Fresh(drawn, options.batch, seed=options.seed, what=f"adding, T = {options.T}"),
        validation=memory.held_out(drawn, memory.VALIDATION, 2),
        test=memory.held_out(drawn, memory.TEST, 10),
        outputs=1,
        lag=3 * options.T // 4,
        measure="loss",
        label="mean squared error",
        baselines={"always 1 (1/6)": BASELINE},
        levels={"always 1": BASELINE},
        goal=BASELINE / 2,
    )


def main(options: Options) -> None:
    """Train cell by cell, compare with the baseline."""
    memory.check(options)
    if options.T < 3:
        raise OptionError(f"--T: expected at least 3 steps; got {options.T}.")
    memory.open_folder(options)
    memory_results.train_and_report(task_of(options), options)


def command(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    memory.command(main, FULL, QUICK, argv)


if __name__ == "__main__":
    command()
