"""The two tasks of long memory: pixels in an order without meaning, and a text."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples import permuted_digits
from examples.support import deep, texts
from examples.support.cli import blame
from examples.support.deep import Deep
from examples.support.texts import Part, Text
from rnnjax import training

SPAN = 256  # symbols of a row that one call of the scoring reads
AT_ONCE = 100  # pictures that are scored at once; divides the held-out parts, 1,000 or 300
HELD_OUT = 0.05  # the end of a text that validates
ORDERS = (5, 6, 7)  # of the n-grams beside


class Task(NamedTuple):
    """What is learnt, and what it is compared with.

    Attributes:
        loss: ``loss(model, params, carry, batch, key) → (value, (carry, metrics))``.
        batches: to train on.
        score: (model, loss, params, part) → numbers by name.
        validation: the part that is drawn, and chooses.
        test: the part that is scored once.
        outputs: of the head.
        symbols: to read; None: numbers.
        measure: the number that is drawn.
        higher_is_better: of the measure.
        levels: of the baselines on the validation, by name.
        baselines: their measure on the test.
        length: how many steps there are to remember; None: no end.
    """

    loss: Callable[..., Any]
    batches: training.Source
    score: Callable[..., dict[str, float]]
    validation: Any
    test: Any
    outputs: int
    symbols: int | None
    measure: str
    higher_is_better: bool
    levels: dict[str, float]
    baselines: dict[str, float]
    length: int | None


# --- permuted digits ---


def digits(data: Any, batch: int, shift: int, seed: int) -> Task:
    """Read pictures, as ``examples.permuted_digits`` does: the same split and baselines.

    Raises:
        OptionError: there is no file of MNIST digits, or another one, or a batch is too large.
    """
    with blame("--task"):
        parts = permuted_digits.read(data)
    with blame("--batch"):
        options = permuted_digits.Options(batch=batch, shift=shift, seed=seed)
        batches = permuted_digits.Shifted(parts.train, options)
    levels, baselines = permuted_digits.baselines(parts)
    return Task(
        loss=digits_loss,
        batches=batches,
        score=digits_score,
        validation=parts.validation.batch(),
        test=parts.test.batch(),
        outputs=10,
        symbols=None,
        measure="accuracy",
        higher_is_better=True,
        levels=levels,
        baselines=baselines,
        length=parts.train.pixels.shape[1],
    )


def digits_loss(model: Deep, params: Any, carry: Any, batch: Any, key: Any) -> Any:
    """Nats a digit, read from the mean of all steps; beside it the share that is right."""
    rngs = None if key is None else {"dropout": key}
    logits = deep.apply(model, params, batch.xs, rngs=rngs, method="answer")
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    right = jnp.argmax(logits, axis=-1) == batch.targets
    return nats.mean(), (carry, {"accuracy": jnp.mean(right, dtype=nats.dtype)})


def digits_score(model: Deep, loss: training.Loss, part: Any, params: Any) -> dict[str, float]:
    """Mean over pictures, so many at a time."""
    del model
    at = range(0, len(part.targets), AT_ONCE)
    pieces = [type(part)(part.xs[:, k : k + AT_ONCE], part.targets[k : k + AT_ONCE]) for k in at]
    return training.evaluate(loss, params, pieces)


# --- text ---


def text(
    data: str | None, characters: int, batch: int, chunk: int, everything: bool = False
) -> Task:
    """Read a text, as ``examples.language_model`` does: the same symbols, test and measure.

    Its end validates; with ``everything`` that is learnt from, too.

    Raises:
        OptionError: it cannot be read, is another file, or does not fill a batch.
    """
    with blame("--task"):
        read = texts.read(data, "character", characters)
    cut = round(len(read.train.tokens) * (1 - HELD_OUT))
    learnt, held_out = (
        Part(read.train.tokens[at], read.train.starts[at]) for at in (slice(cut), slice(cut, None))
    )
    streams = read.train if everything else learnt
    with blame("--batch"):
        batches = training.TokenStreams(
            streams.tokens, starts=streams.starts, batch_size=batch, chunk=chunk
        )
    tuning = dataclasses.replace(read, train=learnt, validation=held_out, test=None)
    return Task(
        loss=text_loss,
        batches=batches,
        score=text_score,
        validation=texts.rows(held_out, SPAN),
        test=texts.rows(read.scored, SPAN),
        outputs=len(read.vocabulary),
        symbols=len(read.vocabulary),
        measure="loss",
        higher_is_better=False,
        levels=ngrams(tuning),
        baselines=ngrams(read),
        length=None,
    )


def ngrams(text: Text) -> dict[str, float]:
    """Nats of the best n-gram, learnt from all that the text has to train on."""
    nats = texts.ngram_nats(text, ORDERS)
    best = min(nats, key=nats.__getitem__)
    return {f"{best}-gram": nats[best]}


def text_loss(model: Deep, params: Any, carry: Any, chunk: training.Chunk, key: Any) -> Any:
    """Mean nats of the targets that are not −1, the carry to pass on, and how many they are."""
    rngs = None if key is None else {"dropout": key}
    carry, logits = deep.apply(model, params, carry, chunk.inputs, chunk.resets, rngs=rngs)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, chunk.targets)
    scored = chunk.targets >= 0
    count = scored.sum()
    total = jnp.sum(nats, where=scored)
    return total / jnp.maximum(count, 1).astype(total.dtype), (carry, {"tokens": count})


def text_score(
    model: Deep, loss: training.Loss, part: training.Chunk, params: Any
) -> dict[str, float]:
    """Nats a character over rows, the carry passed on."""
    carry = deep.initial_carry(model, params, part.inputs)
    pieces = functools.partial(_pieces, part)
    return {"loss": training.evaluate(loss, params, pieces(), carry)["loss"]}


def _pieces(part: training.Chunk) -> Iterator[training.Chunk]:
    for start in range(0, len(part.inputs), SPAN):
        yield jax.tree.map(lambda a, s=start: np.asarray(a[s : s + SPAN]), part)
