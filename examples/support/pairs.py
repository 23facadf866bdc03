r"""Pairs of a text and its translation: read, checked line by line, and split.

    numbers    0 … 999,999 and their Vietnamese words: 5,000 to train, 500 to validate, 1,000 to
               test
    en-vi      English and Vietnamese sentences of Tatoeba, one in ten with several translations
    en-fr      English and French paragraphs of Python's documentation that have no markup and are
               not the same on both sides

A file is one pair a line, source, tab, target. It is split by a hash of the source, of which only
the lower-cased words count, so that no sentence of the test is in training with another translation
or another full stop: of 20 parts, 2 are the test and 1 validates. All is brought into NFC, in which
a letter with its diacritics is one character however it was typed.
"""

import re
import unicodedata
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from examples.support.datasets import Dataset, File
from examples.support.numerals import spell


class Pair(NamedTuple):
    """A text and its translation."""

    source: str
    target: str


class Corpus(NamedTuple):
    """What is learnt, what chooses, what is scored once."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]


class Question(NamedTuple):
    """A source, and all its translations."""

    source: str
    references: tuple[str, ...]


def read(data: str) -> Corpus:
    """Read named pairs, or a file of lines "source, tab, target".

    Raises:
        OSError: a file cannot be read.
        ValueError: the name is not known, a line is no pair, or a part of the split is empty.
    """
    if data == NUMBERS:
        return numbers()
    if data in DATASETS:
        return DATASETS[data].load()
    if not data.endswith(".tsv"):
        names = ", ".join((NUMBERS, *DATASETS))
        raise ValueError(
            f"expected {names}, or a file of pairs, source, tab, target, named *.tsv; got {data!r}."
        )
    corpus = split(parse(Path(data).read_bytes(), data))
    for name, part in corpus._asdict().items():
        if not part:
            raise ValueError(f"{data}: no pair fell into the part {name}. Give more pairs.")
    return corpus


def numbers(
    first: int = 0, last: int = 999_999, sizes: tuple[int, int, int] = (5000, 500, 1000)
) -> Corpus:
    """Draw different numbers uniformly, always the same ones; their digits and their words.

    Example:
        >>> corpus = numbers()
        >>> len({pair.source for part in corpus for pair in part})
        6500
    """
    drawn = np.random.default_rng(first).choice(last - first + 1, sum(sizes), replace=False) + first
    pairs = [Pair(str(number), spell(number)) for number in drawn.tolist()]
    train, validation, _ = sizes
    rest = pairs[train:]
    return Corpus(pairs[:train], rest[:validation], rest[validation:])


def parse(content: bytes, name: str) -> list[Pair]:
    r"""Read pairs, one a line.

    Raises:
        ValueError: a line is not UTF-8, has not two sides, or an empty one; names the lines.

    Example:
        >>> parse("Run!\tChạy!\n".encode(), "pairs.tsv")
        [Pair(source='Run!', target='Chạy!')]
        >>> parse(b"Run!\t\n", "pairs.tsv")
        Traceback (most recent call last):
        ValueError: pairs.tsv: line 1: the target is empty. Mend or remove what is wrong.
    """
    pairs, wrong = [], []
    for number, line in enumerate(lines_of(content), 1):
        try:
            pairs.append(_pair(decode(line)))
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - 3} lines more" if len(wrong) > 3 else ""
        raise ValueError(f"{name}: {'; '.join(wrong[:3])}{more}. Mend or remove what is wrong.")
    if not pairs:
        raise ValueError(f"{name}: expected lines of source, tab, target; it is empty.")
    return pairs


def lines_of(content: bytes) -> list[bytes]:
    """The lines of a file as bytes, of which each may be wrong by itself, without their ends."""
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    return [line.removesuffix(b"\r") for line in lines]


def decode(line: bytes) -> str:
    """A line as text in NFC.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return unicodedata.normalize("NFC", line.decode("utf-8"))
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise ValueError(f"expected UTF-8; got the byte {byte:#04x} at {error.start}") from error


def split(pairs: Iterable[Pair]) -> Corpus:
    """Split by a hash of the source."""
    parts: tuple[list[Pair], ...] = [], [], []
    for pair in pairs:
        part = twentieth(pair.source)
        parts[2 if part < 2 else 1 if part == 2 else 0].append(pair)
    return Corpus(*parts)


def twentieth(source: str) -> int:
    """The part in 0 … 19 that a source falls into, whatever its case and punctuation.

    Example:
        >>> twentieth("Help me!") == twentieth("help me.")
        True
    """
    words = re.sub(r"\W+", " ", source.lower()).strip()
    return int(sha256(words.encode()).hexdigest()[:8], 16) % 20


def questions(pairs: Iterable[Pair]) -> list[Question]:
    """Every source once, with all its translations.

    Example:
        >>> questions([Pair("Hi.", "Chào."), Pair("Run!", "Chạy!"), Pair("Hi.", "Xin chào.")])[0]
        Question(source='Hi.', references=('Chào.', 'Xin chào.'))
    """
    found: dict[str, dict[str, None]] = {}
    for pair in pairs:
        found.setdefault(pair.source, {})[pair.target] = None
    return [Question(source, tuple(targets)) for source, targets in found.items()]


def has_markup(text: str) -> bool:
    """Whether a paragraph holds reStructuredText, code or an address, which is copied.

    Example:
        >>> has_markup("See :func:`open`."), has_markup("See below.")
        (True, False)
    """
    return re.search(r"[`*|\\<>{}\[\]_=]|::|https?:", text) is not None


def split_without_markup(text: str) -> Corpus:
    """Leave out what has markup, or was not translated."""
    pairs = parse(text.encode(), "en-fr")
    return split(p for p in pairs if p.source != p.target and not has_markup(" ".join(p)))


def _pair(line: str) -> Pair:
    sides = line.split("\t")
    if len(sides) != 2:
        raise ValueError(f"expected source, tab, target; got {len(sides) - 1} tabs")
    pair = Pair(*(side.strip() for side in sides))
    for name, side in pair._asdict().items():
        if not side:
            raise ValueError(f"the {name} is empty")
    return pair


NUMBERS = "numbers"
DATASETS = {
    "en-vi": Dataset(
        "en-vi",
        (
            File(
                "translation/en-vi.tsv",
                "11fc08184b47b37aba15e614c7f46061cc832b011b3a7277c633fbd09a2e01c5",
            ),
        ),
        lambda text: split(parse(text.encode(), "en-vi")),
    ),
    "en-fr": Dataset(
        "en-fr",
        (
            File(
                "translation/en-fr.tsv",
                "7f3f880589648ac3fcc0cd993bf5eacf7379a87502a9fb036bd38fa50e58dc5d",
            ),
        ),
        split_without_markup,
    ),
}
