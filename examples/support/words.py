"""Text as words: split at white space, with one end-of-line word a line."""

import difflib
import functools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from examples.support.corpus import checked_ids

END = "<eos>"
UNKNOWN = "<unk>"


def words(text: str) -> list[str]:
    r"""The words of a text; every line end, a blank line's too, is the word `<eos>`.

    So a prompt without a line end has no `<eos>`, and the text may go on after it. This counting of
    WikiText is that of word_language_model in pytorch/examples.

    Example:
        >>> words(" = Title = \n \n Two words")
        ['=', 'Title', '=', '<eos>', '<eos>', 'Two', 'words']
    """
    return text.replace("\n", f" {END} ").split()


@dataclass(frozen=True)
class WordVocabulary:
    r"""Words and their ids: 0 is `<eos>`, the end of a line, 1 is `<unk>`, the unknown word.

    Raises:
        ValueError: the symbols do not begin so, are not distinct, or hold white space.

    Example:
        >>> vocabulary = WordVocabulary.of(words("a rose is a rose\n"))
        >>> vocabulary.symbols
        ('<eos>', '<unk>', 'a', 'rose', 'is')
        >>> vocabulary.encode("a red rose\n").tolist()
        [2, 1, 3, 0]
        >>> vocabulary.decode([2, 1, 3, 0])
        'a <unk> rose\n'
    """

    symbols: tuple[str, ...]

    def __post_init__(self):
        if self.symbols[:2] != (END, UNKNOWN):
            raise ValueError(
                f"WordVocabulary: symbols must begin with {END!r} and {UNKNOWN!r}; "
                f"got {self.symbols[:2]!r}."
            )
        if len(self._ids) < len(self.symbols) or any(s.split() != [s] for s in self.symbols):
            raise ValueError("WordVocabulary: symbols must be distinct words without white space.")

    @classmethod
    def of(cls, words: Iterable[str], min_count: int = 1) -> "WordVocabulary":
        """The words seen at least min_count times in training, the most frequent first."""
        counts = Counter(words)
        kept = {w for w, n in counts.items() if n >= min_count} - {END, UNKNOWN}
        return cls((END, UNKNOWN, *sorted(kept, key=lambda word: (-counts[word], word))))

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str | Iterable[str]) -> NDArray[np.int32]:
        """The id of each word of a text, or of a list of words, (n,); of `<unk>` for a new one."""
        ids, unknown = self._ids, self._ids[UNKNOWN]
        return np.array([ids.get(word, unknown) for word in _as_words(text)], np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids (n,): words with a space between, and no space at a line end.

        Raises:
            ValueError: an id is outside [0, V).
        """
        symbols = ("\n", *self.symbols[1:])
        written = " ".join(symbols[i] for i in checked_ids(ids, len(self)))
        return re.sub(" ?\n ?", "\n", written)

    def require(self, text: str | Iterable[str]) -> None:
        """Check that a text, a prompt say, has no word outside the vocabulary.

        Raises:
            ValueError: it has one; the message names it, its position and similar words.
        """
        for position, word in enumerate(_as_words(text)):
            if word not in self._ids:
                similar = difflib.get_close_matches(word, self.symbols[2:]) or self.symbols[2:5]
                raise ValueError(
                    f"expected words of the vocabulary; got {word!r} as word {position}. Replace "
                    f"it by one of the {len(self)} words, such as {', '.join(similar)}, or by "
                    f"{UNKNOWN}."
                )

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}


def _as_words(text: str | Iterable[str]) -> Iterable[str]:
    return words(text) if isinstance(text, str) else text
