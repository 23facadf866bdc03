"""Saying what is in pictures with a trained network, and where it looked for each word."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from numpy.typing import NDArray

from examples.support import captioner
from examples.support.captioner import Batch, Model
from examples.support.subwords import END, Subwords
from rnnjax.decoding import beam_search


class Beam(NamedTuple):
    """How many hypotheses stand side by side, and how they are ranked."""

    width: int
    length_penalty: float = 0.6


GREEDY = Beam(1)


class Trained(NamedTuple):
    """A captioner with its params, and how it writes."""

    model: Model
    params: Any
    subwords: Subwords


def describe(
    trained: Trained, pictures: NDArray, beam: Beam = GREEDY, batch: int = 100
) -> list[str]:
    """Say what is in pictures (n, H, W, C)."""
    found: list[str] = []
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])  # one shape
        context, carry = _look(trained.model, trained.params, filled)
        tokens = beam_search(
            Partial(_reader(trained.model), trained.params),  # pyright: ignore[reportArgumentType]
            carry,
            jnp.full(batch, END),
            width=beam.width,
            max_length=trained.model.longest,
            end=END,
            length_penalty=beam.length_penalty,
            context=context,
        ).tokens
        found += [trained.subwords.decode(row) for row in np.asarray(tokens)[:, : len(part), 0].T]
    return found


@functools.partial(jax.jit, static_argnames="model")
def _look(model: Model, params: Any, pictures: NDArray) -> Any:
    return captioner.apply(model, params, pictures, noise=False, method="encode")


@functools.cache
def _reader(model: Any) -> Callable[..., Any]:
    """The step function of ``rnnjax.decoding``; one a model, so that it is compiled once."""
    return functools.partial(_read_one, model)


def _read_one(model: Model, params: Any, carry: Any, token: jax.Array, context: Any) -> Any:
    return captioner.apply(model, params, carry, token, context, method="read_one")


def looked(trained: Trained, picture: NDArray, caption: str) -> tuple[list[str], NDArray] | None:
    """The symbols of a caption, and for each the weights (side, side) with which it was read.

    None where the network does not attend, or the cells of its map are no square.
    """
    ids = trained.subwords.encode(caption)
    longest = max(trained.model.longest, len(ids))  # one that was cut off has no end of its own
    words, lengths = captioner.pad([ids], longest)
    batch = Batch(picture[None], words, lengths)
    weights = _attend(trained.model, trained.params, batch)
    if weights is None:
        return None
    side = round(weights.shape[-1] ** 0.5)
    if side**2 != weights.shape[-1]:
        return None
    maps = np.asarray(weights)[: len(ids), 0].reshape(-1, side, side)
    return trained.subwords.symbols(ids), maps


@functools.partial(jax.jit, static_argnames="model")
def _attend(model: Model, params: Any, batch: Batch) -> jax.Array | None:
    return captioner.apply(model, params, batch, noise=False)[1]


def batch_of(subwords: Subwords, longest: int, pictures: NDArray, captions: Sequence[str]) -> Batch:
    """Put pictures and their captions side by side."""
    return Batch(pictures, *captioner.pad([subwords.encode(text) for text in captions], longest))
