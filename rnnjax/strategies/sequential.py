"""One step after the other, in a compiled loop: the definition of the right answer."""

import dataclasses

import jax

from rnnjax import checks
from rnnjax.array_typing import Carry, PyTree
from rnnjax.cell import Cell
from rnnjax.recurrence import Inputs, Recurrence, Strategy
from rnnjax.strategies import deferral


@dataclasses.dataclass(frozen=True)
class Sequential(Strategy):
    """``jax.lax.scan`` over time.

    Args:
        unroll: how many steps one turn of the loop takes. On a CPU it seldom pays, and training a
            gated cell gets slower with it: XLA fuses the chain of steps and computes it anew in
            each of them (``docs/benchmarks.md``).
        hoist: run ``encode`` before the loop and ``readout`` after it, for all T at once: large
            products instead of T small ones, for the memory of u (T, B, …) and of every carry.
        defer: leave the gradients of a gated cell's weights for one product after the backward
            loop, instead of a small product and a sum in each step. Values are the same.

    Raises:
        ValueError: when ``unroll`` is below 1; from ``scan``, when ``defer`` meets a cell that is
            not gated.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GRU(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> strategy = rnnjax.Sequential(unroll=2, hoist=True)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((6, 2, 4)), strategy=strategy)
        >>> ys.shape
        (6, 2, 8)
    """

    unroll: int = 1
    hoist: bool = False
    defer: bool = False

    def __post_init__(self):
        checks.positive_int("Sequential", "unroll", self.unroll)
        checks.boolean("Sequential", "hoist", self.hoist)
        checks.boolean("Sequential", "defer", self.defer)

    def refusal(self, cell: Cell) -> str | None:
        """Refuse to defer for a plain cell."""
        if not self.defer or cell.gated() is not None:
            return None
        return (
            "defer=True needs a gated cell, whose recurrent product stands apart in mix. Use "
            "Sequential(), or write the cell as a rnnjax.GatedCell"
        )

    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Scan over time."""
        if self.defer:
            return deferral.run(recurrence, deferral.Loop(self.unroll, self.hoist))
        if self.hoist:
            return self._run_hoisted(recurrence)
        return jax.lax.scan(
            recurrence.step,
            recurrence.carry,
            recurrence.inputs,
            reverse=recurrence.reverse,
            unroll=self.unroll,
        )

    def _run_hoisted(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        us = recurrence.all_steps(Recurrence.encode, recurrence.inputs)

        def body(carry: Carry, step: tuple[PyTree, Inputs]) -> tuple[Carry, Carry]:
            carry = recurrence.advance(carry, *step)
            return carry, carry

        carry, carries = jax.lax.scan(
            body,
            recurrence.carry,
            (us, recurrence.inputs),
            reverse=recurrence.reverse,
            unroll=self.unroll,
        )
        return carry, jax.vmap(recurrence.readout)(carries, us, recurrence.inputs)
