"""Prefixes of steps under a cell's own associative operator, with masks and resets.

An operator need not have an identity, and resets forget what came before, so what is scanned is an
element with two flags (``Span``). They select operands before the operator combines them: what is
discarded never enters it, and so leaves no NaN in values or gradients.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Bool, Carry, PyTree
from rnnjax.cell import Operator
from rnnjax.placement import vary, varying_axes
from rnnjax.recurrence import Inputs, Recurrence, select_rows
from rnnjax.sequence_axis import SequenceAxis
from rnnjax.strategies.linear_recurrence import join_blocks, shift, split_blocks


class Span(NamedTuple):
    """Some steps in a row, for all rows.

    Attributes:
        element: of the steps since the last reset; anything where there are none.
        taken: (B,), whether there is such a step.
        reset: (B,), whether the span holds a reset.
    """

    element: PyTree
    taken: Bool[Array, " B"]
    reset: Bool[Array, " B"]


def carries(
    recurrence: Recurrence,
    operator: Operator,
    us: PyTree,
    block: int | None,
    axis: SequenceAxis | None,
) -> tuple[Carry | None, Carry]:
    """Return the carry after all parts, if in parts, and that after each step (T, B, …)."""
    if block is not None:
        return _in_blocks(recurrence, operator, us, block, axis)
    inputs = recurrence.inputs
    spans = jax.vmap(lambda u, i: _span(recurrence, operator, u, i))(us, inputs)
    prefixes = _prefixes(operator, spans)
    here, last = _enter(recurrence, operator, prefixes, axis)
    hs = _after(here, operator, prefixes)
    return last, hs


def _span(recurrence: Recurrence, operator: Operator, u: PyTree, inputs: Inputs) -> Span:
    """Return one step of all rows."""
    element = recurrence.rows(operator.element)(recurrence.params, u)
    taken = jnp.ones((recurrence.batch,), bool) if inputs.mask is None else inputs.mask
    reset = jnp.zeros((recurrence.batch,), bool) if inputs.reset is None else inputs.reset
    span = Span(element, taken, reset)
    return vary(span, varying_axes((recurrence.params, recurrence.carry, span)))


def _prefixes(operator: Operator, spans: Span) -> Span:
    """Return the spans from the first one to each (T, B, …)."""

    def then(earlier: Span, later: Span) -> Span:
        return jax.vmap(lambda a, b: _then(operator, a, b))(earlier, later)

    return jax.lax.associative_scan(then, spans)


def _then(operator: Operator, earlier: Span, later: Span) -> Span:
    both = earlier.taken & later.taken & ~later.reset
    left = select_rows(both, earlier.element, later.element)
    combined = jax.vmap(operator.combine)(left, later.element)
    alone = select_rows(later.taken | later.reset, later.element, earlier.element)
    taken = later.taken | (earlier.taken & ~later.reset)
    return Span(select_rows(both, combined, alone), taken, earlier.reset | later.reset)


def _after(recurrence: Recurrence, operator: Operator, spans: Span) -> Carry:
    """Return the carry after each of the spans (…, B) that begin where the recurrence does."""

    def after(span: Span) -> Carry:
        before = select_rows(span.reset, recurrence.initial, recurrence.carry)
        # What is not taken is applied to something finite, for the sake of gradients.
        entered = select_rows(span.taken, before, recurrence.initial)
        applied = jax.vmap(operator.apply)(span.element, entered)
        return select_rows(span.taken, applied, before)

    return jax.vmap(after)(spans)


def _enter(
    recurrence: Recurrence, operator: Operator, prefixes: Span, axis: SequenceAxis | None
) -> tuple[Recurrence, Carry | None]:
    """Return the recurrence as the parts before leave it, and the carry after all parts."""
    if axis is None:
        return recurrence, None

    def begin(carry: Carry, initial: Carry) -> Recurrence:
        return recurrence.replace(carry=_at(carry, 0), initial=_at(initial, 0))

    parts = _at(prefixes, -1), recurrence.carry, recurrence.initial
    for_all, for_each = axis.gather(parts)
    whole, *known = for_all
    last = _at(_after(begin(*known), operator, _prefixes(operator, whole)), -1)
    whole, *known = for_each
    starts = _after(begin(*known), operator, _before(_prefixes(operator, whole)))
    return recurrence.replace(carry=axis.own(starts)), last


def _in_blocks(
    recurrence: Recurrence,
    operator: Operator,
    us: PyTree,
    size: int,
    axis: SequenceAxis | None,
) -> tuple[Carry | None, Carry]:
    """Sum up each block step by step, the blocks associatively, and run each from its start."""
    inputs = recurrence.inputs
    # A part's own sum must be exact; without parts nobody reads that of the last block.
    flags = Inputs(None, inputs.mask, inputs.reset) if axis is None else _fill(recurrence, size)
    whole_blocks = us, flags
    steps = jax.tree.map(lambda a: split_blocks(a, size), whole_blocks)  # (size, T / size, B, …)

    def spans(step: tuple[PyTree, Inputs]) -> Span:
        return jax.vmap(lambda u, i: _span(recurrence, operator, u, i))(*step)

    def extend(span: Span, step: tuple[PyTree, Inputs]) -> tuple[Span, None]:
        return jax.vmap(lambda a, b: _then(operator, a, b))(span, spans(step)), None

    first, rest = _at(steps, 0), jax.tree.map(lambda a: a[1:], steps)
    whole, _ = jax.lax.scan(extend, spans(first), rest)
    prefixes = _prefixes(operator, whole)
    here, last = _enter(recurrence, operator, prefixes, axis)
    start = _after(here, operator, _before(prefixes))

    def advance(carry: Carry, step: tuple[PyTree, Inputs]) -> tuple[Carry, Carry]:
        carry = jax.vmap(recurrence.advance)(carry, *step)
        return carry, carry

    _, hs = jax.lax.scan(advance, start, steps)
    hs = jax.tree.map(lambda a: join_blocks(a, recurrence.time), hs)
    return last, hs


def _fill(recurrence: Recurrence, size: int) -> Inputs:
    """Return mask and resets of whole blocks: what fills up the last one is no step."""
    inputs, missing = recurrence.inputs, -recurrence.time % size
    shape = recurrence.time, recurrence.batch
    mask = jnp.ones(shape, bool) if inputs.mask is None and missing else inputs.mask

    def fill(flags: Array) -> Array:
        more = jnp.broadcast_to(jnp.zeros_like(flags[:1]), (missing, recurrence.batch))
        return jnp.concatenate([flags, more])

    return Inputs(None, *jax.tree.map(fill, (mask, inputs.reset)))


def _before(spans: Span) -> Span:
    """Return the span before each of the blocks: none of the steps before the first."""
    element = jax.tree.map(lambda a: jnp.concatenate([a[:1], a[:-1]]), spans.element)
    return Span(element, *shift((spans.taken, spans.reset)))


def _at(tree: PyTree, place: int) -> PyTree:
    return jax.tree.map(lambda a: a[place], tree)
