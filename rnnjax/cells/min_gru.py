"""Cells whose gates see the input alone, and so are affine in h: minGRU and minLSTM."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cells.dense import DenseInput, HiddenVector, split_gates, write_bias
from rnnjax.cells.gru import blend
from rnnjax.initializers import Chrono


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinGRU(HiddenVector, DenseInput):
    """Minimal GRU (Feng et al. 2024): a GRU without reset gate, whose update gate sees x_t alone.

    (z, n) = x_t W_x + b
    h_t = (1 − σ(z)) ⊙ h_{t−1} + σ(z) ⊙ φ(n)

    The paper's own notation; note that its z writes where a GRU's keeps. Its parallel form runs on
    log h, which must then be positive, with φ(n) = n + ½ for n ≥ 0 and σ(n) below; here neither the
    parallel form (``rnnjax.Associative``) nor a carry that is passed in asks for that. Parameters:
    ``w_x`` (D, 2N), ``b`` (2N,), in the order z, n. The carry and the output are h (N,).

    Args:
        activation: φ, an elementwise function; a module-level one, so that equal cells are equal.
            The identity by default, as in the paper's first form.
        update_bias: what ``init`` writes into the z block of b: a number, or ``Chrono(t_max)``,
            whose draw is written with a minus.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.MinGRU(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((5, 2, 4))
        >>> h, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Associative())
        >>> ys.shape
        (5, 2, 8)
    """

    activation: Callable[[Array], Array] = jax.nn.identity
    update_bias: float | Chrono = 0.0

    gate_order: ClassVar[str] = "zn"
    affine: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        checks.function("MinGRU", "activation", self.activation)
        checks.number_or("MinGRU", "update_bias", self.update_bias, Chrono)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        k_dense, k_bias = jax.random.split(key)
        params = super().init(k_dense, in_dim)
        _, n = jnp.split(params["b"], 2)
        if isinstance(self.update_bias, Chrono):
            z = -self.update_bias(k_bias, n.shape, n.dtype)
        else:
            z = jnp.full_like(n, self.update_bias)
        return {**params, "b": jnp.concatenate([z, n])}

    def step(self, params: Params, carry: Array, u: Array) -> Array:
        """Return (1 − σ(z)) ⊙ h + σ(z) ⊙ φ(n)."""
        del params
        gates = split_gates(u, self.gate_order)
        return blend(jax.nn.sigmoid(gates["z"]), self.activation(gates["n"]), carry)

    def gates(self, params: Params, carry: Array, u: Array) -> dict[str, Array]:
        """Return σ(z) (N,)."""
        del params, carry
        return {"z": jax.nn.sigmoid(split_gates(u, self.gate_order)["z"])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinLSTM(HiddenVector, DenseInput):
    """Minimal LSTM (Feng et al. 2024): gates that see x_t alone and add up to one, no output gate.

    (f, i, n) = x_t W_x + b,  k = σ(f) / (σ(f) + σ(i))
    h_t = k ⊙ h_{t−1} + (1 − k) ⊙ φ(n)

    The normalised form of the paper; φ as in ``MinGRU``. k is taken as σ(log σ(f) − log σ(i)),
    which is defined where both gates are closed. Parameters: ``w_x`` (D, 3N), ``b`` (3N,), in the
    order f, i, n. The carry and the output are h (N,).

    Args:
        activation: φ, as in ``MinGRU``.
        forget_bias: what ``init`` writes into the f block of b: a number, or ``Chrono(t_max)``,
            which also writes into the i block with a minus.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.MinLSTM(8, forget_bias=rnnjax.initializers.Chrono(100))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((5, 2, 4))
        >>> h, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Associative())
        >>> ys.shape
        (5, 2, 8)
    """

    activation: Callable[[Array], Array] = jax.nn.identity
    forget_bias: float | Chrono = 0.0

    gate_order: ClassVar[str] = "fin"
    affine: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        checks.function("MinLSTM", "activation", self.activation)
        checks.number_or("MinLSTM", "forget_bias", self.forget_bias, Chrono)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        k_dense, k_bias = jax.random.split(key)
        params = super().init(k_dense, in_dim)
        b = write_bias(params["b"], self.gate_order, k_bias, "f", self.forget_bias, opposite="i")
        return {**params, "b": b}

    def step(self, params: Params, carry: Array, u: Array) -> Array:
        """Return k ⊙ h + (1 − k) ⊙ φ(n)."""
        n = self.activation(split_gates(u, self.gate_order)["n"])
        return blend(self.gates(params, carry, u)["k"], carry, n)

    def gates(self, params: Params, carry: Array, u: Array) -> dict[str, Array]:
        """Return the share k (N,) that is kept."""
        del params, carry
        gates = split_gates(u, self.gate_order)
        opened = (jax.nn.log_sigmoid(gates[name]) for name in "fi")
        return {"k": jax.nn.sigmoid(next(opened) - next(opened))}
