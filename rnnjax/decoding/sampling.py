"""Drawing sequences token by token: whole, or as a stream."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Carry, Float, Int, Key, PyTree
from rnnjax.decoding import arguments, filters
from rnnjax.decoding.arguments import StepFunction
from rnnjax.decoding.filters import Options
from rnnjax.recurrence import select_rows


class Sample(NamedTuple):
    """Sequences drawn, without their prompts."""

    tokens: Int[Array, "T B"]
    """(max_length, B); the stop token again and again after the first."""
    lengths: Int[Array, " B"]
    """(B,), in 1…max_length, the stop token counted."""
    log_probabilities: Float[Array, "T B"]
    """(max_length, B), of each token under the model; 0 beyond the lengths."""
    carry: Carry
    """Leading axis B; has read everything but the last token of each row, ``tokens[-1]``."""


def sample(
    step_fn: StepFunction,
    carry: Carry,
    prompt: Int[Array, "T B"],
    key: Key,
    *,
    max_length: int,
    lengths: Int[Array, " B"] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop: int | None = None,
    context: PyTree = None,
) -> Sample:
    """Read a prompt, then draw tokens and read each before the next is drawn.

    With carry c and logits z,

        c, z = step_fn(c, x_t, context);    x_{t+1} ~ softmax(filters(penalise(z) / temperature))

    drawn as argmax(filters(…) + Gumbel noise). The filters come in the order penalty, temperature,
    top-k, top-p, min-p, as in Hugging Face's Transformers; tokens that tie at a filter's border are
    all kept. Compiled inside: once for equal step functions, shapes and ``max_length``, and for
    which of the options are given; their numbers are arguments.

    A row depends on its own carry, prompt, context and key alone: a ragged batch draws for each
    row what that row draws alone. Row b draws token t with ``fold_in(fold_in(key, b), t)``. To draw
    a row of a batch again by itself, hand in its own key: ``key[None]`` of shape (1,).

    Args:
        step_fn: (carry, token (B,), context) → (carry, logits (B, V)): a
            ``jax.tree_util.Partial(f, params)``, or a plain function, which is static.
        carry: a pytree, leading axis B, as before the prompt.
        prompt: (T, B), integers, T ≥ 1: at least the token that begins a sequence, or the last one
            read elsewhere. No stop token in it ends a row.
        key: of ``jax.random``; or (B,), one for each row.
        max_length: how many tokens to draw at most.
        lengths: (B,), each in 1…T, of prompts padded on the right; what stands in the padding does
            not matter. Traced lengths are clamped.
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_k: draw from the k likeliest tokens, k in 1…V.
        top_p: draw from the fewest likely tokens whose mass reaches p in (0, 1] (the nucleus,
            Holtzman et al. 2020).
        min_p: draw from the tokens whose probability is at least p in [0, 1) times that of the
            likeliest (Nguyen et al. 2024).
        repetition_penalty: of tokens in the prompt or drawn before: their positive logits are
            divided by it, negative ones multiplied (CTRL, Keskar et al. 2019).
        stop: the token that ends a row. Its carry is then kept, and the loop ends with the last
            row.
        context: what ``step_fn`` reads at every step, a pytree, leading axis B.

    Returns:
        Tokens, lengths, log probabilities and carry. The log probabilities are those of the model
        as it is, log_softmax(z), before penalty, temperature and filters, so that their sum over
        time is that of the sequence. ``sample(step_fn, s.carry, s.tokens[-1:], …)`` goes on. Logits
        that hold NaN show as log probabilities NaN in their row; the tokens mean nothing there.

    Raises:
        TypeError: an argument of the wrong kind or dtype, or ``step_fn`` returns another carry.
        ValueError: an argument of the wrong shape or value, or logits that are not (B, V).

    Example:
        Two prompts, one of two tokens and one of one, go on in a model of six tokens:

        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.decoding import sample
        >>> cell = rnnjax.GRU(8)
        >>> k_rnn, k_head = jax.random.split(jax.random.key(0))
        >>> params = {"rnn": cell.init(k_rnn, 6), "head": jax.random.normal(k_head, (8, 6))}
        >>> def read(params, carry, token, context):
        ...     carry, h = rnnjax.step(cell, params["rnn"], jax.nn.one_hot(token, 6), carry)
        ...     return carry, h @ params["head"]
        >>> step_fn = jax.tree_util.Partial(read, params)
        >>> prompt, lengths = jnp.array([[1, 2], [3, 0]]), jnp.array([2, 1])
        >>> drawn = sample(step_fn, jnp.zeros((2, 8)), prompt, jax.random.key(1), max_length=5,
        ...                lengths=lengths, temperature=0.8, top_p=0.9, stop=0)
        >>> drawn.tokens.shape, drawn.lengths.shape
        ((5, 2), (2,))
    """
    checks.positive_int("sample", "max_length", max_length)
    options = Options(temperature, top_k, top_p, min_p, repetition_penalty)
    model, state = _prepare("sample", step_fn, carry, prompt, key, lengths, options, stop, context)
    state, tokens, log_probabilities = _generate(model, state, steps=max_length)
    return Sample(tokens, state.lengths, log_probabilities, state.carry)


def stream(
    step_fn: StepFunction,
    carry: Carry,
    prompt: Int[Array, "T B"],
    key: Key,
    *,
    max_length: int,
    lengths: Int[Array, " B"] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop: int | None = None,
    context: PyTree = None,
    block: int = 16,
) -> Iterator[np.ndarray]:
    """Yield the tokens of ``sample`` one step after the other, while they are drawn.

    The same arguments draw the same tokens. Arguments are checked by the call, before the first
    token is asked for.

    Args:
        step_fn: as in ``sample``; so are all arguments but ``block``.
        carry: as before the prompt.
        prompt: (T, B).
        key: of ``jax.random``.
        max_length: how many tokens to draw at most; a new one compiles nothing.
        lengths: (B,), of prompts padded on the right.
        temperature: what logits are divided by.
        top_k: draw from the k likeliest tokens.
        top_p: draw from the nucleus.
        min_p: draw from tokens not much less likely than the likeliest.
        repetition_penalty: of tokens seen before.
        stop: the token that ends a row.
        context: what ``step_fn`` reads at every step.
        block: how many tokens one call of the compiled program draws. The first token comes when
            the first block is there; 1 gives the least delay, more the higher rate.

    Yields:
        NumPy arrays (B,), int32; the last when the last row has stopped, or after ``max_length``.

    Raises:
        TypeError: as ``sample``.
        ValueError: as ``sample``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from rnnjax.decoding import stream
        >>> def count(carry, token, context):
        ...     return carry, jax.nn.one_hot((token + 1) % 5, 5)
        >>> prompt, key = jnp.array([[0, 2]]), jax.random.key(0)
        >>> for token in stream(count, (), prompt, key, max_length=9, temperature=0, stop=4):
        ...     print(token)
        [1 3]
        [2 4]
        [3 4]
        [4 4]
    """
    checks.positive_int("stream", "max_length", max_length)
    checks.positive_int("stream", "block", block)
    options = Options(temperature, top_k, top_p, min_p, repetition_penalty)
    model, state = _prepare("stream", step_fn, carry, prompt, key, lengths, options, stop, context)
    return _blocks(model, state, max_length, block)


class _Model(NamedTuple):
    """What stays the same from token to token."""

    step_fn: Any
    context: PyTree
    keys: Array  # (B,)
    options: Options
    stop: Array | None  # ()


class _State(NamedTuple):
    """What changes from token to token."""

    carry: Carry  # has read everything before token
    token: Int[Array, " B"]
    time: Int[Array, ""]  # how many tokens were drawn
    finished: Bool[Array, " B"]
    lengths: Int[Array, " B"]
    seen: Bool[Array, "B V"] | None  # of prompt and tokens drawn, for the repetition penalty


def _prepare(
    owner: str,
    step_fn: Any,
    carry: Any,
    prompt: Any,
    key: Any,
    lengths: Any,
    options: Options,
    stop: Any,
    context: Any,
) -> tuple[_Model, _State]:
    """Check the arguments that sample and stream have in common, and read the prompt."""
    step_fn = arguments.step_function(owner, "step_fn", step_fn)
    time, batch = arguments.prompt(owner, prompt)
    arguments.lengths(owner, lengths, time, batch)
    keys = arguments.keys(owner, key, batch)
    size = arguments.vocabulary(owner, step_fn, carry, context, batch)
    arguments.tokens(owner, "prompt", prompt, size, lengths)
    options = Options(
        arguments.real(owner, "temperature", options.temperature),
        arguments.top_k(owner, options.top_k, size),
        arguments.optional_real(owner, "top_p", options.top_p),
        arguments.optional_real(owner, "min_p", options.min_p),
        arguments.optional_real(owner, "repetition_penalty", options.repetition_penalty),
    )
    stop = None if stop is None else arguments.token(owner, "stop", stop, size)
    model = _Model(step_fn, context, keys, options, stop)
    return model, _read_prompt(model, carry, prompt, lengths, size=size)


@functools.partial(jax.jit, static_argnames="size")
def _read_prompt(
    model: _Model, carry: Carry, prompt: Array, lengths: Array | None, *, size: int
) -> _State:
    """Read all but each row's last token, which is what the first step of drawing reads."""
    time, batch = prompt.shape
    last = jnp.full((batch,), time - 1) if lengths is None else jnp.clip(lengths, 1, time) - 1
    inside = jnp.arange(time)[:, None] <= last[None]
    prompt = jnp.where(inside, prompt, 0).astype(jnp.int32)

    def read(carry: Carry, inputs: tuple[Array, Array]) -> tuple[Carry, None]:
        position, token = inputs
        new, _ = model.step_fn(carry, token, model.context)
        return new if lengths is None else select_rows(position < last, new, carry), None

    if time > 1:
        carry, _ = jax.lax.scan(read, carry, (jnp.arange(time - 1), prompt[:-1]))
    seen, rows = None, jnp.arange(batch)
    if model.options.repetition_penalty is not None:
        seen = jnp.zeros((batch, size), bool).at[rows[None], prompt].max(inside)
    none = jnp.zeros((batch,), jnp.int32)
    return _State(carry, prompt[last, rows], jnp.int32(0), none > 0, none, seen)


