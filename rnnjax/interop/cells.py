"""Cells of Linen, NNX, Haiku and Equinox as cells of rnnjax, which run under every strategy."""

import abc
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, InDim, Key, Params, PyTree
from rnnjax.cell import Cell, carry_dtype


class PeerCell(Cell):
    """A cell whose one call gives the next carry and the output, which is a leaf of that carry."""

    @abc.abstractmethod
    def call(self, params: Params, carry: Carry, x: PyTree) -> tuple[Carry, Array]:
        """Return the next carry and the output of the peer's cell."""

    def step(self, params: Params, carry: Carry, u: PyTree) -> Carry:
        """Return the next carry."""
        return self.call(_own(params), carry, u)[0]

    def readout(self, params: Params, carry: Carry, u: PyTree) -> Array:
        """Return the leaf of the carry that is the output.

        Raises:
            ValueError: when the output is no leaf of the carry.
        """
        leaves = jax.tree.leaves(carry)
        *variables, output = jax.make_jaxpr(self.call)(_own(params), carry, u).jaxpr.outvars
        if len(variables) != len(leaves) or output not in variables:
            raise ValueError(
                f"{checks.describe(self)}: the output must be one array that is a leaf of the "
                f"carry, because rnnjax reads outputs out of the carry. Let the cell put its "
                f"output into the carry."
            )
        return leaves[variables.index(output)]


def _own(params: Params) -> Params:
    """Return the params without the context, which no peer's cell reads."""
    return {name: leaf for name, leaf in params.items() if name != "context"}


def _zeros(in_dim: InDim) -> PyTree:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), checks.as_shapes(in_dim))


@dataclasses.dataclass(frozen=True)
class LinenCell(PeerCell):
    """A cell of Flax Linen: a module with ``initialize_carry`` that maps (carry, x) to (carry, y).

    Params are what stands under ``"params"`` in the module's variables, so trained ones can be
    passed as they are. The carry is the module's own.

    Args:
        module: the module, ``flax.linen.LSTMCell(64)``; in a dataclass, compared by value.
        spatial: what comes before the features in the shape of one x_t: ``(height, width)`` for
            ``ConvLSTMCell``.

    Example:
        >>> import flax.linen, jax, rnnjax
        >>> cell = rnnjax.interop.LinenCell(flax.linen.MGUCell(8))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs, lengths = jax.numpy.ones((5, 2, 4)), jax.numpy.array([5, 2])
        >>> h, ys = rnnjax.scan(cell, params, xs, lengths=lengths, strategy=rnnjax.Chunked())
        >>> h.shape, ys.shape
        ((2, 8), (5, 2, 8))
    """

    module: Any
    spatial: tuple[int, ...] = ()

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the module's params.

        Raises:
            ValueError: when the module has variables that are no params.
        """
        variables = self.module.init(key, self.initial_carry({}), _zeros(in_dim))
        if set(variables) != {"params"}:
            raise ValueError(
                f"LinenCell: module must have params alone, because a step is pure; got the "
                f"collections {sorted(variables)}."
            )
        return dict(variables["params"])

    def initial_carry(self, params: Params) -> Carry:
        """Return the module's initial carry."""
        del params
        return self.module.initialize_carry(jax.random.key(0), (*self.spatial, 1))

    def call(self, params: Params, carry: Carry, x: PyTree) -> tuple[Carry, Array]:
        """Apply the module."""
        return self.module.apply({"params": params}, carry, x)


@dataclasses.dataclass(frozen=True)
class _Built(PeerCell):
    """A cell that is built from a class, N and options, as no instance compares by value."""

    kind: Callable[..., Any]
    size: int
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        checks.function(type(self).__name__, "kind", self.kind)
        checks.positive_int(type(self).__name__, "size", self.size)


