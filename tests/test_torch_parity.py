"""Parity with torch.nn.RNN, LSTM and GRU, their weights read by ``interop``.

Outputs, carries and gradients, in PyTorch's own tensors and in the inputs, of packed batches.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax
from rnnjax import interop
from rnnjax.testing import FAST_COMPILATION, largest_difference

torch = pytest.importorskip("torch", reason="torch is not installed")
torch.set_num_threads(1)  # Its threads wait for each other where the CPU is shared.

T, B, D, N, P = 9, 4, 3, 6, 2
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
    "lstm_projected": (
        rnnjax.Stack((rnnjax.ProjectedLSTM(N, projection=P),) * 2),
        torch.nn.LSTM(D, N, num_layers=2, proj_size=P),
    ),
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

    gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, values), gradient = jax.jit(gradients, compiler_options=FAST_COMPILATION)(state, xs)
    return values, gradient


def by_layer(carries):
    """Stack carries as torch does: h, and c of an LSTM, each (layers · directions, B, N)."""
    if isinstance(carries[0], rnnjax.LSTMCarry):
        return jnp.stack([carry.h for carry in carries]), jnp.stack([carry.c for carry in carries])
    return (jnp.stack(carries),)


def run_both_ways(cells, params, xs):
    """Return the outputs, and the carries as torch orders them: by layer, forwards first."""
    carries, ys = rnnjax.bidirectional(cells, cells, params, xs, lengths=jnp.array(LENGTHS))
    return ys, *by_layer([carry for layer in zip(*carries, strict=True) for carry in layer])


def draw(*shapes):
    rng = np.random.default_rng(4)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients(name):
    cell, module = CELLS[name]
    state = state_of(module)
    layers = len(cell.layers() or (cell,))
    h = P if name == "lstm_projected" else N
    carries = [(layers, B, h)] + [(layers, B, N)] * ("lstm" in name)
    xs, *weights = draw((T, B, D), (T, B, h), *carries)

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


BOTH_WAYS = {
    "gru": (rnnjax.GRU(N), torch.nn.GRU(D, N, num_layers=2, bidirectional=True)),
    "lstm": (rnnjax.LSTM(N), torch.nn.LSTM(D, N, bidirectional=True)),
}


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_both_directions(name):
    cell, module = BOTH_WAYS[name]
    state, cells = state_of(module), (cell,) * module.num_layers
    count = 2 * module.num_layers
    xs, *weights = draw((T, B, D), (T, B, 2 * N), *((count, B, N),) * (1 + (name == "lstm")))

    def run(state, xs):
        return run_both_ways(cells, interop.from_torch_bidirectional(cells, cells, state), xs)

    ours, theirs = run_ours(run, state, xs, weights), run_torch(module, state, xs, weights)
    assert largest_difference(theirs, ours) < TOLERANCE

    params = interop.from_torch_bidirectional(cells, cells, state)
    back = interop.to_torch_bidirectional(cells, cells, params)
    again = interop.from_torch_bidirectional(cells, cells, back)
    assert largest_difference(params, again) == 0
    module.load_state_dict({name: torch.tensor(a) for name, a in back.items()})


def test_a_trained_model_goes_on_training(optax_promotion):
    """Twenty steps of Adam after ten in PyTorch: two layers, both directions, a ragged batch.

    In params of ours, whose b takes the steps of both of PyTorch's biases.
    """
    torch.manual_seed(3)
    module = torch.nn.LSTM(D, N, num_layers=2, bidirectional=True)
    xs, targets = draw((T, B, D), (T, B, 2 * N))
    cells = (rnnjax.LSTM(N),) * 2
    rate = 0.01

    def torch_steps(optimiser, count):
        losses = []
        for _ in range(count):
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                torch.tensor(xs), LENGTHS, enforce_sorted=False
            )
            ys, _ = torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], total_length=T)
            loss = ((ys - torch.tensor(targets)) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses

    torch_steps(torch.optim.Adam(module.parameters(), rate), 10)
    state = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}
    params = interop.from_torch_bidirectional(cells, cells, state)
    shares = interop.from_torch_bidirectional(cells, cells, jax.tree.map(np.ones_like, state))
    adam = optax.adam(rate)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
    def step(params, moments):
        def loss(params):
            return jnp.mean((run_both_ways(cells, params, jnp.asarray(xs))[0] - targets) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = adam.update(gradient, moments)
        updates = jax.tree.map(jnp.multiply, updates, shares)
        return optax.apply_updates(params, updates), moments, value

    moments, losses = adam.init(params), []
    for _ in range(20):
        params, moments, value = step(params, moments)
        losses.append(float(value))
    theirs = torch_steps(torch.optim.Adam(module.parameters(), rate), 20)
    assert theirs[-1] < 0.99 * theirs[0]
    np.testing.assert_allclose(losses, theirs, rtol=1e-4)