@functools.partial(jax.jit, static_argnames="steps")
def _generate(model: _Model, state: _State, *, steps: int) -> tuple[_State, Array, Array]:
    """Draw tokens (steps, B), or fewer where every row has finished, with log probabilities."""
    begin, shape = state.time, (steps, *state.token.shape)
    tokens = jnp.full(shape, 0 if model.stop is None else model.stop, jnp.int32)
    log_probabilities = jnp.zeros(shape, jnp.float32)

    def unfinished(loop: tuple[_State, Array, Array]) -> Array:
        state, _, _ = loop
        return (state.time - begin < steps) & ~state.finished.all()

    def extend(loop: tuple[_State, Array, Array]) -> tuple[_State, Array, Array]:
        state, tokens, log_probabilities = loop
        row = state.time - begin
        state, log_probability = _draw(model, state)
        put = jax.lax.dynamic_update_index_in_dim
        tokens = put(tokens, state.token, row, 0)
        return state, tokens, put(log_probabilities, log_probability, row, 0)

    return jax.lax.while_loop(unfinished, extend, (state, tokens, log_probabilities))


def _draw(model: _Model, state: _State) -> tuple[_State, Float[Array, " B"]]:
    """Read the last token and draw the next; return also its log probability."""
    carry, logits = model.step_fn(state.carry, state.token, model.context)
    logits = logits.astype(jnp.float32)
    noise = _gumbel(model, state.time, logits.shape[-1])
    token = jnp.argmax(filters.apply(model.options, logits, state.seen) + noise, -1)
    token = token.astype(jnp.int32)
    log_probability = _entry(logits, token) - jax.nn.logsumexp(logits, -1)
    finished, lengths = state.finished, state.lengths + 1
    if model.stop is not None:
        carry = select_rows(finished, state.carry, carry)
        token = jnp.where(finished, model.stop, token)
        log_probability = jnp.where(finished, 0.0, log_probability)
        lengths = jnp.where(finished, state.lengths, lengths)
        finished = finished | (token == model.stop)
    seen = state.seen
    if seen is not None:
        seen = seen.at[jnp.arange(len(token)), token].set(True)
    return _State(carry, token, state.time + 1, finished, lengths, seen), log_probability


def _gumbel(model: _Model, time: Array, size: int) -> Float[Array, "B V"]:
    """Return the noise whose argmax with the logits is a draw; none at temperature 0."""

    def row(key: Array) -> Array:
        return jax.random.gumbel(jax.random.fold_in(key, time), (size,), jnp.float32)

    return jnp.where(model.options.temperature > 0, jax.vmap(row)(model.keys), 0.0)


def _entry(values: Float[Array, "B V"], token: Int[Array, " B"]) -> Float[Array, " B"]:
    return jnp.take_along_axis(values, token[:, None], axis=-1)[:, 0]


def _blocks(model: _Model, state: _State, max_length: int, block: int) -> Iterator[np.ndarray]:
    """Yield tokens (B,), drawn a block at a time."""
    for begin in range(0, max_length, block):
        state, tokens, _ = _generate(model, state, steps=block)
        tokens, end, finished = jax.device_get((tokens, state.time, state.finished))
        yield from tokens[: min(end, max_length) - begin]
        if finished.all():
            return
