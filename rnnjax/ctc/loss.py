"""Which rows have a path at all, and the loss over those that have."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Float, Int
from rnnjax.ctc import arguments


class Losses(NamedTuple):
    """A loss for each row."""

    nats: Float[Array, " B"]
    """(B,), −log p(labels | x); 0, without a gradient, where it is not feasible."""
    feasible: Bool[Array, " B"]
    """(B,), whether there are frames enough; its complement counts the rows left out."""


def feasible(
    labels: Int[Array, "B U"], lengths: Int[Array, " B"], label_lengths: Int[Array, " B"]
) -> Bool[Array, " B"]:
    """Tell which rows have frames enough for their labels.

    A path needs a frame for every label, and a blank between two that are equal:

        length ≥ label_length + #{u : y_u = y_{u−1}}

    Args:
        labels: (B, U), integers, padded on the right with anything.
        lengths: (B,), integers: the frames of each row, after any subsampling.
        label_lengths: (B,), integers in 0…U.

    Returns:
        (B,), bool.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value.

    Example:
        >>> import jax.numpy as jnp
        >>> from rnnjax import ctc
        >>> labels = jnp.array([[1, 2, 3], [1, 1, 2]])
        >>> ctc.feasible(labels, jnp.array([3, 3]), jnp.array([3, 3])).tolist()
        [True, False]
    """
    shape = checks.integers("feasible", "labels", labels)
    arguments.labels("feasible", labels, label_lengths, shape[0] if shape else 1)
    arguments.frames("feasible", lengths, shape[0])
    return _feasible(labels, lengths, label_lengths)


@jax.jit
def _feasible(labels: Array, lengths: Array, label_lengths: Array) -> Array:
    count = label_lengths.astype(jnp.int32)
    inside = jnp.arange(1, labels.shape[1])[None] < count[:, None]
    repeats = ((labels[:, 1:] == labels[:, :-1]) & inside).sum(-1, dtype=jnp.int32)
    return lengths.astype(jnp.int32) >= count + repeats


def loss(
    logits: Float[Array, "T B V"],
    labels: Int[Array, "B U"],
    lengths: Int[Array, " B"],
    label_lengths: Int[Array, " B"],
    *,
    blank: int = 0,
) -> Losses:
    """Return −log p(labels | x) of each row: ``optax.ctc_loss`` in this library's layout.

    What it adds: logits are time-major with lengths; what stands beyond the lengths, NaN and Inf
    included, reaches neither values nor gradients; a row too short for its labels, for which Optax
    returns about 1e5 with finite gradients that mean nothing, counts 0 without a gradient. A row is
    long enough where ``feasible`` says so. In float32 a loss near 0 can be slightly negative.
    Logits of −∞ make it NaN: mask a symbol with a large negative number instead.

    Args:
        logits: (T, B, V), floating point, unnormalised.
        labels: (B, U), integers without the blank, padded on the right with anything.
        lengths: (B,), integers in 0…T: the frames of each row.
        label_lengths: (B,), integers in 0…U.
        blank: the symbol that stands for no label.

    Returns:
        Nats for each row, and whether it counts. The mean over those that do is
        ``nats.sum() / jnp.maximum(feasible.sum(), 1)``.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value.

    Example:
        Two frames, uniform over the blank, a and b: a has the paths aa, a–, –a; ab has one; aa
        none:

        >>> import jax.numpy as jnp
        >>> from rnnjax import ctc
        >>> labels = jnp.array([[1, 0], [1, 2], [1, 1]])
        >>> two = jnp.array([2, 2, 2])
        >>> losses = ctc.loss(jnp.zeros((2, 3, 3)), labels, two, jnp.array([1, 2, 2]))
        >>> (9 * jnp.exp(-losses.nats)).round().tolist(), losses.feasible.tolist()
        ([3.0, 1.0, 9.0], [True, True, False])
    """
    blank = arguments.labelled("loss", logits, labels, lengths, label_lengths, blank)
    return _loss(logits, labels, lengths, label_lengths, blank=blank)


@functools.partial(jax.jit, static_argnames="blank")
def _loss(
    logits: Array, labels: Array, lengths: Array, label_lengths: Array, *, blank: int
) -> Losses:
    import optax  # here, because nothing else of the core needs it

    rows = _feasible(labels, lengths, label_lengths)
    counts = jnp.where(rows, lengths.astype(jnp.int32), 0)
    real = jnp.arange(logits.shape[0])[:, None] < counts[None]
    padded_labels = jnp.arange(labels.shape[1])[None] >= label_lengths.astype(jnp.int32)[:, None]
    # Zeros, chosen before the loss is taken: Optax multiplies what is padded by 0, which keeps NaN.
    logits = jnp.where(real[..., None], logits.astype(jnp.float32), 0.0)
    labels = jnp.where(padded_labels, blank, labels.astype(jnp.int32))
    nats = optax.ctc_loss(
        logits.swapaxes(0, 1),
        (~real.T).astype(jnp.float32),
        labels,
        padded_labels.astype(jnp.float32),
        blank_id=blank,
    )
    return Losses(jnp.where(rows, nats, 0.0), rows)
