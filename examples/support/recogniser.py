"""A recurrent recogniser: frames in, scores of symbols out, at each frame or once an utterance.

    x'_t = (x_{kt}, …, x_{kt+k−1})                         k frames joined into one
    h_t  = layers of LSTM over x', in both directions or forwards
    z_t  = h_t W + b                                       for connectionist temporal classification
    z    = (1/T Σ_t h_t) W + b                             once an utterance, of one digit

An utterance that is known to be one digit can be told by both; symbols at each frame make it one of
ten labellings of one label, p(d | x, one digit) = p(d | x) / Σ_d' p(d' | x).

Params are a dict, so that ``rnnjax.training`` trains and keeps them.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

import rnnjax
from examples.support import sound
from examples.support.hearing import BANDS, Directions
from rnnjax import ctc
from rnnjax.initializers import GlorotUniform

Per = Literal["frame", "utterance"]


class Batch(NamedTuple):
    """Utterances side by side, and what was said, zeros behind both; arrays of NumPy or of JAX."""

    xs: Any  # (T, B, bands), float32
    lengths: Any  # (B,), int32
    labels: Any  # (B, U), int32
    label_lengths: Any  # (B,), int32


def batch_of(
    frames: Sequence[NDArray], labels: Sequence[Sequence[int]], time: int, most: int
) -> Batch:
    """Put utterances side by side, padded to so many frames and labels.

    Example:
        >>> batch_of([np.ones((3, 40)), np.ones((5, 40))], [[1], [2, 3]], 6, 2).lengths.tolist()
        [3, 5]
    """
    xs = np.zeros((time, len(frames), BANDS), np.float32)
    padded = np.zeros((len(labels), most), np.int32)
    for k, (row, said) in enumerate(zip(frames, labels, strict=True)):
        xs[: len(row), k], padded[k, : len(said)] = row, said
    counts = ([len(row) for row in rows] for rows in (frames, labels))
    lengths, label_lengths = (np.array(count, np.int32) for count in counts)
    return Batch(xs, lengths, padded, label_lengths)


@dataclass(frozen=True)
class Masks:
    """How wide the two masks over time, and the two over bands, of SpecAugment are at most."""

    time_width: int  # frames
    band_width: int


NONE = Masks(0, 0)


@dataclass(frozen=True)
class Recogniser:
    """What a recogniser is made of.

    Attributes:
        outputs: V, the scores that it gives: of symbols, the blank too, or of ten digits.
        size: hidden units of a layer and direction.
        layers: how many.
        directions: in which each layer reads.
        join: k, frames joined into one.
        dropout: share of what a layer above the first and the head do not see.
        per: whether symbols are scored at each frame, or digits once an utterance.
    """

    outputs: int
    size: int = 128
    layers: int = 2
    directions: Directions = "both"
    join: int = 3
    dropout: float = 0.0
    per: Per = "frame"

    @property
    def cells(self) -> tuple[rnnjax.Cell, ...]:
        """A cell for each layer."""
        lstm = rnnjax.LSTM(self.size)
        upper = rnnjax.Dropout(lstm, self.dropout) if self.dropout else lstm
        return (lstm, *[upper] * (self.layers - 1))

    @property
    def stack(self) -> rnnjax.Stack:
        """The layers, where they only read forwards."""
        return rnnjax.Stack(self.cells)

    def joined(self, lengths: Any) -> Any:
        """How many joined frames there are of so many."""
        return -(-lengths // self.join)


@functools.partial(jax.jit, static_argnums=0)
def initial_params(model: Recogniser, seed: int) -> dict[str, Any]:
    """Draw the params."""
    k_rnn, k_head = jax.random.split(jax.random.key(seed))
    features = model.join * BANDS
    if model.directions == "both":
        rnn = rnnjax.init_bidirectional(model.cells, model.cells, k_rnn, features)
    else:
        rnn = model.stack.init(k_rnn, features)
    width = model.size * (2 if model.directions == "both" else 1)
    head = GlorotUniform()(k_head, (width, model.outputs), "float32")
    return {"rnn": rnn, "head": {"w": head, "b": jnp.zeros(model.outputs)}}


def hidden(model: Recogniser, params: Any, xs: Any, lengths: Any, key: Any = None) -> jax.Array:
    """Read joined frames (T, B, k · bands): hidden vectors (T, B, N); with a key, noisy ones."""
    k_head = None
    if key is not None and model.dropout:
        k_layers, k_head = jax.random.split(key)
        xs = rnnjax.with_keys(k_layers, xs)
    if model.directions == "both":
        cells = model.cells
        _, hs = rnnjax.bidirectional(cells, cells, params["rnn"], xs, lengths=lengths)
    else:
        _, hs = rnnjax.scan(model.stack, params["rnn"], xs, lengths=lengths)
    return hs if k_head is None else drop(k_head, model.dropout, hs)


def drop(key: jax.Array, rate: float, hs: jax.Array) -> jax.Array:
    """Drop entries and scale up the others."""
    kept = jax.random.bernoulli(key, 1 - rate, hs.shape)
    return jnp.where(kept, hs / (1 - rate), 0.0)


def scores(params: Any, hs: jax.Array) -> jax.Array:
    """Score symbols (…, V) by hidden vectors (…, N)."""
    products = hs @ params["head"]["w"]
    return products + jnp.broadcast_to(params["head"]["b"], products.shape)


def joined(model: Recogniser, batch: Batch, key: Any, masks: Masks) -> jax.Array:
    """Join frames, those that are learnt from with SpecAugment over them."""
    xs = jnp.asarray(batch.xs)
    if key is not None and masks != NONE:
        xs = sound.spec_augment(key, xs, batch.lengths, **asdict(masks))
    return sound.stack_frames(xs, model.join)


# --- symbols at each frame ---


def logits(
    model: Recogniser, params: Any, batch: Batch, key: Any = None, masks: Masks = NONE
) -> jax.Array:
    """Score the symbols at each joined frame, (T, B, V)."""
    keys = (None, None) if key is None else jax.random.split(key)
    xs = joined(model, batch, keys[0], masks)
    return scores(params, hidden(model, params, xs, model.joined(batch.lengths), keys[1]))


def ctc_loss(
    model: Recogniser, masks: Masks, params: Any, carry: Any, batch: Batch, key: Any
) -> tuple[jax.Array, Any]:
    """Mean nats of utterances that have frames enough; how many those are, and how many not."""
    found = logits(model, params, batch, key, masks)
    lengths = model.joined(batch.lengths)
    losses = ctc.loss(found, batch.labels, lengths, batch.label_lengths)
    count = losses.feasible.sum()
    rows = jnp.maximum(count, 1).astype(losses.nats.dtype)
    # Rows that only fill a batch have no frames.
    short = ((batch.lengths > 0) & ~losses.feasible).sum() / rows
    return losses.nats.sum() / rows, (carry, {"tokens": count, "too_short": short})


# --- one digit an utterance ---


def digit_logits(model: Recogniser, params: Any, batch: Batch) -> jax.Array:
    """Score the digits of utterances that are one each, (B, 10)."""
    score = mean_logits if model.per == "utterance" else label_logits
    return score(model, params, batch)


def label_logits(model: Recogniser, params: Any, batch: Batch) -> jax.Array:
    """Score each label as all that was said, (B, V − 1): log p(label | x), label 1 first."""
    found, lengths = logits(model, params, batch), model.joined(batch.lengths)

    def score(label: jax.Array) -> jax.Array:
        labels = jnp.broadcast_to(label, (len(lengths), 1))
        return -ctc.loss(found, labels, lengths, jnp.ones_like(lengths)).nats

    return jax.vmap(score, out_axes=1)(jnp.arange(1, model.outputs))


def mean_logits(
    model: Recogniser, params: Any, batch: Batch, key: Any = None, masks: Masks = NONE
) -> jax.Array:
    """Score the digits of each utterance by the mean over its frames, (B, 10)."""
    keys = (None, None) if key is None else jax.random.split(key)
    xs, lengths = joined(model, batch, keys[0], masks), model.joined(batch.lengths)
    hs = hidden(model, params, xs, lengths, keys[1])  # zeros beyond the lengths
    return scores(params, hs.sum(0) / jnp.maximum(lengths, 1)[:, None].astype(hs.dtype))


def digit_loss(
    model: Recogniser, masks: Masks, params: Any, carry: Any, batch: Batch, key: Any
) -> tuple[jax.Array, Any]:
    """Mean nats of utterances of one digit, and the share that is right."""
    found = mean_logits(model, params, batch, key, masks)
    digit = jnp.maximum(batch.labels[:, 0] - 1, 0)  # label 0 is the blank
    real = batch.lengths > 0
    count = jnp.maximum(real.sum(), 1)
    nats = optax.softmax_cross_entropy_with_integer_labels(found, digit)
    right = jnp.sum((jnp.argmax(found, -1) == digit) & real) / count
    return jnp.sum(nats, where=real) / count, (carry, {"tokens": real.sum(), "accuracy": right})
