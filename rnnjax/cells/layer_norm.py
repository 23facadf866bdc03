"""LSTM and GRU with layer normalisation."""

import dataclasses

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cells.gru import ResetAfter
from rnnjax.cells.lstm import GatedMemoryCell


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerNormLSTM(GatedMemoryCell):
    """LSTM with layer normalisation (Ba et al. 2016).

    (i, f, g, o) = s_x ⊙ LN(x_t W_x) + b + s_h ⊙ LN(h_{t−1} W_h)
    c_t = σ(f) ⊙ c_{t−1} + σ(i) ⊙ tanh(g)
    h_t = σ(o) ⊙ tanh(s_c ⊙ LN(c_t) + b_c)

    LN(a) = (a − mean(a)) / √(var(a) + ε) over all entries of a: over the four gates together, as
    in the paper. The paper shifts both products; b does for both. Parameters: those of ``LSTM``,
    ``s_x`` (4N,), ``s_h`` (4N,), ``s_c`` (N,), which start at one, and ``b_c`` (N,), at zero.

    Args:
        epsilon: ε.
        forget_bias: as in ``LSTM``.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LayerNormLSTM(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> carry, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> carry.c.shape, ys.shape
        ((2, 8), (5, 2, 8))
    """

    epsilon: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        checks.positive_number("LayerNormLSTM", "epsilon", self.epsilon)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters; scales start at one, ``b_c`` at zero.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        params, n = super().init(key, in_dim), self.size
        scales = {"s_x": 4 * n, "s_h": 4 * n, "s_c": n}
        ones = {name: jnp.ones((size,), self.param_dtype) for name, size in scales.items()}
        return {**params, **ones, "b_c": jnp.zeros((n,), self.param_dtype)}

    def encode(self, params: Params, x: Array) -> Array:
        """Return s_x ⊙ LN(x W_x) + b (4N,)."""
        u = self.multiply(params, x, "w_x")
        return _scaled(params, "s_x", normalise(u, self.epsilon)) + params["b"].astype(u.dtype)

    def preactivations(self, params: Params, u: Array, r: Array) -> Array:
        """Return (i, f, g, o) before their activations, (4N,)."""
        return u + _scaled(params, "s_h", normalise(r, self.epsilon))

    def expose(self, params: Params, c: Array) -> Array:
        """Return tanh(s_c ⊙ LN(c) + b_c)."""
        scaled = _scaled(params, "s_c", normalise(c, self.epsilon))
        return jnp.tanh(scaled + params["b_c"].astype(c.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerNormGRU(ResetAfter):
    """GRU with layer normalisation (Ba et al. 2016, supplement).

    (r, z) = σ(s_x ⊙ LN(x_t W_x) + b + s_h ⊙ LN(h_{t−1} W_h)), the blocks r and z
    n = tanh(s_x ⊙ LN(x_t W_x) + b + r ⊙ (s_h ⊙ LN(h_{t−1} W_h) + b_hn)), the block n
    h_t = (1 − z) ⊙ n + z ⊙ h_{t−1}

    LN(a) = (a − mean(a)) / √(var(a) + ε), over the blocks r and z together and over n alone. The
    paper's z and 1 − z stand the other way round, and it shifts both products of r and z, for which
    b does here. Parameters: those of ``GRU``, and ``s_x`` (3N,), ``s_h`` (3N,), which start at
    one.

    Args:
        epsilon: ε.
        update_bias: as in ``GRU``.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LayerNormGRU(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> ys.shape
        (5, 2, 8)
    """

    epsilon: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        checks.positive_number("LayerNormGRU", "epsilon", self.epsilon)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters; scales start at one, ``b_hn`` at zero.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        scale = jnp.ones((3 * self.size,), self.param_dtype)
        return {**super().init(key, in_dim), "s_x": scale, "s_h": scale}

    def encode(self, params: Params, x: Array) -> Array:
        """Return s_x ⊙ LN(x W_x) + b (3N,)."""
        u = self.multiply(params, x, "w_x")
        return _scaled(params, "s_x", self._normalise(u)) + params["b"].astype(u.dtype)

    def recurrent(self, params: Params, r: Array) -> Array:
        """Return s_h ⊙ LN(r) (3N,)."""
        return _scaled(params, "s_h", self._normalise(r))

    def _normalise(self, a: Array) -> Array:
        gates, n = jnp.split(a, [2 * self.size])
        return jnp.concatenate([normalise(part, self.epsilon) for part in (gates, n)])


def normalise(a: Array, epsilon: float) -> Array:
    """Return (a − mean(a)) / √(var(a) + ε) over the entries of a vector."""
    variance = jnp.var(a, keepdims=True)
    return jax.nn.standardize(a, variance=variance, epsilon=epsilon)


def _scaled(params: Params, name: str, a: Array) -> Array:
    return params[name].astype(a.dtype) * a
