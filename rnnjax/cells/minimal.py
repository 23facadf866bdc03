"""Cells with one gate: MGU, JANET and the MinimalRNN."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cell import GatedCell
from rnnjax.cells.dense import Dense, HiddenVector, split_gates, write_bias
from rnnjax.cells.gru import blend
from rnnjax.initializers import Chrono


@dataclasses.dataclass(frozen=True, kw_only=True)
class MGU(HiddenVector, Dense, GatedCell):
    """Minimal gated unit (Zhou et al. 2016): one gate both resets and updates.

    f = σ(u_f + (h W_h)_f),  n = tanh(u_n + f ⊙ ((h W_h)_n + b_hn))
    h_t = f ⊙ n + (1 − f) ⊙ h_{t−1},  u = x_t W_x + b

    In the paper f stands before the product, (f ⊙ h) W_hn; after it, as in cuDNN's GRU, one product
    serves both. Flax's ``MGUCell`` blends the other way round: its f keeps h_{t−1}. Parameters:
    ``w_x`` (D, 2N), ``w_h`` (N, 2N), ``b`` (2N,), ``b_hn`` (N,), in the order f, n. The carry and
    the output are h (N,).

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.MGU(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> ys.shape
        (5, 2, 8)
    """

    gate_order: ClassVar[str] = "fn"

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters; ``b_hn`` starts at zero.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        return {**super().init(key, in_dim), "b_hn": jnp.zeros((self.size,), self.param_dtype)}

    def update(self, params: Params, carry: Array, u: Array, r: Array) -> Array:
        """Return the next h."""
        f = self._forget(u, r)
        u_n, r_n = (split_gates(a, self.gate_order)["n"] for a in (u, r))
        n = jnp.tanh(u_n + f * (r_n + params["b_hn"].astype(r.dtype)))
        return blend(f, n, carry)

    def gates(self, params: Params, carry: Array, u: Array) -> dict[str, Array]:
        """Return f (N,)."""
        return {"f": self._forget(u, self.mix(params, carry, u))}

    def _forget(self, u: Array, r: Array) -> Array:
        return jax.nn.sigmoid(split_gates(u + r, self.gate_order)["f"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class JANET(HiddenVector, Dense, GatedCell):
    """Just another network: an LSTM of the forget gate alone (van der Westhuizen & Lasenby 2018).

    (f, n) = x_t W_x + b + h_{t−1} W_h
    h_t = σ(f) ⊙ h_{t−1} + (1 − σ(f − β)) ⊙ tanh(n)

    Parameters: ``w_x`` (D, 2N), ``w_h`` (N, 2N), ``b`` (2N,), in the order f, n. The carry and the
    output are h (N,).

    Args:
        beta: β, by which more is written than forgotten; 1 in the paper.
        forget_bias: what ``init`` writes into the f block of b: a number, or ``Chrono(t_max)``, as
            in the paper.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.JANET(8, forget_bias=rnnjax.initializers.Chrono(100))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> ys.shape
        (5, 2, 8)
    """

    beta: float = 1.0
    forget_bias: float | Chrono = 1.0

    gate_order: ClassVar[str] = "fn"

    def __post_init__(self):
        super().__post_init__()
        checks.number("JANET", "beta", self.beta)
        checks.number_or("JANET", "forget_bias", self.forget_bias, Chrono)

    def init_bias(self, key: Key) -> Array:
        """Draw b and write ``forget_bias`` into its f block."""
        k_b, k_f = jax.random.split(key)
        return write_bias(super().init_bias(k_b), self.gate_order, k_f, "f", self.forget_bias)

    def update(self, params: Params, carry: Array, u: Array, r: Array) -> Array:
        """Return the next h."""
        del params
        z = split_gates(u + r, self.gate_order)
        write = 1.0 - jax.nn.sigmoid(z["f"] - self.beta)
        return jax.nn.sigmoid(z["f"]) * carry + write * jnp.tanh(z["n"])

    def gates(self, params: Params, carry: Array, u: Array) -> dict[str, Array]:
        """Return σ(f) (N,)."""
        f = split_gates(u + self.mix(params, carry, u), self.gate_order)["f"]
        return {"f": jax.nn.sigmoid(f)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimalRNN(HiddenVector, Dense, GatedCell):
    """One gate between the hidden vector and the encoded input (Chen 2017).

    z = tanh(x_t W_x + b),  k = σ(h_{t−1} W_h + z W_z + b_k)
    h_t = k ⊙ h_{t−1} + (1 − k) ⊙ z

    The paper leaves the encoder open; this is the one of its experiments. Its u is k here.
    Parameters: ``w_x`` (D, N), ``w_z`` (N, N), ``w_h`` (N, N), ``b`` (N,), ``b_k`` (N,). The carry
    and the output are h (N,).

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.MinimalRNN(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> ys.shape
        (5, 2, 8)
    """

    gate_order: ClassVar[str] = "z"

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters; ``b_k`` starts at zero.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        k_dense, k_z = jax.random.split(key)
        return {
            **super().init(k_dense, in_dim),
            "w_z": self.kernel_init(k_z, (self.size, self.size), self.param_dtype),
            "b_k": jnp.zeros((self.size,), self.param_dtype),
        }

    def encode(self, params: Params, x: Array) -> Array:
        """Return z W_z + b_k and z side by side (2N,)."""
        z = jnp.tanh(super().encode(params, x))
        k = self.multiply(params, z, "w_z") + params["b_k"].astype(z.dtype)
        return jnp.concatenate([k, z])

    def update(self, params: Params, carry: Array, u: Array, r: Array) -> Array:
        """Return the next h."""
        del params
        k, z = jnp.split(u, 2)
        return blend(jax.nn.sigmoid(k + r), carry, z)

    def gates(self, params: Params, carry: Array, u: Array) -> dict[str, Array]:
        """Return k (N,)."""
        k, _ = jnp.split(u, 2)
        return {"k": jax.nn.sigmoid(k + self.mix(params, carry, u))}
