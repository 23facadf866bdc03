"""Parity with torch.nn.RNN, LSTM and GRU, their weights read by ``interop``.

Outputs, carries and gradients, in PyTorch's own tensors and in the inputs, of packed batches.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import interop
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
    "gru": (rnnjax.GRU(N), torch.nn.GRU(D, N)),
    "gru_no_bias": (rnnjax.GRU(N), torch.nn.GRU(D, N, bias=False)),
    "lstm_2": (rnnjax.Stack((rnnjax.LSTM(N),) * 2), torch.nn.LSTM(D, N, num_layers=2)),
}


def state_of(module):
    """Return generic tensors for a module, biases too, as arrays."""
    torch.manual_seed(2)
    return {name: 0.5 * torch.randn(p.shape).numpy() for name, p in module.named_parameters()}


def run_torch(module, state, xs, weights):
    """Return torch's outputs, hidden vectors by layer, and gradients of their weighted sum."""
    module.load_state_dict({name: torch.tensor(a) for name, a in state.items()})
    their_xs = torch.tensor(np.asarray(xs), requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(their_xs, LENGTHS, enforce_sorted=False)
    packed_ys, last = module(packed)
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_ys, total_length=T)
    carries = last if isinstance(last, tuple) else (last,)
    loss = sum((a * torch.tensor(w)).sum() for a, w in zip((ys, *carries), weights, strict=True))
    module.zero_grad()
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in module.named_parameters()}
    values = tuple(a.detach().numpy() for a in (ys, *carries))
    return values, (gradients, their_xs.grad.numpy())


def run_ours(run, state, xs, weights):
    """Return the same of a function (state, xs) → (ys, h by layer, c by layer)."""

    def loss(state, xs):
        values = run(state, xs)
        return sum(jnp.sum(a * w) for a, w in zip(values, weights, strict=True)), values

    options = {"xla_backend_optimization_level": 0}
    gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, values), gradient = jax.jit(gradients, compiler_options=options)(state, xs)
    return values, gradient


def by_layer(carries):
    """Stack carries as torch does: h, and c of an LSTM, each (layers · directions, B, N)."""
    if isinstance(carries[0], rnnjax.LSTMCarry):
        return jnp.stack([carry.h for carry in carries]), jnp.stack([carry.c for carry in carries])
    return (jnp.stack(carries),)


def draw(*shapes):
    rng = np.random.default_rng(4)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients(name):
    cell, module = CELLS[name]
    state = state_of(module)
    layers = len(cell.layers() or (cell,))
    xs, *weights = draw((T, B, D), (T, B, N), *((layers, B, N),) * (1 + ("lstm" in name)))

    def run(state, xs):
        params = interop.from_torch(cell, state)
        carry, ys = rnnjax.scan(cell, params, xs, lengths=jnp.array(LENGTHS))
        return ys, *by_layer(carry if cell.layers() else [carry])

    ours, theirs = run_ours(run, state, xs, weights), run_torch(module, state, xs, weights)
    assert largest_difference(theirs, ours) < TOLERANCE


@pytest.mark.parametrize("name", CELLS)
def test_params_come_back(name):
    cell, module = CELLS[name]
    bias = "no_bias" not in name
    params = interop.from_torch(cell, state_of(module))
    state = interop.to_torch(cell, params, prefix="rnn.", bias=bias)
    back = interop.from_torch(cell, {**state, "head.weight": np.ones(2)}, prefix="rnn.")
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert largest_difference(params, back) == 0
    module.load_state_dict({k.removeprefix("rnn."): torch.tensor(a) for k, a in state.items()})
