"""One step after the other, in a compiled loop: the definition of the right answer."""

import dataclasses
from collections.abc import Callable

import jax

from rnnjax import checks
from rnnjax.array_typing import Carry, PyTree
from rnnjax.cell import Cell
from rnnjax.recurrence import Inputs, Recurrence, Strategy
from rnnjax.strategies import deferral
from rnnjax.strategies.blocks import scan_blocks
from rnnjax.strategies.gates import count_gates, join, separate
from rnnjax.strategies.products import merged
from rnnjax.strategies.reads import gated_of, reads_of_update

Step = Callable[[Carry, Inputs], tuple[Carry, PyTree]]
"""(carry, one step's inputs) → (carry, y)."""


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
        merge: of a gated cell whose u is x W_x + b and whose r is h W_h, take both products in the
            loop as one, or u gate by gate. For a CPU; other gated cells run as without.
        block: with ``hoist``, so many steps at a time instead of all T: u stays in the cache. For
            a CPU; a GPU wants the largest product there is.

    Raises:
        ValueError: when ``unroll`` or ``block`` is below 1, ``block`` comes without ``hoist``, or
            ``merge`` with it; from ``scan``, when ``defer`` or ``merge`` meets a cell that is not
            gated.

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
    merge: bool = False
    block: int | None = None

    def __post_init__(self):
        checks.positive_int("Sequential", "unroll", self.unroll)
        checks.boolean("Sequential", "hoist", self.hoist)
        checks.boolean("Sequential", "defer", self.defer)
        checks.boolean("Sequential", "merge", self.merge)
        if self.merge and self.hoist:
            raise ValueError(
                "Sequential: merge takes the product of the inputs in the loop, and hoist before "
                "it; got both."
            )
        if self.block is not None:
            checks.positive_int("Sequential", "block", self.block)
            if not self.hoist:
                raise ValueError(
                    f"Sequential: block is for hoist=True, which encodes so many steps at a time; "
                    f"got hoist=False with block={self.block}."
                )

    def refusal(self, cell: Cell) -> str | None:
        """Refuse to defer or merge for a plain cell."""
        if not (self.defer or self.merge) or cell.gated() is not None:
            return None
        option = "defer" if self.defer else "merge"
        return (
            f"{option}=True needs a gated cell, whose recurrent product stands apart in mix. Use "
            f"Sequential(), or write the cell as a rnnjax.GatedCell"
        )

    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Scan over time."""
        block = self._block(recurrence.time)
        if self.defer:
            return deferral.run(
                recurrence, deferral.Loop(self.unroll, self.hoist, block, self.merge)
            )
        if block is not None:
            return self._run_blocks(recurrence, block)
        if self.hoist:
            return self._run_hoisted(recurrence)
        return jax.lax.scan(
            self._merged_step(recurrence) if self.merge else recurrence.step,
            recurrence.carry,
            recurrence.inputs,
            reverse=recurrence.reverse,
            unroll=self.unroll,
        )

    def _merged_step(self, recurrence: Recurrence) -> Step:
        gated = gated_of(recurrence)
        multiply = merged(recurrence, reads_of_update(recurrence))
        update = recurrence.rows(gated.update, 3)

        def step(carry: Carry, inputs: Inputs) -> tuple[Carry, PyTree]:
            before = recurrence.before(carry, inputs)
            u, r = multiply(inputs, jax.vmap(gated.hidden)(before))
            carry = recurrence.after(before, update(recurrence.params, before, u, r), inputs)
            return carry, recurrence.readout(carry, recurrence.encode(inputs), inputs)

        return step

    def _block(self, time: int) -> int | None:
        """Return the steps of a block; None, for all, where an exported program leaves T open."""
        if self.block is None or not isinstance(time, int):
            return None
        return min(self.block, time)

    def _run_blocks(self, recurrence: Recurrence, size: int) -> tuple[Carry, PyTree]:
        gates = count_gates(recurrence)

        def block(carry: Carry, inputs: Inputs) -> tuple[Carry, PyTree]:
            return self._run_hoisted(recurrence.replace(carry=carry, inputs=inputs), gates)

        return scan_blocks(
            block, recurrence.carry, recurrence.inputs, size, reverse=recurrence.reverse
        )

    def _run_hoisted(self, recurrence: Recurrence, gates: int = 1) -> tuple[Carry, PyTree]:
        us = recurrence.all_steps(Recurrence.encode, recurrence.inputs)

        def body(carry: Carry, step: tuple[PyTree, Inputs]) -> tuple[Carry, Carry]:
            u, inputs = step
            carry = recurrence.advance(carry, join(u), inputs)
            return carry, carry

        carry, carries = jax.lax.scan(
            body,
            recurrence.carry,
            (separate(us, gates), recurrence.inputs),
            reverse=recurrence.reverse,
            unroll=self.unroll,
        )
        return carry, jax.vmap(recurrence.readout)(carries, us, recurrence.inputs)
