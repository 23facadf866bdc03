"""Connections around a cell."""

import dataclasses

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, InDim, Key, Params, PyTree
from rnnjax.cell import Keyed, product
from rnnjax.initializers import GlorotUniform
from rnnjax.wrappers.base import Beside, Wrapper


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
class Highway(Wrapper):
    """Let a gate choose between output and input (Srivastava et al. 2015, "Highway Networks").

    t_t = σ(x_t W_t + b_t),  y_t = t_t ⊙ readout(h_t) + (1 − t_t) ⊙ x_t

    The input must have the shape of the output, (…, N). The gate has the leaves ``highway_w``
    (N, N) and ``highway_b`` (N,), beside those of the cell inside.

    Args:
        cell: the cell inside.
        bias: what ``init`` writes into b_t; below 0 the input is carried at first, as in the paper.

    Raises:
        ValueError: when the input does not have the shape of the output, before the first step.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.Highway(rnnjax.GRU(4))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((3, 2, 4)))
        >>> params["highway_w"].shape, ys.shape
        ((4, 4), (3, 2, 4))
    """

    bias: float = -1.0

    def inner(self, u: Beside) -> PyTree:
        """Return the u of the cell inside."""
        return u.u

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the params of the cell inside, and those of the gate."""
        k_cell, k_gate = jax.random.split(key)
        size = checks.as_shapes(in_dim).shape[-1]
        return {
            **super().init(k_cell, in_dim),
            "highway_w": GlorotUniform()(k_gate, (size, size), "float32"),
            "highway_b": jnp.full((size,), self.bias, "float32"),
        }

    def encode(self, params: Params, x: PyTree) -> Beside:
        """Keep x and the gate beside the u of the cell inside."""
        bare = x.x if isinstance(x, Keyed) else x
        r = product(bare, params["highway_w"])
        gate = jax.nn.sigmoid(r + params["highway_b"].astype(r.dtype))
        return Beside(super().encode(params, x), (bare, gate))

    def readout(self, params: Params, carry: Carry, u: Beside) -> Array:
        """Return the output of the cell inside and x as the gate has it, in the output's dtype."""
        y = super().readout(params, carry, u)
        x, gate = u.own
        checks.same_shapes("Highway", "the input", x, "the output", y)
        gate = gate.astype(y.dtype)
        return gate * y + (1 - gate) * x.astype(y.dtype)
