"""The linear recurrence h_t = a_t ⊙ h_{t−1} + b_t of a sequence in parts along a mesh axis.

Each device sums up its part, h → A ⊙ h + B, all exchange what they found, and each goes on from the
h that comes out of the parts before its own. The derivative is told as in ``linear_recurrence``,
so that it is one more solution, with one more exchange: the transposed system runs from the last
part to the first.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Bool
from rnnjax.sequence_axis import SequenceAxis
from rnnjax.strategies.linear_recurrence import (
    Affine,
    as_cut,
    join_blocks,
    run_blocks,
    shift,
    split,
    sum_up,
    unless,
)

Leaves = tuple[Array, ...]
"""Entries of a carry: they share the exchange and nothing else."""


class Solution(NamedTuple):
    """What a device knows of the whole.

    Attributes:
        start: (…), h before the first step of its part.
        hs: (T / P, …), h after each step of its part.
        last: (…), h after all steps of all parts; the same on every device.
    """

    start: Leaves
    hs: Leaves
    last: Leaves


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def sharded_recurrence(
    axis: SequenceAxis,
    block: int | None,
    a: Leaves,
    b: Leaves,
    cut: Bool[Array, "T B"] | None,
    begin: Leaves,
) -> Solution:
    """Solve h_t = a_t ⊙ h_{t−1} + b_t with h_{−1} = begin; where cut_t, h_t = b_t.

    Args:
        axis: the devices.
        block: as in ``Associative``.
        a: (T / P, B, …), this device's part of each leaf.
        b: as a.
        cut: (T / P, B); None: no cuts.
        begin: (B, …), zeros on all devices but the first.
    """
    pairs = zip(a, b, strict=True)
    steps = [Affine(*pair, as_cut(cut, pair[0].ndim)) for pair in pairs]
    return _solve(axis, block, steps, begin)


@sharded_recurrence.defjvp
def _tangent(axis: SequenceAxis, block: int | None, primals: tuple, tangents: tuple) -> tuple:
    a, b, cut, begin = primals
    da, db, _, dbegin = tangents
    solution = sharded_recurrence(axis, block, a, b, cut, begin)

    def right_hand_side(a: Array, da: Array, db: Array, dbegin: Array, start: Array, h: Array):
        flags = as_cut(cut, a.ndim)
        before = jnp.concatenate([start[None], h[:-1]])
        first = None if flags is None else flags[0]
        return (db + da * unless(flags, before)).at[0].add(a[0] * unless(first, dbegin))

    rhs = map(right_hand_side, a, da, db, dbegin, solution.start, solution.hs)
    dhs = _solve_linear(axis, block, a, cut, tuple(rhs))
    ends = [h[-1] for h in dhs]
    dstart = (d + axis.before(end) for d, end in zip(dbegin, ends, strict=True))
    return solution, Solution(tuple(dstart), dhs, tuple(map(axis.of_last, ends)))


def _solve_linear(
    axis: SequenceAxis, block: int | None, a: Leaves, cut: Array | None, rhs: Leaves
) -> Leaves:
    """Return the solution from zero, as a linear function of the right-hand side."""
    coefficients = [(a, as_cut(cut, a.ndim)) for a in a]

    def system(hs: Leaves) -> Leaves:
        return tuple(
            h - a * unless(flags, jnp.concatenate([axis.before(h[-1])[None], h[:-1]]))
            for h, (a, flags) in zip(hs, coefficients, strict=True)
        )

    def solve(_, rhs: Leaves) -> Leaves:
        steps = [Affine(a, b, flags) for b, (a, flags) in zip(rhs, coefficients, strict=True)]
        return _solve(axis, block, steps, tuple(jnp.zeros_like(b[0]) for b in rhs)).hs

    def transpose_solve(_, rhs: Leaves) -> Leaves:
        # λ_t = g_t + a_{t+1} ⊙ λ_{t+1}, and what leaves this part is a_0 ⊙ λ_0.
        steps = [
            Affine(a[::-1], shift(g)[::-1], None if flags is None else flags[::-1])
            for g, (a, flags) in zip(rhs, coefficients, strict=True)
        ]
        found = _solve(axis.turned(), block, steps, tuple(g[-1] for g in rhs))
        return tuple(
            jnp.concatenate([h[-2::-1], start[None]])
            for h, start in zip(found.hs, found.start, strict=True)
        )

    return jax.lax.custom_linear_solve(system, rhs, solve, transpose_solve)


def _solve(axis: SequenceAxis, block: int | None, steps: list[Affine], begin: Leaves) -> Solution:
    """Sum up the part, exchange, run on from what comes out of the parts before, plus ``begin``."""
    blocks = steps if block is None else [split(one, block) for one in steps]
    sums = blocks if block is None else map(sum_up, blocks)
    spans = [jax.lax.associative_scan(Affine.then, one) for one in sums]
    ends = [jax.tree.map(lambda a: a[-1], span) for span in spans]
    parts = [end._replace(b=end.apply(h)) for end, h in zip(ends, begin, strict=True)]
    passed, _ = axis.gather(parts)
    after = [jax.lax.associative_scan(Affine.then, part).b for part in passed]  # (P, …)
    start = [h + axis.own(shift(b)) for h, b in zip(begin, after, strict=True)]
    hs = [span.apply(h[None]) for span, h in zip(spans, start, strict=True)]
    if block is not None:
        starts = [jnp.concatenate([h[None], b[:-1]]) for h, b in zip(start, hs, strict=True)]
        time = steps[0].b.shape[0]
        pairs = zip(blocks, starts, strict=True)
        hs = [join_blocks(run_blocks(*pair), time) for pair in pairs]
    return Solution(tuple(start), tuple(hs), tuple(b[-1] for b in after))
