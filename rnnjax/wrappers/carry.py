"""The carry at the start and over time."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Carry, InDim, Key, Params, PyTree
from rnnjax.wrappers.base import Wrapper


@dataclasses.dataclass(frozen=True)
class LearntCarry(Wrapper):
    """Learn the carry before the first step and after a reset: h_0 = params["learnt_carry"].

    ``init`` begins with the initial carry of the cell inside. Leaves that are not floating point or
    complex stay as the cell inside has them.

    Raises:
        ValueError: when the initial carry of the cell inside is read from context.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LearntCarry(rnnjax.GRU(3))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> params["learnt_carry"] += 1.0
        >>> rnnjax.initial_carry(cell, params, batch=2).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the params of the cell inside; its initial carry is where learning begins."""
        params = super().init(key, in_dim)
        try:
            carry = super().initial_carry(params)
        except KeyError as error:
            raise ValueError(
                f"LearntCarry: cell must have an initial carry that is the same for all rows; "
                f"{checks.describe(self.cell)} reads it from {error}."
            ) from error
        return {**params, "learnt_carry": jax.tree.map(_learnable, carry)}

    def initial_carry(self, params: Params) -> Carry:
        """Return the learnt carry."""
        return jax.tree.map(
            lambda learnt, own: own if learnt is None else learnt,
            params["learnt_carry"],
            super().initial_carry(params),
            is_leaf=lambda leaf: leaf is None,
        )


def _learnable(leaf: Any) -> Any:
    return leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None


class OutputAndCarry(NamedTuple):
    """What ``WithCarry`` reads out: the output y_t and the carry h_t after the step."""

    y: PyTree
    carry: Carry


@dataclasses.dataclass(frozen=True)
class WithCarry(Wrapper):
    """Read out the carry beside the output: (readout(h_t), h_t), zero where masked.

    For an LSTM's c over time, say, or to go on later from any step.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.WithCarry(rnnjax.LSTM(8))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> _, (ys, carries) = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> ys.shape, carries.c.shape
        ((5, 2, 8), (5, 2, 8))
    """

    def readout(self, params: Params, carry: Carry, u: PyTree) -> OutputAndCarry:
        """Return the output of the cell inside and the carry."""
        return OutputAndCarry(super().readout(params, carry, u), carry)
