"""Checks of decoding's arguments, made before anything is compiled."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, PyTree

StepFunction = Callable[[Carry, Array, PyTree], tuple[Carry, Array]]
"""(carry, token (B,), context) → (carry, logits (B, V))."""

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda x: 0 <= x < math.inf, "at least 0, which is greedy, and finite"),
    "top_p": (lambda x: 0 < x <= 1, "in (0, 1]; None keeps every token"),
    "min_p": (lambda x: 0 <= x < 1, "in [0, 1); None keeps every token"),
    "repetition_penalty": (lambda x: 0 < x < math.inf, "above 0 and finite; None changes nothing"),
    "length_penalty": (math.isfinite, "finite; 0 ranks by the log probability alone"),
    "score_weight": (lambda x: 0 <= x < math.inf, "at least 0, which ignores it, and finite"),
    "length_bonus": (math.isfinite, "finite; 0 leaves it out"),
}


def step_function(owner: str, name: str, step_fn: Any) -> Any:
    """Return the step function as a pytree, which a plain function becomes without leaves."""
    checks.function(owner, name, step_fn)
    if not jax.tree_util.all_leaves([step_fn]):
        return step_fn
    try:
        hash(step_fn)
    except TypeError as error:
        raise TypeError(
            f"{owner}: {name} must be hashable or a pytree; {type(step_fn).__name__} is neither: "
            f"{error}. Pass arrays as jax.tree_util.Partial(function, params)."
        ) from error
    return Partial(step_fn)


def vocabulary(owner: str, step_fn: Any, carry: Any, context: Any, batch: int) -> int:
    """Check carry and context, and what one step returns for them; return V."""
    checks.leading_batch(owner, "carry", carry, batch)
    checks.leading_batch(owner, "context", context, batch)
    token = jax.ShapeDtypeStruct((batch,), jnp.int32)
    out = jax.eval_shape(_take_step, step_fn, carry, token, context)
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            f"{owner}: step_fn must return the pair (carry, logits); got {jax.tree.structure(out)}."
        )
    checks.returned(owner, "step_fn", "carry", carry, out[0])
    return _width(owner, out[1], batch)


# At module level, so that eval_shape keeps what it traced from call to call.
def _take_step(step_fn: StepFunction, carry: Carry, token: Array, context: PyTree) -> Any:
    return step_fn(carry, token, context)


def _width(owner: str, logits: Any, batch: int) -> int:
    """Return V of logits (B, V)."""
    shape: Any = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != batch or not shape[1]:
        got = jax.tree.structure(logits) if shape is None else shape
        raise ValueError(
            f"{owner}: step_fn must return logits (B, V) = ({batch}, V), V at least 1; got {got}."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"{owner}: step_fn must return floating-point logits; got {logits.dtype}.")
    return shape[1]


def prompt(owner: str, value: Any) -> tuple[int, int]:
    """Check that a prompt is one array (T, B) of integers, T and B at least 1; return its shape."""
    if isinstance(value, list | tuple):
        raise TypeError(
            f"{owner}: prompt must be one array (T, B); got a {type(value).__name__} of "
            f"{len(value)}. Pad prompts of different lengths on the right to (T, B), a column "
            f"each, and pass lengths=jnp.array([…])."
        )
    shape = checks.integers(owner, "prompt", value)
    if len(shape) != 2 or not all(shape):
        mend = " Add a batch axis: prompt[:, None]." if len(shape) == 1 else ""
        raise ValueError(f"{owner}: prompt must be (T, B), T and B at least 1; got {shape}.{mend}")
    return shape[0], shape[1]


def start(owner: str, value: Any) -> int:
    """Check that there is one start token a row, (B,); return B."""
    shape = checks.integers(owner, "start", value)
    if len(shape) != 1 or not shape[0]:
        mend = " One for all rows: jnp.full((B,), token)." if not shape else ""
        raise ValueError(f"{owner}: start must be (B,), B at least 1; got {shape}.{mend}")
    return shape[0]


def lengths(owner: str, value: Any, time: int, batch: int) -> None:
    """Check the lengths of prompts: integers (B,), and where they are at hand, within 1…T."""
    if value is None:
        return
    shape = checks.integers(owner, "lengths", value)
    if shape != (batch,):
        raise ValueError(f"{owner}: lengths must be (B,) = ({batch},); got {shape}.")
    if not _traced(value):
        wrong = _outside(np.asarray(value), 1, time)
        if wrong is not None:
            raise ValueError(
                f"{owner}: lengths must be within 1…T = {time}; got {wrong}. A prompt has at least "
                f"the token that begins a sequence."
            )


def tokens(owner: str, name: str, value: Any, size: int, prompt_lengths: Any = None) -> None:
    """Check tokens at hand against the vocabulary; padding beyond the lengths may be anything."""
    if _traced(value) or _traced(prompt_lengths):
        return
    value = np.asarray(value)
    if prompt_lengths is not None:
        value = value[np.arange(len(value))[:, None] < np.asarray(prompt_lengths)[None]]
    wrong = _outside(value, 0, size - 1)
    if wrong is not None:
        raise ValueError(
            f"{owner}: {name} must hold tokens within 0…V − 1 = {size - 1}, V being the width of "
            f"the logits; got {wrong}."
        )


def token(owner: str, name: str, value: Any, size: int) -> Array:
    """Check one token, such as the end of a sequence; return it as an array."""
    return _integer(owner, name, value, 0, size - 1, f"a token within 0…V − 1 = {size - 1}")


def top_k(owner: str, value: Any, size: int) -> Array | None:
    """Check how many tokens to keep; return it as an array."""
    if value is None:
        return None
    return _integer(owner, "top_k", value, 1, size, f"within 1…V = {size}; None keeps every token")


def real(owner: str, name: str, value: Any) -> Array:
    """Check one real number against its range; return it as an array."""
    accepts, words = RANGES[name]
    if not _scalar(value, jnp.floating) and not _scalar(value, jnp.integer):
        raise TypeError(f"{owner}: {name} must be one number; got {value!r}.")
    if not _traced(value) and not accepts(float(value)):
        raise ValueError(f"{owner}: {name} must be {words}; got {value}.")
    return _as_array(value, np.float32)


def optional_real(owner: str, name: str, value: Any) -> Array | None:
    """Check a real number that may be left out."""
    return None if value is None else real(owner, name, value)


def keys(owner: str, key: Any, batch: int) -> Array:
    """Return a key for each row: those given, or one key with the row's number folded in."""
    shape = checks.key_shape(owner, "key", key)
    if shape == (batch,):
        return key
    if shape:
        raise ValueError(
            f"{owner}: key must be one key, or one for each row (B,) = ({batch},); got {shape}."
        )
    return _fold_in_rows(key, batch=batch)


