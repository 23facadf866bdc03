"""Long short-term memory, and its kin with other gates."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params, PyTree
from rnnjax.cell import GatedCell, carry_dtype
from rnnjax.cells.dense import Dense, split_gates, write_bias
from rnnjax.initializers import Chrono, Constant, Initializer, per_gate


class LSTMCarry(NamedTuple):
    """The memory c (N,) and the hidden vector h (N,)."""

    c: Array
    h: Array


# So that exported programs that take or return this carry can be saved.
jax.export.register_namedtuple_serialization(LSTMCarry, serialized_name="rnnjax.LSTMCarry")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryCell(Dense):
    """What LSTMs share: a memory c and a hidden vector h; gates i, f, g, o; the output is h.

    Args:
        forget_bias: what ``init`` writes into the f block of b, so that a new network remembers
            (Jozefowicz et al. 2015); the step itself adds nothing, so imported weights mean what
            they say. ``Chrono(t_max)`` writes the i block too.
    """

    forget_bias: float | Chrono = 1.0

    gate_order: ClassVar[str] = "ifgo"

    def __post_init__(self):
        super().__post_init__()
        checks.number_or(type(self).__name__, "forget_bias", self.forget_bias, Chrono)

    def init_bias(self, key: Key) -> Array:
        """Draw b and write ``forget_bias`` into it."""
        k_b, k_f = jax.random.split(key)
        b, opposite = super().init_bias(k_b), "i" if "i" in self.gate_order else ""
        return write_bias(b, self.gate_order, k_f, "f", self.forget_bias, opposite)

    def initial_carry(self, params: Params) -> LSTMCarry:
        """Return zeros for c and h."""
        return LSTMCarry(self.zeros(params), self.zeros(params))

    def hidden(self, carry: LSTMCarry) -> Array:
        """Return h, which the recurrent product reads."""
        return carry.h

    def readout(self, params: Params, carry: LSTMCarry, u: PyTree) -> Array:
        """Return h in the compute dtype."""
        del u
        return carry.h.astype(self.compute_dtype(params))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedMemoryCell(MemoryCell, GatedCell):
    """c_t = σ(f) ⊙ c_{t−1} + σ(i) ⊙ tanh(g),  h_t = σ(o) ⊙ tanh(c_t), one product of h."""

    def preactivations(self, params: Params, u: PyTree, r: Array) -> Array:
        """Return (i, f, g, o) before their activations, (4N,)."""
        del params
        return u + r

    def expose(self, params: Params, c: Array) -> Array:
        """Return what the output gate opens on: tanh(c)."""
        del params
        return jnp.tanh(c)

    def update(self, params: Params, carry: LSTMCarry, u: PyTree, r: Array) -> LSTMCarry:
        """Return (c, h) of the next step."""
        i, f, g, o = activations(self.preactivations(params, u, r))
        c = f * carry.c + i * g
        return LSTMCarry(c, o * self.expose(params, c))

    def gates(self, params: Params, carry: LSTMCarry, u: PyTree) -> dict[str, Array]:
        """Return σ(i), σ(f) and σ(o), each (N,)."""
        r = self.mix(params, carry.h, u)
        i, f, _, o = activations(self.preactivations(params, u, r))
        return {"i": i, "f": f, "o": o}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSTM(GatedMemoryCell):
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeepholeLSTM(MemoryCell, GatedCell):
    """LSTM whose gates see the memory (Gers & Schmidhuber 2000).

    (i, f, g, o) = x_t W_x + b + h_{t−1} W_h,  (p_i, p_f, p_o) = w_c
    c_t = σ(f + p_f ⊙ c_{t−1}) ⊙ c_{t−1} + σ(i + p_i ⊙ c_{t−1}) ⊙ tanh(g)
    h_t = σ(o + p_o ⊙ c_t) ⊙ tanh(c_t)

    Parameters: those of ``LSTM``, and ``w_c`` (3N,), the peepholes in the order i, f, o.

    Args:
        forget_bias: as in ``LSTM``.
        peephole_init: initialiser of ``w_c``; at zero, the default, the cell starts as an LSTM.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.PeepholeLSTM(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> carry, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> params["w_c"].shape, ys.shape
        ((24,), (5, 2, 8))
    """

    peephole_init: Initializer = Constant(0.0)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        k_dense, k_c = jax.random.split(key)
        w_c = self.peephole_init(k_c, (3 * self.size,), self.param_dtype)
        return {**super().init(k_dense, in_dim), "w_c": w_c}

    def update(self, params: Params, carry: LSTMCarry, u: Array, r: Array) -> LSTMCarry:
        """Return (c, h) of the next step."""
        c, gates = self._remember(params, carry, u + r)
        return LSTMCarry(c, gates["o"] * jnp.tanh(c))

    def gates(self, params: Params, carry: LSTMCarry, u: Array) -> dict[str, Array]:
        """Return the activations of i, f and o, each (N,)."""
        return self._remember(params, carry, u + self.mix(params, carry.h, u))[1]

    def _remember(
        self, params: Params, carry: LSTMCarry, z: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return c_t, and the gates, the last of which sees it."""
        pre = split_gates(z, self.gate_order)
        p = split_gates(params["w_c"].astype(carry.c.dtype), "ifo")
        i, f = (jax.nn.sigmoid(pre[gate] + p[gate] * carry.c) for gate in "if")
        c = f * carry.c + i * jnp.tanh(pre["g"])
        return c, {"i": i, "f": f, "o": jax.nn.sigmoid(pre["o"] + p["o"] * c)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoupledLSTM(MemoryCell, GatedCell):
    """LSTM that forgets as much as it writes: coupled gates, CIFG (Greff et al. 2017).

    (f, g, o) = x_t W_x + b + h_{t−1} W_h
    c_t = σ(f) ⊙ c_{t−1} + (1 − σ(f)) ⊙ tanh(g)
    h_t = σ(o) ⊙ tanh(c_t)

    Greff et al. keep the peepholes, which are left out here. Parameters: ``w_x`` (D, 3N), ``w_h``
    (N, 3N), ``b`` (3N,), in the order f, g, o.

    Args:
        forget_bias: what ``init`` writes into the f block of b: a number, or ``Chrono(t_max)``.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.CoupledLSTM(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> carry, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> params["w_h"].shape, ys.shape
        ((8, 24), (5, 2, 8))
    """

    gate_order: ClassVar[str] = "fgo"

    def update(self, params: Params, carry: LSTMCarry, u: Array, r: Array) -> LSTMCarry:
        """Return (c, h) of the next step."""
        del params
        z = split_gates(u + r, self.gate_order)
        f = jax.nn.sigmoid(z["f"])
        c = f * carry.c + (1.0 - f) * jnp.tanh(z["g"])
        return LSTMCarry(c, jax.nn.sigmoid(z["o"]) * jnp.tanh(c))

    def gates(self, params: Params, carry: LSTMCarry, u: Array) -> dict[str, Array]:
        """Return σ(f) and σ(o), each (N,)."""
        z = split_gates(u + self.mix(params, carry.h, u), self.gate_order)
        return {gate: jax.nn.sigmoid(z[gate]) for gate in "fo"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectedLSTM(MemoryCell):
    """LSTM with a recurrent projection (Sak et al. 2014): ``proj_size`` of PyTorch.

    (i, f, g, o) = x_t W_x + b + h_{t−1} W_h
    c_t = σ(f) ⊙ c_{t−1} + σ(i) ⊙ tanh(g)
    h_t = (σ(o) ⊙ tanh(c_t)) W_p

    Two products in a row, so it is no gated cell. The paper has peepholes too, and a second
    projection that is not recurrent. Parameters, with P for ``projection``: ``w_x`` (D, 4N),
    ``w_h`` (P, 4N), ``w_p`` (N, P), ``b`` (4N,). The carry is c (N,) and h (P,), the output h.

    Args:
        projection: P, smaller than N.
        forget_bias: as in ``LSTM``.

    Raises:
        ValueError: when ``projection`` is not smaller than ``size``.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.ProjectedLSTM(8, projection=3)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> carry, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> carry.c.shape, ys.shape
        ((2, 8), (5, 2, 3))
    """

    projection: int

    def __post_init__(self):
        super().__post_init__()
        checks.positive_int("ProjectedLSTM", "projection", self.projection)
        if self.projection >= self.size:
            raise ValueError(
                f"ProjectedLSTM: projection must be smaller than size = {self.size}, or it would "
                f"project nothing; got {self.projection}. Without one: rnnjax.LSTM({self.size})."
            )

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        k_dense, k_p = jax.random.split(key)
        w_p = self.kernel_init(k_p, (self.size, self.projection), self.param_dtype)
        return {**super().init(k_dense, in_dim), "w_p": w_p}

    def init_recurrent_kernel(self, key: Key) -> Array:
        """Draw W_h (P, 4N)."""
        shape = self.projection, self.size
        return per_gate(self.recurrent_kernel_init, key, shape, self.gate_count, self.param_dtype)

    def initial_carry(self, params: Params) -> LSTMCarry:
        """Return zeros for c (N,) and h (P,)."""
        dtype = carry_dtype(self.compute_dtype(params))
        return LSTMCarry(self.zeros(params), jnp.zeros((self.projection,), dtype))

    def step(self, params: Params, carry: LSTMCarry, u: Array) -> LSTMCarry:
        """Return (c, h) of the next step."""
        i, f, g, o = activations(u + self.multiply(params, carry.h, "w_h"))
        c = f * carry.c + i * g
        return LSTMCarry(c, self.multiply(params, o * jnp.tanh(c), "w_p"))

    def gates(self, params: Params, carry: LSTMCarry, u: Array) -> dict[str, Array]:
        """Return σ(i), σ(f) and σ(o), each (N,)."""
        i, f, _, o = activations(u + self.multiply(params, carry.h, "w_h"))
        return {"i": i, "f": f, "o": o}


class Multiplied(NamedTuple):
    """The encoded input of a ``MultiplicativeLSTM``: for the gates (4N,), and the factor (N,)."""

    gates: Array
    factor: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiplicativeLSTM(GatedMemoryCell):
    """LSTM whose recurrent kernel depends on the input (Krause et al. 2016).

    m = (x_t W_mx) ⊙ (h_{t−1} W_mh)
    (i, f, g, o) = x_t W_x + b + m W_h, then as in ``LSTM``

    The product of h is linear in h for a given input, so it is a gated cell. Parameters: ``w_x``
    (D, 4N), ``w_h`` (N, 4N), ``b`` (4N,), ``w_mx`` (D, N), ``w_mh`` (N, N).

    Args:
        forget_bias: as in ``LSTM``.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.MultiplicativeLSTM(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> carry, ys = rnnjax.scan(cell, params, jax.numpy.ones((5, 2, 4)))
        >>> params["w_mx"].shape, ys.shape
        ((4, 8), (5, 2, 8))
    """

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        k_dense, k_x, k_h = jax.random.split(key, 3)
        params = super().init(k_dense, in_dim)
        n, features = self.size, params["w_x"].shape[0]
        w_mx = self.kernel_init(k_x, (features, n), self.param_dtype)
        w_mh = self.recurrent_kernel_init(k_h, (n, n), self.param_dtype)
        return {**params, "w_mx": w_mx, "w_mh": w_mh}

    def encode(self, params: Params, x: Array) -> Multiplied:
        """Return x W_x + b and x W_mx."""
        return Multiplied(super().encode(params, x), self.multiply(params, x, "w_mx"))

    def mix(self, params: Params, h: Array, u: Multiplied) -> Array:
        """Return m W_h (4N,)."""
        return self.multiply(params, u.factor * self.multiply(params, h, "w_mh"), "w_h")

    def preactivations(self, params: Params, u: Multiplied, r: Array) -> Array:
        """Return (i, f, g, o) before their activations, (4N,)."""
        return super().preactivations(params, u.gates, r)


def activations(z: Array) -> tuple[Array, Array, Array, Array]:
    """Split z (…, 4N) into σ(i), σ(f), tanh(g), σ(o)."""
    i, f, g, o = jnp.split(z, 4, axis=-1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
