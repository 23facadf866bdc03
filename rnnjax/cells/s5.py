"""The simplified state space layer (S5)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cells.diagonal import DiagonalStateSpace


@dataclasses.dataclass(frozen=True, kw_only=True)
class S5(DiagonalStateSpace):
    """Diagonal state space with many inputs and outputs (Smith et al. 2023).

    dh/dt = Λ ⊙ h + x W_x, sampled with x held for Δ (zero-order hold):

    h_t = λ ⊙ h_{t−1} + (λ − 1) / Λ ⊙ (x_t W_x),  λ = exp(Λ ⊙ Δ)
    y_t = 2 Re(h_t W_y) + d ⊙ x_t

    Λ starts as the eigenvalues of HiPPO-N, the normal part of the HiPPO-LegS matrix, W_x and W_y in
    its eigenvectors. It is real, so its eigenvalues are conjugate pairs: one of each pair is kept,
    and 2 Re stands for the other. Λ = −exp(log_decay) + i · frequency stays stable in training,
    where the paper learns the real part as it is. The nonlinearity stands around the cell.
    Parameters: ``log_decay``, ``frequency``, ``log_dt`` (N,), ``w_x`` (D, 2N), ``w_y`` (2N, D),
    each [real, imaginary], and ``d`` (D,). The carry is h (N,), complex; the output is y (D,).

    Args:
        size: N, the number of complex states, one of each conjugate pair.
        blocks: how many HiPPO-N matrices of size 2N / blocks Λ starts as; divides N.
        dt_min: the least step Δ at initialisation, in steps of the input; log Δ is uniform.
        dt_max: the greatest.

    Raises:
        ValueError: when ``blocks`` does not divide ``size``, or unless 0 < dt_min < dt_max, for
            which |λ| < 1.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.S5(8, blocks=2)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((5, 2, 4))
        >>> h, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Associative())
        >>> h.shape, ys.shape
        ((2, 8), (5, 2, 4))
    """

    blocks: int = 1
    dt_min: float = 0.001
    dt_max: float = 0.1

    output_scale: ClassVar[float] = 2.0

    def __post_init__(self):
        super().__post_init__()
        checks.positive_int("S5", "blocks", self.blocks)
        for name in ("dt_min", "dt_max"):
            checks.number("S5", name, getattr(self, name))
        if self.size % self.blocks:
            raise ValueError(
                f"S5: blocks must divide size = {self.size}; got {self.blocks}. Use blocks=1, or "
                f"another size."
            )
        if not 0 < self.dt_min < self.dt_max:
            raise ValueError(
                f"S5: |λ| = exp(Re Λ · Δ) must start inside the unit disc, 0 < dt_min < dt_max; "
                f"got dt_min = {self.dt_min}, dt_max = {self.dt_max}."
            )

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        features, dtype = checks.features("S5", in_dim), self.param_dtype
        k_x, k_y, k_d, k_dt = jax.random.split(key, 4)
        eigenvalues, vectors = hippo_normal(2 * self.size // self.blocks)
        half = eigenvalues.size
        shape = self.blocks, 2 * half
        into = jax.random.normal(k_x, (features, *shape), dtype) / features**0.5
        out = jax.random.normal(k_y, (*shape, features), dtype) / (2 * self.size) ** 0.5
        w_x = _complex_product("dbp,ph->dbh", into, vectors.conj())
        w_y = _complex_product("bpd,ph->bhd", out, vectors)
        log_dt = np.log([self.dt_min, self.dt_max])
        return {
            "log_decay": jnp.tile(jnp.asarray(np.log(-eigenvalues.real), dtype), self.blocks),
            "frequency": jnp.tile(jnp.asarray(eigenvalues.imag, dtype), self.blocks),
            "log_dt": jax.random.uniform(k_dt, (self.size,), dtype, *log_dt),
            "w_x": jnp.concatenate([w.reshape(features, self.size) for w in w_x], axis=1),
            "w_y": jnp.concatenate([w.reshape(self.size, features) for w in w_y]),
            "d": jax.random.normal(k_d, (features,), dtype),
        }

    def eigenvalues(self, params: Params) -> Array:
        """Return λ (N,)."""
        return jnp.exp(self._continuous(params)[1])

    def input_scale(self, params: Params) -> Array:
        """Return (λ − 1) / Λ (N,)."""
        rate, exponent = self._continuous(params)
        return jnp.expm1(exponent) / rate

    def _continuous(self, params: Params) -> tuple[Array, Array]:
        """Return Λ and Λ ⊙ Δ (N,), complex."""
        names = ("log_decay", "frequency", "log_dt")
        decay, frequency, log_dt = (params[name].astype(self._wide(params)) for name in names)
        rate = jax.lax.complex(-jnp.exp(decay), frequency)
        return rate, rate * jnp.exp(log_dt).astype(rate.dtype)


def hippo_normal(size: int) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return eigenvalues (P / 2,), of positive frequency, and eigenvectors (P, P / 2) of HiPPO-N.

    A = −½ I − S with the skew-symmetric S_nk = ±√((n + ½)(k + ½)), + for n > k (Gu et al. 2022).

    Args:
        size: P, even.

    Example:
        >>> eigenvalues, vectors = hippo_normal(4)
        >>> eigenvalues.real.tolist(), vectors.shape
        ([-0.5, -0.5], (4, 2))
    """
    root = np.sqrt(np.arange(size) + 0.5)
    skew = np.outer(root, root) * np.sign(np.subtract.outer(np.arange(size), np.arange(size)))
    # i S is Hermitian, so its eigenvalues are real: S v = −i w v, and A v = (−½ + i w) v.
    frequencies, vectors = np.linalg.eigh(1j * skew)
    return -0.5 + 1j * frequencies[size // 2 :], vectors[:, size // 2 :]


def _complex_product(indices: str, real: Array, matrix: NDArray[np.complex128]) -> list[Array]:
    """Return the real and the imaginary part of a product of a real and a complex array."""
    return [
        jnp.einsum(indices, real, jnp.asarray(part, real.dtype))
        for part in (matrix.real, matrix.imag)
    ]
