"""What the classic cells share: dense kernels from the input and the hidden vector to G gates."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, DTypeLike, InDim, Key, Params
from rnnjax.cell import Cell, carry_dtype, product
from rnnjax.initializers import Constant, GlorotUniform, Initializer, Orthogonal, per_gate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dense(Cell):
    """u = x W_x + b with params ``w_x`` (D, G·N), ``w_h`` (N, G·N) and ``b`` (G·N,).

    Args:
        size: N, the number of hidden units.
        kernel_init: initialiser of each gate's (D, N) block of W_x.
        recurrent_kernel_init: initialiser of each gate's (N, N) block of W_h.
        bias_init: initialiser of b.
        dtype: compute dtype of products and outputs; None: that of the parameters.
        param_dtype: dtype of the parameters.
    """

    size: int = dataclasses.field(kw_only=False)
    kernel_init: Initializer = GlorotUniform()
    recurrent_kernel_init: Initializer = Orthogonal()
    bias_init: Initializer = Constant(0.0)
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = "float32"

    gate_count: ClassVar[int]

    def __post_init__(self):
        checks.positive_int(type(self).__name__, "size", self.size)
        for name in ("kernel_init", "recurrent_kernel_init", "bias_init"):
            checks.function(type(self).__name__, name, getattr(self, name))
        if self.param_dtype is None:
            raise TypeError(f"{type(self).__name__}: param_dtype must be a dtype; got None.")
        for name in ("dtype", "param_dtype"):
            dtype = checks.inexact_dtype(type(self).__name__, name, getattr(self, name))
            object.__setattr__(self, name, dtype)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw ``w_x``, ``w_h`` and ``b``.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        features = checks.features(type(self).__name__, in_dim)
        n, g, dtype = self.size, self.gate_count, self.param_dtype
        k_x, k_h, k_b = jax.random.split(key, 3)
        return {
            "w_x": per_gate(self.kernel_init, k_x, (features, n), g, dtype),
            "w_h": per_gate(self.recurrent_kernel_init, k_h, (n, n), g, dtype),
            "b": self.init_bias(k_b),
        }

    def init_bias(self, key: Key) -> Array:
        """Draw b (G·N,)."""
        return self.bias_init(key, (self.gate_count * self.size,), self.param_dtype)

    def compute_dtype(self, params: Params) -> jnp.dtype:
        """Return the dtype of products and outputs."""
        return jnp.dtype(self.dtype or params["w_x"].dtype)

    def zeros(self, params: Params) -> Array:
        """Return a zero hidden vector (N,) in the dtype of the carry."""
        return jnp.zeros((self.size,), carry_dtype(self.compute_dtype(params)))

    def encode(self, params: Params, x: Array) -> Array:
        """Return u = x W_x + b, (D,) → (G·N,), in the dtype of the carry."""
        u = product(x, params["w_x"].astype(self.compute_dtype(params)))
        return u + params["b"].astype(u.dtype)

    def recurrent_kernel(self, params: Params) -> Array:
        """Return W_h (N, G·N) in the compute dtype."""
        return params["w_h"].astype(self.compute_dtype(params))

    def input_shapes(self, params: Params) -> jax.ShapeDtypeStruct:
        """Return (D,), floating point."""
        return jax.ShapeDtypeStruct((params["w_x"].shape[0],), self.compute_dtype(params))
