"""A class for a series: layers of GRU in both directions, the mean over its steps, a softmax.

    h_t = [→h_t; ←h_t] of the last layer,    p(class | x) = softmax(W (1/T Σ_{t ≤ T} h_t) + b)

T is the length of each series by itself: what stands behind it in a batch has no influence. To
learn from more than there is, a series may get noise, and may be cut short at either end.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

import rnnjax
from examples.support.labelled_series import Batch
from rnnjax import training
from rnnjax.initializers import GlorotUniform


@dataclass(frozen=True)
class Classifier:
    """What a classifier is made of.

    Attributes:
        classes: K, how many.
        size: hidden units of a layer and direction.
        layers: how many.
        dropout: share of the features between layers and before the softmax that is dropped, the
            same ones at all steps of a series.
        noise: spread of what is added to each value, in units of the spread of its channel.
        cut: a series loses at most this share of its steps at each end.
    """

    classes: int
    size: int
    layers: int
    dropout: float
    noise: float
    cut: float

    @property
    def cells(self) -> tuple[rnnjax.Cell, ...]:
        """A cell for each layer."""
        return (rnnjax.GRU(self.size),) * self.layers


@functools.partial(jax.jit, static_argnames=("model", "features"))
def initial_params(model: Classifier, features: int, seed: int) -> dict[str, Any]:
    """Draw the params."""
    k_rnn, k_head = jax.random.split(jax.random.key(seed))
    head = GlorotUniform()(k_head, (2 * model.size, model.classes), "float32")
    return {
        "rnn": [
            rnnjax.init_bidirectional((cell,), (cell,), key, 2 * model.size if layer else features)
            for layer, (cell, key) in enumerate(
                zip(model.cells, jax.random.split(k_rnn, model.layers), strict=True)
            )
        ],
        "head": {"w": head, "b": jnp.zeros(model.classes)},
    }


def logits(model: Classifier, params: Any, batch: Batch, key: Any = None) -> jax.Array:
    """Score the classes of each series, (B, K); with a key, of varied ones."""
    hs, lengths = jnp.asarray(batch.xs), jnp.asarray(batch.lengths)
    keys: Any = [None] * model.layers
    if key is not None:
        k_series, *keys = jax.random.split(key, model.layers + 1)
        hs, lengths = varied(model, k_series, hs, lengths)
    for cell, weights, k_layer in zip(model.cells, params["rnn"], keys, strict=True):
        _, hs = rnnjax.bidirectional((cell,), (cell,), weights, hs, lengths=lengths)
        hs = drop(k_layer, model.dropout, hs)
    mean = hs.sum(0) / jnp.maximum(lengths, 1)[:, None].astype(hs.dtype)  # zeros behind the ends
    products = mean @ params["head"]["w"]
    return products + jnp.broadcast_to(params["head"]["b"], products.shape)


def varied(
    model: Classifier, key: jax.Array, xs: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Add noise to series (T, B, D), and cut them at both ends."""
    k_noise, k_cut = jax.random.split(key)
    xs = xs + model.noise * jax.random.normal(k_noise, xs.shape)
    shares = model.cut * jax.random.uniform(k_cut, (2, len(lengths)))
    start, end = jnp.floor(shares * lengths[None].astype(xs.dtype)).astype(jnp.int32)
    steps = jnp.minimum(jnp.arange(len(xs))[:, None] + start[None], len(xs) - 1)
    return jnp.take_along_axis(xs, steps[..., None], 0), lengths - start - end


def drop(key: Any, rate: float, hs: jax.Array) -> jax.Array:
    """Drop features of each series and scale up the others; without a key none."""
    if key is None:
        return hs
    kept = jax.random.bernoulli(key, 1 - rate, hs.shape[1:])
    return jnp.where(jnp.broadcast_to(kept, hs.shape), hs / (1 - rate), 0.0)


def loss(model: Classifier, params: Any, carry: Any, batch: Batch, key: Any) -> Any:
    """Mean nats of the classes, and the share that is right."""
    found = logits(model, params, batch, key)
    nats = optax.softmax_cross_entropy_with_integer_labels(found, batch.labels)
    right = jnp.mean(jnp.argmax(found, -1) == batch.labels, dtype=nats.dtype)
    return nats.mean(), (carry, {"tokens": jnp.array(len(batch.labels)), "accuracy": right})


@functools.cache
def objective(model: Classifier) -> training.Loss:
    """The loss of one model; the same object for the same model, which compiles once."""
    return functools.partial(loss, model)


@functools.partial(jax.jit, static_argnames="model")
def named(model: Classifier, params: Any, batch: Batch) -> jax.Array:
    """The class of each series, (B,)."""
    return logits(model, params, batch).argmax(-1)


@functools.cache
def optimiser(rate: float, decay: float) -> optax.GradientTransformation:
    """AdamW with clipping and a warm-up; the same object for the same arguments."""
    schedule = optax.warmup_constant_schedule(0.0, rate, 20)
    adamw = optax.adamw(schedule, weight_decay=decay)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)
