"""Beam search."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Carry, Float, Int, PyTree
from rnnjax.decoding import arguments
from rnnjax.decoding.arguments import StepFunction


class Hypotheses(NamedTuple):
    """The best sequences found for each row, the best first; W of them, without the start token."""

    tokens: Int[Array, "T B W"]
    """(max_length, B, n_best); the end token again and again after the first."""
    lengths: Int[Array, "B W"]
    """(B, n_best), in 1…max_length, the end token counted."""
    scores: Float[Array, "B W"]
    """(B, n_best), falling; −∞, with length 0, where there is no further hypothesis."""
    log_probabilities: Float[Array, "T B W"]
    """(max_length, B, n_best), of each token under the model; 0 beyond the lengths."""


def beam_search(
    step_fn: StepFunction,
    carry: Carry,
    start: Int[Array, " B"],
    *,
    width: int,
    max_length: int,
    end: int,
    length_penalty: float = 0.6,
    n_best: int = 1,
    block_ngrams: int | None = None,
    context: PyTree = None,
) -> Hypotheses:
    """Search for the sequences of the highest score, ``width`` hypotheses side by side.

    A hypothesis y_1 … y_l, which ends with the end token or is cut off at l = max_length, scores

        log p(y | start) / ((5 + l) / 6)^α,    α = length_penalty

    (Wu et al. 2016, without the coverage term), l counting the end token and not the start token.
    A step extends every live hypothesis by every token. Those among the ``width`` likeliest
    extensions that end move to a set of their own, which keeps the ``width`` best; the ``width``
    likeliest that do not end live on. A row stops when none of them can still be among the
    ``n_best``: log p only falls, so none can score above its log p over the penalty of the next
    length or of max_length, whichever gives more. At max_length those that still live are ranked
    among the others. With width 1 a row stops when its hypothesis ends: greedy decoding.

    Compiled inside: once for equal step functions, shapes, and ``width``, ``max_length``,
    ``n_best`` and ``block_ngrams``. Rows do not depend on each other.

    Args:
        step_fn: (carry, token (B · width,), context) → (carry, logits (B · width, V)): a
            ``jax.tree_util.Partial(f, params)``, or a plain function, which is static. Each row
            comes ``width`` times in a row.
        carry: a pytree, leading axis B, such as an encoder's last; it follows its hypotheses.
        start: (B,), integers: the token that is read first, which begins a sequence, or the last
            token of a prompt that the carry has read but for it.
        width: hypotheses that live side by side; more than V are fine.
        max_length: how many tokens a hypothesis has at most.
        end: the token that ends a hypothesis.
        length_penalty: α; 0 ranks by log p, which prefers short sequences; above 0 prefers longer.
        n_best: how many hypotheses to return, at most ``width``.
        block_ngrams: with n, no n tokens in a row come twice in a hypothesis (Paulus et al. 2017).
            The log probabilities stay those of the model.
        context: what ``step_fn`` reads at every step, a pytree, leading axis B; each row is
            repeated ``width`` times, once.

    Returns:
        Tokens, lengths, scores and log probabilities, the best first. Logits that hold NaN show as
        scores NaN in their row; the tokens mean nothing there.

    Raises:
        TypeError: an argument of the wrong kind or dtype, or ``step_fn`` returns another carry.
        ValueError: an argument of the wrong shape or value, or logits that are not (B, V).

    Example:
        A model that knows only which token follows which; 3 ends a sequence:

        >>> import jax, jax.numpy as jnp
        >>> from rnnjax.decoding import beam_search
        >>> def follow(table, carry, token, context):
        ...     return carry, table[token]
        >>> p = jnp.array([[0.0, 0.6, 0.4, 0.0], [0.3, 0.0, 0.3, 0.4], [0.1, 0.0, 0.0, 0.9],
        ...                [0.25, 0.25, 0.25, 0.25]])
        >>> step_fn = jax.tree_util.Partial(follow, jnp.log(p))
        >>> greedy = beam_search(step_fn, (), jnp.array([0]), width=1, max_length=4, end=3)
        >>> better = beam_search(step_fn, (), jnp.array([0]), width=2, max_length=4, end=3)
        >>> greedy.tokens[:, 0, 0].tolist(), better.tokens[:, 0, 0].tolist()
        ([1, 3, 3, 3], [2, 3, 3, 3])
        >>> better.lengths.tolist(), better.scores.shape
        ([[2]], (1, 1))
    """
    step_fn = arguments.step_function("beam_search", "step_fn", step_fn)
    checks.positive_int("beam_search", "max_length", max_length)
    batch = arguments.start("beam_search", start)
    size = arguments.vocabulary("beam_search", step_fn, carry, context, batch)
    arguments.tokens("beam_search", "start", start, size)
    arguments.width("beam_search", width, size, max_length)
    arguments.n_best("beam_search", n_best, width)
    if block_ngrams is not None:
        checks.positive_int("beam_search", "block_ngrams", block_ngrams)
    end_token = arguments.token("beam_search", "end", end, size)
    alpha = arguments.real("beam_search", "length_penalty", length_penalty)
    sizes = _Sizes(width, max_length, n_best, block_ngrams)
    return _search(step_fn, carry, start, end_token, alpha, context, sizes=sizes)


class _Sizes(NamedTuple):
    """What is static."""

    width: int
    max_length: int
    n_best: int
    block_ngrams: int | None


class _State(NamedTuple):
    """What changes from token to token."""

    carry: Carry  # (B · W, …)
    token: Int[Array, "B W"]
    time: Int[Array, ""]  # how many tokens the live hypotheses have
    live: Hypotheses  # scores are log p; −∞ for none, and for all in a row that has stopped
    ended: Hypotheses


@functools.partial(jax.jit, static_argnames="sizes")
def _search(
    step_fn: Any,
    carry: Carry,
    start: Array,
    end: Array,
    alpha: Array,
    context: PyTree,
    *,
    sizes: _Sizes,
) -> Hypotheses:
    batch, width = start.shape[0], sizes.width
    rows = jnp.repeat(jnp.arange(batch), width)
    context = _take_rows(context, rows)

    def penalty(length: Array | int) -> Array:
        return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** alpha

    def going(state: _State) -> Array:
        return (state.time < sizes.max_length) & ~jnp.isneginf(state.live.scores).all()

    def extend(state: _State) -> _State:
        new, logits = step_fn(state.carry, state.token.reshape(-1), context)
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(batch, width, -1)
        candidates, parent = _candidates(state, log_p, sizes)
        token = candidates.tokens[state.time]
        ends = token == end
        ended = _with_ended(state.ended, candidates, ends, penalty)
        scores = jnp.where(ends, -jnp.inf, candidates.scores)
        live, chosen = _best(candidates._replace(scores=scores), width)
        parent, token = (jnp.take_along_axis(a, chosen, axis=-1) for a in (parent, token))
        time = state.time + 1
        # Scores fall with every token, and a negative α divides by less the longer the sequence is.
        bound = jnp.maximum(*(live.scores[:, 0] / penalty(n) for n in (time + 1, sizes.max_length)))
        stops = bound <= ended.scores[:, sizes.n_best - 1]
        if width == 1:
            stops |= ended.lengths[:, 0] > 0
        live = live._replace(scores=jnp.where(stops[:, None], -jnp.inf, live.scores))
        carry = _take_rows(new, (jnp.arange(batch)[:, None] * width + parent).reshape(-1))
        return _State(carry, token, time, live, ended)

    none = _none(batch, end, sizes)
    # All beams of a row begin alike, so all but the first wait.
    live = none._replace(scores=none.scores.at[:, 0].set(0.0))
    token = start.astype(jnp.int32)[rows].reshape(batch, width)
    state = _State(_take_rows(carry, rows), token, jnp.int32(0), live, none)
    state = jax.lax.while_loop(going, extend, state)
    cut_off = state.live._replace(scores=state.live.scores / penalty(sizes.max_length))
    return _best(_join(state.ended, cut_off), sizes.n_best)[0]


def _none(batch: int, end: Array, sizes: _Sizes) -> Hypotheses:
    """Return W places for hypotheses that do not exist."""
    shape = (batch, sizes.width)
    return Hypotheses(
        tokens=jnp.full((sizes.max_length, *shape), end, jnp.int32),
        lengths=jnp.zeros(shape, jnp.int32),
        scores=jnp.full(shape, -jnp.inf, jnp.float32),
        log_probabilities=jnp.zeros((sizes.max_length, *shape), jnp.float32),
    )


def _candidates(
    state: _State, log_p: Float[Array, "B W V"], sizes: _Sizes
) -> tuple[Hypotheses, Int[Array, "B K"]]:
    """Return the K = 2W likeliest extensions, of which at most W end, and the beams they extend."""
    batch, width, size = log_p.shape
    total = state.live.scores[..., None] + log_p
    if sizes.block_ngrams is not None:
        repeated = _repeated(state.live.tokens, state.time, sizes.block_ngrams, size)
        total = jnp.where(repeated, -jnp.inf, total)
    count = min(2 * width, width * size)
    scores, index = jax.lax.top_k(total.reshape(batch, width * size), count)
    parent, token = index // size, index % size
    log_probability = jnp.take_along_axis(log_p.reshape(batch, width * size), index, axis=-1)
    extended = _take(state.live, parent)
    candidates = Hypotheses(
        tokens=extended.tokens.at[state.time].set(token),
        lengths=jnp.full_like(token, state.time + 1),
        scores=scores,
        log_probabilities=extended.log_probabilities.at[state.time].set(log_probability),
    )
    return candidates, parent


def _with_ended(
    ended: Hypotheses, candidates: Hypotheses, ends: Bool[Array, "B K"], penalty: Any
) -> Hypotheses:
    """Add those of the W likeliest candidates that end, and keep the W best."""
    width = ended.scores.shape[-1]
    first = jax.tree.map(lambda leaf: leaf[..., :width], candidates)
    exists = ends[:, :width] & ~jnp.isneginf(first.scores)
    first = first._replace(
        lengths=jnp.where(exists, first.lengths, 0),
        scores=jnp.where(exists, first.scores / penalty(first.lengths), -jnp.inf),
    )
    return _best(_join(ended, first), width)[0]


def _repeated(tokens: Int[Array, "T B W"], time: Array, n: int, size: int) -> Bool[Array, "B W V"]:
    """Tell which tokens would end an n-gram that a hypothesis of ``time`` tokens already has."""
    length, batch, width = tokens.shape
    repeated = jnp.zeros((batch, width, size), bool)
    if length < n:
        return repeated
    count = length - n + 1
    last = jax.lax.dynamic_slice_in_dim(tokens, time - n + 1, n - 1)
    again = jnp.broadcast_to(
        (jnp.arange(count) + n - 1 < time)[:, None, None], (count, batch, width)
    )
    for k in range(n - 1):
        again &= tokens[k : k + count] == last[k][None]
    row, beam = jnp.arange(batch)[None, :, None], jnp.arange(width)[None, None]
    return repeated.at[row, beam, tokens[n - 1 :]].max(again)


# Sets of hypotheses: every leaf has them on its last axis.


def _best(hypotheses: Hypotheses, count: int) -> tuple[Hypotheses, Int[Array, "B K"]]:
    """Return the best by score and their places; of equal ones the earlier."""
    _, index = jax.lax.top_k(hypotheses.scores, count)
    return _take(hypotheses, index), index


def _take(hypotheses: Hypotheses, index: Int[Array, "B K"]) -> Hypotheses:
    def take(leaf: Array) -> Array:
        places = index if leaf.ndim == 2 else index[None]
        return jnp.take_along_axis(leaf, places, axis=-1)

    return jax.tree.map(take, hypotheses)


def _join(a: Hypotheses, b: Hypotheses) -> Hypotheses:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, -1), a, b)


def _take_rows(tree: PyTree, rows: Int[Array, " K"]) -> PyTree:
    """Return the rows of these numbers (K, …), in this order; a row may come more than once."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], tree)