# Compiled, because a single token drawn eagerly would wait longer for its key than for its step.
@functools.partial(jax.jit, static_argnames="batch")
def _fold_in_rows(key: Array, *, batch: int) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def width(owner: str, value: Any, size: int, max_length: int) -> None:
    """Check the width of a beam: at least 1, and no more than there are sequences."""
    checks.positive_int(owner, "width", value)
    sequences = size ** int(max_length)  # a Python int, which does not overflow
    if value > sequences:
        raise ValueError(
            f"{owner}: width must be at most V ** max_length = {size}**{max_length} = {sequences}, "
            f"the number of sequences; got {value}."
        )


def n_best(owner: str, value: Any, beam_width: int) -> None:
    """Check how many hypotheses to return."""
    checks.positive_int(owner, "n_best", value)
    if value > beam_width:
        raise ValueError(
            f"{owner}: n_best must be at most the width of the beam, {beam_width}; got {value}. "
            f"Widen the beam: width={value}."
        )


def _integer(owner: str, name: str, value: Any, low: int, high: int, words: str) -> Array:
    if not _scalar(value, jnp.integer):
        raise TypeError(f"{owner}: {name} must be one int; got {value!r}.")
    if not _traced(value) and not low <= int(value) <= high:
        raise ValueError(f"{owner}: {name} must be {words}; got {value}.")
    return _as_array(value, np.int32)


def _as_array(value: Any, dtype: Any) -> Any:
    """Return a number as an array of one dtype, not yet on a device where its value is at hand."""
    return jnp.asarray(value, dtype) if _traced(value) else np.asarray(value, dtype)


def _scalar(value: Any, kind: Any) -> bool:
    """Whether a value is one number of this kind; True and False are of none."""
    try:
        aval = jax.typeof(value)
    except TypeError:
        return False
    return aval.shape == () and jnp.issubdtype(aval.dtype, kind)


def _traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


def _outside(values: np.ndarray, low: int, high: int) -> int | None:
    """Return the first value outside low…high, if any."""
    wrong = values[(values < low) | (values > high)]
    return int(wrong[0]) if wrong.size else None
