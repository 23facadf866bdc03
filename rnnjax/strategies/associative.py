"""Parallel in time, exactly: an associative scan over the maps that steps are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, Params, PyTree
from rnnjax.cell import Cell
from rnnjax.recurrence import Recurrence, Strategy, select_rows
from rnnjax.sequence_axis import SequenceAxis
from rnnjax.strategies import prefixes
from rnnjax.strategies.linear_recurrence import linear_recurrence
from rnnjax.strategies.sharded_recurrence import sharded_recurrence


@dataclasses.dataclass(frozen=True)
class Associative(Strategy):
    """All T steps in O(log T) rounds, for cells whose steps can be summed up (Blelloch 1990).

    A step of a cell that is ``affine`` and ``elementwise`` is a map h → a_t ⊙ h + b_t, and so are
    several steps in a row:

        b_t = step(params, 0, u_t),  a_t = d step(params, ·, u_t) · 1
        (a, b) then (a', b') = (a' ⊙ a, a' ⊙ b + b')

    A cell with ``operator()`` brings maps of its own. The numbers are those of ``Sequential`` to
    rounding, gradients too; those of an affine cell come from the same scan in the other direction
    and keep O(T) memory. Masks and resets select before anything is combined, so that no NaN or
    Inf crosses a reset. It does about twice the work of a loop, in O(log T) rounds instead of T
    turns, so it is for accelerators, long sequences and small B·N.

    Args:
        block: so many steps are taken one by one, in all blocks at once, and only the T / block
            blocks are scanned associatively: less work and memory, in block + O(log(T / block))
            turns. None: no blocks.

        axis_name: for ``scan`` inside of ``jax.shard_map``, the mesh axis over which the sequence
            is sharded: xs, mask and resets are this device's part, (T / P, B, …), as are the
            outputs. The carry is the same on all devices, on its way in and out, and lengths count
            the steps of the whole sequence. Each device scans its part, and one exchange of what
            the parts come to, O(P·B·N), joins them; so does one more for the gradient. None: the
            whole sequence is here.

    Raises:
        TypeError: when ``axis_name`` is no string; from ``scan``, for an affine cell whose carry
            holds integers.
        ValueError: when ``block`` is below 1; from ``scan``, for a cell that is neither affine and
            elementwise nor has an operator, in an exported program that leaves T open, and where
            ``axis_name`` is not that of a mesh axis over which xs are sharded.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.MinGRU(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.random.normal(jax.random.key(1), (100, 2, 4))
        >>> h, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Associative(block=16))
        >>> _, expected = rnnjax.scan(cell, params, xs, strategy=rnnjax.Sequential())
        >>> bool(jax.numpy.allclose(ys, expected, atol=1e-6))
        True
    """

    block: int | None = None
    axis_name: str | None = None

    def __post_init__(self):
        if self.block is not None:
            checks.positive_int("Associative", "block", self.block)
        if self.axis_name is not None:
            checks.string("Associative", "axis_name", self.axis_name)

    def refusal(self, cell: Cell) -> str | None:
        """Refuse a cell whose steps cannot be summed up."""
        if cell.operator() is not None or (cell.affine and cell.elementwise):
            return None
        missing = [name for name in ("affine", "elementwise") if not getattr(cell, name)]
        return (
            f"its step is not {' and '.join(missing)} in the carry, and it has no operator(). Use "
            f"Sequential() or Chunked(), or a cell of that kind, such as rnnjax.MinGRU or "
            f"rnnjax.LRU"
        )

    def sequence_axis(self) -> str | None:
        """Return the mesh axis."""
        return self.axis_name

    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Encode all steps, scan their maps, read out all carries."""
        axis = None if self.axis_name is None else SequenceAxis(self.axis_name, recurrence.reverse)
        if not recurrence.reverse:
            return self._run(recurrence, axis)
        turned = recurrence.replace(inputs=_reversed(recurrence.inputs), reverse=False)
        carry, ys = self._run(turned, axis)
        return carry, _reversed(ys)

    def _run(self, recurrence: Recurrence, axis: SequenceAxis | None) -> tuple[Carry, PyTree]:
        _check(recurrence)
        us = recurrence.all_steps(Recurrence.encode, recurrence.inputs)
        operator = recurrence.cell.operator()
        if operator is not None:
            last, carries = prefixes.carries(recurrence, operator, us, self.block, axis)
        elif axis is not None:
            last, carries = _sharded_carries(recurrence, us, self.block, axis)
        else:
            last, carries = None, _affine_carries(recurrence, us, self.block)
        ys = recurrence.all_steps(Recurrence.readout, carries, us, recurrence.inputs)
        return jax.tree.map(lambda a: a[-1], carries) if last is None else last, ys


def _check(recurrence: Recurrence) -> None:
    """Refuse what only the arguments show: an open T, and a carry that has no derivative."""
    name = checks.describe(recurrence.cell)
    if not isinstance(recurrence.time, int):
        raise ValueError(
            f"scan: Associative must know T, and it is open in this program, {recurrence.time}. "
            f"Use Sequential(), or export for one T."
        )
    kinds = {leaf.dtype for leaf in jax.tree.leaves(recurrence.carry)}
    counted = [kind.name for kind in kinds if not jnp.issubdtype(kind, jnp.inexact)]
    if counted and recurrence.cell.operator() is None:
        raise TypeError(
            f"scan: Associative needs a carry of floating-point or complex numbers; that of {name} "
            f"holds {counted[0]}. Use Sequential(), or give the cell an operator()."
        )


def _reversed(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[::-1], tree)


def _affine_carries(recurrence: Recurrence, us: PyTree, block: int | None) -> Carry:
    """Return the carry after each step (T, B, …)."""
    inputs = recurrence.inputs
    a, b = recurrence.all_steps(_maps, us, inputs.mask)

    def solve(a: Array, b: Array, carry: Array, initial: Array) -> Array:
        # What the first step and those after a reset begin with is known: it belongs to b.
        if inputs.reset is None:
            b = b.at[0].add(a[0] * carry)
        else:
            zeros = jnp.zeros_like(initial)
            first = select_rows(inputs.reset[0], initial, carry)
            rest = jax.vmap(lambda reset: select_rows(reset, initial, zeros))(inputs.reset[1:])
            b = b + a * jnp.concatenate([first[None], rest])
        return linear_recurrence(a, b, inputs.reset, block=block)

    return jax.tree.map(solve, a, b, recurrence.carry, recurrence.initial)


def _sharded_carries(
    recurrence: Recurrence, us: PyTree, block: int | None, axis: SequenceAxis
) -> tuple[Carry, Carry]:
    """Return the carry after all parts, and that after each step of this part (T / P, B, …)."""
    reset = recurrence.inputs.reset
    a, b = recurrence.all_steps(_maps, us, recurrence.inputs.mask)

    def begin_anew(a: Array, b: Array, initial: Array) -> Array:
        zeros = jnp.zeros_like(initial)
        return b + a * jax.vmap(lambda reset: select_rows(reset, initial, zeros))(reset)

    if reset is not None:
        b = jax.tree.map(begin_anew, a, b, recurrence.initial)
    begin = jax.tree.map(axis.of_first, recurrence.carry)
    structure = jax.tree.structure(begin)
    a, b, begin = (tuple(jax.tree.leaves(tree)) for tree in (a, b, begin))
    solution = sharded_recurrence(axis, block, a, b, reset, begin)
    return structure.unflatten(solution.last), structure.unflatten(solution.hs)


def _maps(recurrence: Recurrence, u: PyTree, mask: Array | None) -> tuple[Carry, Carry]:
    """Return (a, b) of one step for all rows (B, …); where it is masked, (1, 0)."""
    a, b = recurrence.rows(functools.partial(linearise, recurrence.cell))(recurrence.params, u)
    if mask is None:
        return a, b
    one, zero = (jax.tree.map(like, b) for like in (jnp.ones_like, jnp.zeros_like))
    return select_rows(mask, a, one), select_rows(mask, b, zero)


def linearise(cell: Cell, params: Params, u: PyTree) -> tuple[Carry, Carry]:
    """Return (a, b) with step(params, h, u) = a ⊙ h + b, of an affine elementwise cell.

    Example:
        >>> import jax.numpy as jnp, rnnjax
        >>> cell = rnnjax.MinGRU(1)
        >>> params = {"w_x": jnp.zeros((2, 2)), "b": jnp.zeros((2,))}
        >>> a, b = linearise(cell, params, jnp.array([0.0, 3.0]))
        >>> a.tolist(), b.tolist()
        ([0.5], [1.5])
    """
    zero, one = (
        jax.tree.map(like, cell.initial_carry(params)) for like in (jnp.zeros_like, jnp.ones_like)
    )
    b, a = jax.jvp(lambda h: cell.step(params, h, u), (zero,), (one,))
    return a, b
