"""One text to learn and to be scored on: its symbols, rows to score, n-gram scores beside."""

import math
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from examples.support import corpus, datasets
from examples.support.corpus import Document, Vocabulary
from examples.support.ngram import KneserNey
from examples.support.words import WordVocabulary, words
from rnnjax.training import Chunk

Unit: TypeAlias = Literal["character", "word"]

VALIDATION_SHARE = 0.05
NOT_THE_BENCHMARK = "trained on its validation file: not the benchmark"
ORDERS = {"character": (1, 3, 5, 6, 7, 8), "word": (1, 2, 3, 4)}  # of the n-grams


class Part(NamedTuple):
    """Symbols, and where documents begin, (n,) each."""

    tokens: NDArray[np.int32]
    starts: NDArray[np.bool_]

    @classmethod
    def of(cls, tokens: NDArray[np.int32]) -> "Part":
        """One document."""
        return cls(tokens, np.arange(len(tokens)) == 0)


@dataclass(frozen=True)
class Text:
    """What is learnt, what chooses or is watched while it is learnt, and what is scored."""

    source: str
    unit: Unit
    vocabulary: Vocabulary | WordVocabulary
    train: Part
    validation: Part | None
    test: Part | None

    @property
    def scored(self) -> Part:
        """The part that the score is of: the validation one where there is no other."""
        part = self.validation if self.test is None else self.test
        assert part is not None
        return part


def read(data: str | None, unit: Unit, characters: int) -> Text:
    """Read a named text, a UTF-8 file, or the source of Python's standard library (None).

    Args:
        data: a name in ``datasets``, a path, or None.
        unit: what a symbol is.
        characters: how much of a text without a name is used at most.

    Raises:
        OSError: the text cannot be read.
        ValueError: it is empty, not UTF-8 or too short, or has no split for this unit.
    """
    if data in datasets.BY_WORD and unit == "word":
        train, test, vocabulary = datasets.BY_WORD[data].load()
        tuning = data.endswith("-tuning")
        learnt, held_out = (Part.of(vocabulary.encode(side)) for side in (train, test))
        validation, scored = (held_out, None) if tuning else (None, held_out)
        source = f"{data}, {NOT_THE_BENCHMARK}"
        return Text(source, unit, vocabulary, learnt, validation, scored)
    if data in datasets.BY_CHARACTER and unit == "character":
        train, validation, test, vocabulary = datasets.BY_CHARACTER[data].load()
        learnt = Part(*corpus.pack(train, vocabulary))
        held_out = Part(*corpus.pack(validation, vocabulary))
        if data == datasets.TINYSHAKESPEARE.name:  # its validation part is published as the test
            return Text(data, unit, vocabulary, learnt, None, held_out)
        scored = Part(*corpus.pack(test, vocabulary)) if test else None
        return Text(data, unit, vocabulary, learnt, held_out, scored)
    if data in datasets.BY_WORD or data in datasets.BY_CHARACTER:
        other = "word" if unit == "character" else "character"
        raise ValueError(f"{data} is read by the {other}. Add --unit {other}.")
    source, documents = _documents(None if data is None else Path(data), characters)
    train, validation = corpus.split(documents, VALIDATION_SHARE)
    if unit == "word":
        sides = [words("\n".join(d.text for d in side)) for side in (train, validation)]
        vocabulary = WordVocabulary.of(sides[0], min_count=2)
        learnt, held_out = (Part.of(vocabulary.encode(side)) for side in sides)
        return Text(source, unit, vocabulary, learnt, held_out, None)
    # A character seen once shows the model what an unknown one looks like.
    vocabulary = Vocabulary.of(train, min_count=2)
    learnt, held_out = (Part(*corpus.pack(side, vocabulary)) for side in (train, validation))
    return Text(source, unit, vocabulary, learnt, held_out, None)


def rows(part: Part, span: int) -> Chunk:
    """A text in rows side by side; a target of -1 is not scored, any other once.

    A row begins `span` symbols before those that it scores, so that a network knows, as an n-gram
    does, what came before; its length is a multiple of `span`.
    """
    predictions = len(part.tokens) - 1
    batch = min(max(predictions // 1024, 1), 64)
    length = math.ceil(predictions / batch / span) * span
    own = np.arange(-span, length)[:, None]
    at = own + length * np.arange(batch)  # (span + length, B)
    scored = (own >= 0) & (at < predictions)
    at = at.clip(0, predictions - 1)
    targets = np.where(scored, part.tokens[at + 1], -1)
    return Chunk(part.tokens[at], targets, part.starts[at])


def windows(part: Part, span: int) -> Chunk:
    """A text in windows of `span` symbols, each begun without memory; what remains is left out.

    This is how models that cannot carry a state are scored.
    """
    count = (len(part.tokens) - 1) // span
    at = np.arange(span)[:, None] + span * np.arange(count)
    resets = np.broadcast_to(np.arange(span)[:, None] == 0, at.shape)
    return Chunk(part.tokens[at], part.tokens[at + 1], resets)


def ngram_nats(text: Text, orders: Iterable[int] | None = None) -> dict[int, float]:
    """Nats per symbol of Kneser-Ney models on the targets of `rows`, by order."""
    orders = ORDERS[text.unit] if orders is None else tuple(orders)
    tokens = text.scored.tokens

    def score(order: int) -> float:
        ngram = KneserNey(order, len(text.vocabulary)).fit(text.train.tokens)
        return -float(ngram.log_probabilities(tokens[1:], history=tokens[:1]).mean())

    with ThreadPoolExecutor(2) as pool:  # sorting, most of the work, leaves Python free
        return dict(zip(orders, pool.map(score, orders), strict=True))


def measure(unit: Unit, nats: float) -> float:
    """Bits per character, or perplexity per word."""
    return nats / math.log(2) if unit == "character" else math.exp(nats)


def measure_name(unit: Unit) -> str:
    """What `measure` gives."""
    return "bits per character" if unit == "character" else "perplexity per word"


def baselines(unit: Unit, ngrams: dict[int, float]) -> dict[str, float]:
    """The scores to compare with, by name: a few orders and the best of all."""
    named = {1, 3, 5} if unit == "character" else {1, 2, 4}
    orders = sorted(named | {min(ngrams, key=ngrams.__getitem__)})
    return {"unigram" if n == 1 else f"{n}-gram": measure(unit, ngrams[n]) for n in orders}


def verdict(score: float, name: str, baseline: float) -> str:
    """Where a model stands against one baseline."""
    if score < baseline:
        return f"beats the {name} ({baseline:.3f}) by {baseline - score:.3f}"
    return f"does not reach the {name} ({baseline:.3f}): {score - baseline:.3f} more"


def _documents(path: Path | None, characters: int) -> tuple[str, list[Document]]:
    if path is None:
        documents = corpus.python_sources(characters)
        version = sys.version.split()[0]
        return f"{len(documents)} files of Python {version}'s standard library", documents
    return str(path), [Document(d.name, d.text[:characters]) for d in corpus.text_file(path)]
