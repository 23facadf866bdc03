"""An encoder–decoder with attention: embeddings, both directions of reading, a decoder, a head.

With the embedding E of both languages' symbols, sources x_1 … x_S and targets y_1 … y_T,

    m_s = [→h_s; ←h_s],    →h_s = cell(→h_{s−1}, E x_s),    ←h_s = cell(←h_{s+1}, E x_s)
    h_0 = [→h_S; ←h_1],    h_t, c_t, h̃_t = decoder(h_{t−1}, E y_{t−1}; m)
    p(y_t | y_1 … y_{t−1}, x) = softmax(E (W [h̃_t; c_t; E y_{t−1}; Σ_s a_ts E x_s] + b))

(Bahdanau, Cho and Bengio 2015; Luong, Pham and Manning 2015; E once more in the head, Press and
Wolf 2017). The last part, the source's own embeddings where the decoder looks, is a dictionary that
few pairs suffice to learn (Nguyen and Chiang, "Improving Lexical Choice in Neural Machine
Translation", 2018). Without attention the decoder is a cell that gets h_0 alone (Sutskever, Vinyals
and Le 2014), and the head reads h_t and E y_{t−1}.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from examples.support.subwords import END
from rnnjax import training
from rnnjax.training import Padded


def additive(cell: rnnjax.Cell, size: int) -> rnnjax.Cell:
    """Bahdanau's decoder."""
    return rnnjax.BahdanauDecoder(cell, rnnjax.AdditiveAttention(size), size)


def general(cell: rnnjax.Cell, size: int) -> rnnjax.Cell:
    """Luong's decoder, which feeds its input, with a matrix between query and memory."""
    attention = rnnjax.MultiplicativeAttention(size)
    return rnnjax.InputFeeding(rnnjax.LuongDecoder(cell, attention, size, size))


def dot(cell: rnnjax.Cell, size: int) -> rnnjax.Cell:
    """The same without the matrix."""
    return rnnjax.InputFeeding(rnnjax.LuongDecoder(cell, rnnjax.DotAttention(), size, size))


def none(cell: rnnjax.Cell, size: int) -> rnnjax.Cell:
    """The cell as it is: all that it knows of the source is its first carry."""
    del size
    return cell


DECODERS: dict[str, Callable[[rnnjax.Cell, int], rnnjax.Cell]] = {
    "additive": additive,
    "general": general,
    "dot": dot,
    "none": none,
}

WORDS = "source_words"  # in the context: the embedded source, (B, S, D)


