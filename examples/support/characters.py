"""One text to learn and to be scored on by the character: symbols, rows, n-gram scores beside."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples.support import corpus
from examples.support.corpus import Document, Streams, Vocabulary
from examples.support.ngram import KneserNey

VALIDATION_SHARE = 0.05


class Text(NamedTuple):
    """Training and validation symbols, and where documents begin, (n,) each."""

    source: str
    vocabulary: Vocabulary
    train: NDArray[np.int32]
    train_starts: NDArray[np.bool_]
    validation: NDArray[np.int32]
    validation_starts: NDArray[np.bool_]


def read(path: Path | None, characters: int) -> Text:
    """At most so many characters of a UTF-8 file, or of Python's standard library (None).

    Raises:
        OSError: the text cannot be read.
        ValueError: it is empty, not UTF-8 or too short to be split.
    """
    if path is None:
        documents = corpus.python_sources(characters)
        source = f"{len(documents)} files of Python {sys.version.split()[0]}'s standard library"
    else:
        documents = [Document(d.name, d.text[:characters]) for d in corpus.text_file(path)]
        source = str(path)
    train, validation = corpus.split(documents, VALIDATION_SHARE)
    # A character seen once shows the model what an unknown one looks like.
    vocabulary = Vocabulary.of(train, min_count=2)
    packed = (*corpus.pack(train, vocabulary), *corpus.pack(validation, vocabulary))
    return Text(source, vocabulary, *packed)


def training_rows(text: Text, batch: int) -> Streams:
    """The training text in rows (L, B), each of which begins without memory.

    So no epoch needs the carry of the one before, whose rows ended elsewhere in the text.
    """
    rows = corpus.streams(text.train, text.train_starts, batch)
    rows.resets[0] = True
    return rows


def validation_rows(text: Text, span: int) -> Streams:
    """The validation text in rows side by side; a target of -1 is not scored, any other once.

    A row begins `span` symbols before those that it scores, so that a network knows, as an n-gram
    does, what came before; its length is a multiple of `span`.
    """
    predictions = len(text.validation) - 1
    batch = min(max(predictions // 1024, 1), 64)
    length = math.ceil(predictions / batch / span) * span
    own = np.arange(-span, length)[:, None]
    at = own + length * np.arange(batch)  # (span + length, B)
    scored = (own >= 0) & (at < predictions)
    at = at.clip(0, predictions - 1)
    targets = np.where(scored, text.validation[at + 1], -1)
    return Streams(text.validation[at], targets, text.validation_starts[at])


def ngram_bits(text: Text, orders: tuple[int, ...] = (1, 3, 5, 6, 7, 8)) -> dict[int, float]:
    """Bits per character of Kneser-Ney models on the targets of `validation_rows`, by order."""

    def score(order: int) -> float:
        ngram = KneserNey(order, len(text.vocabulary)).fit(text.train)
        nats = ngram.log_probabilities(text.validation[1:], history=text.validation[:1])
        return -float(nats.mean()) / math.log(2)

    with ThreadPoolExecutor(2) as pool:  # sorting, most of the work, leaves Python free
        return dict(zip(orders, pool.map(score, orders), strict=True))


def baselines(ngrams: dict[int, float]) -> dict[str, float]:
    """The scores to compare with, by name: orders 1, 3, 5 and the best of all."""
    orders = sorted({1, 3, 5, min(ngrams, key=ngrams.__getitem__)})
    return {"unigram" if n == 1 else f"{n}-gram": ngrams[n] for n in orders}


def verdict(bits: float, name: str, baseline: float) -> str:
    """Where a model stands against one baseline."""
    if bits < baseline:
        return f"beats the {name} ({baseline:.3f}) by {baseline - bits:.3f}"
    return f"does not reach the {name} ({baseline:.3f}): {bits - baseline:.3f} more"
