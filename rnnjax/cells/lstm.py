"""Long short-term memory."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Key, Params
from rnnjax.cell import GatedCell
from rnnjax.cells.dense import Dense
from rnnjax.initializers import Chrono


class LSTMCarry(NamedTuple):
    """The memory c (N,) and the hidden vector h (N,)."""

    c: Array
    h: Array


# So that exported programs that take or return this carry can be saved.
jax.export.register_namedtuple_serialization(LSTMCarry, serialized_name="rnnjax.LSTMCarry")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSTM(Dense, GatedCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    (i, f, g, o) = x_t W_x + b + h_{t−1} W_h
    c_t = σ(f) ⊙ c_{t−1} + σ(i) ⊙ tanh(g)
    h_t = σ(o) ⊙ tanh(c_t)

    Parameters: ``w_x`` (D, 4N), ``w_h`` (N, 4N), ``b`` (4N,), gates in the order i, f, g, o, as in
    PyTorch. The output is h_t (N,).

    Args:
        forget_bias: what ``init`` writes into the f block of b, so that a new network remembers
            (Jozefowicz et al. 2015); the step itself adds nothing, so imported weights mean what
            they say. ``Chrono(t_max)`` writes the i block too.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LSTM(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> carry, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> carry.c.shape, ys.shape
        ((2, 8), (5, 2, 8))
    """

    forget_bias: float | Chrono = 1.0

    gate_count: ClassVar[int] = 4

    def __post_init__(self):
        super().__post_init__()
        checks.number_or("LSTM", "forget_bias", self.forget_bias, Chrono)

    def init_bias(self, key: Key) -> Array:
        """Draw b and write ``forget_bias`` into it."""
        k_b, k_f = jax.random.split(key)
        i, f, g, o = jnp.split(super().init_bias(k_b), 4)
        if isinstance(self.forget_bias, Chrono):
            f = self.forget_bias(k_f, f.shape, f.dtype)
            i = -f
        else:
            f = jnp.full_like(f, self.forget_bias)
        return jnp.concatenate([i, f, g, o])

    def initial_carry(self, params: Params) -> LSTMCarry:
        """Return zeros for c and h."""
        return LSTMCarry(self.zeros(params), self.zeros(params))

    def hidden(self, carry: LSTMCarry) -> Array:
        """Return h."""
        return carry.h

    def update(self, params: Params, carry: LSTMCarry, u: Array, r: Array) -> LSTMCarry:
        """Return (c, h) of the next step."""
        del params
        i, f, g, o = _activations(u + r)
        c = f * carry.c + i * g
        return LSTMCarry(c, o * jnp.tanh(c))

    def readout(self, params: Params, carry: LSTMCarry, u: Array) -> Array:
        """Return h in the compute dtype."""
        del u
        return carry.h.astype(self.compute_dtype(params))

    def gates(self, params: Params, carry: LSTMCarry, u: Array) -> dict[str, Array]:
        """Return σ(i), σ(f) and σ(o), each (N,)."""
        i, f, _, o = _activations(u + self.mix(params, carry.h, u))
        return {"i": i, "f": f, "o": o}


def _activations(z: Array) -> tuple[Array, Array, Array, Array]:
    """Split z (4N,) into σ(i), σ(f), tanh(g), σ(o)."""
    i, f, g, o = jnp.split(z, 4, axis=-1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
