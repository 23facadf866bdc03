"""Series with one class each: what is learnt from, what chooses, what is scored once.

    scikit-learn    its digits, a row of 8 pixels a step (``handwritten``)
    digits          10,000 MNIST digits, a row of 28 pixels a step, out of the folder RNNJAX_DATA
    vowels          JapaneseVowels, likewise: 12 features a step, 7–29 steps, 9 speakers; 270 series
                    to train, every fifth of each class of which validates; 370 to test
    FOLDER/NAME     two files of your own, NAME_TRAIN.ts and NAME_TEST.ts, divided in that way

Kudo, Toyama and Shimbo, "Multidimensional Curve Classification Using Passing-Through Regions",
1999, has the vowels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from examples.support import handwritten, ts_files
from examples.support.datasets import File
from examples.support.handwritten import Handwritten
from examples.support.ts_files import Cases

VOWELS = "vowels"
VOWEL_FILES = (
    File(
        "series/JapaneseVowels_TRAIN.ts",
        "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
    ),
    File(
        "series/JapaneseVowels_TEST.ts",
        "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
    ),
)
FIFTH = 5


class Batch(NamedTuple):
    """Series side by side, zeros behind them; arrays of NumPy or of JAX."""

    xs: Any  # (T, B, D) float32
    lengths: Any  # (B,) int32
    labels: Any  # (B,) int32


class Parts(NamedTuple):
    """Cases that have none in common, with channels of mean 0 and spread 1 where learnt from."""

    train: Cases
    validation: Cases
    test: Cases

    @property
    def learnt(self) -> Cases:
        """All that is not kept for the test."""
        series = [*self.train.series, *self.validation.series]
        labels = np.concatenate([self.train.labels, self.validation.labels])
        return Cases(series, labels, self.train.classes)


def read(data: str) -> Parts:
    """Read series.

    Raises:
        OSError: a file is missing or cannot be read; says what to do.
        ValueError: a file is another one than expected, or a line of it is wrong; names both.
    """
    if data in get_args(handwritten.Data):
        parts = Parts(*map(_rows, handwritten.read(data)))  # pyright: ignore[reportArgumentType]
    elif data == VOWELS:
        parts = _divide(*(ts_files.read(file.locate()) for file in VOWEL_FILES))
    else:
        parts = _divide(*(ts_files.read(Path(f"{data}_{part}.ts")) for part in ("TRAIN", "TEST")))
    return standardised(parts)


def _rows(part: Handwritten) -> Cases:
    """Digits row by row."""
    return Cases(list(part.pictures.astype(np.float32)), part.digits, tuple("0123456789"))


def _divide(learnt: Cases, test: Cases) -> Parts:
    """Keep every fifth case of each class to validate.

    Raises:
        ValueError: the two files do not belong together, or a class has fewer than five cases.
    """
    if (learnt.classes, learnt.series[0].shape[1]) != (test.classes, test.series[0].shape[1]):
        raise ValueError(
            f"expected the same classes and channels in both files; got {len(learnt.classes)} and "
            f"{len(test.classes)} classes, {learnt.series[0].shape[1]} and "
            f"{test.series[0].shape[1]} channels."
        )
    places = [np.flatnonzero(learnt.labels == label) for label in range(len(learnt.classes))]
    for name, place in zip(learnt.classes, places, strict=True):
        if len(place) < FIFTH:
            raise ValueError(
                f"expected at least {FIFTH} cases of each class to train; got {len(place)} of "
                f"class {name}."
            )
    kept = np.sort(np.concatenate([place[FIFTH - 1 :: FIFTH] for place in places]))
    others = np.setdiff1d(np.arange(len(learnt.labels)), kept)
    return Parts(take(learnt, others), take(learnt, kept), test)


def take(cases: Cases, places: Sequence[int] | NDArray) -> Cases:
    """Some of the cases."""
    return cases._replace(series=[cases.series[k] for k in places], labels=cases.labels[places])


def standardised(parts: Parts) -> Parts:
    """Give each channel the mean 0 and the spread 1 in what is learnt from."""
    frames = np.concatenate(parts.learnt.series)
    mean, spread = frames.mean(0), np.maximum(frames.std(0), 1e-6)
    return Parts(*(p._replace(series=[(x - mean) / spread for x in p.series]) for p in parts))


def batch_of(cases: Cases, time: int | None = None) -> Batch:
    """Put cases side by side, padded to the longest or to so many steps.

    Example:
        >>> cases = Cases([np.ones((3, 2)), np.ones((1, 2))], np.array([0, 1]), ("a", "b"))
        >>> batch_of(cases).xs.shape, batch_of(cases).lengths.tolist()
        ((3, 2, 2), [3, 1])
    """
    lengths = np.array([len(x) for x in cases.series], np.int32)
    xs = np.zeros((time or lengths.max(), len(lengths), cases.series[0].shape[1]), np.float32)
    for row, x in enumerate(cases.series):
        xs[: len(x), row] = x
    return Batch(xs, lengths, cases.labels)
