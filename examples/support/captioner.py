"""A network that says what it sees: a small CNN, then a GRU, word after word.

The CNN sees a picture as a map of S cells, each a vector m_s, with a learnt vector for its place;
their layer v = W [m_1; …; m_S] stands for the whole. Words are put one after the other,

    p(y_t | y_1 … y_{t−1}, picture) = softmax(W_o [h_t; c_t; E y_{t−1}] + b),
    h_t = GRU(h_{t−1}, [E y_{t−1}; c_t])

and what the GRU knows of the picture is one of these (see Tanti, Gatt and Camilleri, "Where to put
the image in an image caption generator", 2018):

    attention   h_0 = tanh(v), c_t = Σ_s a_ts m_s by additive attention (Xu et al., "Show, Attend
                and Tell", 2015)
    first       v is what the GRU reads first, in a word's place; no c (Vinyals et al., "Show and
                Tell", 2015; pre-inject in that comparison)
    init        h_0 = tanh(v); no c (init-inject)

Recurrence is compared with ``Slots``, in which each word has a layer of its own.
"""

import functools
import math
from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from examples.support.subwords import END
from rnnjax import training

Inject = Literal["attention", "first", "init"]


class Batch(NamedTuple):
    """Pictures side by side, and what is said of them; arrays of NumPy or of JAX."""

    pictures: Any  # (B, H, W, C): uint8 pixels, or float32 features
    words: Any  # (T, B) int32, each row ending with END, and END behind it
    lengths: Any  # (B,) int32, the end counted


