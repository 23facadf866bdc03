"""The continuous-time (leaky) network."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cell import GatedCell
from rnnjax.cells.dense import Dense, HiddenVector


@dataclasses.dataclass(frozen=True, kw_only=True)
class CTRNN(HiddenVector, Dense, GatedCell):
    """Continuous-time RNN of leaky units (Funahashi & Nakamura 1993), one step of dt at a time.

    τ dh/dt = −h + φ(x W_x + h W_h + b)
    h_t = h_{t−1} + α ⊙ (φ(x_t W_x + h_{t−1} W_h + b) − h_{t−1}),  α = 1 − exp(−dt / τ)

    The step is exact where φ(…) stays the same for dt, so it is stable for every dt, and stays so
    while τ is trained. Euler's α = dt / τ' of the literature, as in Song et al. 2016, is its first
    order, and the same step with τ = −dt / log(1 − dt / τ'). Parameters: ``w_x`` (D, N), ``w_h``
    (N, N), ``b`` (N,), ``log_tau`` (N,). The carry and the output are h (N,), the rates.

    Args:
        dt: the time between two steps, in the unit of τ.
        tau: the time constants that ``init`` writes: one number, or a pair (low, high) between
            which log τ is uniform.
        activation: φ, an elementwise function; a module-level one, so that equal cells are equal.

    Raises:
        ValueError: when ``dt`` or ``tau`` is not greater than zero, or low is above high.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.CTRNN(8, dt=1.0, tau=(5.0, 100.0))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> ys.shape
        (5, 2, 8)
    """

    dt: float = 1.0
    tau: float | tuple[float, float] = 10.0
    activation: Callable[[Array], Array] = jnp.tanh

    gate_order: ClassVar[str] = "h"

    def __post_init__(self):
        super().__post_init__()
        checks.function("CTRNN", "activation", self.activation)
        checks.positive_number("CTRNN", "dt", self.dt)
        if len(self.tau_range) != 2:
            raise ValueError(
                f"CTRNN: tau must be one number or a pair (low, high); got {self.tau}."
            )
        low, high = self.tau_range
        checks.positive_number("CTRNN", "tau", low)
        checks.positive_number("CTRNN", "tau", high)
        if low > high:
            raise ValueError(f"CTRNN: tau must be a pair (low, high); got {self.tau}.")

    @property
    def tau_range(self) -> tuple[float, float]:
        """The least and the greatest time constant that ``init`` writes."""
        return self.tau if isinstance(self.tau, tuple) else (self.tau, self.tau)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        k_dense, k_tau = jax.random.split(key)
        low, high = np.log(self.tau_range)
        log_tau = jax.random.uniform(k_tau, (self.size,), self.param_dtype, low, high)
        return {**super().init(k_dense, in_dim), "log_tau": log_tau}

    def update(self, params: Params, carry: Array, u: Array, r: Array) -> Array:
        """Return h + α ⊙ (φ(u + r) − h)."""
        decay = self.dt * jnp.exp(-params["log_tau"].astype(carry.dtype))
        return carry - jnp.expm1(-decay) * (self.activation(u + r) - carry)
