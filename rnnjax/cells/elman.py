"""The vanilla recurrent network."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Params
from rnnjax.cell import GatedCell
from rnnjax.cells.dense import Dense, HiddenVector


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elman(HiddenVector, Dense, GatedCell):
    """The vanilla RNN (Elman 1990): h_t = φ(x_t W_x + h_{t−1} W_h + b).

    The output is h_t; y_t = W_hy h_t of the textbooks is a head outside the cell. Parameters:
    ``w_x`` (D, N), ``w_h`` (N, N), ``b`` (N,). The carry is h, (N,).

    Args:
        activation: φ, an elementwise function; a module-level one, so that equal cells are equal.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.Elman(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> h.shape, ys.shape
        ((2, 8), (5, 2, 8))
    """

    activation: Callable[[Array], Array] = jnp.tanh

    gate_order: ClassVar[str] = "h"

    def __post_init__(self):
        super().__post_init__()
        checks.function("Elman", "activation", self.activation)

    def update(self, params: Params, carry: Array, u: Array, r: Array) -> Array:
        """Return φ(u + r)."""
        del params, carry
        return self.activation(u + r)
