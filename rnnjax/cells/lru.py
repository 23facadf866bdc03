"""The linear recurrent unit."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cell import carry_dtype
from rnnjax.cells.diagonal import DiagonalStateSpace, polar


@dataclasses.dataclass(frozen=True, kw_only=True)
class LRU(DiagonalStateSpace):
    """Linear recurrent unit (Orvieto et al. 2023): a complex diagonal matrix on the unit disc.

    h_t = λ ⊙ h_{t−1} + γ ⊙ (x_t W_x),  y_t = Re(h_t W_y) + d ⊙ x_t
    λ = exp(−exp(ν) + i exp(θ)),  γ = exp(log γ)

    |λ| < 1 whatever training does to ν. λ starts uniformly distributed on the ring
    r_min ≤ |λ| ≤ r_max with phases in [0, max_phase], and γ at √(1 − |λ|²), which keeps |h| at the
    size of its input. As in the paper; its nonlinearity and normalisation stand around the cell.
    Parameters: ``nu`` (N,), ``theta`` (N,), ``log_gamma`` (N,), ``w_x`` (D, 2N), ``w_y`` (2N, D),
    each [real, imaginary], and ``d`` (D,). The carry is h (N,), complex; the output is y (D,).

    Args:
        size: N, the number of complex states.
        r_min: the least |λ| at initialisation; near 1 for long dependencies.
        r_max: the greatest |λ| at initialisation.
        max_phase: the greatest phase of λ at initialisation, in radians; small for long sequences.

    Raises:
        ValueError: unless 0 ≤ r_min < r_max ≤ 1, or when ``max_phase`` is not in (0, 2π].

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LRU(8, r_min=0.9, r_max=0.999)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((5, 2, 4))
        >>> h, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Associative())
        >>> h.shape, h.dtype, ys.shape
        ((2, 8), dtype('complex64'), (5, 2, 4))
    """

    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi

    def __post_init__(self):
        super().__post_init__()
        for name in ("r_min", "r_max", "max_phase"):
            checks.number("LRU", name, getattr(self, name))
        if not 0 <= self.r_min < self.r_max <= 1:
            raise ValueError(
                f"LRU: |λ| must start inside the unit disc, 0 ≤ r_min < r_max ≤ 1, or the state "
                f"grows without bound; got r_min = {self.r_min}, r_max = {self.r_max}."
            )
        if not 0 < self.max_phase <= 2 * math.pi:
            raise ValueError(f"LRU: max_phase must be in (0, 2π] radians; got {self.max_phase}.")

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        features, dtype = checks.features("LRU", in_dim), self.param_dtype
        k_radius, k_phase, k_x, k_y, k_d = jax.random.split(key, 5)
        # Of at least float32, or radii near 1 would be drawn as 1.
        wide = carry_dtype(dtype)
        limits = self.r_min**2, self.r_max**2
        tiny = jnp.finfo(wide).eps
        square = jax.random.uniform(k_radius, (self.size,), wide, *limits).clip(tiny, 1 - tiny)
        phase = jax.random.uniform(k_phase, (self.size,), wide, tiny, 1.0) * self.max_phase
        return {
            "nu": jnp.log(-0.5 * jnp.log(square)).astype(dtype),
            "theta": jnp.log(phase).astype(dtype),
            "log_gamma": (0.5 * jnp.log1p(-square)).astype(dtype),
            "w_x": jax.random.normal(k_x, (features, 2 * self.size), dtype) / (2 * features) ** 0.5,
            "w_y": jax.random.normal(k_y, (2 * self.size, features), dtype) / self.size**0.5,
            "d": jax.random.normal(k_d, (features,), dtype),
        }

    def eigenvalues(self, params: Params) -> Array:
        """Return λ (N,)."""
        nu, theta = (params[name].astype(self._wide(params)) for name in ("nu", "theta"))
        return polar(-jnp.exp(nu), jnp.exp(theta))

    def input_scale(self, params: Params) -> Array:
        """Return γ (N,)."""
        return jnp.exp(params["log_gamma"].astype(self._wide(params)))
