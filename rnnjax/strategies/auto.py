"""Choose a strategy from the cell, the shapes and the platform."""

import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Carry, Params, PyTree
from rnnjax.cell import Cell, Keyed, one_step, with_context
from rnnjax.recurrence import Recurrence, Strategy, execute, row_of
from rnnjax.strategies.chunked import Chunked
from rnnjax.strategies.fused import Fused, unavailable
from rnnjax.strategies.gates import recurrent_shapes
from rnnjax.strategies.measured import FUSED, MEASURED
from rnnjax.strategies.sequential import Sequential

SMALLEST = 16  # hidden units: below, a kernel would save less than it takes to compile it


@dataclasses.dataclass(frozen=True)
class Auto(Strategy):
    """What was measured to be fastest for the sizes; ``Chunked()`` under a memory bound.

    What was fastest for the nearest sizes of those in ``rnnjax/strategies/measured.py``, each layer
    of a stack by its own: on a CPU ``Fused()`` where it was faster and can run the cell, else
    ``Sequential`` with the options that were fastest; a plain cell runs under ``Sequential()``.
    ``Chunked()`` is picked where what training saves would not fit.

    Args:
        memory_bytes: the bound on what the forward pass may save for the backward pass; None: no
            bound.
        kernels: whether ``Fused()`` may be picked, which has a kernel compiled for each new cell.

    Raises:
        TypeError: when ``kernels`` is not True or False.
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
    kernels: bool = True

    layerwise: ClassVar[bool] = False

    def __post_init__(self):
        if self.memory_bytes is not None:
            checks.positive_int("Auto", "memory_bytes", self.memory_bytes)
        checks.boolean("Auto", "kernels", self.kernels)

    def select(
        self,
        cell: Cell,
        params: Params,
        xs: PyTree,
        *,
        context: dict[str, PyTree] | None = None,
        platform: str = "cpu",
    ) -> tuple[Strategy | tuple[Strategy, ...], str]:
        """Return the strategy for these shapes, of a stack one a layer, and the reason for it.

        Args:
            cell: the cell.
            params: its params, or their ``jax.ShapeDtypeStruct``.
            xs: inputs (T, B, …), or their ``jax.ShapeDtypeStruct``.
            context: the context (B, …), or its ``jax.ShapeDtypeStruct``; None: the example sizes of
                ``cell.context_shapes()``.
            platform: the platform lowered for; there are kernels for ``"cpu"``.
        """
        rows = cell.context_shapes() if context is None else row_of(context, 1)
        return self._rule(cell, with_context(params, rows), xs, platform)

    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Run what the rule picks for the platform that JAX uses."""
        sizes = recurrence.cell, recurrence.row_params(), recurrence.inputs.x
        strategy, _ = self._rule(*sizes, jax.default_backend())
        return execute(strategy, recurrence)

    def _rule(self, cell: Cell, row_params: Params, xs: PyTree, platform: str) -> tuple[Any, str]:
        time, batch = jax.tree.leaves(xs)[0].shape[:2]
        x = row_of(xs, 2)
        words = "no memory bound was given"
        if self.memory_bytes is not None:
            saved = time * batch * saved_bytes(cell, row_params, x)
            words = f"training saves about {saved:,} bytes over {time:,} steps of {batch:,} rows"
            if saved > self.memory_bytes:
                return Chunked(), f"{words}, over the bound of {self.memory_bytes:,}"
            words += f", within the bound of {self.memory_bytes:,}"
        layers = cell.layers()
        if layers is not None:
            inside = Auto(kernels=self.kernels)
            return (inside,) * len(layers), f"{words}; each layer has a strategy of its own"
        kernels = self.kernels and platform == "cpu"
        strategy, why = _fastest(cell, row_params, x, batch, kernels)
        return strategy, f"{words}; {why}"


def _fastest(
    cell: Cell, row_params: Params, x: PyTree, batch: int, kernels: bool
) -> tuple[Strategy, str]:
    """Return what was fastest for the nearest sizes."""
    if cell.gated() is None:
        return Sequential(), "a plain cell is run step by step"
    sizes = _sizes(cell, row_params, x, batch)
    nearest = Sizes(*min(MEASURED, key=functools.partial(_distance, sizes)))
    words = f"of the sizes that were measured, {nearest} is the nearest"
    if not kernels or nearest not in FUSED:
        return MEASURED[nearest], words
    why = unavailable(cell, row_params, x) if sizes.hidden >= SMALLEST else "its cell is small"
    if why is not None:
        return MEASURED[nearest], f"{words}, and Fused() is not used: {why}"
    return Fused(), words


class Sizes(NamedTuple):
    """What the speed of a gated cell depends on: width of r over that of h, rows, D and N."""

    gates: float
    batch: int
    in_dim: int
    hidden: int


def _sizes(cell: Cell, row_params: Params, x: PyTree, batch: int) -> Sizes:
    """Count gates and widths of a gated cell."""
    read = x.x if isinstance(x, Keyed) else x
    in_dim, hidden, mixed = (
        max(1, sum(leaf.size for leaf in jax.tree.leaves(part)))
        for part in (read, *recurrent_shapes(cell, row_params, x))
    )
    return Sizes(mixed / hidden, batch, in_dim, hidden)


def _distance(a: tuple, b: tuple) -> float:
    """Return how far apart two sizes are, by the logarithms of their ratios.

    An exported program may leave B open: then any B is as near as another.
    """
    known = [(x, y) for x, y in zip(a, b, strict=True) if isinstance(x, int | float)]
    return sum(math.log(x / y) ** 2 for x, y in known)


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
