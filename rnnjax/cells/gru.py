"""Gated recurrent units: the reset gate after the recurrent product, or before it."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cell import GatedCell, product
from rnnjax.cells.dense import Dense, HiddenVector, split_gates, write_bias
from rnnjax.initializers import Chrono


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateGate(HiddenVector, Dense):
    """A hidden vector of which a gate z keeps a part: h_t = (1 − z) ⊙ n + z ⊙ h_{t−1}.

    Args:
        update_bias: what ``init`` writes into the z block of b: a number, or ``Chrono(t_max)``.
    """

    update_bias: float | Chrono = 0.0

    def __post_init__(self):
        super().__post_init__()
        checks.number_or(type(self).__name__, "update_bias", self.update_bias, Chrono)

    def init_bias(self, key: Key) -> Array:
        """Draw b and write ``update_bias`` into its z block."""
        k_b, k_z = jax.random.split(key)
        return write_bias(super().init_bias(k_b), self.gate_order, k_z, "z", self.update_bias)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResetAfter(UpdateGate, GatedCell):
    """Three gates r, z, n, the reset gate after the product, with a bias ``b_hn`` inside it."""

    gate_order: ClassVar[str] = "rzn"

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters; ``b_hn`` starts at zero.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        return {**super().init(key, in_dim), "b_hn": jnp.zeros((self.size,), self.param_dtype)}

    def recurrent(self, params: Params, r: Array) -> Array:
        """Return the recurrent product (3N,) as the gates read it."""
        del params
        return r

    def update(self, params: Params, carry: Array, u: Array, r: Array) -> Array:
        """Return the next h."""
        r = self.recurrent(params, r)
        reset, z = _gates(u, r)
        n = _block(u, 2) + reset * (_block(r, 2) + params["b_hn"].astype(r.dtype))
        return blend(z, carry, jnp.tanh(n))

    def gates(self, params: Params, carry: Array, u: Array) -> dict[str, Array]:
        """Return r and z, each (N,)."""
        reset, z = _gates(u, self.recurrent(params, self.mix(params, carry, u)))
        return {"r": reset, "z": z}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU(ResetAfter):
    """Gated recurrent unit, the reset gate after the product, as in cuDNN, PyTorch and Flax.

    r = σ(u_r + (h W_h)_r),  z = σ(u_z + (h W_h)_z)
    n = tanh(u_n + r ⊙ ((h W_h)_n + b_hn))
    h_t = (1 − z) ⊙ n + z ⊙ h_{t−1},  u = x_t W_x + b

    Cho et al. 2014 apply r before the product (``GRUResetBefore``); after it, one product serves
    all gates. Parameters: ``w_x`` (D, 3N), ``w_h`` (N, 3N), ``b`` (3N,), ``b_hn`` (N,), gates in
    the order r, z, n. The carry and the output are h (N,).

    Args:
        update_bias: what ``init`` writes into the z block of b: a number, or ``Chrono(t_max)``.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GRU(8, update_bias=rnnjax.initializers.Chrono(100))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> ys.shape
        (5, 2, 8)
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRUResetBefore(UpdateGate):
    """Gated recurrent unit as Cho et al. 2014 wrote it: the reset gate before the product.

    r = σ(u_r + h W_hr),  z = σ(u_z + h W_hz)
    n = tanh(u_n + (r ⊙ h) W_hn)
    h_t = (1 − z) ⊙ n + z ⊙ h_{t−1},  u = x_t W_x + b

    In the paper z and 1 − z stand the other way round. Two products in a row, so it is no gated
    cell. Parameters: ``w_x`` (D, 3N), ``w_h`` (N, 3N), ``b`` (3N,), gates in the order r, z, n. The
    carry and the output are h (N,).

    Args:
        update_bias: what ``init`` writes into the z block of b: a number, or ``Chrono(t_max)``.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GRUResetBefore(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> ys.shape
        (5, 2, 8)
    """

    gate_order: ClassVar[str] = "rzn"

    def step(self, params: Params, carry: Array, u: Array) -> Array:
        """Return the next h."""
        reset, z = self._gates(params, carry, u)
        kernel = self.recurrent_kernel(params)[:, 2 * self.size :]
        return blend(z, carry, jnp.tanh(_block(u, 2) + product(reset * carry, kernel)))

    def gates(self, params: Params, carry: Array, u: Array) -> dict[str, Array]:
        """Return r and z, each (N,)."""
        reset, z = self._gates(params, carry, u)
        return {"r": reset, "z": z}

    def _gates(self, params: Params, carry: Array, u: Array) -> tuple[Array, Array]:
        kernel = self.recurrent_kernel(params)[:, : 2 * self.size]
        return _gates(u, product(carry, kernel))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiGRU(UpdateGate, GatedCell):
    """Light GRU (Ravanelli et al. 2018): no reset gate, and rectified candidates.

    z = σ(u_z + (h W_h)_z),  n = relu(u_n + (h W_h)_n)
    h_t = (1 − z) ⊙ n + z ⊙ h_{t−1},  u = x_t W_x + b

    The paper normalises x_t W_x over the batch, which a cell does not see: normalise the inputs, or
    keep gradients in bounds by clipping. Parameters: ``w_x`` (D, 2N), ``w_h`` (N, 2N), ``b``
    (2N,), in the order z, n. The carry and the output are h (N,).

    Args:
        update_bias: what ``init`` writes into the z block of b: a number, or ``Chrono(t_max)``.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LiGRU(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> ys.shape
        (5, 2, 8)
    """

    gate_order: ClassVar[str] = "zn"

    def update(self, params: Params, carry: Array, u: Array, r: Array) -> Array:
        """Return the next h."""
        del params
        blocks = split_gates(u + r, self.gate_order)
        return blend(jax.nn.sigmoid(blocks["z"]), carry, jax.nn.relu(blocks["n"]))

    def gates(self, params: Params, carry: Array, u: Array) -> dict[str, Array]:
        """Return z (N,)."""
        z = split_gates(u + self.mix(params, carry, u), self.gate_order)["z"]
        return {"z": jax.nn.sigmoid(z)}


def _block(a: Array, k: int) -> Array:
    """Return the k-th of three blocks r, z, n."""
    n = a.shape[-1] // 3
    return a[..., k * n : (k + 1) * n]


def _gates(u: Array, r: Array) -> tuple[Array, Array]:
    """Return σ of the r and z blocks of u (3N,) + r (at least 2N,)."""
    n = u.shape[-1] // 3
    reset, z = jnp.split(jax.nn.sigmoid(u[..., : 2 * n] + r[..., : 2 * n]), 2, axis=-1)
    return reset, z


def blend(z: Array, h: Array, n: Array) -> Array:
    """Return (1 − z) ⊙ n + z ⊙ h."""
    return (1.0 - z) * n + z * h
