"""One kernel for the whole loop, generated from the cell's own ``update``."""

import dataclasses

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, PyTree
from rnnjax.cell import Cell
from rnnjax.kernels import loop, products
from rnnjax.kernels.plain import Arrays, Spec, States
from rnnjax.kernels.trace import Refused, describe
from rnnjax.recurrence import Recurrence, Strategy, row_of
from rnnjax.strategies.sequential import Sequential


@dataclasses.dataclass(frozen=True)
class Fused(Strategy):
    """One kernel for the whole loop."""

    def refusal(self, cell: Cell) -> str | None:
        """Refuse a cell that is not gated."""
        if cell.gated() is not None:
            return None
        return (
            "it needs a gated cell, whose recurrent product stands apart in mix. Use Sequential(), "
            "or write the cell as a rnnjax.GatedCell"
        )

    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Run the kernel; where there is nothing for one to do, a scan."""
        sizes = recurrence.time, recurrence.batch
        known = all(isinstance(size, int) for size in sizes)
        if not (loop.enabled() and known and recurrence.batch):
            return Sequential().run(recurrence)
        try:
            spec = _spec(recurrence)
        except Refused as error:
            checks.refused("scan", recurrence.cell, self, str(error))
            raise
        us = recurrence.all_steps(Recurrence.encode, recurrence.inputs)
        states = loop.run(spec, _arrays(spec, recurrence, us))
        carry = spec.structures[1].unflatten(states.last)
        carries = _carries(spec, states)
        return carry, jax.vmap(recurrence.readout)(carries, us, recurrence.inputs)


def _spec(recurrence: Recurrence) -> Spec:
    cell, x = recurrence.cell, row_of(recurrence.inputs.x, 2)
    params = row_of(recurrence.row_params(), 0)
    description, reads = describe(cell, params, x)
    u = jax.eval_shape(cell.encode, params, x)
    structures = tuple(map(jax.tree.structure, (params, recurrence.carry, u)))
    shapes = tuple(jax.tree.leaves(params))
    return Spec(cell, structures, shapes, description, reads, reads.memory, recurrence.reverse)


def _arrays(spec: Spec, recurrence: Recurrence, us: PyTree) -> Arrays:
    """Return what the loop reads."""
    cell, reads, inputs = recurrence.cell, spec.reads, recurrence.inputs
    params, row = recurrence.row_params(), row_of(inputs.x, 2)
    x, w_x, b = None, None, None
    if reads.projected is not None:
        x = _zero_where_masked(jax.tree.leaves(inputs.x)[reads.x], inputs.mask)
        w_x, b = products.input_kernel(cell, params, row, reads.projected)
    leaves, u_leaves = jax.tree.leaves(params), jax.tree.leaves(us)
    return Arrays(
        x=x,
        w_x=w_x,
        b=b,
        w_h=products.recurrent_kernel(cell, params, row),
        vectors=tuple(leaves[k] for k in reads.vectors),
        carry=tuple(jax.tree.leaves(recurrence.carry)),
        initial=() if inputs.reset is None else tuple(jax.tree.leaves(recurrence.initial)),
        streams=tuple(u_leaves[k] for k in reads.streams),
        mask=inputs.mask,
        resets=inputs.reset,
    )


def _zero_where_masked(x: Array, mask: Array | None) -> Array:
    """Keep what stands in masked steps, NaN included, from the gradient of W_x."""
    return x if mask is None else jnp.where(mask[:, :, None], x, jnp.zeros((), x.dtype))


def _carries(spec: Spec, states: States) -> Carry:
    """Return the carry after each step; what the readout does not read is zeros."""
    d, hidden = spec.description, states.hidden
    others = iter(jnp.split(states.memory, max(1, d.carries - 1), axis=-1))
    leaves = [
        hidden if k == d.hidden else next(others) if spec.memory else jnp.zeros_like(hidden)
        for k in range(d.carries)
    ]
    return spec.structures[1].unflatten(leaves)
