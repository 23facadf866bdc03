"""The independently recurrent network."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cells.dense import HiddenVector
from rnnjax.initializers import GradientRange, Initializer


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndRNN(HiddenVector):
    """Units that see themselves alone (Li et al. 2018): h_t = φ(x_t W_x + b + a ⊙ h_{t−1}).

    Without a recurrent kernel it is no gated cell, but an elementwise one; stack layers to mix
    units. The paper bounds |a| in training as well, which is left to the optimiser here.
    Parameters: ``w_x`` (D, N), ``a`` (N,), ``b`` (N,). The carry and the output are h (N,).

    Args:
        activation: φ, an elementwise function; a module-level one, so that equal cells are equal.
        recurrent_init: initialiser of a; U[0, 1] by default. For gradients that neither vanish nor
            explode over T steps: ``GradientRange(T, low, high)``.

    Example:
        >>> import jax, rnnjax
        >>> kept = rnnjax.initializers.GradientRange(steps=784, low=0.5, high=2.0)
        >>> cell = rnnjax.IndRNN(8, recurrent_init=kept)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> params["a"].shape, ys.shape
        ((8,), (5, 2, 8))
    """

    activation: Callable[[Array], Array] = jax.nn.relu
    recurrent_init: Initializer = GradientRange()

    gate_order: ClassVar[str] = "h"
    elementwise: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        checks.function("IndRNN", "activation", self.activation)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        k_dense, k_a = jax.random.split(key)
        a = self.recurrent_init(k_a, (self.size,), self.param_dtype)
        return {**super().init(k_dense, in_dim), "a": a}

    def step(self, params: Params, carry: Array, u: Array) -> Array:
        """Return φ(u + a ⊙ h)."""
        return self.activation(u + params["a"].astype(carry.dtype) * carry)