class Translator(nn.Module):
    """From the symbols of a source to the logits of its translation's.

    Attributes:
        encoder: a cell for each layer and direction, each half as wide as the decoder's.
        decoder: a decoder with attention, or any cell.
        vocabulary: V, the symbols of both languages.
        embedding: D, features of a symbol.
        dropout: share of a sequence's features that are dropped before and after the recurrences,
            the same ones at all of its steps (Gal and Ghahramani 2016).
        symbol_dropout: share of symbols that are dropped whole.
    """

    encoder: tuple[rnnjax.Cell, ...]
    decoder: rnnjax.Cell
    vocabulary: int
    embedding: int
    dropout: float
    symbol_dropout: float

    def setup(self) -> None:
        """Make the layers and bind the params of the cells."""
        # As a head begins; what reads it gets it at unit variance.
        spread = nn.initializers.normal(self.embedding**-0.5)
        self.embed = nn.Embed(self.vocabulary, self.embedding, embedding_init=spread)
        self.head = nn.Dense(self.embedding)
        self.drop_features = nn.Dropout(self.dropout, broadcast_dims=(0,))
        self.drop_symbols = nn.Dropout(self.symbol_dropout, broadcast_dims=(-1,))
        draw = functools.partial(rnnjax.init_bidirectional, self.encoder, self.encoder)
        reading = self.param("reading", draw, self.embedding)
        writing = self.param("writing", self.decoder.init, self.embedding)
        # Bound here, because Linen freezes a dict that becomes an attribute.
        self.read = functools.partial(rnnjax.bidirectional, self.encoder, self.encoder, reading)
        self.start = functools.partial(start, self.decoder, writing)
        self.scan = functools.partial(rnnjax.scan, self.decoder, writing)
        self.step = functools.partial(rnnjax.step, self.decoder, writing)

    def __call__(
        self, source: Padded, read: jax.Array, lengths: jax.Array, noise: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """Read the right symbol before each step, (T, B): logits (T, B, V), weights (T, B, S)."""
        context, carry = self.encode(source, noise)
        xs = self.embedded(read, noise)
        _, ys = self.scan(xs, carry, lengths=lengths, context=context)
        weights = ys.weights if isinstance(ys, rnnjax.DecoderOutput) else None
        return self.logits(ys, xs, context, noise), weights

    def encode(self, source: Padded, noise: bool) -> tuple[Any, Any]:
        """Read the source: the decoder's context, None without attention, and its first carry."""
        values, lengths = jax.tree.map(jnp.asarray, tuple(source))
        xs = self.embedded(values, noise)
        (forwards, backwards), memory = self.read(xs, lengths=lengths)
        last = jax.tree.map(_side_by_side, forwards[-1], backwards[-1])
        memory = self.drop_features(memory, deterministic=not noise)
        context, carry = self.start(memory, lengths, last)
        return context and {**context, WORDS: jnp.swapaxes(xs, 0, 1)}, carry

    def read_one(self, carry: Any, token: jax.Array, context: Any) -> tuple[Any, jax.Array]:
        """Read one symbol (B,): the carry after it, and logits (B, V)."""
        x = self.embedded(token, noise=False)
        carry, y = self.step(x, carry, context=context)
        return carry, self.logits(y, x, context, noise=False)

    def embedded(self, tokens: jax.Array, noise: bool) -> jax.Array:
        """Look symbols up."""
        xs = self.embed(tokens) * self.embedding**0.5
        xs = self.drop_symbols(xs, deterministic=not noise)
        return self.drop_features(xs, deterministic=not noise)

    def logits(self, ys: Any, xs: jax.Array, context: Any, noise: bool) -> jax.Array:
        """Score every symbol."""
        found = [ys]
        if isinstance(ys, rnnjax.DecoderOutput):
            seen = jnp.einsum("...bs,bsd->...bd", ys.weights, context[WORDS])
            found = [ys.output, ys.context, seen]
        features = jnp.concatenate([*found, xs], axis=-1)
        return self.embed.attend(self.head(self.drop_features(features, deterministic=not noise)))


def start(
    decoder: rnnjax.Cell, params: Any, memory: jax.Array, lengths: jax.Array, last: Any
) -> tuple[Any, Any]:
    """Return what a decoder reads at every step, and the carry that it begins with."""
    if "attention" not in params:
        return None, last
    context = rnnjax.attention_memory(decoder, params, memory, lengths=lengths)
    carry = rnnjax.initial_carry(decoder, params, len(lengths), context=context)
    return context, carry._replace(cell=last)


def _side_by_side(forwards: jax.Array, backwards: jax.Array) -> jax.Array:
    return jnp.concatenate([forwards, backwards], axis=-1)


@functools.partial(jax.jit, static_argnames="model")
def initial_params(model: Translator, seed: int) -> Any:
    """Draw the parameters."""
    one = np.ones((1, 1), np.int32)
    return model.init(jax.random.key(seed), Padded(one, one[0]), one, one[0], noise=False)


def apply(model: Translator, params: Any, *inputs: Any, **options: Any) -> Any:
    """Call the model; Linen's own annotation would hide the type of the result."""
    return model.apply(params, *inputs, **options)


def loss(model: Translator, smoothing: float, params: Any, carry: Any, batch: Any, key: Any) -> Any:
    """Mean nats of the targets' symbols; in training their labels are smoothed."""
    source, target = batch["source"], batch["target"]
    noise = key is not None
    rngs = {"dropout": key} if noise else None
    logits, _ = apply(
        model, params, source, before(target.values), target.lengths, noise, rngs=rngs
    )
    labels = jax.nn.one_hot(target.values, model.vocabulary)
    nats = optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, smoothing * noise))
    valid = jnp.arange(len(target.values))[:, None] < target.lengths[None]
    count = valid.sum()
    total = jnp.sum(nats, where=valid)
    return total / jnp.maximum(count, 1).astype(total.dtype), (carry, {"tokens": count})


@functools.cache
def objective(model: Any, smoothing: float) -> training.Loss:
    """The loss for one model; the same object for the same model, which compiles once."""
    return functools.partial(loss, model, smoothing)


def before(targets: jax.Array) -> jax.Array:
    """What is read before each symbol of targets (T, B): END begins as well as it ends."""
    return jnp.concatenate([jnp.full_like(targets[:1], END), targets[:-1]])


@functools.cache
def optimiser(
    learning_rate: float, weight_decay: float, steps: int
) -> optax.GradientTransformation:
    """AdamW with clipping, a warm-up and a cosine that ends at nothing after so many steps.

    The same object for the same arguments, which compiles once.
    """
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps=min(200, 1 + steps // 20), decay_steps=steps
    )
    adamw = optax.adamw(rate, b2=0.98, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)
