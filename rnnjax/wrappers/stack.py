"""Cells on top of each other."""

import dataclasses

import jax

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, InDim, Key, Params, PyTree
from rnnjax.cell import Cell, Keyed, feed, hand_down, row_shapes, with_context
from rnnjax.wrappers.base import Beside
from rnnjax.wrappers.residual import Residual


@dataclasses.dataclass(frozen=True)
class Stack(Cell):
    """Cells on top of each other: layer k reads the outputs of layer k − 1.

    A cell itself, so ``rnnjax.step`` decodes through all layers; ``rnnjax.scan`` runs the layers
    one by one over all of time, with the same numbers, and takes a tuple of strategies, one a
    layer.
    ``params["layers"]`` and the carry are tuples, one entry a layer.

    Args:
        cells: the layers, from the input up.
        residual: add to each layer's output what it reads, from the second layer up.

    Raises:
        TypeError: when ``cells`` is not a tuple of cells.
        ValueError: when it is empty.

    Example:
        >>> import jax, rnnjax
        >>> stack = rnnjax.Stack((rnnjax.LSTM(8), rnnjax.GRU(8)), residual=True)
        >>> params = stack.init(jax.random.key(0), 4)
        >>> (lstm, gru), ys = rnnjax.scan(stack, params, jax.numpy.ones((5, 2, 4)))
        >>> lstm.c.shape, gru.shape, ys.shape
        ((2, 8), (2, 8), (5, 2, 8))
    """

    cells: tuple[Cell, ...]
    residual: bool = False

    def __post_init__(self):
        if not isinstance(self.cells, tuple):
            got = type(self.cells).__name__
            raise TypeError(
                f"Stack: cells must be a tuple of cells; got {got}. Write Stack((a, b))."
            )
        if not self.cells:
            raise ValueError("Stack: cells must hold at least one cell; got ().")
        for k, cell in enumerate(self.cells):
            checks.instance("Stack", f"cells[{k}]", cell, Cell, "rnnjax.LSTM(64)")
        self.layers()  # Refuses what is residual twice.

    @property
    def elementwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True for one elementwise layer; a higher one reads all units of the one below."""
        return len(self.cells) == 1 and self.cells[0].elementwise

    @property
    def affine(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True for one affine layer."""
        return len(self.cells) == 1 and self.cells[0].affine

    @property
    def noisy(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether any layer reads keys."""
        return any(cell.noisy for cell in self.cells)

    def layers(self) -> tuple[Cell, ...]:
        """Return the cells, those above the first in ``Residual`` where asked for."""
        if not self.residual:
            return self.cells
        return (self.cells[0], *map(Residual, self.cells[1:]))

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the params of each layer, each as wide as the outputs below it."""
        context, layers = self.context_shapes(), []
        for k, cell in zip(jax.random.split(key, len(self.cells)), self.layers(), strict=True):
            params = cell.init(k, in_dim)
            layers.append(params)
            in_dim = row_shapes(cell, with_context(params, context), checks.as_shapes(in_dim)).y
        return {"layers": tuple(layers)}

    def initial_carry(self, params: Params) -> tuple[Carry, ...]:
        """Return the initial carry of each layer."""
        return tuple(cell.initial_carry(inner) for cell, inner in self._each(params))

    def encode(self, params: Params, x: PyTree) -> Beside:
        """Encode for the first layer; the key stays beside for the layers above."""
        key = x.key if isinstance(x, Keyed) else None
        cell, inner = self._each(params)[0]
        below = x.x if isinstance(x, Keyed) else x
        return Beside(cell.encode(inner, _layer_input(cell, below, key, 0)), key)

    def step(self, params: Params, carry: tuple[Carry, ...], u: Beside) -> tuple[Carry, ...]:
        """Step layer by layer, each on the outputs below."""
        carries, v = [], u.u
        for k, (cell, inner) in enumerate(self._each(params)):
            carries.append(cell.step(inner, carry[k], v))
            v = self._above(params, k, carries[k], v, u.own)
        return tuple(carries)

    def readout(self, params: Params, carry: tuple[Carry, ...], u: Beside) -> PyTree:
        """Read out the last layer; the layers below are read out again to encode for it."""
        v = u.u
        for k in range(len(self.cells) - 1):
            v = self._above(params, k, carry[k], v, u.own)
        cell, inner = self._each(params)[-1]
        return cell.readout(inner, carry[-1], v)

    def gates(self, params: Params, carry: tuple[Carry, ...], u: Beside) -> dict[str, Array]:
        """Return the gates of all layers, named ``0.i``, ``0.f``, …, ``1.i``, …."""
        gates, v = {}, u.u
        for k, (cell, inner) in enumerate(self._each(params)):
            gates |= {f"{k}.{name}": g for name, g in cell.gates(inner, carry[k], v).items()}
            v = self._above(params, k, cell.step(inner, carry[k], v), v, u.own)
        return gates

    def input_shapes(self, params: Params) -> PyTree | None:
        """Return what the first layer reads."""
        cell, inner = self._each(params)[0]
        return cell.input_shapes(inner)

    def sequence_noise(self, key: Key, params: Params) -> dict[str, PyTree]:
        """Draw for each layer.

        Raises:
            ValueError: when two layers draw under one name.
        """
        drawn: dict[str, PyTree] = {}
        for k, (cell, inner) in enumerate(self._each(params)):
            own = cell.sequence_noise(jax.random.fold_in(key, k), inner)
            twice = sorted(drawn.keys() & own.keys())
            if twice:
                raise ValueError(
                    f"Stack: every layer must draw under a name of its own; {twice[0]!r} is drawn "
                    f"again by layer {k}, {checks.describe(cell)}. Give it another name=…."
                )
            drawn |= own
        return drawn

    def context_shapes(self) -> dict[str, PyTree]:
        """Return what the layers read."""
        return {name: s for cell in self.cells for name, s in cell.context_shapes().items()}

    def _each(self, params: Params) -> list[tuple[Cell, Params]]:
        inner = [hand_down(params, layer) for layer in params["layers"]]
        return list(zip(self.layers(), inner, strict=True))

    def _above(self, params: Params, k: int, carry: Carry, v: PyTree, key: Key | None) -> PyTree:
        """Return the u of layer k + 1 from the carry and u of layer k; None above the last."""
        if k + 1 == len(self.cells):
            return None
        (cell, inner), (above, inner_above) = self._each(params)[k : k + 2]
        y = cell.readout(inner, carry, v)
        return above.encode(inner_above, _layer_input(above, y, key, k + 1))


def _layer_input(cell: Cell, x: PyTree, key: Key | None, k: int) -> PyTree:
    """Return what layer k reads: x, with the key folded with k for a noisy cell."""
    return x if key is None else feed(cell, Keyed(x, jax.random.fold_in(key, k)))
