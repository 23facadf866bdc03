"""The oracle's equations of the linear cells, each as its paper has them."""

from collections.abc import Callable

import jax
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


def _lru(cell: rnnjax.LRU, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    eigenvalues = _complex(jnp.exp(-jnp.exp(p["nu"]))) * _turn(jnp.exp(p["theta"]))
    h = eigenvalues * h + _complex(jnp.exp(p["log_gamma"])) * (_complex(x) @ _wide(p["w_x"]))
    return h, (h @ _tall(p["w_y"])).real + p["d"] * x


def _s5(cell: rnnjax.S5, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    """In real numbers: a damped rotation, and its integral over the time that x is held."""
    decay, frequency, dt = jnp.exp(p["log_decay"]), p["frequency"], jnp.exp(p["log_dt"])
    kept = jnp.exp(-decay * dt)
    turned = kept * jnp.cos(frequency * dt), kept * jnp.sin(frequency * dt)
    size = decay**2 + frequency**2
    held = (
        (decay * (1 - turned[0]) + frequency * turned[1]) / size,
        (frequency * (1 - turned[0]) - decay * turned[1]) / size,
    )
    drive = x @ p["w_x"][:, : cell.size], x @ p["w_x"][:, cell.size :]
    real = turned[0] * h.real - turned[1] * h.imag + held[0] * drive[0] - held[1] * drive[1]
    imaginary = turned[0] * h.imag + turned[1] * h.real + held[0] * drive[1] + held[1] * drive[0]
    y = 2 * (real @ p["w_y"][: cell.size] - imaginary @ p["w_y"][cell.size :]) + p["d"] * x
    return jax.lax.complex(real, imaginary), y


def _rg_lru(cell: rnnjax.RGLRU, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    k = cell.size // cell.heads
    rows = [slice(n * k, (n + 1) * k) for n in range(cell.heads)]
    r, i = (
        jnp.concatenate([x[s] @ p["w_x"][n][:, gate] for n, s in enumerate(rows)])
        for gate in (slice(k), slice(k, None))
    )
    r, i = _sigmoid(r + p["b"][: cell.size]), _sigmoid(i + p["b"][cell.size :])
    a = (1 + jnp.exp(p["nu"])) ** (-cell.c * r)
    h = a * h + jnp.sqrt(1 - a**2) * i * x
    return h, h


def _gated_delta(cell: rnnjax.GatedDelta, p: Params, s: Array, x: Array) -> tuple[Array, Array]:
    """Head by head, with the matrix α (I − β k kᵀ) as such."""
    heads, width, out = cell.heads, cell.key_width, cell.size // cell.heads
    u = x @ p["w_x"] + p["b"]
    names = {"k": width, "q": width, "v": out, "alpha": 1, "beta": 1}
    parts, start = {}, 0
    for name, size in names.items():
        parts[name] = u[start : start + heads * size].reshape(heads, size)
        start += heads * size
    new, ys = [], []
    for n in range(heads):
        k, q, v = (parts[name][n] * _sigmoid(parts[name][n]) for name in ("k", "q", "v"))
        k, q = (a / jnp.sqrt(a @ a + 1e-6) for a in (k, q))
        alpha, beta = (_sigmoid(parts[name][n, 0]) for name in ("alpha", "beta"))
        kept = alpha * (jnp.eye(width) - beta * jnp.outer(k, k))
        new.append(kept @ s[n] + beta * jnp.outer(k, v))
        ys.append(new[-1].T @ q / jnp.sqrt(1.0 * width))
    return jnp.stack(new), jnp.concatenate(ys)


def _complex(a: Array) -> Array:
    return jax.lax.complex(a, jnp.zeros_like(a))


def _turn(phase: Array) -> Array:
    return jax.lax.complex(jnp.cos(phase), jnp.sin(phase))


def _wide(w: Array) -> Array:
    return jax.lax.complex(*jnp.split(w, 2, axis=1))


def _tall(w: Array) -> Array:
    return jax.lax.complex(*jnp.split(w, 2, axis=0))


def _sigmoid(a: Array) -> Array:
    return 1 / (1 + jnp.exp(-a))


LINEAR_EQUATIONS: dict[type, Callable] = {
    rnnjax.MinGRU: _min_gru,
    rnnjax.MinLSTM: _min_lstm,
    rnnjax.LRU: _lru,
    rnnjax.S5: _s5,
    rnnjax.RGLRU: _rg_lru,
    rnnjax.GatedDelta: _gated_delta,
}
