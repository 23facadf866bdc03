"""What the classic cells share: dense kernels from the input and the hidden vector to G gates."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, DTypeLike, InDim, Key, Params
from rnnjax.cell import Cell, carry_dtype, product
from rnnjax.initializers import (
    Chrono,
    Constant,
    GlorotUniform,
    Initializer,
    Orthogonal,
    per_gate,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseInput(Cell):
    """u = x W_x + b with params ``w_x`` (D, G·N) and ``b`` (G·N,).

    Args:
        size: N, the number of hidden units.
        kernel_init: initialiser of each gate's (D, N) block of W_x.
        bias_init: initialiser of b.
        dtype: compute dtype of products and outputs; None: that of the parameters.
        param_dtype: dtype of the parameters.
    """

    size: int = dataclasses.field(kw_only=False)
    kernel_init: Initializer = GlorotUniform()
    bias_init: Initializer = Constant(0.0)
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = "float32"

    gate_order: ClassVar[str]
    """One letter a block of N, in the order in which the blocks stand."""

    def __post_init__(self):
        checks.positive_int(type(self).__name__, "size", self.size)
        for field in dataclasses.fields(self):
            if field.name.endswith("_init"):
                checks.function(type(self).__name__, field.name, getattr(self, field.name))
        if self.param_dtype is None:
            raise TypeError(f"{type(self).__name__}: param_dtype must be a dtype; got None.")
        for name in ("dtype", "param_dtype"):
            dtype = checks.inexact_dtype(type(self).__name__, name, getattr(self, name))
            object.__setattr__(self, name, dtype)

    @property
    def gate_count(self) -> int:
        """G."""
        return len(self.gate_order)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not of the shape that the cell reads, as a rule one
                positive number of features.
        """
        k_x, k_b = jax.random.split(key)
        return {"w_x": self.init_kernel(k_x, in_dim), "b": self.init_bias(k_b)}

    def init_kernel(self, key: Key, in_dim: InDim) -> Array:
        """Draw W_x (D, G·N)."""
        shape = checks.features(type(self).__name__, in_dim), self.size
        return per_gate(self.kernel_init, key, shape, self.gate_count, self.param_dtype)

    def init_bias(self, key: Key) -> Array:
        """Draw b (G·N,)."""
        return self.bias_init(key, (self.gate_count * self.size,), self.param_dtype)

    def compute_dtype(self, params: Params) -> jnp.dtype:
        """Return the dtype of products and outputs."""
        return jnp.dtype(self.dtype or params["w_x"].dtype)

    def zeros(self, params: Params) -> Array:
        """Return a zero hidden vector (N,) in the dtype of the carry."""
        return jnp.zeros((self.size,), carry_dtype(self.compute_dtype(params)))

    def multiply(self, params: Params, x: Array, name: str) -> Array:
        """Return the product of x with a kernel of the params, taken in the compute dtype."""
        return product(x, params[name].astype(self.compute_dtype(params)))

    def encode(self, params: Params, x: Array) -> Array:
        """Return u = x W_x + b, (D,) → (G·N,), in the dtype of the carry."""
        u = self.multiply(params, x, "w_x")
        return u + params["b"].astype(u.dtype)

    def input_shapes(self, params: Params) -> jax.ShapeDtypeStruct:
        """Return (D,), floating point."""
        return jax.ShapeDtypeStruct((params["w_x"].shape[0],), self.compute_dtype(params))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dense(DenseInput):
    """u = x W_x + b, and a recurrent kernel beside it: ``w_h`` (N, G·N).

    Args:
        recurrent_kernel_init: initialiser of each gate's (N, N) block of W_h.
    """

    recurrent_kernel_init: Initializer = Orthogonal()

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not of the shape that the cell reads, as a rule one
                positive number of features.
        """
        k_x, k_h, k_b = jax.random.split(key, 3)
        return {
            "w_x": self.init_kernel(k_x, in_dim),
            "w_h": self.init_recurrent_kernel(k_h),
            "b": self.init_bias(k_b),
        }

    def init_recurrent_kernel(self, key: Key) -> Array:
        """Draw W_h (N, G·N)."""
        shape = self.size, self.size
        return per_gate(self.recurrent_kernel_init, key, shape, self.gate_count, self.param_dtype)

    def recurrent_kernel(self, params: Params) -> Array:
        """Return W_h (N, G·N) in the compute dtype."""
        return params["w_h"].astype(self.compute_dtype(params))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenVector(DenseInput):
    """A cell whose carry and output are one vector h (N,), zero at first."""

    def initial_carry(self, params: Params) -> Array:
        """Return zeros (N,)."""
        return self.zeros(params)

    def readout(self, params: Params, carry: Array, u: Array) -> Array:
        """Return h in the compute dtype."""
        del u
        return carry.astype(self.compute_dtype(params))


def split_gates(a: Array, order: str) -> dict[str, Array]:
    """Split (…, G·N) into its blocks (…, N), by the letter of the gate."""
    return dict(zip(order, jnp.split(a, len(order), axis=-1), strict=True))


def write_bias(
    b: Array, order: str, key: Key, gate: str, value: float | Chrono, opposite: str = ""
) -> Array:
    """Put a number, or a draw of ``Chrono``, into the block of one gate of b (G·N,).

    Minus the draw of ``Chrono`` goes into the block of the gate that works against it, if any.
    """
    blocks = split_gates(b, order)
    if isinstance(value, Chrono):
        blocks[gate] = value(key, blocks[gate].shape, b.dtype)
        blocks |= dict.fromkeys(opposite, -blocks[gate])
    else:
        blocks[gate] = jnp.full_like(blocks[gate], value)
    return jnp.concatenate(list(blocks.values()))
