"""What a gated cell's update reads, seen by tracing one step of one row."""

from typing import Any, NamedTuple

import jax

from rnnjax.cell import Gated
from rnnjax.kernels.trace import live_inputs
from rnnjax.recurrence import Recurrence, row_of


class Reads(NamedTuple):
    """What ``update`` reads.

    Attributes:
        params: the numbers of the leaves.
        sum: of u and r, each one array, nothing but their sum.
    """

    params: set[int]
    sum: bool


def gated_of(recurrence: Recurrence) -> Gated:
    """Return the cell as one product and an update."""
    gated = recurrence.cell.gated()
    assert gated is not None, "a plain cell is refused before it gets here"
    return gated


def reads_of_update(recurrence: Recurrence) -> Reads:
    """Trace one step to see."""
    cell, gated = recurrence.cell, gated_of(recurrence)

    def parts(params: Any, x: Any) -> tuple:
        carry, u = cell.initial_carry(params), cell.encode(params, x)
        return carry, u, gated.mix(params, gated.hidden(carry), u)

    params = recurrence.row_params()
    carry, u, r = jax.eval_shape(parts, params, row_of(recurrence.inputs.x, 2))
    jaxpr = jax.make_jaxpr(gated.update)(params, carry, u, r).jaxpr
    count = len(jax.tree.leaves(params))
    u_and_r = jaxpr.invars[count + len(jax.tree.leaves(carry)) :]
    return Reads(live_inputs(jaxpr) & set(range(count)), _only_added(jaxpr, u_and_r))


def _only_added(jaxpr: Any, variables: list) -> bool:
    """Say whether these are two variables that are added to each other, and nothing else."""
    readers = [[e for e in jaxpr.eqns if any(v is w for w in e.invars)] for v in variables]
    handed_on = any(v is w for v in variables for w in jaxpr.outvars)
    alone = len(variables) == 2 and all(len(each) == 1 for each in readers) and not handed_on
    return alone and readers[0] == readers[1] and readers[0][0].primitive.name == "add"
