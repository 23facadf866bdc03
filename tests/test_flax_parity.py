"""Parity with the cells of Flax Linen and NNX in values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import rnnjax
from rnnjax.testing import largest_difference
from tests.cases import scalar

T, B, D, N = 9, 4, 3, 6
LENGTHS = jnp.array([9, 1, 5, 7])
TOLERANCE = 2e-6


def linen_lstm(p):
    kernels = zip("ifgo", jnp.split(p["w_x"], 4, 1), jnp.split(p["w_h"], 4, 1), strict=True)
    biases = dict(zip("ifgo", jnp.split(p["b"], 4), strict=True))
    dense = {}
    for gate, w_x, w_h in kernels:
        dense[f"i{gate}"] = {"kernel": w_x}
        dense[f"h{gate}"] = {"kernel": w_h, "bias": biases[gate]}
    return dense


def linen_gru(p):
    names = zip("rzn", jnp.split(p["w_x"], 3, 1), jnp.split(p["w_h"], 3, 1), strict=True)
    biases = dict(zip("rzn", jnp.split(p["b"], 3), strict=True))
    dense = {}
    for gate, w_x, w_h in names:
        dense[f"i{gate}"] = {"kernel": w_x, "bias": biases[gate]}
        dense[f"h{gate}"] = {"kernel": w_h}
    dense["hn"]["bias"] = p["b_hn"]
    return dense


def linen_elman(p):
    return {"i": {"kernel": p["w_x"], "bias": p["b"]}, "h": {"kernel": p["w_h"]}}


def nnx_lstm(p):
    dense = linen_lstm(p)
    forget = dense.pop("if")
    return {**dense, "if_": forget}


def nnx_gru(p):
    return {"dense_i": {"kernel": p["w_x"], "bias": p["b"]}, "dense_h": {"kernel": p["w_h"]}}


def nnx_elman(p):
    return {"dense_i": {"kernel": p["w_x"], "bias": p["b"]}, "dense_h": {"kernel": p["w_h"]}}


LINEN = {
    "lstm": (rnnjax.LSTM(N), nn.LSTMCell(N), linen_lstm),
    "optimized_lstm": (rnnjax.LSTM(N), nn.OptimizedLSTMCell(N), linen_lstm),
    "gru": (rnnjax.GRU(N), nn.GRUCell(N), linen_gru),
    "elman": (rnnjax.Elman(N), nn.SimpleCell(N), linen_elman),
}
NNX = {
    "lstm": (rnnjax.LSTM(N), nnx.LSTMCell, nnx_lstm),
    "gru": (rnnjax.GRU(N), nnx.GRUCell, nnx_gru),
    "elman": (rnnjax.Elman(N), nnx.SimpleCell, nnx_elman),
}


def draw(cell):
    k_params, k_xs, k_bias = jax.random.split(jax.random.key(3), 3)
    params = cell.init(k_params, D)
    params["b"] = jax.random.normal(k_bias, params["b"].shape)
    return params, jax.random.normal(k_xs, (T, B, D))


def ours(cell, params, xs):
    carry, ys = rnnjax.scan(cell, params, xs, lengths=LENGTHS)
    return tuple(jax.tree.leaves(carry)), ys


def compare(run_ours, run_theirs, params, xs):
    def all_of(run):
        def loss(params, xs):
            result = run(params, xs)
            return scalar(result), result

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, xs)

    assert largest_difference(all_of(run_ours), all_of(run_theirs)) < TOLERANCE


def zero_padding(ys):
    valid = jnp.arange(T)[:, None] < LENGTHS[None]
    return jnp.where(valid[..., None], ys, 0.0)


@pytest.mark.parametrize("name", LINEN)
def test_linen(name):
    cell, peer, convert = LINEN[name]
    params, xs = draw(cell)
    rnn = nn.RNN(peer, time_major=True, return_carry=True)

    def theirs(params, xs):
        variables = {"params": {"cell": convert(params)}}
        carry, ys = rnn.apply(variables, xs, seq_lengths=LENGTHS)
        return tuple(jax.tree.leaves(carry)), zero_padding(ys)

    compare(lambda p, x: ours(cell, p, x), theirs, params, xs)


def linen_conv_lstm(p):
    """Gates in Flax's order i, g, f, o; Flax adds 1 to f in the step."""

    def reorder(a):
        i, f, g, o = jnp.split(a, 4, -1)
        return jnp.concatenate([i, g, f, o], -1)

    one = jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0]), N)
    return {
        "ih": {"kernel": reorder(p["w_x"]), "bias": reorder(p["b"] - one)},
        "hh": {"kernel": reorder(p["w_h"]), "bias": jnp.zeros_like(p["b"])},
    }


def test_linen_conv_lstm():
    cell = rnnjax.ConvLSTM(N, spatial_shape=(4, 3))
    k_params, k_xs = jax.random.split(jax.random.key(3))
    params, xs = cell.init(k_params, (4, 3, D)), jax.random.normal(k_xs, (2, 2, 4, 3, D))
    peer = nn.ConvLSTMCell(N, kernel_size=(3, 3))

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

    compare(ours, theirs, params, xs)


@pytest.mark.parametrize("name", NNX)
def test_nnx(name):
    cell, peer, convert = NNX[name]
    params, xs = draw(cell)
    # Flax's NNX GRUCell has no bias in the hidden product, so b_hn stays zero.
    bias = {name: params.pop(name) for name in ("b_hn",) if name in params}
    module = peer(in_features=D, hidden_features=N, rngs=nnx.Rngs(0))
    graph, weights, rest = nnx.split(nnx.RNN(module, time_major=True), nnx.Param, ...)

    def theirs(params, xs):
        filled = jax.tree.map(lambda leaf: leaf, weights)
        nnx.replace_by_pure_dict(filled, {"cell": convert(params)})
        rnn = nnx.merge(graph, filled, rest)
        # Given, because the default one draws from a counter that lives outside this trace.
        start = jax.tree.map(jnp.zeros_like, rnn.cell.initialize_carry((B, D), rngs=nnx.Rngs(0)))
        carry, ys = rnn(xs, initial_carry=start, seq_lengths=LENGTHS, return_carry=True)
        return tuple(jax.tree.leaves(carry)), zero_padding(ys)

    compare(lambda p, x: ours(cell, {**p, **bias}, x), theirs, params, xs)
