"""Pictures of handwritten digits: what is learnt from, what chooses, what is scored once.

scikit-learn    its 1,797 digits of 8 × 8 pixels; 1,197 to train, 300 to validate, 300 to test
digits          10,000 MNIST digits of 28 × 28 out of the folder RNNJAX_DATA; 8,000 / 1,000 /
1,000, not comparable with published scores, which have 60,000 to train
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from examples.support.datasets import File

Data = Literal["scikit-learn", "digits"]

MNIST = File(
    "digits/mnist10k.npz", "c03d6af810269a0b25ef8e8971f521767d52b05849e4fd977d6ca9528003c0b3"
)
ORDER = 2015  # the seed of the order of scikit-learn's digits, the same in every run


class Handwritten(NamedTuple):
    """Pictures, ink on paper, and what each one says."""

    pictures: NDArray[np.floating]  # (n, side, side), 0 paper, 1 ink
    digits: NDArray[np.int32]  # (n,)


class Split(NamedTuple):
    """Pictures that have none in common."""

    train: Handwritten
    validation: Handwritten
    test: Handwritten


def read(data: Data) -> Split:
    """Read pictures.

    Raises:
        FileNotFoundError: there is no file of MNIST digits; says what to do.
        ValueError: it is another file.
    """
    if data == "digits":
        with np.load(MNIST.locate()) as file:
            return split(file["x"].reshape(-1, 28, 28) / np.float32(255), file["y"], 1000)
    pixels, digits = map(np.asarray, load_digits(return_X_y=True))
    shuffled = np.random.default_rng(ORDER).permutation(len(digits))  # they came by writer
    return split(pixels[shuffled].reshape(-1, 8, 8) / 16, digits[shuffled], 300)


def split(pictures: NDArray, digits: NDArray, held_out: int) -> Split:
    """Cut twice so many pictures (n, side, side) off the end.

    Example:
        >>> [len(part.digits) for part in split(np.zeros((9, 8, 8)), np.arange(9), 2)]
        [5, 2, 2]
    """
    cuts = [len(digits) - 2 * held_out, len(digits) - held_out]
    cut = zip(np.split(pictures, cuts), np.split(digits.astype(np.int32), cuts), strict=True)
    return Split(*(Handwritten(*pair) for pair in cut))
