"""The tables: cells × strategies, generic arguments, and an oracle written as plain loops."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.array_typing import Array, Carry, InDim, Key, Params, PyTree
from rnnjax.cell import feed, hand_down, one_step, with_context
from rnnjax.checks import as_shapes, features
from rnnjax.kernels import build
from rnnjax.testing import FAST_COMPILATION, accepts, random_like
from tests.linear_equations import LINEAR_EQUATIONS

T, B, D, N, S = 5, 4, 3, 5, 6
"""A prime number of steps; S is the length of the memory that attention reads."""


@dataclasses.dataclass(frozen=True)
class Attend(rnnjax.Cell):
    """Additive input feeding: the cell inside reads x with what attention found the step before.

    Attention stands before the product, so the cell inside encodes in ``step`` and u keeps the key.
    """

    cell: rnnjax.Cell
    memory: int

    @property
    def noisy(self) -> bool:
        return self.cell.noisy

    def init(self, key: Key, in_dim: InDim) -> Params:
        k_cell, k_query = jax.random.split(key)
        inner = self.cell.init(k_cell, features("Attend", in_dim) + self.memory)
        return {"cell": inner, "w_q": jax.random.normal(k_query, (N, self.memory))}

    def initial_carry(self, params: Params) -> Carry:
        return self.cell.initial_carry(params["cell"]), jnp.zeros((self.memory,))

    def context_shapes(self) -> dict[str, PyTree]:
        return {
            "memory": jax.ShapeDtypeStruct((S, self.memory), jnp.float32),
            "memory_mask": jax.ShapeDtypeStruct((S,), jnp.bool_),
        }

    def step(self, params: Params, carry: Carry, u: PyTree) -> Carry:
        inner, found = carry
        p, v = self._inside(params, u, found)
        query = self.cell.readout(p, inner, v) @ params["w_q"]
        memory, mask = params["context"]["memory"], params["context"]["memory_mask"]
        weights = jax.nn.softmax(jnp.where(mask, memory @ query, -1e30))
        found = jnp.where(mask.any(), weights @ memory, 0.0)
        p, v = self._inside(params, u, found)
        return self.cell.step(p, inner, v), found

    def readout(self, params: Params, carry: Carry, u: PyTree) -> PyTree:
        inner, found = carry
        p, v = self._inside(params, u, found)
        return jnp.concatenate([self.cell.readout(p, inner, v), found])

    def _inside(self, params: Params, u: PyTree, found: Array) -> tuple[Params, PyTree]:
        p = hand_down(params, params["cell"])
        joined = jnp.concatenate([u.x if isinstance(u, rnnjax.Keyed) else u, found])
        x = rnnjax.Keyed(joined, u.key) if isinstance(u, rnnjax.Keyed) else joined
        return p, self.cell.encode(p, feed(self.cell, x))


CELLS: dict[str, rnnjax.Cell] = {
    "elman": rnnjax.Elman(N),
    "elman_relu": rnnjax.Elman(N, activation=jax.nn.relu),
    "lstm": rnnjax.LSTM(N),
    "gru": rnnjax.GRU(N),
    "gru_reset_before": rnnjax.GRUResetBefore(N),
    "li_gru": rnnjax.LiGRU(N),
    "layer_norm_gru": rnnjax.LayerNormGRU(N),
    "mgu": rnnjax.MGU(N),
    "janet": rnnjax.JANET(N),
    "minimal_rnn": rnnjax.MinimalRNN(N),
    "peephole_lstm": rnnjax.PeepholeLSTM(N),
    "coupled_lstm": rnnjax.CoupledLSTM(N),
    "projected_lstm": rnnjax.ProjectedLSTM(N, projection=2),
    "layer_norm_lstm": rnnjax.LayerNormLSTM(N),
    "multiplicative_lstm": rnnjax.MultiplicativeLSTM(N),
    "conv_lstm": rnnjax.ConvLSTM(2, spatial_shape=(3, 4)),
    "slstm": rnnjax.SLSTM(4, heads=2),
    "indrnn": rnnjax.IndRNN(N),
    "ctrnn": rnnjax.CTRNN(N, dt=0.7),
    "min_gru": rnnjax.MinGRU(N, activation=jnp.tanh),
    "min_lstm": rnnjax.MinLSTM(N),
    "lru": rnnjax.LRU(N),
    "s5": rnnjax.S5(N),
    "rg_lru": rnnjax.RGLRU(4, heads=2),
    "gated_delta": rnnjax.GatedDelta(6, heads=2, key_size=2),
    "zoneout_min_lstm": rnnjax.Zoneout(rnnjax.MinLSTM(N), rate=0.3),
    "bahdanau": rnnjax.BahdanauDecoder(rnnjax.GRU(N), rnnjax.AdditiveAttention(7), 4),
    "input_feeding": rnnjax.InputFeeding(
        rnnjax.LuongDecoder(rnnjax.LSTM(N), rnnjax.MultiplicativeAttention(N), 4, 6)
    ),
    "residual": rnnjax.Residual(rnnjax.GRU(D)),
    "zoneout": rnnjax.Zoneout(rnnjax.LSTM(N), rate=(0.3, 0.1)),
    "highway": rnnjax.Highway(rnnjax.Elman(D)),
    "dropout": rnnjax.Dropout(rnnjax.Zoneout(rnnjax.GRU(N)), rate=0.4),
    "variational_dropout": rnnjax.VariationalDropout(rnnjax.LSTM(N), 0.4, 0.3),
    "carries": rnnjax.WithCarry(rnnjax.LearntCarry(rnnjax.LSTM(N))),
    "attend": Attend(rnnjax.Zoneout(rnnjax.LSTM(N)), memory=4),
    "stack": rnnjax.Stack(
        (rnnjax.Zoneout(rnnjax.LSTM(N)), rnnjax.GRU(N), Attend(rnnjax.GRU(N), memory=4))
    ),
    "stack_residual": rnnjax.Stack((rnnjax.GRU(N), rnnjax.Zoneout(rnnjax.GRU(N))), residual=True),
}

IN_DIMS: dict[str, InDim] = {"conv_lstm": (3, 4, 2), "rg_lru": 4}
"""The shape of one input of the cells that do not read (D,)."""

CONTRACT = (
    "li_gru", "layer_norm_gru", "mgu", "janet", "minimal_rnn", "peephole_lstm", "coupled_lstm",
    "projected_lstm", "layer_norm_lstm", "multiplicative_lstm", "conv_lstm", "slstm", "indrnn",
    "ctrnn", "bahdanau", "input_feeding",
)  # fmt: skip
"""Held to the oracle under ``Sequential()`` alone: ``check_cell`` holds every strategy to that."""

RUNNERS: dict[str, rnnjax.Strategy] = {
    "sequential": rnnjax.Sequential(),
    "sequential_hoist": rnnjax.Sequential(hoist=True),
    "unrolled": rnnjax.Unrolled(),
    "chunked": rnnjax.Chunked(size=2),
}
"""One of each way of running: with every cell. T = 5 leaves a shorter last chunk."""

DEFERRED: dict[str, rnnjax.Strategy] = {"sequential_defer": rnnjax.Sequential(defer=True)}
"""With every gated cell."""

FUSED: dict[str, rnnjax.Strategy] = {"fused": rnnjax.Fused()}
"""With every cell of ``FUSIBLE``, where there is a C++ compiler."""

FUSIBLE = (
    "elman", "elman_relu", "lstm", "gru", "li_gru", "mgu", "janet", "minimal_rnn",
    "peephole_lstm", "coupled_lstm", "ctrnn", "residual", "zoneout", "highway", "dropout",
    "carries",
)  # fmt: skip
"""Gated cells with the default product and an elementwise update."""

PARALLEL: dict[str, rnnjax.Strategy] = {
    "associative": rnnjax.Associative(),
    "associative_block": rnnjax.Associative(block=2),
}
"""With cells of ``LINEAR``. T = 5 leaves a shorter last block."""

STRATEGIES: dict[str, rnnjax.Strategy] = {
    **RUNNERS,
    **DEFERRED,
    **FUSED,
    "sequential_defer_hoist": rnnjax.Sequential(defer=True, hoist=True, unroll=2),
    "chunked_defer": rnnjax.Chunked(size=2, inside=rnnjax.Sequential(defer=True)),
    "sequential_block": rnnjax.Sequential(hoist=True, block=2),
    "sequential_defer_block": rnnjax.Sequential(hoist=True, block=3, defer=True),
    "sequential_merge": rnnjax.Sequential(merge=True),
    "sequential_defer_merge": rnnjax.Sequential(defer=True, merge=True),
    "sequential_unroll": rnnjax.Sequential(unroll=3),
    "chunked_default": rnnjax.Chunked(),
    "auto": rnnjax.Auto(),
    "auto_bounded": rnnjax.Auto(memory_bytes=1),
}
"""With other options, and with what hands on to one of them: on two cells."""

LINEAR = [name for name, cell in CELLS.items() if accepts(rnnjax.Associative(), cell)]
"""Held to the oracle under ``Associative()``, and ``step`` to ``scan`` under ``Sequential()``."""
GATED = [name for name, cell in CELLS.items() if cell.gated() is not None]
OPTIONS = STRATEGIES.keys() - RUNNERS.keys() - DEFERRED.keys() - FUSED.keys()


def skip_without_compiler(strategy: str = "fused") -> None:
    """Skip a test of ``Fused`` where kernels cannot be compiled."""
    if strategy in FUSED and (reason := build.missing()):
        pytest.skip(f"no kernels: {reason}")


REPRESENTATIVES = ("zoneout", "gru")
"""For what is tested once a strategy: an LSTM under a stochastic wrapper, and a plain cell."""

LINEAR_REPRESENTATIVES = ("zoneout_min_lstm", "gated_delta")
"""The same for ``PARALLEL``: an affine cell under a wrapper, and an operator of the cell's own."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A cell with generic arguments: nothing is zero, one or full but the lengths 0, 1 and T."""

    cell: rnnjax.Cell
    params: Params
    xs: PyTree
    carry: Carry
    mask: Array
    lengths: Array
    resets: Array
    context: dict[str, Array] | None

    def as_dtype(self, dtype: str) -> "Case":
        """Cast every floating-point array."""

        def cast(a: Any) -> Any:
            if jnp.iscomplexobj(a):
                return a.astype("complex128" if dtype == "float64" else "complex64")
            return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Case(cell=arrays.pop("cell"), **jax.tree.map(cast, arrays))