@dataclasses.dataclass(frozen=True)
class NNXCell(_Built):
    """A cell of Flax NNX: a module with ``initialize_carry`` that maps (carry, x) to (carry, y).

    Params are the pure dict of the module's ``nnx.Param``s, so those of a trained module are
    ``nnx.to_pure_dict(nnx.state(module, nnx.Param))``. The carry is the module's own.

    Args:
        kind: its class, called as ``kind(in_features, size, rngs=…, **options)``.
        size: N, the number of hidden units.
        options: pairs of names and values, ``(("activation_fn", jax.nn.relu),)``.

    Example:
        >>> import jax, rnnjax
        >>> from flax import nnx
        >>> cell = rnnjax.interop.NNXCell(nnx.OptimizedLSTMCell, 8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> (c, h), ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> h.shape, ys.shape
        ((2, 8), (5, 2, 8))
    """

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the module's params.

        Raises:
            ValueError: when the module has variables that are no ``nnx.Param``.
        """
        nnx = importlib.import_module("flax.nnx")
        module = self._build(checks.features("NNXCell", in_dim), nnx.Rngs(key))
        _, params, rest = nnx.split(module, nnx.Param, ...)
        if jax.tree.leaves(rest):
            raise ValueError(
                f"NNXCell: kind must have variables of nnx.Param alone, because a step is pure; "
                f"got {sorted(map(str, nnx.to_pure_dict(rest)))} too."
            )
        return nnx.to_pure_dict(params)

    def initial_carry(self, params: Params) -> Carry:
        """Return the module's initial carry."""
        del params
        nnx = importlib.import_module("flax.nnx")
        return self._abstract(1).initialize_carry((1,), rngs=nnx.Rngs(0))

    def call(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Call the module."""
        nnx = importlib.import_module("flax.nnx")
        graph, state = nnx.split(self._abstract(x.shape[-1]))
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(carry, x)

    def _build(self, in_features: int, rngs: Any) -> Any:
        return self.kind(in_features, self.size, rngs=rngs, **dict(self.options))

    def _abstract(self, in_features: int) -> Any:
        """Return the module with shapes in place of arrays."""
        nnx = importlib.import_module("flax.nnx")
        return nnx.eval_shape(lambda: self._build(in_features, nnx.Rngs(0)))


@dataclasses.dataclass(frozen=True)
class HaikuCell(_Built):
    """A core of Haiku: a module with ``initial_state`` that maps (x, state) to (y, state).

    Params are what ``init`` of the transformed core returns; the carry is its state.

    Args:
        kind: its class, called as ``kind(size, **options)``.
        size: N, the number of hidden units.
        options: pairs of names and values, ``(("double_bias", False),)``.

    Example:
        ``rnnjax.interop.HaikuCell(haiku.LSTM, 64)``
    """

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the core's params."""
        return self._transformed().init(key, _zeros(in_dim), self.initial_carry({}))

    def initial_carry(self, params: Params) -> Carry:
        """Return the core's initial state."""
        del params
        haiku = importlib.import_module("haiku")
        return haiku.transform(lambda: self._core().initial_state(None)).apply({}, None)

    def call(self, params: Params, carry: Carry, x: PyTree) -> tuple[Carry, Array]:
        """Apply the core."""
        y, carry = self._transformed().apply(params, x, carry)
        return carry, y

    def _core(self) -> Any:
        return self.kind(self.size, **dict(self.options))

    def _transformed(self) -> Any:
        haiku = importlib.import_module("haiku")
        return haiku.without_apply_rng(haiku.transform(lambda x, state: self._core()(x, state)))


@dataclasses.dataclass(frozen=True)
class EquinoxCell(_Built):
    """A cell of Equinox: a module that maps (x, carry) to the carry.

    Params are ``{"module": module}``, so a trained module is passed so. The carry of ``LSTMCell``
    is (h, c), that of any other cell h (N,); the output is h.

    Args:
        kind: its class, called as ``kind(in_features, size, key=…, **options)``.
        size: N, the number of hidden units.
        options: pairs of names and values, ``(("use_bias", False),)``.

    Example:
        ``rnnjax.interop.EquinoxCell(equinox.nn.LSTMCell, 64)``
    """

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw a module."""
        in_features = checks.features("EquinoxCell", in_dim)
        return {"module": self.kind(in_features, self.size, key=key, **dict(self.options))}

    def initial_carry(self, params: Params) -> Carry:
        """Return zeros for h, or for (h, c)."""
        zeros = jnp.zeros((self.size,), carry_dtype(jax.tree.leaves(params)[0].dtype))
        pair = self.kind is importlib.import_module("equinox").nn.LSTMCell
        return (zeros, zeros) if pair else zeros

    def call(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Call the module."""
        carry = params["module"](x, carry)
        return carry, jax.tree.leaves(carry)[0]
