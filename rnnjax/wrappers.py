"""Cells made of cells. Each hands on the claims and ``gated()``, and so runs in every way."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, InDim, Key, Params, PyTree
from rnnjax.cell import Cell, Gated, Keyed, feed, hand_down, row_shapes, with_context


@dataclasses.dataclass(frozen=True)
class Wrapper(Cell):
    """A cell around a cell: everything is the inner one's but what a subclass says otherwise.

    Except ``layers()`` and ``operator()``: a wrapper runs as one cell, whose step is its own. It
    uses the params of the cell inside as they are, with leaves of its own beside them. A subclass
    that adds to u overrides ``encode`` and ``inner``, and one that changes what a step leaves
    behind overrides ``settle``; step and ``gated()`` follow. Where that breaks a claim of the cell
    inside, it says so: ``affine = False``.
    """

    cell: Cell

    def __post_init__(self):
        checks.instance(type(self).__name__, "cell", self.cell, Cell, "rnnjax.LSTM(64)")

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

    def context_shapes(self) -> dict[str, PyTree]:
        """Return what the cell inside reads."""
        return self.cell.context_shapes()


class Beside(NamedTuple):
    """The u of the cell inside a wrapper, with what the wrapper itself needs beside it."""

    u: PyTree
    own: Any


@dataclasses.dataclass(frozen=True)
class Residual(Wrapper):
    """Add the input to the output: y_t = readout(h_t) + x_t.

    The input must have the shape of the output.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.Residual(rnnjax.GRU(4))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((3, 2, 4)))
        >>> ys.shape
        (3, 2, 4)
    """

    def inner(self, u: Beside) -> PyTree:
        """Return the u of the cell inside."""
        return u.u

    def encode(self, params: Params, x: PyTree) -> Beside:
        """Keep x beside the u of the cell inside."""
        return Beside(super().encode(params, x), x.x if isinstance(x, Keyed) else x)

    def readout(self, params: Params, carry: Carry, u: Beside) -> PyTree:
        """Return the output of the cell inside plus x, in the output's dtype.

        Raises:
            ValueError: when the shapes differ.
        """
        y = super().readout(params, carry, u)
        checks.same_shapes("Residual", "the input", u.own, "the output", y)
        return jax.tree.map(lambda y, x: y + x.astype(y.dtype), y, u.own)


@dataclasses.dataclass(frozen=True)
class Zoneout(Wrapper):
    """Keep each entry of the carry as it was with probability ``rate`` (Krueger et al. 2017).

    h_t = m ⊙ h_{t−1} + (1 − m) ⊙ step(h_{t−1}, u_t),  m ~ Bernoulli(rate)

    With keys (``rnnjax.with_keys``) m is drawn afresh for each step, row and entry; without, m is
    its mean, the paper's form for evaluation. Leaves of the carry that are not floating point or
    complex take the step as it is.

    Args:
        cell: the cell inside.
        rate: a probability for the whole carry, or a tuple of one for each leaf of the carry, in
            the order of ``jax.tree.leaves`` (the paper's LSTM: ``(0.5, 0.05)`` for c and h).

    Raises:
        ValueError: when a rate is outside [0, 1), or their number is not that of the leaves.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.Zoneout(rnnjax.LSTM(8), rate=(0.5, 0.05))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((5, 2, 4))
        >>> carry, ys = rnnjax.scan(cell, params, rnnjax.with_keys(jax.random.key(1), xs))
        >>> carry, ys_of_evaluation = rnnjax.scan(cell, params, xs)
        >>> ys.shape
        (5, 2, 8)
    """

    rate: float | tuple[float, ...] = 0.1

    @property
    def noisy(self) -> bool:
        """True: m is drawn from keys."""
        return True

    def __post_init__(self):
        super().__post_init__()
        for rate in self.rate if isinstance(self.rate, tuple) else (self.rate,):
            checks.probability("Zoneout", "rate", rate)

    def inner(self, u: Beside) -> PyTree:
        """Return the u of the cell inside."""
        return u.u

    def encode(self, params: Params, x: PyTree) -> Beside:
        """Draw m beside the u of the cell inside, where there is a key; else None."""
        if not isinstance(x, Keyed):
            return Beside(super().encode(params, x), None)
        inner = Keyed(x.x, jax.random.fold_in(x.key, 1))
        carry = self.initial_carry(params)
        keys = jax.random.split(jax.random.fold_in(x.key, 0), len(jax.tree.leaves(carry)))
        # A float32 rate, so that the draw is the same whether 64-bit numbers are enabled or not.
        draw = jax.tree.map(
            lambda leaf, rate, key: jax.random.bernoulli(key, np.float32(rate), leaf.shape),
            carry,
            self._rates(carry),
            jax.tree.unflatten(jax.tree.structure(carry), list(keys)),
        )
        return Beside(super().encode(params, inner), draw)

    def settle(self, carry: Carry, next_carry: Carry, u: Beside) -> Carry:
        """Blend the carries before and after the step."""

        def blend(old: Array, new: Array, m: Any) -> Array:
            if not jnp.issubdtype(new.dtype, jnp.inexact):
                return new
            # Selected and not multiplied, so that what is dropped reaches no gradient.
            return m * old + (1 - m) * new if isinstance(m, float) else jnp.where(m, old, new)

        m = self._rates(carry) if u.own is None else u.own
        return jax.tree.map(blend, carry, next_carry, m)

    def _rates(self, carry: Carry) -> PyTree:
        """Return a rate for each leaf of the carry."""
        structure = jax.tree.structure(carry)
        count = structure.num_leaves
        rates = self.rate if isinstance(self.rate, tuple) else (self.rate,) * count
        if len(rates) != count:
            raise ValueError(
                f"Zoneout: rate must be one number or {count}, one for each leaf of the carry of "
                f"{checks.describe(self.cell)}; got {self.rate}."
            )
        return jax.tree.unflatten(structure, [float(rate) for rate in rates])


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