class Eye(nn.Module):
    """Look at pictures: convolutions with strides of 2, 2, 2, 1, …; features pass through a layer.

    Attributes:
        widths: channels of each convolution; the last is that of the layer for features.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, pictures: jax.Array) -> jax.Array:
        """From pictures (B, H, W, C) to a map (B, S, M)."""
        if jnp.issubdtype(pictures.dtype, jnp.floating):
            xs = nn.relu(nn.Dense(self.widths[-1])(pictures))
        else:
            xs = pictures.astype(jnp.float32) / 255
            for layer, width in enumerate(self.widths):
                kernel, stride = (3 if layer else 5), (2 if layer < 3 else 1)
                xs = nn.Conv(width, (kernel,) * 2, stride, use_bias=False)(xs)
                xs = nn.relu(nn.GroupNorm(num_groups=math.gcd(8, width))(xs))
        cells = xs.reshape(len(xs), -1, self.widths[-1])
        place = self.param("place", nn.initializers.normal(0.02), cells.shape[1:])
        return cells + jnp.broadcast_to(place, cells.shape)


class Captioner(nn.Module):
    """From a picture to the logits of its words.

    Attributes:
        inject: what the GRU gets of the picture.
        vocabulary: V, the symbols.
        size: hidden units.
        embedding: D, features of a symbol.
        widths: channels of the convolutions.
        longest: T, symbols of the longest caption, its end counted.
        dropout: share of the features before the head and of the map's that are dropped.
    """

    inject: Inject
    vocabulary: int
    size: int
    embedding: int
    widths: tuple[int, ...]
    longest: int
    dropout: float

    @property
    def cell(self) -> rnnjax.Cell:
        """What is run over the words."""
        gru = rnnjax.GRU(self.size)
        if self.inject != "attention":
            return gru
        return rnnjax.BahdanauDecoder(gru, rnnjax.AdditiveAttention(self.size), self.widths[-1])

    def setup(self) -> None:
        """Make the layers and bind the params of the cell."""
        self.eye = Eye(self.widths)
        self.drop = nn.Dropout(self.dropout)
        self.whole = nn.Dense(self.embedding if self.inject == "first" else self.size)
        self.embed = nn.Embed(self.vocabulary, self.embedding)
        self.head = nn.Dense(self.vocabulary)
        params = self.param("cell", self.cell.init, self.embedding)
        # Bound here, because Linen freezes a dict that becomes an attribute.
        self.memory = functools.partial(rnnjax.attention_memory, self.cell, params)
        self.initial = functools.partial(rnnjax.initial_carry, self.cell, params)
        self.scan = functools.partial(rnnjax.scan, self.cell, params)
        self.step = functools.partial(rnnjax.step, self.cell, params)

    def __call__(self, batch: Batch, noise: bool) -> tuple[jax.Array, jax.Array | None]:
        """Read the right word before each: logits (T, B, V), weights (T, B, S) of attention."""
        context, carry = self.encode(batch.pictures, noise)
        xs = self.embed(before(jnp.asarray(batch.words)))
        _, ys = self.scan(xs, carry, lengths=batch.lengths, context=context)
        weights = ys.weights if isinstance(ys, rnnjax.DecoderOutput) else None
        return self.logits(ys, xs, noise), weights

    def encode(self, pictures: Any, noise: bool) -> tuple[Any, Any]:
        """Look: what is read at every step, None without attention, and the first carry."""
        cells = self.drop(self.eye(jnp.asarray(pictures)), deterministic=not noise)
        whole = self.whole(cells.reshape(len(cells), -1))
        if self.inject == "init":
            return None, jnp.tanh(whole)
        if self.inject == "first":
            return None, self.step(whole, self.initial(len(cells)))[0]
        context = self.memory(cells.swapaxes(0, 1))
        carry = self.initial(len(cells), context=context)
        return context, carry._replace(cell=jnp.tanh(whole))

    def read_one(self, carry: Any, token: jax.Array, context: Any) -> tuple[Any, jax.Array]:
        """Read one symbol (B,): the carry after it, and logits (B, V)."""
        x = self.embed(token)
        carry, y = self.step(x, carry, context=context)
        return carry, self.logits(y, x, noise=False)

    def logits(self, ys: Any, xs: jax.Array, noise: bool) -> jax.Array:
        """Score every symbol."""
        found = [ys.output, ys.context] if isinstance(ys, rnnjax.DecoderOutput) else [ys]
        features = jnp.concatenate([*found, xs], axis=-1)
        return self.head(self.drop(features, deterministic=not noise))


class Slots(nn.Module):
    """The same without recurrence: each word has a layer of its own over the whole picture.

    Attributes and methods are those of ``Captioner``; its carry is a place, and all logits.
    """

    vocabulary: int
    size: int
    widths: tuple[int, ...]
    longest: int
    dropout: float

    def setup(self) -> None:
        """Make the layers."""
        self.eye, self.drop = Eye(self.widths), nn.Dropout(self.dropout)
        self.whole, self.head = nn.Dense(self.size), nn.Dense(self.longest * self.vocabulary)

    def __call__(self, batch: Batch, noise: bool) -> tuple[jax.Array, None]:
        """Logits (T, B, V), whatever the words before."""
        _, (_, table) = self.encode(batch.pictures, noise)
        return table.swapaxes(0, 1)[: len(batch.words)], None

    def encode(self, pictures: Any, noise: bool) -> tuple[None, tuple[jax.Array, jax.Array]]:
        """Look: the first place (B,), and logits (B, T, V)."""
        cells = self.drop(self.eye(jnp.asarray(pictures)), deterministic=not noise)
        whole = nn.relu(self.whole(cells.reshape(len(cells), -1)))
        logits = self.head(self.drop(whole, deterministic=not noise))
        table = logits.reshape(-1, self.longest, self.vocabulary)
        return None, (jnp.zeros(len(table), jnp.int32), table)

    def read_one(self, carry: Any, token: jax.Array, context: None) -> tuple[Any, jax.Array]:
        """Go on to the next place, whatever the word."""
        del token, context
        place, table = carry
        return (place + 1, table), table[jnp.arange(len(table)), place]


Model: TypeAlias = Captioner | Slots


def before(words: jax.Array) -> jax.Array:
    """What is read before each symbol of words (T, B): END begins as well as it ends."""
    return jnp.concatenate([jnp.full_like(words[:1], END), words[:-1]])


@functools.partial(jax.jit, static_argnames="model")
def initial_params(model: Model, pictures: Any, seed: int) -> Any:
    """Draw the parameters, for such pictures (B, H, W, C)."""
    words, lengths = jnp.zeros((1, len(pictures)), jnp.int32), jnp.ones(len(pictures), jnp.int32)
    return model.init(jax.random.key(seed), Batch(pictures, words, lengths), noise=False)


def apply(model: Model, params: Any, *inputs: Any, **options: Any) -> Any:
    """Call the model; Linen's own annotation would hide the type of the result."""
    return model.apply(params, *inputs, **options)


def loss(model: Model, params: Any, carry: Any, batch: Batch, key: Any) -> Any:
    """Mean nats of the captions' symbols."""
    noise = key is not None
    logits, _ = apply(model, params, batch, noise, rngs={"dropout": key} if noise else None)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch.words)
    valid = jnp.arange(len(batch.words))[:, None] < jnp.asarray(batch.lengths)[None]
    count = valid.sum()
    total = jnp.sum(nats, where=valid)
    return total / jnp.maximum(count, 1).astype(total.dtype), (carry, {"tokens": count})


@functools.cache
def objective(model: Any) -> training.Loss:
    """The loss for one model; the same object for the same model, which compiles once."""
    return functools.partial(loss, model)


@functools.cache
def optimiser(
    learning_rate: float, weight_decay: float, steps: int
) -> optax.GradientTransformation:
    """AdamW with clipping, a warm-up and a cosine that ends at nothing after so many steps.

    The same object for the same arguments, which compiles once.
    """
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps=min(100, 1 + steps // 20), decay_steps=steps
    )
    adamw = optax.adamw(rate, b2=0.98, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def pad(sequences: list[np.ndarray], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Put symbols side by side, (longest, B), END behind them, and their lengths (B,)."""
    words = np.full((longest, len(sequences)), END, np.int32)
    for row, sequence in enumerate(sequences):
        words[: len(sequence), row] = sequence
    return words, np.array([len(sequence) for sequence in sequences], np.int32)
