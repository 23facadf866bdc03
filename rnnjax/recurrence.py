"""The problem and its solver as separate values: a ``Recurrence``, a ``Strategy`` to run it."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.array_typing import Array, Bool, Carry, Params, PyTree
from rnnjax.cell import Cell, Keyed, feed, hand_down


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """One cell over T steps of B rows, its arguments checked and brought into one form.

    The methods take the arrays of one step for the whole batch, so that a strategy is only the
    order in which it calls them. A step of the recurrence is, with each select left out where there
    is no mask or no resets:

        carry = where(reset, initial, carry)
        new   = step(params, carry, encode(params, where(mask, x, 0)))
        carry = where(mask, new, carry)
        y     = where(mask, readout(params, carry, u), 0)

    Attributes:
        cell: the cell.
        params: its params; ``params["context"]``, if any, leads with B.
        initial: the initial carry of every row, which a reset brings back.
        carry: the carry to begin with.
        inputs: xs (T, B, …), mask (T, B) or None, resets (T, B) or None. Resets stand in the order
            of travel: True at t replaces the carry before step t is taken.
        batch: B.
        reverse: from the last step to the first.
    """

    cell: Cell
    params: Params
    initial: Carry
    carry: Carry
    inputs: "Inputs"
    batch: int
    reverse: bool = False

    def initial_rows(self) -> Carry:
        """Return the cell's initial carry for every row (B, …)."""
        return self.rows(self.cell.initial_carry, 0)(self.params)

    def encode(self, inputs: "Inputs") -> PyTree:
        """Encode one step's inputs (B, …), with zeros for what is masked."""
        return self.rows(self.cell.encode)(self.params, self.valid_x(inputs))

    def valid_x(self, inputs: "Inputs") -> PyTree:
        """Return one step's x (B, …), with zeros for what is masked."""
        return inputs.x if inputs.mask is None else _zero_unless(inputs.mask, inputs.x, jnp.inexact)

    def advance(self, carry: Carry, u: PyTree, inputs: "Inputs") -> Carry:
        """Take one step from carry, honouring mask and reset."""
        before = self.before(carry, inputs)
        return self.after(before, self.rows(self.cell.step, 2)(self.params, before, u), inputs)

    def before(self, carry: Carry, inputs: "Inputs") -> Carry:
        """Return the carry that a step begins with: after a reset, the initial one."""
        return carry if inputs.reset is None else select_rows(inputs.reset, self.initial, carry)

    def after(self, before: Carry, new: Carry, inputs: "Inputs") -> Carry:
        """Return the carry that a step leaves: where it is masked, that before it."""
        return new if inputs.mask is None else select_rows(inputs.mask, new, before)

    def readout(self, carry: Carry, u: PyTree, inputs: "Inputs") -> PyTree:
        """Read one step's outputs (B, …), with zeros for what is masked."""
        y = self.rows(self.cell.readout, 2)(self.params, carry, u)
        return y if inputs.mask is None else _zero_unless(inputs.mask, y, np.generic)

    def step(self, carry: Carry, inputs: "Inputs") -> tuple[Carry, PyTree]:
        """Take one whole step: (carry, one step's inputs) → (carry, y), for ``jax.lax.scan``."""
        u = self.encode(inputs)
        carry = self.advance(carry, u, inputs)
        return carry, self.readout(carry, u, inputs)

    def rows(self, function: Callable, count: int = 1) -> Callable:
        """Map over the rows: params are shared, the context has a row each."""
        shared: Any = None
        if "context" in self.params:
            shared = dict.fromkeys(self.params) | {"context": 0}
        return jax.vmap(function, in_axes=(shared, *(0,) * count), axis_size=self.batch)

    def all_steps(self, function: Callable, *steps: PyTree) -> PyTree:
        """Apply ``function(recurrence, *step)``, a function of one step, to all steps (T, B, …).

        As one step of T·B rows: the gradient of a kernel is then one product of two matrices. Of
        (T, B, …) as it stands, XLA on a CPU first transposes a copy, which takes thrice as long.
        Not so where rows have a context each; nor on several devices, where merging T with a
        sharded B would gather all rows.
        """
        if "context" in self.params or jax.device_count() > 1:
            return jax.vmap(functools.partial(function, self))(*steps)
        merged = self.replace(batch=self.time * self.batch)
        rows = jax.tree.map(lambda a: a.reshape(merged.batch, *a.shape[2:]), steps)
        out = function(merged, *rows)
        return jax.tree.map(lambda a: a.reshape(self.time, self.batch, *a.shape[1:]), out)

    def row_params(self) -> Params:
        """Return the params as one row sees them, with shapes for its context."""
        if "context" not in self.params:
            return self.params
        return {**self.params, "context": row_of(self.params["context"], 1)}

    @property
    def time(self) -> int:
        """T."""
        return jax.tree.leaves(self.inputs.x)[0].shape[0]

    def replace(self, **changes: Any) -> "Recurrence":
        """Return the same recurrence with some attributes changed."""
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inputs:
    """What each step reads: x, and mask and reset where there are any."""

    x: PyTree
    mask: Bool[Array, "..."] | None
    reset: Bool[Array, "..."] | None