@functools.cache
def case(name: str, time: int = T) -> Case:
    """Draw the arguments of one cell of the table."""
    return draw(CELLS[name], time, in_dim=IN_DIMS.get(name, D))


def draw(cell: rnnjax.Cell, time: int = T, batch: int = B, in_dim: InDim = D) -> Case:
    """Draw generic arguments for a cell, params that ``init`` leaves at zero included."""
    keys = iter(jax.random.split(jax.random.key(20), 9))
    xs = random_like(next(keys), as_shapes(in_dim), (time, batch))
    noise = next(keys)
    lengths = jnp.array([0, 1, time, time // 2] * (batch // 4))
    mask = jax.random.bernoulli(next(keys), 0.8, (time, batch))
    valid = mask & (jnp.arange(time)[:, None] < lengths[None])
    xs = jnp.where(jnp.expand_dims(valid, range(2, xs.ndim)), xs, jnp.nan)
    params = random_like(
        next(keys), jax.eval_shape(lambda key: cell.init(key, in_dim), jax.random.key(0)), ()
    )
    shapes = cell.context_shapes()
    k_context = next(keys)
    context = random_like(k_context, shapes, (batch,))
    context = (context | rnnjax.sequence_noise(k_context, cell, params, batch)) or None
    row = {**params, "context": jax.tree.map(lambda a: a[0], context)}
    return Case(
        cell,
        params,
        rnnjax.with_keys(noise, xs) if cell.noisy else xs,
        random_like(next(keys), jax.eval_shape(cell.initial_carry, row), (batch,)),
        mask,
        lengths,
        jax.random.bernoulli(next(keys), 0.25, (time, batch)),
        context,
    )


def everything(c: Case, scan: Callable) -> tuple:
    """Run a case forwards in two parts and in reverse as a whole; return results and gradients.

    ``scan`` has the signature of ``rnnjax.scan``, so the oracle goes the same way.
    """
    time = c.mask.shape[0]
    k = time // 2

    def forward(params: Params, carry: Carry, xs: PyTree, context: Any) -> tuple[Array, dict]:
        def part(start: int, stop: int, carry: Carry | None, **options: Any) -> tuple:
            return scan(
                c.cell,
                params,
                jax.tree.map(lambda a: a[start:stop], xs),
                carry,
                mask=c.mask[start:stop],
                lengths=(c.lengths - start).clip(0, stop - start),
                resets=c.resets[start:stop],
                context=context,
                **options,
            )

        middle, early = part(0, k, carry)
        last, late = part(k, time, middle)
        ys = jax.tree.map(lambda *y: jnp.concatenate(y), early, late)
        results = {"forward": (last, ys), "reverse": part(0, time, None, reverse=True)}
        return scalar(results), results

    gradients = jax.value_and_grad(forward, argnums=(0, 1, 2, 3), has_aux=True, allow_int=True)
    (_, results), gradient = gradients(c.params, c.carry, c.xs, c.context)
    return results, gradient


def scalar(tree: PyTree) -> Array:
    """Return a scalar that weighs every entry differently."""

    def weigh(a: Array) -> Array:
        if jnp.iscomplexobj(a):
            return weigh(jnp.stack([a.real, a.imag]))
        phases = jnp.linspace(0.0, 3.0, a.size, dtype=a.dtype).reshape(a.shape)
        return jnp.sum(jnp.sin(a + phases)).astype(float)

    leaves = jax.tree.leaves(tree)
    return sum((weigh(a) for a in leaves if jnp.issubdtype(a.dtype, jnp.inexact)), jnp.zeros(()))


# The oracle: equations row by row and step by step, masks and resets as Python conditions


def oracle_scan(
    cell: rnnjax.Cell,
    params: Params,
    xs: PyTree,
    carry: Carry | None,
    *,
    mask: Array,
    lengths: Array,
    resets: Array,
    context: dict[str, Array] | None,
    reverse: bool = False,
) -> tuple[Carry, PyTree]:
    """``rnnjax.scan`` in plain loops."""
    time, batch = mask.shape
    rows = [_at(carry, b) for b in range(batch)]
    table: list[list[Any]] = [[None] * batch for _ in range(time)]
    for b in range(batch):
        p = with_context(params, None if context is None else _at(context, b))
        initial = cell.initial_carry(p)
        h = initial if carry is None else rows[b]
        for t in reversed(range(time)) if reverse else range(time):
            border = t + 1 if reverse else t
            if border < time and bool(resets[border, b]):
                h = initial
            x = _at(xs, (t, b))
            if bool(mask[t, b]) and t < int(lengths[b]):
                h, table[t][b] = oracle_step(cell, p, h, x)
        rows[b] = h
    shape = next(y for row in table for y in row if y is not None)
    blank = jax.tree.map(jnp.zeros_like, shape)
    filled = [[blank if y is None else y for y in row] for row in table]
    ys = _stack([_stack(row) for row in filled]) if time else blank
    return _stack(rows), ys


def oracle_step(cell: rnnjax.Cell, p: Params, h: Carry, x: PyTree) -> tuple[Carry, PyTree]:
    """One step of one row: the equations of the cell; a test's own cell has only its methods."""
    equations = EQUATIONS.get(type(cell))
    return equations(cell, p, h, x) if equations else one_step(cell, p, h, x)


def _elman(cell: rnnjax.Elman, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    h = cell.activation(x @ p["w_x"] + h @ p["w_h"] + p["b"])
    return h, h


def _lstm(cell: rnnjax.LSTM, p: Params, carry: Any, x: Array) -> tuple[Any, Array]:
    c, h = carry
    z = [x @ p["w_x"][:, s] + h @ p["w_h"][:, s] + p["b"][s] for s in _gates(cell.size, 4)]
    c = _sigmoid(z[1]) * c + _sigmoid(z[0]) * jnp.tanh(z[2])
    h = _sigmoid(z[3]) * jnp.tanh(c)
    return rnnjax.LSTMCarry(c, h), h


def _gru(cell: rnnjax.GRU, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    r, z, n = _gates(cell.size, 3)
    reset = _sigmoid(x @ p["w_x"][:, r] + h @ p["w_h"][:, r] + p["b"][r])
    keep = _sigmoid(x @ p["w_x"][:, z] + h @ p["w_h"][:, z] + p["b"][z])
    new = jnp.tanh(x @ p["w_x"][:, n] + p["b"][n] + reset * (h @ p["w_h"][:, n] + p["b_hn"]))
    h = (1 - keep) * new + keep * h
    return h, h


def _gru_reset_before(
    cell: rnnjax.GRUResetBefore, p: Params, h: Array, x: Array
) -> tuple[Array, Array]:
    r, z, n = _gates(cell.size, 3)
    reset = _sigmoid(x @ p["w_x"][:, r] + h @ p["w_h"][:, r] + p["b"][r])
    keep = _sigmoid(x @ p["w_x"][:, z] + h @ p["w_h"][:, z] + p["b"][z])
    new = jnp.tanh(x @ p["w_x"][:, n] + p["b"][n] + (reset * h) @ p["w_h"][:, n])
    h = (1 - keep) * new + keep * h
    return h, h


def _layer_norm_gru(
    cell: rnnjax.LayerNormGRU, p: Params, h: Array, x: Array
) -> tuple[Array, Array]:
    n = cell.size
    from_x, from_h = (
        p[f"s_{name}"]
        * jnp.concatenate(
            [_layer_norm(a @ p[f"w_{name}"][:, s]) for s in (slice(2 * n), slice(2 * n, None))]
        )
        for name, a in (("x", x), ("h", h))
    )
    from_x = from_x + p["b"]
    reset, keep = _sigmoid(from_x + from_h)[:n], _sigmoid(from_x + from_h)[n : 2 * n]
    new = jnp.tanh(from_x[2 * n :] + reset * (from_h[2 * n :] + p["b_hn"]))
    h = (1 - keep) * new + keep * h
    return h, h


def _li_gru(cell: rnnjax.LiGRU, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    keep, new = (_affine(p, s, x, h) for s in _gates(cell.size, 2))
    h = h + (1 - _sigmoid(keep)) * (jnp.maximum(new, 0) - h)
    return h, h


def _mgu(cell: rnnjax.MGU, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    f, n = _gates(cell.size, 2)
    forget = _sigmoid(_affine(p, f, x, h))
    new = jnp.tanh(x @ p["w_x"][:, n] + p["b"][n] + forget * (h @ p["w_h"][:, n] + p["b_hn"]))
    h = h + forget * (new - h)
    return h, h


def _janet(cell: rnnjax.JANET, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    f, n = (_affine(p, s, x, h) for s in _gates(cell.size, 2))
    h = _sigmoid(f) * h + (1 - _sigmoid(f - 1.0)) * jnp.tanh(n)
    return h, h


def _minimal_rnn(cell: rnnjax.MinimalRNN, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    z = jnp.tanh(x @ p["w_x"] + p["b"])
    keep = _sigmoid(h @ p["w_h"] + z @ p["w_z"] + p["b_k"])
    h = z + keep * (h - z)
    return h, h


def _peephole_lstm(cell: rnnjax.PeepholeLSTM, p: Params, carry: Any, x: Array) -> tuple[Any, Array]:
    c, h = carry
    z = [_affine(p, s, x, h) for s in _gates(cell.size, 4)]
    p_i, p_f, p_o = (p["w_c"][s] for s in _gates(cell.size, 3))
    c_new = _sigmoid(z[1] + p_f * c) * c + _sigmoid(z[0] + p_i * c) * jnp.tanh(z[2])
    h = _sigmoid(z[3] + p_o * c_new) * jnp.tanh(c_new)
    return rnnjax.LSTMCarry(c_new, h), h


def _coupled_lstm(cell: rnnjax.CoupledLSTM, p: Params, carry: Any, x: Array) -> tuple[Any, Array]:
    c, h = carry
    f, g, o = (_affine(p, s, x, h) for s in _gates(cell.size, 3))
    new = jnp.tanh(g)
    c = new + _sigmoid(f) * (c - new)
    h = _sigmoid(o) * jnp.tanh(c)
    return rnnjax.LSTMCarry(c, h), h


def _projected_lstm(
    cell: rnnjax.ProjectedLSTM, p: Params, carry: Any, x: Array
) -> tuple[Any, Array]:
    carry, wide = _lstm(cell, p, carry, x)
    h = wide @ p["w_p"]
    return rnnjax.LSTMCarry(carry.c, h), h


def _layer_norm_lstm(
    cell: rnnjax.LayerNormLSTM, p: Params, carry: Any, x: Array
) -> tuple[Any, Array]:
    from_x, from_h = _layer_norm(x @ p["w_x"]), _layer_norm(carry.h @ p["w_h"])
    z = p["s_x"] * from_x + p["s_h"] * from_h + p["b"]
    i, f, g, o = (z[s] for s in _gates(cell.size, 4))
    c = _sigmoid(f) * carry.c + _sigmoid(i) * jnp.tanh(g)
    h = _sigmoid(o) * jnp.tanh(p["s_c"] * _layer_norm(c) + p["b_c"])
    return rnnjax.LSTMCarry(c, h), h


def _multiplicative_lstm(
    cell: rnnjax.MultiplicativeLSTM, p: Params, carry: Any, x: Array
) -> tuple[Any, Array]:
    m = (x @ p["w_mx"]) * (carry.h @ p["w_mh"])
    return _lstm(cell, p, rnnjax.LSTMCarry(carry.c, m), x)


def _conv_lstm(cell: rnnjax.ConvLSTM, p: Params, carry: Any, x: Array) -> tuple[Any, Array]:
    """Place by place: the window around it times the kernel, summed."""
    z = _windows(x, 3) @ p["w_x"].reshape(-1, 4 * cell.size) + p["b"][None, None]
    z = z + _windows(carry.h, 3) @ p["w_h"].reshape(-1, 4 * cell.size)
    i, f, g, o = (z[..., s] for s in _gates(cell.size, 4))
    c = _sigmoid(f) * carry.c + _sigmoid(i) * jnp.tanh(g)
    h = _sigmoid(o) * jnp.tanh(c)
    return rnnjax.LSTMCarry(c, h), h


def _windows(image: Array, width: int) -> Array:
    """Return the window around each place of an image (rows, columns, D), flattened."""
    rows, columns, _ = image.shape
    edge = width // 2
    padded = jnp.pad(image, ((edge, edge), (edge, edge), (0, 0)))
    shifts = [padded[r : r + rows, c : c + columns] for r in range(width) for c in range(width)]
    return jnp.concatenate(shifts, axis=-1)


def _slstm(cell: rnnjax.SLSTM, p: Params, carry: Any, x: Array) -> tuple[Any, Array]:
    """The paper's c, n and m, made of the carry and turned into it again."""
    k = cell.size // cell.heads
    blocks = [carry.h[s] @ p["w_h"][head] for head, s in enumerate(_gates(k, cell.heads))]
    r = [jnp.concatenate([block[s] for block in blocks]) for s in _gates(k, 4)]
    u = x @ p["w_x"] + p["b"]
    i, f, g, o = (u[s] + product for s, product in zip(_gates(cell.size, 4), r, strict=True))
    log_f = -jnp.log1p(jnp.exp(-f))
    m = jnp.maximum(log_f + carry.log_n, i)
    n_before = jnp.exp(log_f + carry.log_n - m)
    n = n_before + jnp.exp(i - m)
    c = (n_before * carry.c + jnp.exp(i - m) * jnp.tanh(g)) / n
    h = _sigmoid(o) * c
    return rnnjax.SLSTMCarry(c, jnp.log(n) + m, h), h


def _indrnn(cell: rnnjax.IndRNN, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    h = cell.activation(x @ p["w_x"] + p["b"] + p["a"] * h)
    return h, h


def _ctrnn(cell: rnnjax.CTRNN, p: Params, h: Array, x: Array) -> tuple[Array, Array]:
    kept = jnp.exp(-cell.dt / jnp.exp(p["log_tau"]))
    h = kept * h + (1 - kept) * jnp.tanh(x @ p["w_x"] + h @ p["w_h"] + p["b"])
    return h, h


def _bahdanau(
    cell: rnnjax.BahdanauDecoder, p: Params, carry: Any, x: Array
) -> tuple[Any, rnnjax.DecoderOutput]:
    # The keys are context, so the table draws them; that they are m W_k is for test_attention.
    memory, w = p["context"]["memory"], p["attention"]
    scores = [w["v"] @ jnp.tanh(carry.cell @ w["w_q"] + key) for key in memory.keys]
    attended = _attend(memory, scores)
    h, y = oracle_step(cell.cell, p, carry.cell, jnp.concatenate([x, attended.context]))
    return rnnjax.BahdanauCarry(h, attended), rnnjax.DecoderOutput(y, *attended)


def _input_feeding(
    cell: rnnjax.InputFeeding, p: Params, carry: Any, x: Array
) -> tuple[Any, rnnjax.DecoderOutput]:
    memory = p["context"]["memory"]
    joined = jnp.concatenate([x, carry.attended.output])
    inner, y = oracle_step(cell.cell.cell, p, carry.cell, joined)
    context, weights = _attend(memory, [key @ y for key in memory.keys])
    output = jnp.tanh(jnp.concatenate([context, y]) @ p["w_c"])
    output = rnnjax.DecoderOutput(output, context, weights)
    return rnnjax.InputFeedingCarry(inner, output), output


def _attend(memory: rnnjax.Memory, scores: list[Array]) -> rnnjax.Attended:
    powers = jnp.where(memory.mask, jnp.exp(jnp.stack(scores)), 0)
    total = jnp.where(memory.mask.any(), powers.sum(), 1)
    weights = powers / total
    context = sum(weights[s] * memory.values[s] for s in range(len(scores)))
    return rnnjax.Attended(jnp.asarray(context), weights)


def _affine(p: Params, gate: slice, x: Array, h: Array) -> Array:
    return x @ p["w_x"][:, gate] + h @ p["w_h"][:, gate] + p["b"][gate]


def _layer_norm(a: Array) -> Array:
    centred = a - a.mean()
    return centred / jnp.sqrt((centred**2).mean() + 1e-5)


def _residual(cell: rnnjax.Residual, p: Params, h: Carry, x: PyTree) -> tuple[Carry, Array]:
    h, y = oracle_step(cell.cell, p, h, x)
    return h, y + (x.x if isinstance(x, rnnjax.Keyed) else x)


def _zoneout(cell: rnnjax.Zoneout, p: Params, h: Carry, x: PyTree) -> tuple[Carry, Array]:
    inner = rnnjax.Keyed(x.x, jax.random.fold_in(x.key, 1))
    new, _ = oracle_step(cell.cell, p, h, feed(cell.cell, inner))
    # The draw is the library's own; what is done with it is not.
    keep = cell.encode(p, x).own
    h = jax.tree.map(lambda m, old, after: m * old + (1 - m) * after, _numbers(keep), h, new)
    return h, h.h if isinstance(h, rnnjax.LSTMCarry) else h


def _highway(cell: rnnjax.Highway, p: Params, h: Carry, x: Array) -> tuple[Carry, Array]:
    h, y = oracle_step(cell.cell, p, h, x)
    gate = _sigmoid(x @ p["highway_w"] + p["highway_b"])
    return h, gate * y + (1 - gate) * x


def _dropout(cell: rnnjax.Dropout, p: Params, h: Carry, x: Any) -> tuple[Carry, PyTree]:
    key = jax.random.split(jax.random.fold_in(x.key, 0), 1)[0]
    kept = jax.random.bernoulli(key, np.float32(1 - cell.rate), x.x.shape)
    dropped = jnp.where(kept, x.x, 0.0) / (1 - cell.rate)
    return oracle_step(cell.cell, p, h, rnnjax.Keyed(dropped, jax.random.fold_in(x.key, 1)))


def _variational_dropout(
    cell: rnnjax.VariationalDropout, p: Params, carry: Any, x: Array
) -> tuple[Any, Array]:
    # Of an LSTM: the product reads masked h, and c goes by it.
    masks = p["context"][cell.name]
    return oracle_step(cell.cell, p, carry._replace(h=carry.h * masks.h), x * masks.x)


def _with_carry(cell: rnnjax.WithCarry, p: Params, h: Carry, x: PyTree) -> tuple[Carry, PyTree]:
    h, y = oracle_step(cell.cell, p, h, x)
    return h, rnnjax.OutputAndCarry(y, h)


def _learnt_carry(cell: rnnjax.LearntCarry, p: Params, h: Carry, x: PyTree) -> tuple[Carry, PyTree]:
    return oracle_step(cell.cell, p, h, x)


def _stack_of_cells(cell: rnnjax.Stack, p: Params, h: Carry, x: PyTree) -> tuple[Carry, Array]:
    carries, key = [], x.key if isinstance(x, rnnjax.Keyed) else None
    y = x.x if isinstance(x, rnnjax.Keyed) else x
    for k, layer in enumerate(cell.cells):
        read = y if key is None else feed(layer, rnnjax.Keyed(y, jax.random.fold_in(key, k)))
        carry, out = oracle_step(layer, hand_down(p, p["layers"][k]), h[k], read)
        carries.append(carry)
        y = out + y if cell.residual and k > 0 else out
    return tuple(carries), y


def _numbers(mask: PyTree) -> PyTree:
    return jax.tree.map(lambda m: m.astype(float), mask)


EQUATIONS: dict[type, Callable] = {
    rnnjax.Elman: _elman,
    rnnjax.LSTM: _lstm,
    rnnjax.GRU: _gru,
    rnnjax.GRUResetBefore: _gru_reset_before,
    rnnjax.LiGRU: _li_gru,
    rnnjax.LayerNormGRU: _layer_norm_gru,
    rnnjax.MGU: _mgu,
    rnnjax.JANET: _janet,
    rnnjax.MinimalRNN: _minimal_rnn,
    rnnjax.PeepholeLSTM: _peephole_lstm,
    rnnjax.CoupledLSTM: _coupled_lstm,
    rnnjax.ProjectedLSTM: _projected_lstm,
    rnnjax.LayerNormLSTM: _layer_norm_lstm,
    rnnjax.MultiplicativeLSTM: _multiplicative_lstm,
    rnnjax.ConvLSTM: _conv_lstm,
    rnnjax.SLSTM: _slstm,
    rnnjax.IndRNN: _indrnn,
    rnnjax.CTRNN: _ctrnn,
    rnnjax.Residual: _residual,
    rnnjax.Highway: _highway,
    rnnjax.Zoneout: _zoneout,
    rnnjax.Dropout: _dropout,
    rnnjax.VariationalDropout: _variational_dropout,
    rnnjax.WithCarry: _with_carry,
    rnnjax.LearntCarry: _learnt_carry,
    rnnjax.Stack: _stack_of_cells,
    rnnjax.BahdanauDecoder: _bahdanau,
    rnnjax.InputFeeding: _input_feeding,
    **LINEAR_EQUATIONS,
}


def _sigmoid(a: Array) -> Array:
    return 1 / (1 + jnp.exp(-a))


def _gates(size: int, count: int) -> list[slice]:
    return [slice(k * size, (k + 1) * size) for k in range(count)]


def _at(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda a: a[index], tree)


def _stack(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *a: jnp.stack(a), *trees)


@functools.cache
def oracle(name: str) -> tuple:
    """Return ``everything`` of a case in float64 by plain loops, as NumPy arrays."""
    with jax.enable_x64(True):
        c = case(name).as_dtype("float64")
        # What the loops ask about has to be at hand while they are traced.
        asked = {key: np.asarray(getattr(c, key)) for key in ("mask", "lengths", "resets")}

        def run(*arrays: PyTree) -> tuple:
            names = ("params", "xs", "carry", "context")
            return everything(
                dataclasses.replace(c, **asked, **dict(zip(names, arrays, strict=True))),
                oracle_scan,
            )

        compiled = jax.jit(run, compiler_options=FAST_COMPILATION)
        return jax.tree.map(_to_numpy, compiled(c.params, c.xs, c.carry, c.context))


def _to_numpy(a: Any) -> Any:
    return np.asarray(a) if jnp.issubdtype(a.dtype, jnp.number) else a
