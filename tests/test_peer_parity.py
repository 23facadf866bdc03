"""Parity with cells of Linen, NNX, Haiku, Equinox and Keras, their weights read by ``interop``.

Outputs, carries and gradients, in the peer's own weights and in the inputs, of ragged batches.
"""

import functools
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnnjax
from rnnjax import interop
from rnnjax.testing import FAST_COMPILATION, largest_difference
from tests.cases import scalar

T, B, D, N = 6, 4, 3, 5
LENGTHS = jnp.array([6, 1, 3, 5])
TOLERANCE = 2e-6
CHUNKED = rnnjax.Chunked(size=2)
RELU = rnnjax.Elman(N, activation=jax.nn.relu)
OPTIMIZED = functools.partial(interop.to_nnx, optimized=True)


def linen(peer):
    rnn = nn.RNN(peer, time_major=True, return_carry=True)

    def run(weights, xs):
        return rnn.apply({"params": {"cell": weights}}, xs, seq_lengths=LENGTHS)

    return run


def of_nnx(peer):
    module = peer(in_features=D, hidden_features=N, rngs=nnx.Rngs(0))
    graph, state, rest = nnx.split(nnx.RNN(module, time_major=True), nnx.Param, ...)

    def run(weights, xs):
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, {"cell": weights})
        rnn = nnx.merge(graph, filled, rest)
        # Given, because the default one draws from a counter that lives outside this trace.
        start = jax.tree.map(jnp.zeros_like, rnn.cell.initialize_carry((B, D), rngs=nnx.Rngs(0)))
        return rnn(xs, initial_carry=start, seq_lengths=LENGTHS, return_carry=True)

    return run


def of_haiku(name):
    hk = pytest.importorskip("haiku", reason="haiku is not installed")
    cell = interop.HaikuCell(getattr(hk, name), N)

    def run(weights, xs):
        carry, ys = rnnjax.scan(cell, weights, xs, lengths=LENGTHS, strategy=CHUNKED)
        return (carry.cell, carry.hidden) if name == "LSTM" else carry, ys

    return run


def of_equinox(name):
    equinox = pytest.importorskip("equinox", reason="equinox is not installed")
    cell = interop.EquinoxCell(getattr(equinox.nn, name), N)
    module = cell.init(jax.random.key(0), D)["module"]

    def run(weights, xs):
        leaves = list(weights.values())
        filled = equinox.tree_at(lambda c: [getattr(c, k) for k in weights], module, leaves)
        params = {"module": filled}
        carry, ys = rnnjax.scan(cell, params, xs, lengths=LENGTHS, strategy=CHUNKED)
        return carry[::-1] if name == "LSTMCell" else carry, ys

    return run


def of_keras(name, **options):
    os.environ["KERAS_BACKEND"] = "jax"
    keras = pytest.importorskip("keras", reason="keras is not installed")
    layer = getattr(keras.layers, name)(N, return_sequences=True, return_state=True, **options)
    layer.build((B, T, D))

    def run(weights, xs):
        mask = jnp.arange(T)[None] < LENGTHS[:, None]
        others = layer.non_trainable_variables
        (ys, *state), _ = layer.stateless_call(
            weights, others, jnp.swapaxes(xs, 0, 1), mask=mask, training=False
        )
        return tuple(reversed(state)), jnp.swapaxes(ys, 0, 1)

    return run


LSTM, GRU, BEFORE, ELMAN = (
    rnnjax.LSTM(N), rnnjax.GRU(N), rnnjax.GRUResetBefore(N), rnnjax.Elman(N),
)  # fmt: skip
PEERS = {
    "linen lstm": (LSTM, interop.from_linen, interop.to_linen, lambda: linen(nn.LSTMCell(N))),
    "linen optimized lstm": (
        LSTM, interop.from_linen, interop.to_linen, lambda: linen(nn.OptimizedLSTMCell(N)),
    ),
    "linen gru": (GRU, interop.from_linen, interop.to_linen, lambda: linen(nn.GRUCell(N))),
    "linen simple": (ELMAN, interop.from_linen, interop.to_linen, lambda: linen(nn.SimpleCell(N))),
    "nnx lstm": (LSTM, interop.from_nnx, interop.to_nnx, lambda: of_nnx(nnx.LSTMCell)),
    "nnx optimized lstm": (
        LSTM, interop.from_nnx, OPTIMIZED, lambda: of_nnx(nnx.OptimizedLSTMCell),
    ),
    "nnx gru": (GRU, interop.from_nnx, interop.to_nnx, lambda: of_nnx(nnx.GRUCell)),
    "nnx simple": (ELMAN, interop.from_nnx, interop.to_nnx, lambda: of_nnx(nnx.SimpleCell)),
    "haiku lstm": (LSTM, interop.from_haiku, interop.to_haiku, lambda: of_haiku("LSTM")),
    "haiku gru": (BEFORE, interop.from_haiku, interop.to_haiku, lambda: of_haiku("GRU")),
    "haiku vanilla": (RELU, interop.from_haiku, interop.to_haiku, lambda: of_haiku("VanillaRNN")),
    "equinox lstm": (
        LSTM, interop.from_equinox, interop.to_equinox, lambda: of_equinox("LSTMCell"),
    ),
    "equinox gru": (GRU, interop.from_equinox, interop.to_equinox, lambda: of_equinox("GRUCell")),
    "keras lstm": (LSTM, interop.from_keras, interop.to_keras, lambda: of_keras("LSTM")),
    "keras gru": (GRU, interop.from_keras, interop.to_keras, lambda: of_keras("GRU")),
    "keras gru reset before": (
        BEFORE, interop.from_keras, interop.to_keras, lambda: of_keras("GRU", reset_after=False),
    ),
    "keras simple": (ELMAN, interop.from_keras, interop.to_keras, lambda: of_keras("SimpleRNN")),
}  # fmt: skip


