"""Prefix beam search: the likeliest labellings rather than the likeliest path."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Float, Int, PyTree
from rnnjax.ctc import arguments
from rnnjax.ctc.arguments import PADDING
from rnnjax.decoding import arguments as decoding_arguments
from rnnjax.recurrence import select_rows

ScoreFunction = Callable[[PyTree, Array], tuple[PyTree, Array]]
"""(state, label (B,)) → (state, log probabilities of the next label (B, V))."""


class Labellings(NamedTuple):
    """The best labellings found for each row, the best first; K of them, of at most U labels."""

    labels: Int[Array, "B K U"]
    """(B, n_best, max_length), ``PADDING`` behind the labels."""
    lengths: Int[Array, "B K"]
    """(B, n_best), in 0…max_length."""
    scores: Float[Array, "B K"]
    """(B, n_best), falling; −∞, with length 0, where there is no further labelling."""
    log_probabilities: Float[Array, "B K"]
    """(B, n_best), log p(y | x) of CTC alone, in nats: of the paths that stayed in the beam."""


def prefix_beam(
    logits: Float[Array, "T B V"],
    lengths: Int[Array, " B"],
    *,
    width: int,
    n_best: int = 1,
    max_length: int | None = None,
    blank: int = 0,
    score_fn: ScoreFunction | None = None,
    state: PyTree = None,
    score_weight: float = 1.0,
    length_bonus: float = 0.0,
) -> Labellings:
    """Search for the labellings of the highest score, ``width`` prefixes side by side.

    A labelling y of l labels scores, q being what ``score_fn`` says,

        log p(y | x) + α (Σ_u log q(y_u | y_1 … y_{u−1}) + log q(end | y)) + β l

    with α = score_weight and β = length_bonus. For each prefix the search keeps the probability of
    its paths that end in the blank and of those that end in its last label (Graves 2012, section
    7.5; Hannun et al. 2014). A frame leaves a prefix as it is or extends it by one label; an
    extension that is in the beam already adds to what is there, so that no prefix is in the beam
    twice. The best ``width`` prefixes, ended or not, live on. A beam as wide as there are prefixes
    loses no path: scores are then exact. With a narrower one log p(y | x) counts the paths that it
    kept, and is at most the true one.

    Compiled inside: once for equal scoring functions, shapes, ``width``, ``n_best``, ``max_length``
    and ``blank``. Rows do not depend on each other, and frames beyond ``lengths`` may hold
    anything. What it takes beyond the logits is O(B · width · (width + V + max_length)) a frame.

    Args:
        logits: (T, B, V), floating point, unnormalised.
        lengths: (B,), integers in 0…T: the frames of each row.
        width: prefixes that live side by side.
        n_best: how many labellings to return, at most ``width``.
        max_length: the most labels that a labelling may have; None for T, which is no limit.
        blank: the symbol that stands for no label.
        score_fn: (state, label (B · width,)) → (state, log probabilities (B · width, V)) of a
            language model: a ``jax.tree_util.Partial(f, params)``, or a plain function, which is
            static. It reads ``blank`` first, for the beginning, and the entry ``blank`` of what it
            returns is the end: 0 for a model that knows no end. Each row comes ``width`` times in a
            row. Without it log q = 0.
        state: what ``score_fn`` begins with, a pytree, leading axis B; it follows its prefixes.
        score_weight: α, at least 0.
        length_bonus: β, for each label; above 0 it makes up for a model that prefers short ones.

    Returns:
        Labels, their number, scores and log probabilities, the best first. NaN in a row's frames
        shows as scores NaN in it; the labels mean nothing there.

    Raises:
        TypeError: an argument of the wrong kind or dtype, or ``score_fn`` returns another state.
        ValueError: an argument of the wrong shape or value.

    Example:
        The likeliest path is – –, with 0.36; but a has three paths, with 0.64 in all:

        >>> import jax.numpy as jnp
        >>> from rnnjax import ctc
        >>> logits = jnp.log(jnp.array([[[0.6, 0.4]], [[0.6, 0.4]]]))
        >>> ctc.greedy(logits, jnp.array([2])).lengths.tolist()
        [0]
        >>> found = ctc.prefix_beam(logits, jnp.array([2]), width=2, n_best=2)
        >>> found.labels.tolist(), (100 * jnp.exp(found.scores)).round().tolist()
        ([[[1, -1], [-1, -1]]], [[64.0, 36.0]])
    """
    owner = "prefix_beam"
    axes, size = arguments.logits(owner, logits, lengths)
    time, batch = axes.sizes
    blank = arguments.blank(owner, blank, size)
    longest = arguments.max_length(owner, max_length, time)
    arguments.width(owner, width, size, longest)
    decoding_arguments.n_best(owner, n_best, width)
    alpha = decoding_arguments.real(owner, "score_weight", score_weight)
    beta = decoding_arguments.real(owner, "length_bonus", length_bonus)
    sizes = _Sizes(int(width), int(n_best), longest, blank)
    if score_fn is None:
        if state is not None:
            raise ValueError(f"{owner}: state must come with score_fn, which reads it; got none.")
        score_fn, state = _SILENT, jnp.zeros((batch, size))
    score_fn = decoding_arguments.step_function(owner, "score_fn", score_fn)
    checks.leading_batch(owner, "state", state, batch)
    beams = jax.eval_shape(functools.partial(_repeat, width=sizes.width), state)
    arguments.scorer(owner, score_fn, beams, batch * sizes.width, size)
    return _search(score_fn, state, logits, lengths, alpha, beta, sizes=sizes)


def _silent(zeros: Float[Array, "B V"], label: Array) -> tuple[Array, Array]:
    """Score nothing."""
    return zeros, zeros


_SILENT = Partial(_silent)


class _Sizes(NamedTuple):
    """What is static."""

    width: int
    n_best: int
    max_length: int
    blank: int


class _Beam(NamedTuple):
    """W prefixes for each row, no two equal; those that are not there have the score −∞."""

    labels: Int[Array, "B W U"]
    lengths: Int[Array, "B W"]
    last: Int[Array, "B W"]  # the last label
    in_blank: Float[Array, "B W"]  # log p of the paths that end in the blank
    in_label: Float[Array, "B W"]  # … and in the last label
    bonus: Float[Array, "B W"]  # of score_fn and length, so far
    gains: Float[Array, "B W V"]  # what each next label adds to it; at the blank, what the end adds
    state: PyTree  # (B · W, …)
    begins: Bool[Array, "B W W"]  # whether prefix i is the beginning, or all, of prefix j

    def log_p(self) -> Array:
        """Sum over both kinds of paths."""
        return jnp.logaddexp(self.in_blank, self.in_label)


@functools.partial(jax.jit, static_argnames="sizes")
def _search(
    score_fn: Any,
    state: PyTree,
    logits: Array,
    lengths: Array,
    alpha: Array,
    beta: Array,
    *,
    sizes: _Sizes,
) -> Labellings:
    time, batch, size = logits.shape
    width, longest, blank = sizes.width, sizes.max_length, sizes.blank

    def read(state: PyTree, label: Int[Array, "B W"]) -> tuple[PyTree, Array]:
        """Return the next state, and what each label would add to the score after this one."""
        state, log_q = score_fn(state, label.reshape(-1))
        log_q = log_q.astype(jnp.float32).reshape(batch, width, size)
        weighted = jnp.where(alpha > 0, alpha * log_q, 0.0)  # 0 · −∞ is NaN
        return state, weighted + jnp.where(jnp.arange(size) == blank, 0.0, beta)[None, None]

    def advance(beam: _Beam, frame: tuple[Array, Array]) -> tuple[_Beam, None]:
        log_p, real = frame
        kept, extensions = _frame(beam, log_p, sizes)
        candidates = jnp.concatenate(
            [kept.log_p() + beam.bonus, _flat(extensions + beam.bonus[..., None] + beam.gains)], -1
        )
        scores, index = jax.lax.top_k(candidates, width)
        extends, index = index >= width, jnp.where(index < width, index, index - width)
        parent = jnp.where(extends, index // size, index)
        label = jnp.where(extends, index % size, blank)
        new = _extend(kept, extensions, parent, label, extends, ~jnp.isneginf(scores))
        state, gains = read(new.state, label)
        rows = extends.reshape(-1)
        new = new._replace(
            gains=jnp.where(extends[..., None], gains, new.gains),
            state=select_rows(rows, state, new.state),
        )
        per_beam = jnp.repeat(real, width)
        state = select_rows(per_beam, new.state, beam.state)
        rest = select_rows(real, new._replace(state=()), beam._replace(state=()))
        return rest._replace(state=state), None

    state, gains = read(_repeat(state, width=width), jnp.full((batch, width), blank, jnp.int32))
    # One prefix to begin with, the empty one, at the end of a path in the blank.
    there = jnp.broadcast_to((jnp.arange(width) == 0)[None], (batch, width))
    beam = _Beam(
        labels=jnp.full((batch, width, longest), PADDING, jnp.int32),
        lengths=jnp.zeros((batch, width), jnp.int32),
        last=jnp.full((batch, width), PADDING, jnp.int32),
        in_blank=jnp.where(there, 0.0, -jnp.inf),
        in_label=jnp.full((batch, width), -jnp.inf),
        bonus=jnp.zeros((batch, width)),
        gains=gains,
        state=state,
        begins=there[:, :, None] & there[:, None],
    )
    real = jnp.arange(time)[:, None] < lengths[None].astype(jnp.int32)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    beam, _ = jax.lax.scan(advance, beam, (log_p, real))
    return _best(beam, sizes)


def _frame(
    beam: _Beam, log_p: Float[Array, "B V"], sizes: _Sizes
) -> tuple[_Beam, Float[Array, "B W V"]]:
    """Read one frame: the prefixes as they are, and log p of each one's extensions by a label.

    An extension that is a prefix of the beam adds to that prefix, and is −∞ among the extensions.
    """
    size = log_p.shape[-1]
    total, symbols = beam.log_p(), jnp.arange(size)[None, None]
    # The last label again is a new label only after a blank.
    before = jnp.where(symbols == beam.last[..., None], beam.in_blank[..., None], total[..., None])
    full = (beam.lengths >= sizes.max_length)[..., None]
    extensions = jnp.where((symbols == sizes.blank) | full, -jnp.inf, before + log_p[:, None])

    longer_by_one = beam.lengths[:, None] == beam.lengths[..., None] + 1
    parents = beam.begins & longer_by_one  # (B, i, j): prefix j is prefix i and one label
    last = jnp.maximum(beam.last, 0)
    arriving = jnp.take_along_axis(extensions, last[:, None], -1)
    arriving = jnp.where(parents, arriving, -jnp.inf).max(1)  # of at most one
    again = beam.in_label + jnp.take_along_axis(log_p, last, -1)
    kept = beam._replace(
        in_blank=total + log_p[:, sizes.blank, None],
        in_label=jnp.logaddexp(again, arriving),
    )
    parent = jnp.where(parents.any(1), jnp.argmax(parents, 1), sizes.width)  # W is nowhere
    row = jnp.arange(len(log_p))[:, None]
    return kept, extensions.at[row, parent, last].set(-jnp.inf, mode="drop")


def _extend(
    kept: _Beam,
    extensions: Float[Array, "B W V"],
    parent: Int[Array, "B W"],
    label: Int[Array, "B W"],
    extends: Bool[Array, "B W"],
    there: Bool[Array, "B W"],
) -> _Beam:
    """Return the prefixes chosen: each the one at ``parent``, or that and ``label``."""
    (batch, width, _), longest = extensions.shape, kept.labels.shape[-1]

    def take(leaf: Array) -> Array:
        return jnp.take_along_axis(leaf, _trailing(parent, leaf), 1)

    end = take(kept.lengths)  # where the label comes
    at_end = jnp.arange(longest)[None, None] == end[..., None]
    labels = jnp.where(at_end & extends[..., None], label[..., None], take(kept.labels))
    arrived = jnp.take_along_axis(
        _flat(extensions), parent * extensions.shape[-1] + label, -1, mode="clip"
    )
    gained = jnp.take_along_axis(take(kept.gains), label[..., None], -1)[..., 0]
    # (B, i, j): i begins j where its parent began j's, and the label that it adds is in j there.
    next_of_j = jnp.take_along_axis(
        labels, jnp.broadcast_to(end[:, None], (batch, width, width)), -1, mode="clip"
    ).swapaxes(1, 2)
    began = jnp.take_along_axis(take(kept.begins), parent[:, None], 2)
    begins = began & (~extends[..., None] | (next_of_j == label[..., None]))
    rows = (jnp.arange(batch)[:, None] * width + parent).reshape(-1)
    return _Beam(
        labels=labels,
        lengths=end + extends.astype(jnp.int32),
        last=jnp.where(extends, label, take(kept.last)),
        in_blank=jnp.where(extends, -jnp.inf, take(kept.in_blank)),
        in_label=jnp.where(extends, arrived, take(kept.in_label)),
        bonus=take(kept.bonus) + jnp.where(extends, gained, 0.0),
        gains=take(kept.gains),
        state=jax.tree.map(lambda leaf: leaf[rows], kept.state),
        begins=begins & there[..., None] & there[:, None],
    )


def _best(beam: _Beam, sizes: _Sizes) -> Labellings:
    """End the prefixes and return the best."""
    log_p = beam.log_p()
    scores, index = jax.lax.top_k(log_p + beam.bonus + beam.gains[..., sizes.blank], sizes.n_best)
    there = ~jnp.isneginf(scores)
    labels, lengths, log_p = (
        jnp.take_along_axis(leaf, _trailing(index, leaf), 1)
        for leaf in (beam.labels, beam.lengths, log_p)
    )
    return Labellings(
        labels=jnp.where(there[..., None], labels, PADDING),
        lengths=jnp.where(there, lengths, 0),
        scores=scores,
        log_probabilities=jnp.where(there, log_p, -jnp.inf),
    )


def _repeat(tree: PyTree, *, width: int) -> PyTree:
    """Return each row ``width`` times in a row."""
    return jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf), width, 0), tree)


def _flat(leaf: Float[Array, "B W V"]) -> Float[Array, "B K"]:
    return leaf.reshape(len(leaf), -1)


def _trailing(index: Int[Array, "B W"], leaf: Array) -> Array:
    """Add axes to an index until it has as many as a leaf."""
    return index.reshape(index.shape + (1,) * (leaf.ndim - 2))
