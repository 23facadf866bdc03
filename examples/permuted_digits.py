"""Permuted digits: a picture of a digit, one pixel a step, in an order without meaning.

The pixels of every picture are read in the same random order, drawn once, so that neighbours in the
picture are far apart in time; after the last pixel the digit is to be named:

    x_t = pixel[order[t]],    y = softmax(h_T W + b),    T = 64 or 196

(Le et al., "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units", 2015, with
the 784 pixels of MNIST). Two baselines do not care for the order, because they see all pixels at
once: softmax regression, and the nearest of the training pictures. A network that reads pixel by
pixel has to beat those before its memory has shown anything.

    the 8 × 8 digits of scikit-learn       64 steps; 1,197 to train, 300 to validate, 300 to test
    --data digits                          10,000 MNIST digits in means of 2 × 2 pixels, 196 steps;
                                           8,000 / 1,000 / 1,000; not comparable with published
                                           scores, which have 60,000 to train

With so few pictures a network learns them by heart; ``--shift 1`` moves each one by up to a pixel
every time that it is read. (The baselines see the pictures as they are.) Validation, after each
epoch, chooses the params; the test is scored once.

    python -m examples.permuted_digits                              five cells, ten minutes
    python -m examples.permuted_digits --data digits --shift 1 --cells gru --minutes 20
    python -m examples.permuted_digits --resume                     go on where it was stopped
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

import rnnjax
from examples.support import handwritten, memory, memory_results
from examples.support.cli import OptionError, blame
from examples.support.memory import Batch, Task
from rnnjax import training

ORDER = 2015  # the seed of the order of pixels, the same in every run
STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # of the softmax regression; validation chooses


@dataclass(frozen=True)
class Options(memory.Options):
    """Permuted digits: pixel by pixel, in an order without meaning."""

    data: handwritten.Data = "scikit-learn"
    """The 8 × 8 digits of scikit-learn, or 10,000 of MNIST out of the folder RNNJAX_DATA."""
    shift: int = 0
    """Move each picture to train on by up to so many pixels in each direction, anew each time."""


FULL = Options(out=Path("runs/permuted_digits"), size=96)
QUICK = Options(
    out=Path("runs/permuted_digits"),
    cells=("tanh", "gru"),
    steps=160,
    size=32,
    learning_rate=0.02,
)


class Part(NamedTuple):
    """Pictures of digits, as they came; a picture is read in an order of its pooled pixels."""

    pictures: np.ndarray  # (n, side, side), in [0, 1]
    digits: np.ndarray  # (n,)
    pool: int  # pixels on the side of a mean

    @property
    def pixels(self) -> np.ndarray:
        """The pixels (n, T), pooled and in the order of reading."""
        n, side, _ = self.pictures.shape
        tiles = self.pictures.reshape(n, side // self.pool, self.pool, -1, self.pool)
        pooled = tiles.mean(axis=(2, 4)).reshape(n, -1).astype(np.float32)
        return pooled[:, np.random.default_rng(ORDER).permutation(pooled.shape[1])]

    def batch(self) -> Batch:
        """All of them side by side: xs (T, n, 1)."""
        return Batch(self.pixels.T[:, :, None], self.digits)

    def shifted(self, most: int, generator: np.random.Generator) -> "Part":
        """Move each picture by up to so many pixels in each direction; zeros come in."""
        n, side, _ = self.pictures.shape
        padded = np.pad(self.pictures, ((0, 0), (most, most), (most, most)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
        down, right = generator.integers(0, 2 * most + 1, (2, n))
        return self._replace(pictures=windows[np.arange(n), down, right])


class Split(NamedTuple):
    """What is learnt from, what chooses, what is scored once."""

    train: Part
    validation: Part
    test: Part


class Shifted(training.Source):
    """Shuffled batches, epoch after epoch, each picture moved anew each time."""

    def __init__(self, part: Part, options: Options):
        arrays, self._pool = part[:2], part.pool
        self._batches = training.ArrayBatches(arrays, options.batch, seed=options.seed)
        self._most, self._seed = options.shift, options.seed

    def __len__(self) -> int:
        return len(self._batches)

    def batch(self, epoch: int, number: int) -> Batch:
        """Move the pictures of one batch, and read them."""
        pictures, digits = self._batches.batch(epoch, number)
        part = Part(pictures, digits, self._pool)
        generator = np.random.default_rng((self._seed, epoch, number))
        return part.shifted(self._most, generator).batch()

    def fingerprint(self) -> str:
        """Return what is read, and how far it is moved."""
        return f"{self._batches.fingerprint()}, moved by {self._most}"


def read(data: handwritten.Data) -> Split:
    """Read pictures; raises as `handwritten.read`."""
    return split(handwritten.read(data), pool=2 if data == "digits" else 1)


def split(parts: handwritten.Split, pool: int) -> Split:
    """Say how each part is pooled."""
    return Split(*(Part(*part, pool) for part in parts))


def baselines(parts: Split) -> list[dict[str, float]]:
    """The shares that softmax regression and the nearest picture get right: validation, test."""
    train, validation, test = ((part.pixels, part.digits) for part in parts)
    with threadpool_limits(1):  # the products are small: more threads would wait for each other
        softmax = [LogisticRegression(C=c, max_iter=2000).fit(*train) for c in STRENGTHS]
    models = {
        "softmax regression": max(softmax, key=lambda model: model.score(*validation)),
        "nearest picture": KNeighborsClassifier(1).fit(*train),
    }
    return [
        {name: float(model.score(*part)) for name, model in models.items()}
        for part in (validation, test)
    ]


def loss(cell, params, carry, batch, key):
    """Nats a digit, read from the last output; beside it the share that is right."""
    del key
    _, hs = rnnjax.scan(cell, params["cell"], batch.xs)
    logits = memory.answer(params, hs[-1])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    right = jnp.argmax(logits, axis=-1) == batch.targets
    return nats.mean(), (carry, {"accuracy": jnp.mean(right, dtype=nats.dtype)})


def task_of(parts: Split, options: Options) -> Task:
    """Make the task."""
    batches = Shifted(parts.train, options)
    levels, scores = baselines(parts)
    return Task(
        loss=loss,
        batches=batches,
        validation=[parts.validation.batch()],
        test=[parts.test.batch()],
        outputs=10,
        lag=parts.train.pixels.shape[1] // 2,  # half of the pixels are further back
        measure="accuracy",
        label="accuracy",
        baselines=scores,
        levels=levels,
        goal=0.4,
        higher_is_better=True,
        every=len(batches),
    )


def main(options: Options) -> None:
    """Train cell by cell, compare with the baselines."""
    memory.check(options)
    with blame("--data"):
        parts = read(options.data)
    side = parts.train.pictures.shape[1]
    if not 0 <= options.shift < side:
        raise OptionError(f"--shift: expected 0 … {side - 1} pixels; got {options.shift}.")
    if options.batch > len(parts.train.digits):
        most = len(parts.train.digits)
        raise OptionError(f"--batch: expected at most {most}, all digits; got {options.batch}.")
    memory.open_folder(options)
    memory_results.train_and_report(task_of(parts, options), options)


def command(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    memory.command(main, FULL, QUICK, argv)


if __name__ == "__main__":
    command()
