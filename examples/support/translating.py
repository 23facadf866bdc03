"""Translating with a trained model: sources side by side, by beam search."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from numpy.typing import NDArray

from examples.support import translator
from examples.support.subwords import END
from examples.support.translator import Translator
from rnnjax.decoding import beam_search
from rnnjax.training import Padded


class Beam(NamedTuple):
    """How many hypotheses stand side by side, and how they are ranked."""

    width: int
    length_penalty: float = 1.0
    block_ngrams: int | None = None  # no so many symbols in a row come twice


GREEDY = Beam(1)


class Limits(NamedTuple):
    """How long the symbols of a text may get."""

    shapes: tuple[int, ...]  # lengths that sources are padded to, the last the longest
    target: int  # symbols of a translation


def translate(
    model: Translator,
    params: Any,
    sources: Sequence[NDArray[np.int32]],
    limits: Limits,
    beam: Beam = GREEDY,
    batch: int = 64,
) -> list[NDArray[np.int32]]:
    """Translate sources (S,).

    A source longer than all shapes compiles one of its own.
    """
    found: dict[int, NDArray[np.int32]] = {}
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    for group in (order[i : i + batch] for i in range(0, len(order), batch)):
        rows = [*group, *group[-1:] * (batch - len(group))]  # so that no row is without a source
        padded = pad([sources[i] for i in rows], limits.shapes)
        context, carry = encode(model, params, padded)
        tokens = beam_search(
            Partial(reader(model), params),  # pyright: ignore[reportArgumentType]
            carry,
            jnp.full(batch, END),
            width=beam.width,
            max_length=limits.target,
            end=END,
            length_penalty=beam.length_penalty,
            block_ngrams=beam.block_ngrams,
            context=context,
        ).tokens
        found |= zip(group, np.asarray(tokens)[:, :, 0].T, strict=False)
    return [found[i] for i in range(len(sources))]


def pad(sequences: Sequence[NDArray[np.int32]], shapes: Sequence[int]) -> Padded:
    """Put sequences side by side, (S, B), at the first length that holds them all."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    longest = int(lengths.max())
    values = np.zeros((next((n for n in shapes if n >= longest), longest), len(lengths)), np.int32)
    for row, sequence in enumerate(sequences):
        values[: len(sequence), row] = sequence
    return Padded(values, lengths)


@functools.partial(jax.jit, static_argnames="model")
def encode(model: Translator, params: Any, source: Padded) -> Any:
    """Return the decoder's context and first carry."""
    return translator.apply(model, params, source, noise=False, method="encode")


@functools.cache
def reader(model: Any) -> Callable[..., Any]:
    """The step function of ``rnnjax.decoding``; one a model, so that it is compiled once."""
    return functools.partial(_read_one, model)


def _read_one(model: Translator, params: Any, carry: Any, token: jax.Array, context: Any) -> Any:
    return translator.apply(model, params, carry, token, context, method="read_one")


@functools.partial(jax.jit, static_argnames="model")
def attend(model: Translator, params: Any, source: Padded, target: jax.Array) -> jax.Array | None:
    """The weights (T, B, S) with which a translation (T, B) looked at its source."""
    lengths = jnp.full(target.shape[1], len(target))
    read = translator.before(target)
    return translator.apply(model, params, source, read, lengths, noise=False)[1]
