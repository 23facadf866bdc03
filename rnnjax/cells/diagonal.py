"""What diagonal state spaces share: a complex state, read in and read out by dense matrices."""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, DTypeLike, Params
from rnnjax.cell import Cell, carry_dtype, product


class StateInput(NamedTuple):
    """What a step adds to the state (N,), complex, and the input x_t (D,) for the output."""

    state: Array
    x: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiagonalStateSpace(Cell):
    """h_t = λ ⊙ h_{t−1} + κ ⊙ (x_t W_x),  y_t = s · Re(h_t W_y) + d ⊙ x_t, with a complex h (N,).

    A subclass says what λ and κ are made of. Parameters: ``w_x`` (D, 2N) and ``w_y`` (2N, D), the
    complex matrices as [real, imaginary], because optimisers treat a complex number as one; ``d``
    (D,). The output is as wide as the input.

    Args:
        size: N, the number of complex states.
        dtype: compute dtype of products and outputs; None: that of the parameters.
        param_dtype: dtype of the parameters.
    """

    size: int = dataclasses.field(kw_only=False)
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = "float32"

    affine: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    output_scale: ClassVar[float] = 1.0
    """s."""

    def __post_init__(self):
        name = type(self).__name__
        checks.positive_int(name, "size", self.size)
        if self.param_dtype is None:
            raise TypeError(f"{name}: param_dtype must be a dtype; got None.")
        for field in ("dtype", "param_dtype"):
            dtype = checks.inexact_dtype(name, field, getattr(self, field))
            object.__setattr__(self, field, dtype)

    @abc.abstractmethod
    def eigenvalues(self, params: Params) -> Array:
        """Return λ (N,), complex."""

    @abc.abstractmethod
    def input_scale(self, params: Params) -> Array:
        """Return κ (N,)."""

    def initial_carry(self, params: Params) -> Array:
        """Return zeros (N,), complex."""
        zeros = jnp.zeros((self.size,), self._wide(params))
        return jax.lax.complex(zeros, zeros)

    def encode(self, params: Params, x: Array) -> StateInput:
        """Return κ ⊙ (x W_x), and x."""
        dtype = self._compute_dtype(params)
        read = jax.lax.complex(*jnp.split(product(x, params["w_x"].astype(dtype)), 2))
        return StateInput(self.input_scale(params).astype(read.dtype) * read, x)

    def step(self, params: Params, carry: Array, u: StateInput) -> Array:
        """Return λ ⊙ h + κ ⊙ (x W_x)."""
        return self.eigenvalues(params) * carry + u.state

    def readout(self, params: Params, carry: Array, u: StateInput) -> Array:
        """Return s · Re(h W_y) + d ⊙ x, (D,), in the compute dtype."""
        dtype = self._compute_dtype(params)
        # Re((a + i b)(c + i d)) = a c − b d: the minus is taken here, so that w_y is W_y.
        parts = jnp.concatenate([carry.real, -carry.imag])
        y = self.output_scale * product(parts, params["w_y"].astype(dtype))
        return (y + params["d"].astype(y.dtype) * u.x.astype(y.dtype)).astype(dtype)

    def input_shapes(self, params: Params) -> jax.ShapeDtypeStruct:
        """Return (D,), floating point."""
        return jax.ShapeDtypeStruct((params["w_x"].shape[0],), self._compute_dtype(params))

    def _compute_dtype(self, params: Params) -> jnp.dtype:
        return jnp.dtype(self.dtype or params["w_x"].dtype)

    def _wide(self, params: Params) -> jnp.dtype:
        return carry_dtype(self._compute_dtype(params))


def polar(log_radius: Array, phase: Array) -> Array:
    """Return exp(log_radius + i · phase).

    Example:
        >>> import jax.numpy as jnp
        >>> complex(polar(jnp.zeros(()), jnp.zeros(())))
        (1+0j)
    """
    return jnp.exp(jax.lax.complex(log_radius, phase))
