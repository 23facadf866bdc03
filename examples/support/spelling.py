"""What a recogniser writes: digits, or their names letter by letter.

    digits     3 0 7                  ten symbols
    letters    three zero seven       fifteen letters and the space between words

Symbol 0 is the blank of CTC, so that the symbols written are 1 … V − 1. In letters nothing but
their order says which letter belongs to which sound, as with phonemes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = " " + "".join(sorted(set("".join(NAMES))))


@dataclass(frozen=True)
class Spelling:
    """How digits are written.

    Args:
        by_letter: their names, or the digits themselves.

    Example:
        >>> Spelling(by_letter=False).encode((3, 0)), Spelling(by_letter=True).encode((1,))
        ([4, 1], [8, 7, 2])
        >>> Spelling(by_letter=True).text((3, 0))
        'three zero'
    """

    by_letter: bool

    @property
    def symbols(self) -> str:
        """All of them in order, the blank, which is never written, left out."""
        return LETTERS if self.by_letter else "0123456789"

    @property
    def size(self) -> int:
        """V, how many symbols there are, the blank too."""
        return len(self.symbols) + 1

    def text(self, digits: Sequence[int]) -> str:
        """Digits as text, a word each."""
        return " ".join(NAMES[digit] if self.by_letter else str(digit) for digit in digits)

    def encode(self, digits: Sequence[int]) -> list[int]:
        """Digits as labels; between names there is a space, between digits nothing."""
        text = self.text(digits) if self.by_letter else "".join(map(str, digits))
        return [1 + self.symbols.index(symbol) for symbol in text]

    def decode(self, labels: NDArray[np.integer] | Sequence[int]) -> str:
        """Labels, padding left out, as text.

        Example:
            >>> Spelling(by_letter=False).decode(np.array([4, 1, -1]))
            '3 0'
        """
        found = [self.symbols[int(label) - 1] for label in labels if label > 0]
        return "".join(found) if self.by_letter else " ".join(found)
