"""One cell as each library runs it, with the same weights: what the speed benchmark times."""

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import rnnjax
from benchmarks.speed_rows import OWN
from examples.own_cell import Coupled
from rnnjax import Strategy, interop
from rnnjax.array_typing import Array, Params
from rnnjax.cell import one_step

CELLS = {"LSTM": rnnjax.LSTM, "GRU": rnnjax.GRU, "Elman": rnnjax.Elman, OWN: Coupled}
"""The classic cells, and one that a user has written, a coupled LSTM with a peephole."""

LOOP = "jax.lax.scan"
"""The peer of a user's own cell: the loop that everybody writes."""

STRATEGIES: dict[str, Strategy] = {
    "Auto()": rnnjax.Auto(),
    "Auto(kernels=False)": rnnjax.Auto(kernels=False),
    "Sequential()": rnnjax.Sequential(),
    "Sequential(unroll=4)": rnnjax.Sequential(unroll=4),
    "Sequential(hoist=True)": rnnjax.Sequential(hoist=True),
    "Sequential(defer=True)": rnnjax.Sequential(defer=True),
    "Sequential(hoist=True, defer=True)": rnnjax.Sequential(hoist=True, defer=True),
    "Sequential(merge=True)": rnnjax.Sequential(merge=True),
    "Sequential(defer=True, merge=True)": rnnjax.Sequential(defer=True, merge=True),
    "Sequential(hoist=True, block=16)": rnnjax.Sequential(hoist=True, block=16),
    "Sequential(hoist=True, block=16, defer=True)": rnnjax.Sequential(
        hoist=True, block=16, defer=True
    ),
    "Fused()": rnnjax.Fused(),
    "Chunked()": rnnjax.Chunked(),
    "Unrolled()": rnnjax.Unrolled(),
}


class Size(NamedTuple):
    """The sizes of one case and the dtype of weights and inputs."""

    T: int
    B: int
    D: int
    N: int
    dtype: str


Kind = Callable[[int], rnnjax.Cell]
"""A class of cells, called with N."""


def gate_count(kind: Kind, hidden: int) -> int:
    """Return G."""
    params = jax.eval_shape(lambda key: kind(hidden).init(key, 1), jax.random.key(0))
    return params["w_h"].shape[1] // hidden


class Model(NamedTuple):
    """A cell as one library runs it.

    Attributes:
        run: (weights, xs) → ys, in the layout that the library asks for.
        weights: its weights.
        kind: the cell of rnnjax with the same equations.
        batch_major: whether it takes and gives (B, T, …) instead of (T, B, …).
    """

    run: Callable[[Any, Array], Any]
    weights: Any
    kind: Kind
    batch_major: bool = False


class Arm(NamedTuple):
    """One way of running.

    Attributes:
        implementation: ``rnnjax`` or the peer.
        name: a strategy, or the peer's name of the cell.
        make: size → ``Model``; it imports the peer.
    """

    implementation: str
    name: str
    make: Callable[[Size], Model]


# Drawing them compiles some programs of its own.
@functools.cache
def ours(kind: Kind, size: Size) -> tuple[rnnjax.Cell, Params]:
    """Return a cell and its params, the same for all arms.

    b is drawn too, so that a bias in the wrong place shows; but b_hn, which NNX's GRU lacks, is 0.
    """
    cell = kind(size.N)
    params = cell.init(jax.random.key(0), size.D)
    b = params["b"] + 0.1 * jax.random.normal(jax.random.key(1), params["b"].shape)
    return cell, jax.tree.map(lambda leaf: leaf.astype(size.dtype), params | {"b": b})


def rnnjax_model(kind: Kind, strategy: Strategy, size: Size) -> Model:
    """Return a cell under a strategy."""
    cell, params = ours(kind, size)

    def run(params: Params, xs: Array) -> Array:
        return rnnjax.scan(cell, params, xs, strategy=strategy)[1]

    return Model(run, params, kind)


def _loop(kind: Kind, size: Size) -> Model:
    own, params = ours(kind, size)

    def run(params: Params, xs: Array) -> Array:
        carry = rnnjax.initial_carry(own, params, xs.shape[1])
        step = jax.vmap(functools.partial(one_step, own, params))
        return jax.lax.scan(step, carry, xs)[1]

    return Model(run, params, kind)


def rnnjax_arm(cell: str, name: str) -> Arm:
    """Return the arm of a strategy."""
    return _arm("rnnjax", name, rnnjax_model, CELLS[cell], STRATEGIES[name])


def _linen(kind: Kind, peer: Any, size: Size) -> Model:
    own, params = ours(kind, size)
    rnn = nn.RNN(peer(size.N, dtype=size.dtype, param_dtype=size.dtype), time_major=True)
    weights = {"params": {"cell": interop.to_linen(own, params)}}
    return Model(lambda weights, xs: rnn.apply(weights, xs), weights, kind)


def _nnx(kind: Kind, peer: Any, optimized: bool, size: Size) -> Model:
    own, params = ours(kind, size)
    weights = interop.to_nnx(own, params, optimized=optimized)
    dtypes = {"dtype": size.dtype, "param_dtype": size.dtype}
    module = peer(size.D, size.N, **dtypes, rngs=nnx.Rngs(0))
    graph, state, rest = nnx.split(nnx.RNN(module, time_major=True), nnx.Param, ...)

    def run(weights: Any, xs: Array) -> Any:
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, {"cell": weights})
        rnn = nnx.merge(graph, filled, rest)
        # Given, because the default one draws from a counter that lives outside of this trace.
        zeros = jnp.zeros((xs.shape[1], size.N), xs.dtype)
        carry = (zeros, zeros) if isinstance(own, rnnjax.LSTM) else zeros
        return rnn(xs, initial_carry=carry)

    return Model(run, weights, kind)


