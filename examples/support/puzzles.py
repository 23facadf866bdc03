"""Small questions with one right answer each, all of which can be listed."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

END = "."  # of what is read to its end, or written until it


class Questions(NamedTuple):
    """B questions of up to T steps, padded on the right."""

    xs: Any  # (T, B, D)
    lengths: Any  # (B,)


@dataclass(frozen=True)
class Puzzle:
    """Questions, how they look to a network, and their answers in symbols."""

    asks: str
    questions: Sequence
    features: Callable[[Any], NDArray]  # (T, D) of one question
    answer: Callable[[Any], str]
    symbols: str  # of the answers

    def arrays(self) -> tuple[Questions, NDArray[np.int32]]:
        """All questions, and the symbols of their answers (U, B), −1 after the last."""
        features = [self.features(question) for question in self.questions]
        answers = [[*map(self.symbols.index, self.answer(q))] for q in self.questions]
        lengths = np.array([len(row) for row in features])
        xs = np.zeros((lengths.max(), len(features), features[0].shape[1]), np.float32)
        ys = np.full((max(map(len, answers)), len(answers)), -1, np.int32)
        for b, (row, answer) in enumerate(zip(features, answers, strict=True)):
            xs[: len(row), b], ys[: len(answer), b] = row, answer
        return Questions(xs, lengths), ys

    def split(self, seed: int) -> tuple[NDArray, NDArray]:
        """Indices of the questions to train on, and of a fifth that is held out, at random."""
        order = np.random.default_rng(seed).permutation(len(self.questions))
        return order[len(order) // 5 :], order[: len(order) // 5]


def strings(alphabet: str, lengths: Sequence[int], end: str = "") -> list[str]:
    """Every string of these lengths."""
    products = (itertools.product(alphabet, repeat=n) for n in lengths)
    return ["".join(letters) + end for letters in itertools.chain.from_iterable(products)]


def one_hot_rows(alphabet: str) -> Callable[[str], NDArray]:
    """A function from a text to one row a symbol."""
    return lambda text: np.eye(len(alphabet))[[alphabet.index(symbol) for symbol in text]]


def same_sign(pair: tuple[float, float]) -> str:
    """Whether two numbers have one sign, "=", or two, "≠": the exclusive or of their signs."""
    return "=" if pair[0] * pair[1] > 0 else "≠"


def roman(number: int) -> str:
    """A Roman numeral and the end symbol.

    Example:
        >>> roman(1994)
        'MCMXCIV.'
    """
    text = ""
    for value, letters in zip(VALUES, NUMERALS, strict=True):
        text += number // value * letters
        number %= value
    return text + END


VALUES = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
NUMERALS = ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I")


def digits(number: int) -> NDArray:
    """The four decimal digits in one row, (1, 40)."""
    return one_hot_rows("0123456789")(f"{number:04}").reshape(1, -1)


def majority(text: str) -> str:
    """Which of a and b is there more often."""
    return max("ab", key=text.count)


def seen_before(text: str) -> str:
    """A tag for each letter: "n" where it is new, "o" where it is old.

    Example:
        >>> seen_before("abcab")
        'nnnoo'
    """
    return "".join("o" if letter in text[:t] else "n" for t, letter in enumerate(text))


def squeeze_and_reverse(text: str) -> str:
    """Equal neighbours become one letter, and the last comes first.

    Example:
        >>> squeeze_and_reverse("abbc.")
        'cba.'
    """
    return "".join(letter for letter, _ in itertools.groupby(text[-2::-1])) + END


TENTHS = [n / 10 for n in range(-10, 11) if n]

SIGNS = Puzzle(
    "Do two numbers\nhave the same sign?",
    list(itertools.product(TENTHS, TENTHS)),
    lambda pair: np.array([pair]),
    same_sign,
    "=≠",
)
ROMAN = Puzzle("Write a number\nin Roman numerals.", range(1, 4000), digits, roman, END + "IVXLCDM")
MAJORITY = Puzzle(
    "Are there more a's\nor more b's?",
    strings("ab", range(3, 12, 2), END),
    one_hot_rows("ab" + END),
    majority,
    "ab",
)
NEW_OR_OLD = Puzzle(
    "Is each letter\nnew or old?",
    strings("abcd", range(5, 8)),
    one_hot_rows("abcd"),
    seen_before,
    "no",
)
REVERSE = Puzzle(
    "Squeeze repeated letters\nand reverse.",
    strings("abcd", range(2, 7), END),
    one_hot_rows("abcd" + END),
    squeeze_and_reverse,
    END + "abcd",
)
