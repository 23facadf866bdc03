"""The labelling of the likeliest path."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Float, Int
from rnnjax.ctc import arguments
from rnnjax.ctc.arguments import PADDING


class Transcripts(NamedTuple):
    """One labelling for each row."""

    labels: Int[Array, "B T"]
    """(B, T), ``PADDING`` behind the labels of a row."""
    lengths: Int[Array, " B"]
    """(B,), how many labels there are, in 0…T."""
    log_probabilities: Float[Array, " B"]
    """(B,), in nats, of the one path; never above those of the labelling, which has others too."""


def greedy(
    logits: Float[Array, "T B V"], lengths: Int[Array, " B"], *, blank: int = 0
) -> Transcripts:
    """Take the likeliest symbol of each frame, merge repeats, then remove blanks.

        π_t = argmax_v logits_t[v];    log p(π | x) = Σ_t log softmax(logits_t)[π_t]

    It is the likeliest path (best path decoding, Graves et al. 2006), not always the likeliest
    labelling: see ``prefix_beam``. Of equal symbols the first is taken. Compiled inside. Frames
    beyond ``lengths`` may hold anything.

    Args:
        logits: (T, B, V), floating point, unnormalised.
        lengths: (B,), integers in 0…T: the frames of each row.
        blank: the symbol that stands for no label.

    Returns:
        Labels, their number and the log probability of the path. NaN in a row's frames shows as a
        log probability NaN; its labels mean nothing.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value.

    Example:
        Frames that say a, a, blank, a, b, with the blank at 0:

        >>> import jax, jax.numpy as jnp
        >>> from rnnjax import ctc
        >>> logits = 5 * jax.nn.one_hot(jnp.array([1, 1, 0, 1, 2]), 3)[:, None]
        >>> found = ctc.greedy(logits, jnp.array([5]))
        >>> found.labels.tolist(), found.lengths.tolist()
        ([[1, 1, 2, -1, -1]], [3])
    """
    _, size = arguments.logits("greedy", logits, lengths)
    return _greedy(logits, lengths, blank=arguments.blank("greedy", blank, size))


@functools.partial(jax.jit, static_argnames="blank")
def _greedy(logits: Array, lengths: Array, *, blank: int) -> Transcripts:
    time, batch, _ = logits.shape
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    path = jnp.argmax(log_p, -1).astype(jnp.int32)
    real = jnp.arange(time)[:, None] < lengths[None].astype(jnp.int32)
    best = jnp.where(real, log_p.max(-1), 0.0)
    before = jnp.concatenate([jnp.full((1, batch), blank, jnp.int32), path[:-1]])
    kept = (path != blank) & (path != before) & real
    place = jnp.where(kept, jnp.cumsum(kept, 0) - 1, time)
    labels = jnp.full((batch, time), PADDING, jnp.int32)
    labels = labels.at[jnp.arange(batch)[None], place].set(path, mode="drop")
    return Transcripts(labels, kept.sum(0, dtype=jnp.int32), best.sum(0))
