"""Choose a strategy from the cell, the shapes and the platform."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Carry, Params, PyTree
from rnnjax.cell import Cell, one_step, with_context
from rnnjax.recurrence import Recurrence, Strategy, execute, row_of
from rnnjax.strategies.chunked import Chunked
from rnnjax.strategies.sequential import Sequential


@dataclasses.dataclass(frozen=True)
class Auto(Strategy):
    """``Sequential``, with ``defer`` where every cell is gated; ``Chunked()`` under a memory bound.

    Deferring changes no value and is what trains fastest (``docs/benchmarks.md``); ``Chunked()`` is
    picked where what training saves would not fit.

    Args:
        memory_bytes: the bound on what the forward pass may save for the backward pass; None: no
            bound.

    Raises:
        ValueError: when ``memory_bytes`` is below 1.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LSTM(128)
        >>> params = cell.init(jax.random.key(0), 8)
        >>> xs = jax.ShapeDtypeStruct((100_000, 1, 8), "float32")
        >>> strategy, reason = rnnjax.Auto(memory_bytes=50_000_000).select(cell, params, xs)
        >>> strategy == rnnjax.Chunked()
        True
    """

    memory_bytes: int | None = None

    layerwise: ClassVar[bool] = False

    def __post_init__(self):
        if self.memory_bytes is not None:
            checks.positive_int("Auto", "memory_bytes", self.memory_bytes)

    def select(
        self,
        cell: Cell,
        params: Params,
        xs: PyTree,
        *,
        context: dict[str, PyTree] | None = None,
        platform: str = "cpu",
    ) -> tuple[Strategy, str]:
        """Return the strategy for these shapes and the reason for it.

        Args:
            cell: the cell.
            params: its params, or their ``jax.ShapeDtypeStruct``.
            xs: inputs (T, B, …), or their ``jax.ShapeDtypeStruct``.
            context: the context (B, …), or its ``jax.ShapeDtypeStruct``; None: the example sizes of
                ``cell.context_shapes()``.
            platform: the platform lowered for; the rule is the same on all of them.
        """
        del platform
        rows = cell.context_shapes() if context is None else row_of(context, 1)
        return self._rule(cell, with_context(params, rows), xs)

    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Run what the rule picks."""
        params = recurrence.params
        if "context" in params:
            params = {**params, "context": row_of(params["context"], 1)}
        strategy, _ = self._rule(recurrence.cell, params, recurrence.inputs.x)
        return execute(strategy, recurrence)

    def _rule(self, cell: Cell, row_params: Params, xs: PyTree) -> tuple[Strategy, str]:
        within, why = _fastest(cell)
        if self.memory_bytes is None:
            return within, f"{why}; no memory bound was given"
        time, batch = jax.tree.leaves(xs)[0].shape[:2]
        saved = time * batch * saved_bytes(cell, row_params, row_of(xs, 2))
        words = f"training saves about {saved:,} bytes over {time:,} steps of {batch:,} rows"
        if saved <= self.memory_bytes:
            return within, f"{why}; {words}, within the bound of {self.memory_bytes:,}"
        return Chunked(), f"{words}, over the bound of {self.memory_bytes:,}"


def _fastest(cell: Cell) -> tuple[Strategy, str]:
    """Return what runs fastest where memory is no matter: what ``benchmarks choose`` finds."""
    if all(each.gated() is not None for each in _flat_layers(cell)):
        return Sequential(defer=True), "gated cells train faster with their gradients deferred"
    return Sequential(), "a plain cell cannot defer its gradients"


def _flat_layers(cell: Cell) -> list[Cell]:
    layers = cell.layers()
    return [cell] if layers is None else [one for each in layers for one in _flat_layers(each)]


def saved_bytes(cell: Cell, row_params: Params, x: PyTree) -> int:
    """Return the bytes that one step of one row saves for the backward pass, by tracing it.

    What two rows save more than one is a row's share; weights, saved once for all, drop out.
    """
    one, two = (_residual_bytes(cell, row_params, x, rows) for rows in (1, 2))
    return two - one


def _residual_bytes(cell: Cell, row_params: Params, x: PyTree, rows: int) -> int:
    step = functools.partial(one_step, cell)

    def residuals(params: Params, x: PyTree) -> PyTree:
        carry = jax.vmap(lambda _: cell.initial_carry(params), axis_size=rows)(None)
        x = jax.tree.map(lambda a: jnp.broadcast_to(a, (rows, *a.shape)), x)
        mapped = jax.vmap(step, in_axes=(None, 0, 0))
        return jax.vjp(lambda params, carry: mapped(params, carry, x), params, carry)[1]

    saved = jax.eval_shape(residuals, row_params, x)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved))
