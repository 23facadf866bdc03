"""A Python loop, traced T times: what everybody writes first."""

import dataclasses

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Carry, PyTree
from rnnjax.recurrence import Recurrence, Strategy


@dataclasses.dataclass(frozen=True)
class Unrolled(Strategy):
    """Every step is its own piece of the program: compile time grows with T.

    The plain version that other ways of running are measured against; of use for a handful of
    steps.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.Elman(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((3, 2, 4))
        >>> h, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Unrolled())
        >>> ys.shape
        (3, 2, 8)
    """

    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Loop in Python."""
        leaves, structure = jax.tree.flatten(recurrence.inputs)
        # Unstacked at once: T single slices would have T padded gradients of full size to add up.
        steps = [structure.unflatten(step) for step in zip(*map(jnp.unstack, leaves), strict=True)]
        carry, ys = recurrence.carry, []
        for inputs in reversed(steps) if recurrence.reverse else steps:
            carry, y = recurrence.step(carry, inputs)
            ys.append(y)
        if recurrence.reverse:
            ys.reverse()
        return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)