def _haiku(kind: Kind, peer: str, size: Size) -> Model:
    haiku: Any = importlib.import_module("haiku")
    own, params = ours(kind, size)

    def run(xs: Array) -> Array:
        core = getattr(haiku, peer)(size.N)
        return haiku.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    apply = haiku.without_apply_rng(haiku.transform(run)).apply
    return Model(apply, interop.to_haiku(own, params), kind)


def _equinox(kind: Kind, peer: str, size: Size) -> Model:
    equinox: Any = importlib.import_module("equinox")
    own, params = ours(kind, size)
    module = getattr(equinox.nn, peer)(size.D, size.N, key=jax.random.key(0))
    names = list(weights := interop.to_equinox(own, params))

    def run(weights: Any, xs: Array) -> Array:
        filled = equinox.tree_at(
            lambda cell: [getattr(cell, name) for name in names],
            module,
            [weights[name] for name in names],
        )
        zeros = jnp.zeros((xs.shape[1], size.N), xs.dtype)

        def step(carry: Any, x: Array) -> tuple[Any, Array]:
            carry = jax.vmap(filled)(x, carry)
            return carry, jax.tree.leaves(carry)[0]

        return jax.lax.scan(step, (zeros, zeros) if peer == "LSTMCell" else zeros, xs)[1]

    return Model(run, weights, kind)


def _keras(kind: Kind, peer: str, size: Size) -> Model:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras: Any = importlib.import_module("keras")
    own, params = ours(kind, size)
    layer = getattr(keras.layers, peer)(size.N, return_sequences=True, dtype=size.dtype)
    layer.build((size.B, size.T, size.D))

    def run(weights: Any, xs: Array) -> Array:
        return layer.stateless_call(weights, layer.non_trainable_variables, xs, training=False)[0]

    return Model(run, interop.to_keras(own, params), kind, batch_major=True)


def _cudnn(kind: Kind, size: Size) -> Model:
    rnn: Any = importlib.import_module("jax.experimental.rnn")
    own, params = ours(kind, size)
    state = interop.to_torch(own, params)

    def run(weights: Array, xs: Array) -> Array:
        zeros = jnp.zeros((1, size.B, size.N), xs.dtype)
        lengths = jnp.full((size.B,), size.T, jnp.int32)
        return rnn.lstm(xs, zeros, zeros, weights, lengths, size.D, size.N, 1, 0.0, False)[0]

    return Model(run, pack_cudnn(state), kind, batch_major=True)


def pack_cudnn(state: dict[str, Any]) -> Array:
    """Return PyTorch's weights of one layer as the one vector that cuDNN takes."""
    names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
    return jnp.concatenate([jnp.ravel(state[name]) for name in names])


def _arm(implementation: str, name: str, make: Callable, *args: Any) -> Arm:
    return Arm(implementation, name, functools.partial(make, *args))


def peer_arms(cell: str, platform: str) -> list[Arm]:
    """Return the arms of the libraries on JAX, without a peer's cell that has other equations.

    Haiku's GRU resets before the product, and is compared with the cell that does; its
    ``VanillaRNN`` has no tanh, and Equinox has no such cell.
    """
    kind = CELLS[cell]
    arms = {
        "LSTM": [
            _arm("flax.linen", "LSTMCell", _linen, kind, nn.LSTMCell),
            _arm("flax.linen", "OptimizedLSTMCell", _linen, kind, nn.OptimizedLSTMCell),
            _arm("flax.nnx", "LSTMCell", _nnx, kind, nnx.LSTMCell, False),
            _arm("flax.nnx", "OptimizedLSTMCell", _nnx, kind, nnx.OptimizedLSTMCell, True),
            _arm("haiku", "LSTM", _haiku, kind, "LSTM"),
            _arm("equinox", "LSTMCell", _equinox, kind, "LSTMCell"),
            _arm("keras", "LSTM", _keras, kind, "LSTM"),
        ],
        "GRU": [
            _arm("flax.linen", "GRUCell", _linen, kind, nn.GRUCell),
            _arm("flax.nnx", "GRUCell", _nnx, kind, nnx.GRUCell, False),
            _arm("haiku", "GRU", _haiku, rnnjax.GRUResetBefore, "GRU"),
            _arm("equinox", "GRUCell", _equinox, kind, "GRUCell"),
            _arm("keras", "GRU", _keras, kind, "GRU"),
        ],
        "Elman": [
            _arm("flax.linen", "SimpleCell", _linen, kind, nn.SimpleCell),
            _arm("flax.nnx", "SimpleCell", _nnx, kind, nnx.SimpleCell, False),
            _arm("keras", "SimpleRNN", _keras, kind, "SimpleRNN"),
        ],
        OWN: [_arm(LOOP, "step", _loop, kind)],
    }[cell]
    if cell == "LSTM" and platform == "gpu":
        arms.append(_arm("jax.experimental.rnn", "lstm", _cudnn, kind))
    return arms
