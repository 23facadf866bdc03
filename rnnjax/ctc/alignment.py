"""When each label of a known labelling was said: the likeliest of its paths."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Bool, Float, Int
from rnnjax.ctc import arguments
from rnnjax.ctc.arguments import PADDING


class Alignment(NamedTuple):
    """The likeliest path of each row's labels."""

    path: Int[Array, "T B"]
    """(T, B), the symbol at each frame, the blank too; ``PADDING`` beyond the lengths."""
    states: Int[Array, "T B"]
    """(T, B), where in the labels each frame is: 2u + 1 at label u, 2u in the blank before it."""
    starts: Int[Array, "B U"]
    """(B, U), the first frame of each label; ``PADDING`` behind the labels of a row."""
    ends: Int[Array, "B U"]
    """(B, U), one past the last frame of each label, so that its frames are ``[start:end]``."""
    log_probabilities: Float[Array, " B"]
    """(B,), of the path, in nats; −∞ where there is none."""
    exists: Bool[Array, " B"]
    """(B,), whether there is a path: where not, all of the above but this is padding."""


def align(
    logits: Float[Array, "T B V"],
    labels: Int[Array, "B U"],
    lengths: Int[Array, " B"],
    label_lengths: Int[Array, " B"],
    *,
    blank: int = 0,
) -> Alignment:
    """Find the likeliest path of given labels (forced alignment, by the algorithm of Viterbi).

    With z = (–, y_1, –, y_2, …, y_U, –), the labels with blanks between them, and δ_t(s) the log
    probability of the likeliest path that is at z_s at frame t,

        δ_t(s) = log softmax(logits_t)[z_s] + max(δ_{t−1}(s), δ_{t−1}(s−1), δ_{t−1}(s−2)),

    the last only where z_s is a label other than z_{s−2}: the moves of Graves et al. 2006, with a
    maximum for their sum. A path begins at the first blank or label and ends at the last ones. Of
    equal moves the smallest is taken. Compiled inside; memory O(T · B · U).

    Args:
        logits: (T, B, V), floating point, unnormalised.
        labels: (B, U), integers without the blank, padded on the right with anything.
        lengths: (B,), integers in 0…T: the frames of each row.
        label_lengths: (B,), integers in 0…U.
        blank: the symbol that stands for no label.

    Returns:
        Path, states, the frames of each label, log probability, and whether there is a path: not
        where a row is too short for its labels (see ``feasible``), or where logits of −∞ forbid
        all. NaN in a row's frames shows as a log probability NaN; its path means nothing.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value.

    Example:
        Frames that say –, a, a, –, b, and a row too short for its labels:

        >>> import jax, jax.numpy as jnp
        >>> from rnnjax import ctc
        >>> logits = 5 * jax.nn.one_hot(jnp.array([[0, 1, 1, 0, 2]] * 2).T, 3)
        >>> labels = jnp.array([[1, 2], [1, 2]])
        >>> found = ctc.align(logits, labels, jnp.array([5, 1]), jnp.array([2, 2]))
        >>> found.path[:, 0].tolist(), found.starts[0].tolist(), found.ends[0].tolist()
        ([0, 1, 1, 0, 2], [1, 4], [3, 5])
        >>> found.exists.tolist(), found.starts[1].tolist()
        ([True, False], [-1, -1])
    """
    blank = arguments.labelled("align", logits, labels, lengths, label_lengths, blank)
    return _align(logits, labels, lengths, label_lengths, blank=blank)


@functools.partial(jax.jit, static_argnames="blank")
def _align(
    logits: Array, labels: Array, lengths: Array, label_lengths: Array, *, blank: int
) -> Alignment:
    (time, batch, _), positions = logits.shape, labels.shape[1]
    counts = label_lengths.astype(jnp.int32)
    spoken = jnp.arange(positions)[None] < counts[:, None]  # (B, U)
    z = jnp.full((batch, 2 * positions + 1), blank, jnp.int32)
    z = z.at[:, 1::2].set(jnp.where(spoken, labels.astype(jnp.int32), blank))
    may_skip = (z != blank) & (z != _shift(z, 2, blank))
    real = jnp.arange(time)[:, None] < lengths[None].astype(jnp.int32)

    def forwards(delta: Array, frame: tuple[Array, Array]) -> tuple[Array, Array]:
        log_p, real = frame
        skipped = jnp.where(may_skip, _shift(delta, 2, -jnp.inf), -jnp.inf)
        reached = jnp.stack([delta, _shift(delta, 1, -jnp.inf), skipped])
        best = reached.max(0) + jnp.take_along_axis(log_p, z, -1)
        move = jnp.where(real[:, None], jnp.argmax(reached, 0), 0)
        return jnp.where(real[:, None], best, delta), move.astype(jnp.int8)

    def backwards(state: Array, move: Array) -> tuple[Array, Array]:
        moved = jnp.take_along_axis(move, state[:, None], -1)[:, 0]
        return state - moved.astype(jnp.int32), state

    # Before the first frame a path is at the first blank: it can stay there, or move to the label.
    first = jnp.full(z.shape, -jnp.inf).at[:, 0].set(0.0)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    delta, moves = jax.lax.scan(forwards, first, (log_p, real))
    ends = jnp.stack([2 * counts, jnp.maximum(2 * counts - 1, 0)], -1)  # (B, 2)
    final = jnp.take_along_axis(delta, ends, -1)
    last = jnp.take_along_axis(ends, jnp.argmax(final, -1)[:, None], -1)[:, 0]
    _, states = jax.lax.scan(backwards, last, moves, reverse=True)

    log_probabilities = final.max(-1)
    exists = ~jnp.isneginf(log_probabilities)
    there = real & exists[None]
    states = jnp.where(there, states, PADDING)
    path = jnp.where(there, jnp.take_along_axis(z, states.T, -1, mode="clip").T, PADDING)
    at = states[..., None] == 2 * jnp.arange(positions)[None, None] + 1  # (T, B, U)
    start = jnp.argmax(at, 0).astype(jnp.int32)
    known = spoken & exists[:, None]
    return Alignment(
        path=path,
        states=states,
        starts=jnp.where(known, start, PADDING),
        ends=jnp.where(known, start + at.sum(0, dtype=jnp.int32), PADDING),
        log_probabilities=log_probabilities,
        exists=exists,
    )


def _shift(rows: Array, by: int, fill: float) -> Array:
    """Move entries (B, S) to the right."""
    return jnp.pad(rows, ((0, 0), (by, 0)), constant_values=fill)[:, : rows.shape[1]]
