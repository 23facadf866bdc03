"""The oracle's equations of the linear cells, each as its paper has them."""

from collections.abc import Callable

import jax.numpy as jnp

import rnnjax
from rnnjax.array_typing import Array, Params


def _min_gru(cell: rnnjax.MinGRU, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    z, n = jnp.split(x @ p["w_x"] + p["b"], 2)
    h = (1 - _sigmoid(z)) * h + _sigmoid(z) * cell.activation(n)
    return h, h


def _min_lstm(cell: rnnjax.MinLSTM, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    f, i, n = jnp.split(x @ p["w_x"] + p["b"], 3)
    both = _sigmoid(f) + _sigmoid(i)
    h = _sigmoid(f) / both * h + _sigmoid(i) / both * n
    return h, h


def _sigmoid(a: Array) -> Array:
    return 1 / (1 + jnp.exp(-a))


LINEAR_EQUATIONS: dict[type, Callable] = {
    rnnjax.MinGRU: _min_gru,
    rnnjax.MinLSTM: _min_lstm,
}
