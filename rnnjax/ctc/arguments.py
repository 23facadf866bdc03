"""Checks of what the functions of CTC are given, made before anything is compiled."""

import operator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import PyTree
from rnnjax.checks import Axes

PADDING = -1
"""Stands behind the labels of a row, and wherever there is no label, frame or state."""


def logits(owner: str, value: Any, lengths: Any) -> tuple[Axes, int]:
    """Check logits (T, B, V) and their lengths; return the axes T and B, and V."""
    leaf = checks.array(owner, "logits", value)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise TypeError(f"{owner}: logits must be floating point; got {leaf.dtype}.")
    shape = leaf.shape
    if len(shape) != 3 or 0 in shape[:2] or shape[2] < 2:
        mend = " Add a batch axis: logits[:, None]." if len(shape) == 2 else ""
        raise ValueError(
            f"{owner}: logits must be (T, B, V), T and B at least 1 and V, the blank counted, at "
            f"least 2; got {shape}.{mend}"
        )
    axes = Axes(owner, ("T", "B"), shape[:2])
    _given(owner, "lengths", lengths, "frames", "jnp.full((B,), T)")
    checks.lengths(lengths, axes)
    return axes, shape[2]


def labelled(
    owner: str, scores: Any, said: Any, lengths: Any, label_lengths: Any, symbol: Any
) -> int:
    """Check logits (T, B, V) beside labels (B, U), the lengths of both and the blank; return it."""
    axes, size = logits(owner, scores, lengths)
    checked = blank(owner, symbol, size)
    labels(owner, said, label_lengths, axes.sizes[1])
    label_values(owner, said, label_lengths, size, checked)
    return checked


def blank(owner: str, value: Any, size: int) -> int:
    """Check the blank, which is static; return it as an int."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{owner}: blank must be an int; got {value!r}.")
    if not 0 <= value < size:
        raise ValueError(
            f"{owner}: blank must be within 0…V − 1 = {size - 1}, V being the width of the "
            f"logits; got {value}."
        )
    return operator.index(value)


def labels(owner: str, value: Any, label_lengths: Any, batch: int) -> int:
    """Check labels (B, U) and their lengths; return U."""
    shape = checks.integers(owner, "labels", value)
    if len(shape) != 2 or shape[0] != batch:
        mend = ""
        if len(shape) == 1:
            mend = " Add a batch axis: labels[None]."
        elif shape[1] == batch:
            mend = " They are batch-major: labels.T."
        raise ValueError(f"{owner}: labels must be (B, U) = ({batch}, U); got {shape}.{mend}")
    _given(owner, "label_lengths", label_lengths, "labels", "jnp.full((B,), U)")
    if checks.integers(owner, "label_lengths", label_lengths) != (batch,):
        raise ValueError(
            f"{owner}: label_lengths must be (B,) = ({batch},); got {jnp.shape(label_lengths)}."
        )
    if not _traced(label_lengths):
        numbers = np.asarray(label_lengths)
        wrong = numbers[(numbers < 0) | (numbers > shape[1])]
        if wrong.size:
            raise ValueError(
                f"{owner}: label_lengths must be within 0…U = {shape[1]}; got {wrong[0]}."
            )
    return shape[1]


def label_values(owner: str, value: Any, label_lengths: Any, size: int, blank: int) -> None:
    """Check labels at hand against the symbols; padding beyond the lengths may be anything."""
    if _traced(value) or _traced(label_lengths):
        return
    value = np.asarray(value)
    real = np.arange(value.shape[1]) < np.asarray(label_lengths)[:, None]
    outside = real & ((value < 0) | (value >= size))
    if outside.any():
        raise ValueError(
            f"{owner}: labels must be within 0…V − 1 = {size - 1}; got {value[outside][0]} in row "
            f"{np.argwhere(outside)[0][0]}. If it is padding, label_lengths must leave it out."
        )
    blanks = real & (value == blank)
    if blanks.any():
        raise ValueError(
            f"{owner}: labels must not hold the blank, {blank}; got it in row "
            f"{np.argwhere(blanks)[0][0]}. Name the symbol that is the blank in blank=…; if this "
            f"is padding, label_lengths must leave it out."
        )


def frames(owner: str, lengths: Any, batch: int) -> None:
    """Check numbers of frames (B,) where there are no logits to compare them with."""
    if checks.integers(owner, "lengths", lengths) != (batch,):
        raise ValueError(f"{owner}: lengths must be (B,) = ({batch},); got {jnp.shape(lengths)}.")
    if not _traced(lengths) and (np.asarray(lengths) < 0).any():
        raise ValueError(f"{owner}: lengths must be at least 0; got {np.min(lengths)}.")


def max_length(owner: str, value: Any, time: int) -> int:
    """Check the greatest number of labels to search for; T of them at most."""
    if value is None:
        return time
    checks.positive_int(owner, "max_length", value)
    return min(int(value), time)


def width(owner: str, value: Any, size: int, longest: int) -> None:
    """Check the width of a beam: at least 1, and no more than there are labellings."""
    checks.positive_int(owner, "width", value)
    # With u up to width the sum is beyond width already: no need for thousands of digits.
    labellings = sum((size - 1) ** u for u in range(min(longest, int(value)) + 1))
    if value > labellings:
        raise ValueError(
            f"{owner}: width must be at most the number of labellings of up to {longest} labels "
            f"out of {size - 1}, {labellings}; got {value}."
        )


def scorer(owner: str, score_fn: Any, state: PyTree, rows: int, size: int) -> None:
    """Check what a scoring function returns for the beams of all rows."""
    label = jax.ShapeDtypeStruct((rows,), jnp.int32)
    out = jax.eval_shape(_score, score_fn, state, label)
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            f"{owner}: score_fn must return the pair (state, log probabilities); got "
            f"{jax.tree.structure(out)}."
        )
    checks.returned(owner, "score_fn", "state", state, out[0])
    shape = getattr(out[1], "shape", None)
    if shape != (rows, size):
        raise ValueError(
            f"{owner}: score_fn must return log probabilities (B · width, V) = ({rows}, {size}), "
            f"an entry for every symbol of the logits; got {shape}."
        )
    if not jnp.issubdtype(out[1].dtype, jnp.floating):
        raise TypeError(
            f"{owner}: score_fn must return floating-point numbers; got {out[1].dtype}."
        )


# At module level, so that eval_shape keeps what it traced from call to call.
def _score(score_fn: Any, state: PyTree, label: Any) -> Any:
    return score_fn(state, label)


def _given(owner: str, name: str, value: Any, what: str, example: str) -> None:
    if value is None:
        raise TypeError(
            f"{owner}: {name} must be the number of {what} of each row, (B,); got None. All of "
            f"them: {example}."
        )


def _traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)
