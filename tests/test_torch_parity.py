"""Parity with torch.nn.RNN, LSTM and GRU on packed ragged batches, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.testing import largest_difference

torch = pytest.importorskip("torch", reason="torch is not installed")

T, B, D, N = 9, 4, 3, 6
LENGTHS = [9, 1, 5, 7]
TOLERANCE = 2e-6

CELLS = {
    "rnn_tanh": (rnnjax.Elman(N), torch.nn.RNN(D, N)),
    "rnn_relu": (
        rnnjax.Elman(N, activation=jax.nn.relu),
        torch.nn.RNN(D, N, nonlinearity="relu"),
    ),
    "lstm": (rnnjax.LSTM(N), torch.nn.LSTM(D, N)),
    "lstm_projected": (rnnjax.ProjectedLSTM(N, projection=2), torch.nn.LSTM(D, N, proj_size=2)),
    "gru": (rnnjax.GRU(N), torch.nn.GRU(D, N)),
}


def to_torch(params):
    """Map our params to torch's names: transposed kernels, and a second bias that holds b_hn."""
    hidden_bias = np.zeros_like(params["b"])
    if "b_hn" in params:
        hidden_bias[-N:] = params["b_hn"]
    projection = {"weight_hr_l0": np.asarray(params["w_p"]).T} if "w_p" in params else {}
    return projection | {
        "weight_ih_l0": np.asarray(params["w_x"]).T,
        "weight_hh_l0": np.asarray(params["w_h"]).T,
        "bias_ih_l0": np.asarray(params["b"]),
        "bias_hh_l0": hidden_bias,
    }


def from_torch(tensors, like):
    """Map torch's gradients back to our names."""
    grads = {
        "w_x": tensors["weight_ih_l0"].T,
        "w_h": tensors["weight_hh_l0"].T,
        "b": tensors["bias_ih_l0"],
    }
    if "w_p" in like:
        grads["w_p"] = tensors["weight_hr_l0"].T
    return grads | ({"b_hn": tensors["bias_hh_l0"][-N:]} if "b_hn" in like else {})


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients(name):
    cell, peer = CELLS[name]
    keys = jax.random.split(jax.random.key(4), 5)
    params = cell.init(keys[0], D)
    params = {k: v + 0.1 * jax.random.normal(keys[1], v.shape) for k, v in params.items()}
    xs = jax.random.normal(keys[2], (T, B, D))
    width = getattr(cell, "projection", N)
    w_ys, w_h = jax.random.normal(keys[3], (T, B, width)), jax.random.normal(keys[4], (B, width))

    def ours(params, xs):
        carry, ys = rnnjax.scan(cell, params, xs, lengths=jnp.array(LENGTHS))
        h = carry.h if isinstance(carry, rnnjax.LSTMCarry) else carry
        return jnp.sum(ys * w_ys) + jnp.sum(h * w_h), (h, ys)

    (_, values), gradients = jax.value_and_grad(ours, (0, 1), has_aux=True)(params, xs)

    with torch.no_grad():
        for key, value in to_torch(params).items():
            getattr(peer, key).copy_(torch.tensor(value))
    their_xs = torch.tensor(np.asarray(xs), requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(their_xs, LENGTHS, enforce_sorted=False)
    packed_ys, last = peer(packed)
    their_ys, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_ys, total_length=T)
    their_h = (last[0] if isinstance(last, tuple) else last)[0]
    loss = (their_ys * torch.tensor(np.asarray(w_ys))).sum()
    loss = loss + (their_h * torch.tensor(np.asarray(w_h))).sum()
    peer.zero_grad()
    loss.backward()

    their_gradients = {k: p.grad.numpy() for k, p in peer.named_parameters()}
    theirs = (
        (their_h.detach().numpy(), their_ys.detach().numpy()),
        (from_torch(their_gradients, params), their_xs.grad.numpy()),
    )
    assert largest_difference((values, gradients), theirs) < TOLERANCE
