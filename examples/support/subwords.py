"""Symbols of two languages in one dictionary: words and digits, or subwords by byte-pair encoding.

Byte-pair encoding begins with characters and joins, again and again, the two neighbours that stand
together most often in the training texts of both languages (Sennrich, Haddow and Birch, "Neural
Machine Translation of Rare Words with Subword Units", 2016).
"""

import functools
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END, UNKNOWN = 0, 1
SPECIAL = ["<end>", "<unk>"]  # in the order of their ids


@dataclass(frozen=True)
class Subwords:
    """What cuts a text into symbols, as `tokenizers` writes it into JSON.

    Example:
        >>> subwords = words_and_digits(["21", "hai mươi mốt"])
        >>> ids = subwords.encode("12")
        >>> ids.tolist()[-1] == END, subwords.decode(ids)
        (True, '1 2')
    """

    json: str

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer itself."""
        return Tokenizer.from_str(self.json)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of a text, (n + 1,), with that of the end at the end."""
        return np.array([*self.tokenizer.encode(text).ids, END], np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids (n,), up to the first end."""
        found: list[int] = np.asarray(ids).tolist()
        text = self.tokenizer.decode(found[: found.index(END)] if END in found else found)
        return unicodedata.normalize("NFC", text)

    def symbols(self, ids: ArrayLike) -> list[str]:
        """Each symbol as it is written in a figure."""
        found = [self.tokenizer.id_to_token(i) for i in np.asarray(ids).tolist()]
        return [SPECIAL[END] if symbol is None else symbol for symbol in found]

    def require(self, text: str) -> None:
        """Check that a text has nothing that training never showed.

        Raises:
            ValueError: it has; names the characters and their positions.
        """
        encoding = self.tokenizer.encode(text)
        places = zip(encoding.ids, encoding.offsets, strict=True)
        for start, stop in (place for i, place in places if i == UNKNOWN):
            names = ", ".join(f"U+{ord(character):04X}" for character in text[start:stop])
            raise ValueError(
                f"{text[start:stop]!r} ({names}) at {start} was never seen in training; replace it"
            )


def words_and_digits(texts: Iterable[str]) -> Subwords:
    """Every word is a symbol, and every digit."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.train_from_iterator(
        texts, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    )
    return Subwords(tokenizer.to_str())


def byte_pairs(texts: Iterable[str], size: int) -> Subwords:
    """Subwords, at most so many; none reaches across a space or a punctuation mark.

    Example:
        >>> subwords = byte_pairs(["Tom chạy.", "Tom runs."], 30)
        >>> subwords.decode(subwords.encode("Tom chạy."))
        'Tom chạy.'
    """
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return Subwords(tokenizer.to_str())
