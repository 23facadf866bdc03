"""What ``init`` draws, what gates show, and what wrappers do to a cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import initializers
from rnnjax.checks import describe
from rnnjax.testing import largest_difference
from tests.cases import CELLS, case

KEY = jax.random.key(0)
BLOCKS = {"i": slice(0, 8), "f": slice(8, 16), "g": slice(16, 24), "o": slice(24, 32)}


def test_forget_bias_writes_the_f_block_alone():
    b = rnnjax.LSTM(8).init(KEY, 3)["b"]
    for gate, block in BLOCKS.items():
        assert (b[block] == (1.0 if gate == "f" else 0.0)).all()


def test_chrono_writes_f_and_i_of_an_lstm():
    cell = rnnjax.LSTM(8, forget_bias=initializers.Chrono(100))
    b = cell.init(KEY, 3)["b"]
    assert ((b[BLOCKS["f"]] >= 0) & (b[BLOCKS["f"]] <= np.log(99.0))).all()
    assert (b[BLOCKS["i"]] == -b[BLOCKS["f"]]).all()
    assert not b[16:].any()


@pytest.mark.parametrize("kind", [rnnjax.GRU, rnnjax.GRUResetBefore])
def test_update_bias_writes_the_z_block_alone(kind):
    number = kind(8, update_bias=2.0).init(KEY, 3)["b"]
    chrono = kind(8, update_bias=initializers.Chrono(100)).init(KEY, 3)["b"]
    assert number.tolist() == [0.0] * 8 + [2.0] * 8 + [0.0] * 8
    assert chrono[8:16].any()
    assert not chrono[:8].any()
    assert not chrono[16:].any()


def test_chrono_spreads_memory_spans_evenly():
    spans = jnp.exp(initializers.Chrono(100)(KEY, (20_000,), "float32"))
    assert abs(float(spans.mean()) - 50.0) < 1.0
    assert 1.0 <= float(spans.min()) <= float(spans.max()) <= 99.0


@pytest.mark.parametrize("gates", [1, 4])
def test_recurrent_kernels_are_orthogonal_per_gate(gates):
    w = initializers.per_gate(initializers.Orthogonal(0.7), KEY, (6, 6), gates, "float32")
    for block in jnp.split(w, gates, axis=1):
        np.testing.assert_allclose(block @ block.T, 0.49 * np.eye(6), atol=1e-6)


def test_the_fans_of_glorot_are_those_of_one_gate():
    w = rnnjax.LSTM(100).init(KEY, 50)["w_x"]
    assert abs(float(jnp.abs(w).max()) - np.sqrt(6 / 150)) < 1e-3


def test_an_irnn_starts_as_the_identity():
    cell = rnnjax.Elman(4, activation=jax.nn.relu, recurrent_kernel_init=initializers.Identity())
    assert (cell.init(KEY, 3)["w_h"] == jnp.eye(4)).all()


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("lstm", {"i", "f", "o"}),
        ("gru", {"r", "z"}),
        ("gru_reset_before", {"r", "z"}),
        ("zoneout", {"i", "f", "o"}),
        ("elman", set()),
        ("stack_residual", {"0.r", "0.z", "1.r", "1.z"}),
    ],
)
def test_gates_are_activations_by_name(cell, names):
    c = case(cell)
    carry = jax.tree.map(lambda a: a[0], c.carry)
    gates = c.cell.gates(c.params, carry, c.cell.encode(c.params, jnp.ones((3,))))
    assert set(gates) == names
    assert all(((g > 0) & (g < 1)).all() for g in gates.values())


def test_zoneout_keeps_as_often_as_it_says():
    cell = rnnjax.Zoneout(rnnjax.LSTM(50), rate=(0.5, 0.1))
    params = cell.init(KEY, 3)
    xs = jnp.ones((1, 400, 3))
    start = rnnjax.LSTMCarry(jnp.full((400, 50), 9.0), jnp.full((400, 50), 9.0))
    carry, _ = rnnjax.scan(cell, params, rnnjax.with_keys(KEY, xs), start)
    kept = [float((leaf == 9.0).mean()) for leaf in carry]
    assert abs(kept[0] - 0.5) < 0.02
    assert abs(kept[1] - 0.1) < 0.02


def test_zoneout_in_evaluation_is_the_mean_over_noise():
    cell = rnnjax.Zoneout(rnnjax.GRU(6), rate=0.3)
    params = cell.init(KEY, 3)
    xs = jnp.broadcast_to(jax.random.normal(KEY, (1, 1, 3)), (1, 20_000, 3))
    start = jnp.ones((20_000, 6))
    noisy, _ = rnnjax.scan(cell, params, rnnjax.with_keys(KEY, xs), start)
    mean, _ = rnnjax.scan(cell, params, xs[:, :1], start[:1])
    np.testing.assert_allclose(noisy.mean(0), mean[0], atol=0.02)


def test_noise_is_reproducible_and_differs_by_step_row_and_layer():
    zoneout = rnnjax.Zoneout(rnnjax.GRU(40), rate=0.5)
    stack = rnnjax.Stack((zoneout, zoneout))
    params = stack.init(KEY, 3)
    xs = rnnjax.with_keys(KEY, jnp.ones((2, 2, 3)))
    carries, ys = rnnjax.scan(stack, params, xs)
    again, _ = rnnjax.scan(stack, params, xs)
    other, _ = rnnjax.scan(stack, params, rnnjax.with_keys(jax.random.key(1), jnp.ones((2, 2, 3))))
    assert largest_difference(carries, again) == 0
    assert largest_difference(carries, other) > 0
    assert not (ys[0, 0] == ys[0, 1]).all()
    kept = [(carry == 0)[0] for carry in rnnjax.scan(stack, params, jax.tree.map(_first, xs))[0]]
    assert not (kept[0] == kept[1]).all()


def _first(a):
    return a[:1]


def test_zoneout_of_a_stack_runs_as_one_cell():
    cell = rnnjax.Zoneout(CELLS["stack_residual"], rate=0.2)
    assert cell.layers() is None
    params = cell.init(KEY, 3)
    xs = rnnjax.with_keys(KEY, jnp.ones((3, 2, 3)))
    sequential, hoisted = (
        rnnjax.scan(cell, params, xs, strategy=rnnjax.Sequential(hoist=hoist))
        for hoist in (False, True)
    )
    assert largest_difference(sequential, hoisted) < 5e-6


def test_wrappers_hand_on_claims_and_gated():
    assert rnnjax.Zoneout(rnnjax.LSTM(4)).gated() is not None
    assert rnnjax.Residual(rnnjax.GRUResetBefore(4)).gated() is None
    assert not rnnjax.Residual(rnnjax.GRU(4)).noisy
    assert rnnjax.Residual(rnnjax.Zoneout(rnnjax.GRU(4))).noisy


def test_inputs_of_another_floating_dtype_are_cast():
    cell = CELLS["lstm"]
    params = cell.init(KEY, 3)
    _, ys = rnnjax.scan(cell, params, jnp.ones((2, 2, 3), jnp.bfloat16))
    assert ys.dtype == jnp.float32


def test_numpy_arrays_and_lists_of_lengths_are_taken():
    cell = CELLS["gru"]
    params = jax.tree.map(np.asarray, cell.init(KEY, 3))
    _, ys = rnnjax.scan(cell, params, np.ones((4, 2, 3), np.float32), lengths=np.array([4, 2]))
    assert not ys[2:, 1].any()


def test_describe_shows_what_differs_from_the_defaults():
    stack = rnnjax.Stack((rnnjax.LSTM(4, dtype="bfloat16"), rnnjax.Zoneout(rnnjax.GRU(4))))
    assert describe(stack) == "Stack((LSTM(4, dtype=bfloat16), Zoneout(GRU(4))))"
    assert describe(rnnjax.Elman(4, activation=jax.nn.relu)) == "Elman(4, activation=relu)"
    assert describe(rnnjax.Sequential(unroll=4)) == "Sequential(unroll=4)"
