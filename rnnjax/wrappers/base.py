"""What all wrappers have in common."""

import dataclasses
from typing import Any, NamedTuple

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, InDim, Key, Params, PyTree
from rnnjax.cell import Cell, Gated, feed


@dataclasses.dataclass(frozen=True)
class Wrapper(Cell):
    """A cell around a cell: everything is the inner one's but what a subclass says otherwise.

    Except ``layers()`` and ``operator()``: a wrapper runs as one cell, whose step is its own. It
    uses the params of the cell inside as they are, with leaves of its own beside them. A subclass
    that adds to u overrides ``encode`` and ``inner``, and one that changes what a step leaves
    behind overrides ``settle``; step and ``gated()`` follow. Where that breaks a claim of the cell
    inside, it says so: ``affine = False``.

    Raises:
        TypeError: when ``cell`` is not a cell.
        ValueError: when a wrapper of the same class is around the same cell already.
    """

    cell: Cell

    def __post_init__(self):
        name, inside = type(self).__name__, self.cell
        checks.instance(name, "cell", inside, Cell, "rnnjax.LSTM(64)")
        while isinstance(inside, Wrapper):
            if type(inside) is type(self):
                raise ValueError(
                    f"{name}: cell must not hold another {name}; got {checks.describe(self.cell)}. "
                    f"Leave out one of the two."
                )
            inside = inside.cell

    @property
    def affine(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The claim of the cell inside."""
        return self.cell.affine

    @property
    def elementwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The claim of the cell inside."""
        return self.cell.elementwise

    @property
    def noisy(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the cell inside reads keys."""
        return self.cell.noisy

    def inner(self, u: PyTree) -> PyTree:
        """Return the u of the cell inside."""
        return u

    def settle(self, carry: Carry, next_carry: Carry, u: PyTree) -> Carry:
        """Return the carry after a step of the cell inside from ``carry`` to ``next_carry``."""
        del carry, u
        return next_carry

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the params of the cell inside."""
        return self.cell.init(key, in_dim)

    def initial_carry(self, params: Params) -> Carry:
        """Return the initial carry of the cell inside."""
        return self.cell.initial_carry(params)

    def encode(self, params: Params, x: PyTree) -> PyTree:
        """Encode as the cell inside does."""
        return self.cell.encode(params, feed(self.cell, x))

    def step(self, params: Params, carry: Carry, u: PyTree) -> Carry:
        """Step as the cell inside does, then settle."""
        return self.settle(carry, self.cell.step(params, carry, self.inner(u)), u)

    def readout(self, params: Params, carry: Carry, u: PyTree) -> PyTree:
        """Read out as the cell inside does."""
        return self.cell.readout(params, carry, self.inner(u))

    def gates(self, params: Params, carry: Carry, u: PyTree) -> dict[str, Array]:
        """Return the gates of the cell inside."""
        return self.cell.gates(params, carry, self.inner(u))

    def gated(self) -> Gated | None:
        """Return the parts of the cell inside, the update settled."""
        gated = self.cell.gated()
        if gated is None:
            return None

        def mix(params: Params, h: PyTree, u: PyTree) -> PyTree:
            return gated.mix(params, h, self.inner(u))

        def update(params: Params, carry: Carry, u: PyTree, r: PyTree) -> Carry:
            return self.settle(carry, gated.update(params, carry, self.inner(u), r), u)

        return Gated(gated.hidden, mix, update)

    def input_shapes(self, params: Params) -> PyTree | None:
        """Return what the cell inside reads."""
        return self.cell.input_shapes(params)

    def sequence_noise(self, key: Key, params: Params) -> dict[str, PyTree]:
        """Return what the cell inside draws."""
        return self.cell.sequence_noise(key, params)

    def context_shapes(self) -> dict[str, PyTree]:
        """Return what the cell inside reads."""
        return self.cell.context_shapes()


class Beside(NamedTuple):
    """The u of the cell inside a wrapper, with what the wrapper itself needs beside it."""

    u: PyTree
    own: Any
