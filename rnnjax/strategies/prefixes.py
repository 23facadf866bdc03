"""Prefixes of steps under a cell's own associative operator, with masks and resets.

An operator need not have an identity, and resets forget what came before, so what is scanned is an
element with two flags (``Span``). They select operands before the operator combines them: what is
discarded never enters it, and so leaves no NaN in values or gradients.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Bool, Carry, PyTree
from rnnjax.cell import Operator
from rnnjax.placement import vary, varying_axes
from rnnjax.recurrence import Inputs, Recurrence, select_rows
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


def carries(recurrence: Recurrence, operator: Operator, us: PyTree, block: int | None) -> Carry:
    """Return the carry after each step (T, B, …)."""
    if block is not None:
        return _in_blocks(recurrence, operator, us, block)
    inputs = recurrence.inputs
    spans = jax.vmap(lambda u, i: _span(recurrence, operator, u, i))(us, inputs)
    return _after(recurrence, operator, _prefixes(operator, spans))


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


def _in_blocks(recurrence: Recurrence, operator: Operator, us: PyTree, size: int) -> Carry:
    """Sum up each block step by step, the blocks associatively, and run each from its start."""
    inputs = dataclasses.replace(recurrence.inputs, x=None)
    steps = jax.tree.map(lambda a: split_blocks(a, size), (us, inputs))  # (size, T / size, B, …)

    def spans(step: tuple[PyTree, Inputs]) -> Span:
        return jax.vmap(lambda u, i: _span(recurrence, operator, u, i))(*step)

    def extend(span: Span, step: tuple[PyTree, Inputs]) -> tuple[Span, None]:
        return jax.vmap(lambda a, b: _then(operator, a, b))(span, spans(step)), None

    first, rest = jax.tree.map(lambda a: a[0], steps), jax.tree.map(lambda a: a[1:], steps)
    whole, _ = jax.lax.scan(extend, spans(first), rest)
    start = _after(recurrence, operator, _before(_prefixes(operator, whole)))

    def advance(carry: Carry, step: tuple[PyTree, Inputs]) -> tuple[Carry, Carry]:
        carry = jax.vmap(recurrence.advance)(carry, *step)
        return carry, carry

    _, hs = jax.lax.scan(advance, start, steps)
    return jax.tree.map(lambda a: join_blocks(a, recurrence.time), hs)


def _before(spans: Span) -> Span:
    """Return the span before each of the blocks: none of the steps before the first."""
    element = jax.tree.map(lambda a: jnp.concatenate([a[:1], a[:-1]]), spans.element)
    return Span(element, *shift((spans.taken, spans.reset)))
