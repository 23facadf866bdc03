"""The sLSTM: exponential gates, and a recurrent product by heads."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Key, Params
from rnnjax.cell import GatedCell, product
from rnnjax.cells.lstm import MemoryCell
from rnnjax.initializers import per_gate


class SLSTMCarry(NamedTuple):
    """The memory c / n (N,), the logarithm of its normaliser n (N,), the hidden vector h (N,)."""

    c: Array
    log_n: Array
    h: Array


# So that exported programs that take or return this carry can be saved.
jax.export.register_namedtuple_serialization(SLSTMCarry, serialized_name="rnnjax.SLSTMCarry")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SLSTM(MemoryCell, GatedCell):
    """LSTM with exponential gates and a normaliser (sLSTM; Beck et al. 2024, xLSTM).

    (i, f, g, o) = x_t W_x + b + h_{t−1} W_h
    c_t = σ(f) ⊙ c_{t−1} + exp(i) ⊙ tanh(g),  n_t = σ(f) ⊙ n_{t−1} + exp(i)
    h_t = σ(o) ⊙ c_t / n_t

    exp(i) and n overflow, so the paper divides c and n by exp(m), m a running maximum. Here the
    carry is c / n and log n, which need no maximum, divide by nothing and give the same h: with the
    share w that step t has in n_t,

    log n_t = log(σ(f) n_{t−1} + exp(i)),  w = exp(i) / n_t
    c_t / n_t = (1 − w) ⊙ c_{t−1} / n_{t−1} + w ⊙ tanh(g)

    W_h is block-diagonal: each of the H heads reads and writes K = N / H units of its own. Of the
    paper's two forget gates, σ and exp, this is σ; the normalisation of h by heads, the causal
    convolution and the projections of its block stand around the cell. Parameters: ``w_x``
    (D, 4N), ``w_h`` (H, K, 4K), ``b`` (4N,), gates in the order i, f, g, o.

    Args:
        heads: H, which divides N.
        forget_bias: as in ``LSTM``.

    Raises:
        ValueError: when ``heads`` does not divide ``size``.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.SLSTM(8, heads=2)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> carry, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> params["w_h"].shape, ys.shape
        ((2, 4, 16), (5, 2, 8))
    """

    heads: int = 1

    def __post_init__(self):
        super().__post_init__()
        checks.positive_int("SLSTM", "heads", self.heads)
        if self.size % self.heads:
            raise ValueError(
                f"SLSTM: heads must divide size = {self.size}; got {self.heads}. Use "
                f"{_divisor(self.size, self.heads)} heads, or another size."
            )

    def init_recurrent_kernel(self, key: Key) -> Array:
        """Draw W_h (H, K, 4K), head by head."""
        width = self.size // self.heads
        init, gates, dtype = self.recurrent_kernel_init, self.gate_count, self.param_dtype
        keys = jax.random.split(key, self.heads)
        return jnp.stack([per_gate(init, k, (width, width), gates, dtype) for k in keys])

    def initial_carry(self, params: Params) -> SLSTMCarry:
        """Return c / n = 0, n = 0 and h = 0."""
        zeros = self.zeros(params)
        # −1e30 stands for log 0: exp of it is 0, and unlike −∞ it leaves differences finite.
        return SLSTMCarry(zeros, jnp.full_like(zeros, -1e30), zeros)

    def mix(self, params: Params, h: Array, u: Array) -> Array:
        """Return h W_h (4N,), head by head."""
        del u
        heads = h.reshape(self.heads, -1)
        r = jax.vmap(product)(heads, self.recurrent_kernel(params))  # (H, 4K)
        return r.reshape(self.heads, self.gate_count, -1).swapaxes(0, 1).reshape(-1)

    def update(self, params: Params, carry: SLSTMCarry, u: Array, r: Array) -> SLSTMCarry:
        """Return (c / n, log n, h) of the next step."""
        del params
        i, f, g, o = jnp.split(u + r, 4)
        kept = jax.nn.log_sigmoid(f) + carry.log_n
        w = jax.nn.sigmoid(i - kept)
        c = (1.0 - w) * carry.c + w * jnp.tanh(g)
        return SLSTMCarry(c, jnp.logaddexp(kept, i), jax.nn.sigmoid(o) * c)

    def gates(self, params: Params, carry: SLSTMCarry, u: Array) -> dict[str, Array]:
        """Return w as i, for exp(i) has no limit, σ(f) and σ(o), each (N,)."""
        i, f, _, o = jnp.split(u + self.mix(params, carry.h, u), 4)
        share = jax.nn.sigmoid(i - jax.nn.log_sigmoid(f) - carry.log_n)
        return {"i": share, "f": jax.nn.sigmoid(f), "o": jax.nn.sigmoid(o)}


def _divisor(size: int, at_most: int) -> int:
    """Return the greatest divisor of size up to a number."""
    return max(k for k in range(1, min(size, at_most) + 1) if size % k == 0)