class Strategy(abc.ABC):
    """A way of running a recurrence: a frozen dataclass that carries its own options.

    Registered as a static pytree node, as cells are.

    Attributes:
        layerwise: a stack is run layer by layer; otherwise it reaches ``run`` whole, as one cell.
    """

    layerwise: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_static(cls)

    @abc.abstractmethod
    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Return the carry after all T ≥ 1 steps and the outputs (T, B, …) in time order."""

    def refusal(self, cell: Cell) -> str | None:
        """Say why this strategy cannot run the cell and what to use instead; None if it can."""
        del cell
        return None

    def sequence_axis(self) -> str | None:
        """Name the mesh axis over which it takes the sequence to be sharded; None: it is whole."""
        return None


def execute(strategy: "Strategy | tuple[Strategy, ...]", recurrence: Recurrence) -> tuple:
    """Run a recurrence: a stack layer by layer where the strategy allows it, else as one cell."""
    cells = recurrence.cell.layers()
    if isinstance(strategy, tuple):
        return _run_layers(strategy, cells, recurrence)
    if cells is None or not strategy.layerwise:
        return strategy.run(recurrence)
    return _run_layers((strategy,) * len(cells), cells, recurrence)


def _run_layers(strategies: tuple, cells: Any, recurrence: Recurrence) -> tuple:
    inputs, carries = recurrence.inputs, []
    key = inputs.x.key if isinstance(inputs.x, Keyed) else None
    y = inputs.x if key is None else inputs.x.x
    for k, (strategy, cell) in enumerate(zip(strategies, cells, strict=True)):
        x = y if key is None else Keyed(y, fold_in(key, k))
        layer = recurrence.replace(
            cell=cell,
            params=hand_down(recurrence.params, recurrence.params["layers"][k]),
            initial=recurrence.initial[k],
            carry=recurrence.carry[k],
            inputs=dataclasses.replace(inputs, x=feed(cell, x)),
        )
        carry, y = execute(strategy, layer)
        carries.append(carry)
    return tuple(carries), y


def fold_in(keys: Array, k: int) -> Array:
    """Fold a number into keys (T, B)."""
    return jax.vmap(jax.vmap(functools.partial(jax.random.fold_in, data=k)))(keys)


def select_rows(chosen: Bool[Array, " B"], a: PyTree, b: PyTree) -> PyTree:
    """Take rows of a where chosen, else of b; by selection, so that no NaN crosses it."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(jax.lax.expand_dims(chosen, range(1, a.ndim)), a, b)

    return jax.tree.map(pick, a, b)


def row_of(tree: PyTree, leading: int) -> PyTree:
    """Return the ``jax.ShapeDtypeStruct`` of one row, without so many leading axes."""

    def row(leaf: Any) -> jax.ShapeDtypeStruct:
        aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
        return jax.ShapeDtypeStruct(aval.shape[leading:], aval.dtype)

    return jax.tree.map(row, tree)


def _zero_unless(mask: Array, tree: PyTree, kind: Any) -> PyTree:
    """Put zeros where the mask is False into every leaf whose dtype is of this kind."""

    def clean(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, kind):
            return leaf
        keep = jax.lax.expand_dims(mask, range(mask.ndim, leaf.ndim))
        return jnp.where(keep, leaf, jnp.zeros((), leaf.dtype))

    return jax.tree.map(clean, tree)