def draw_params(cell):
    """Draw generic params; what the peer cannot hold stays zero."""
    params = cell.init(jax.random.key(3), D)
    keys = jax.random.split(jax.random.key(4), len(params))
    return {
        name: a + 0.3 * jax.random.normal(k, a.shape)
        for k, (name, a) in zip(keys, params.items(), strict=True)
    }


def own_params(name):
    params = draw_params(PEERS[name][0])
    return {**params, "b_hn": jnp.zeros(N)} if name == "nnx gru" else params


@pytest.mark.parametrize("name", PEERS)
def test_values_and_gradients(name):
    cell, read, write, peer = PEERS[name]
    rng = np.random.default_rng(5)
    # Generic also where the params leave zeros, in second biases.
    weights = jax.tree.map(
        lambda a: a + 0.3 * rng.standard_normal(a.shape).astype("float32"),
        write(cell, own_params(name)),
    )
    xs = jax.random.normal(jax.random.key(6), (T, B, D))
    valid = (jnp.arange(T)[:, None] < LENGTHS[None])[..., None]

    def ours(weights, xs):
        carry, ys = rnnjax.scan(cell, read(cell, weights), xs, lengths=LENGTHS)
        return tuple(jax.tree.leaves(carry)), ys

    def theirs(weights, xs):
        carry, ys = run_peer(weights, xs)
        return tuple(jax.tree.leaves(carry)), jnp.where(valid, ys, 0.0)

    def all_of(run):
        def loss(weights, xs):
            result = run(weights, xs)
            return scalar(result), result

        gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        return jax.jit(gradients, compiler_options=FAST_COMPILATION)(weights, xs)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run_peer = peer()
        expected = all_of(theirs)
    assert largest_difference(expected, all_of(ours)) < TOLERANCE


@pytest.mark.parametrize("name", PEERS)
def test_params_come_back(name):
    cell, read, write, _ = PEERS[name]
    params = own_params(name)
    back = read(cell, write(cell, params))
    # Haiku adds 1 to the forget gate in its step, and 1 + (b − 1) is rounded.
    allowed = 1e-7 if name == "haiku lstm" else 0.0
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert largest_difference(params, back) <= allowed


def linen_conv_lstm(params):
    """Gates in Flax's order i, g, f, o; Flax adds 1 to f in the step."""

    def reorder(a):
        i, f, g, o = jnp.split(a, 4, -1)
        return jnp.concatenate([i, g, f, o], -1)

    one = jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0]), N)
    return {
        "ih": {"kernel": reorder(params["w_x"]), "bias": reorder(params["b"] - one)},
        "hh": {"kernel": reorder(params["w_h"]), "bias": jnp.zeros_like(params["b"])},
    }


def test_linen_conv_lstm():
    """Its weights are no case of ``interop``, so they are mapped here."""
    cell, peer = rnnjax.ConvLSTM(N, spatial_shape=(4, 3)), nn.ConvLSTMCell(N, kernel_size=(3, 3))
    params = cell.init(jax.random.key(3), (4, 3, D))
    xs = jax.random.normal(jax.random.key(4), (2, 2, 4, 3, D))

    def theirs(params, xs):
        variables = {"params": linen_conv_lstm(params)}
        carry, ys = (jnp.zeros((2, 4, 3, N)),) * 2, []
        for x in xs:
            carry, y = peer.apply(variables, carry, x)
            ys.append(y)
        return tuple(carry), jnp.stack(ys)

    def ours(params, xs):
        carry, ys = rnnjax.scan(cell, params, xs)
        return tuple(carry), ys

    def of(run):
        gradients = jax.value_and_grad(lambda *a: (scalar(run(*a)), run(*a)), (0, 1), has_aux=True)
        return jax.jit(gradients, compiler_options=FAST_COMPILATION)(params, xs)

    assert largest_difference(of(theirs), of(ours)) < TOLERANCE
