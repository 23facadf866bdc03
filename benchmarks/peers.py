"""The cells of other libraries as cells of rnnjax, with the initialisation that they come with."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from rnnjax import Cell, LSTMCarry
from rnnjax.array_typing import Array, Carry, Key, Params


class Peer(NamedTuple):
    """A peer's cell as it comes, for one example.

    Attributes:
        init: (N, key, D) → its params.
        initial_carry: N → zeros.
        step: (N, params, carry, x) → carry.
    """

    init: Callable[[int, Key, int], Params]
    initial_carry: Callable[[int], Carry]
    step: Callable[[int, Params, Carry, Array], Carry]


@dataclasses.dataclass(frozen=True)
class PeerCell(Cell):
    """A peer's cell under the contract of rnnjax, so that the same function measures it."""

    size: int
    peer: Peer

    def init(self, key: Key, in_dim: Any) -> Params:
        """Draw the peer's params."""
        return self.peer.init(self.size, key, in_dim)

    def initial_carry(self, params: Params) -> Carry:
        """Return zeros."""
        del params
        return self.peer.initial_carry(self.size)

    def step(self, params: Params, carry: Carry, u: Array) -> Carry:
        """Take the peer's step."""
        return self.peer.step(self.size, params, carry, u)


def _zero_h(size: int) -> Array:
    return jnp.zeros((size,))


def _zero_c_and_h(size: int) -> LSTMCarry:
    return LSTMCarry(jnp.zeros((size,)), jnp.zeros((size,)))


def _flax_init(module: Any, size: int, key: Key, in_dim: int) -> Params:
    cell = module(size)
    return dict(cell.init(key, cell.initialize_carry(key, (in_dim,)), jnp.zeros((in_dim,))))


def _flax_lstm(size: int, params: Params, carry: LSTMCarry, x: Array) -> LSTMCarry:
    (c, h), _ = nn.OptimizedLSTMCell(size).apply(params, tuple(carry), x)
    return LSTMCarry(c, h)


def _flax_gru(size: int, params: Params, h: Array, x: Array) -> Array:
    return nn.GRUCell(size).apply(params, h, x)[0]


# Imported where they are used, so that the others are measured where one is not installed.
def _haiku(name: str, size: int) -> Any:
    haiku: Any = importlib.import_module("haiku")
    core = getattr(haiku, name)
    return haiku.without_apply_rng(haiku.transform(lambda x, state: core(size)(x, state)))


def _haiku_state(c: Array, h: Array) -> Any:
    haiku: Any = importlib.import_module("haiku")
    return haiku.LSTMState(hidden=h, cell=c)


def _haiku_lstm_init(size: int, key: Key, in_dim: int) -> Params:
    return _haiku("LSTM", size).init(key, jnp.zeros((in_dim,)), _haiku_state(*_zero_c_and_h(size)))


def _haiku_lstm(size: int, params: Params, carry: LSTMCarry, x: Array) -> LSTMCarry:
    _, state = _haiku("LSTM", size).apply(params, x, _haiku_state(*carry))
    return LSTMCarry(state.cell, state.hidden)


def _haiku_gru_init(size: int, key: Key, in_dim: int) -> Params:
    return _haiku("GRU", size).init(key, jnp.zeros((in_dim,)), _zero_h(size))


def _haiku_gru(size: int, params: Params, h: Array, x: Array) -> Array:
    return _haiku("GRU", size).apply(params, x, h)[1]


def _equinox_init(name: str, size: int, key: Key, in_dim: int) -> Params:
    equinox: Any = importlib.import_module("equinox")
    return {"cell": getattr(equinox.nn, name)(in_dim, size, key=key)}


def _equinox_lstm(size: int, params: Params, carry: LSTMCarry, x: Array) -> LSTMCarry:
    del size
    h, c = params["cell"](x, (carry.h, carry.c))
    return LSTMCarry(c, h)


def _equinox_gru(size: int, params: Params, h: Array, x: Array) -> Array:
    del size
    return params["cell"](x, h)


# Partial functions are equal by identity: these stand here once, so that equal cells are equal.
FLAX_LSTM = Peer(functools.partial(_flax_init, nn.OptimizedLSTMCell), _zero_c_and_h, _flax_lstm)
FLAX_GRU = Peer(functools.partial(_flax_init, nn.GRUCell), _zero_h, _flax_gru)
HAIKU_LSTM = Peer(_haiku_lstm_init, _zero_c_and_h, _haiku_lstm)
HAIKU_GRU = Peer(_haiku_gru_init, _zero_h, _haiku_gru)
EQUINOX_LSTM = Peer(functools.partial(_equinox_init, "LSTMCell"), _zero_c_and_h, _equinox_lstm)
EQUINOX_GRU = Peer(functools.partial(_equinox_init, "GRUCell"), _zero_h, _equinox_gru)
