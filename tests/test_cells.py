"""What ``init`` draws, what gates show, and what wrappers do to a cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import initializers
from rnnjax.checks import describe
from rnnjax.testing import largest_difference
from tests.cases import CELLS, IN_DIMS, case

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


@pytest.mark.parametrize(
    ("cell", "block"),
    [
        (rnnjax.CoupledLSTM(8, forget_bias=2.0), slice(0, 8)),
        (rnnjax.JANET(8, forget_bias=2.0), slice(0, 8)),
        (rnnjax.LiGRU(8, update_bias=2.0), slice(0, 8)),
        (rnnjax.LayerNormGRU(8, update_bias=2.0), slice(8, 16)),
        (rnnjax.SLSTM(8, forget_bias=2.0), slice(8, 16)),
    ],
)
def test_the_bias_of_the_gate_that_keeps(cell, block):
    b = cell.init(KEY, 3)["b"]
    assert (b[block] == 2.0).all()
    assert b.sum() == 16.0


def test_chrono_needs_no_input_gate():
    b = rnnjax.CoupledLSTM(8, forget_bias=initializers.Chrono(100)).init(KEY, 3)["b"]
    assert (b[:8] > 0).all()
    assert not b[8:].any()


def test_without_peepholes_it_is_an_lstm():
    lstm, peephole = rnnjax.LSTM(8), rnnjax.PeepholeLSTM(8)
    params = peephole.init(KEY, 3)
    assert not params["w_c"].any()
    xs = jax.random.normal(KEY, (4, 2, 3))
    found, expected = (rnnjax.scan(cell, params, xs) for cell in (peephole, lstm))
    assert largest_difference(found, expected) < 1e-6


def test_time_constants_are_drawn_between_their_limits():
    log_tau = rnnjax.CTRNN(400, tau=(5.0, 100.0)).init(KEY, 3)["log_tau"]
    assert np.log(5.0) <= float(log_tau.min()) < 1.7
    assert 4.5 < float(log_tau.max()) <= np.log(100.0)


def test_a_unit_of_a_ctrnn_relaxes_exactly_with_its_time_constant():
    cell = rnnjax.CTRNN(3, dt=0.5, tau=2.0)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY, 2)) | {
        "log_tau": jnp.log(jnp.full(3, 2.0))
    }
    h, _ = rnnjax.scan(cell, params, jnp.zeros((4, 1, 2)), jnp.ones((1, 3)))
    np.testing.assert_allclose(h, np.full((1, 3), np.exp(-4 * 0.5 / 2.0)), rtol=1e-6)


def test_the_first_step_of_an_slstm_reads_its_own_input_alone():
    cell = rnnjax.SLSTM(4, heads=2)
    params = cell.init(KEY, 3)
    x = jax.random.normal(KEY, (1, 1, 3))
    carry, _ = rnnjax.scan(cell, params, x)
    i, _, g, _ = jnp.split(x[0] @ params["w_x"] + params["b"][None], 4, axis=-1)
    np.testing.assert_allclose(carry.c, jnp.tanh(g), rtol=1e-5)
    np.testing.assert_allclose(carry.log_n, i, rtol=1e-5)


def test_exponential_gates_of_an_slstm_do_not_overflow():
    cell = rnnjax.SLSTM(4)
    params = cell.init(KEY, 3)
    params["w_x"] = 1000.0 * params["w_x"]
    carry, ys = rnnjax.scan(cell, params, jax.random.normal(KEY, (20, 2, 3)))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in (*carry, ys))
    assert bool((jnp.abs(ys) <= 1).all())


@pytest.mark.parametrize("spatial_shape", [4, (3, 2, 2)])
def test_conv_lstm_in_one_and_three_dimensions(spatial_shape):
    """One place, the last, sees no more than its window."""
    cell = rnnjax.ConvLSTM(2, spatial_shape=spatial_shape, kernel_size=3)
    shape = cell.image
    params = cell.init(KEY, (*shape, 3))
    xs = jax.random.normal(KEY, (1, 1, *shape, 3))
    other = xs.at[:, :, 0].add(1.0)
    (_, ys), (_, moved) = (rnnjax.scan(cell, params, x) for x in (xs, other))
    assert ys.shape == (1, 1, *shape, 2)
    changed = np.abs(np.asarray(ys - moved)).max(axis=tuple(range(3, ys.ndim)))[0, 0] > 0
    assert changed.tolist() == [True, True] + [False] * (shape[0] - 2)


@pytest.mark.parametrize(
    "cell",
    [
        rnnjax.ConvLSTM(2, spatial_shape=(3, 2), dtype="bfloat16"),
        rnnjax.ProjectedLSTM(4, projection=2, dtype="bfloat16"),
        rnnjax.SLSTM(4, heads=2, dtype="bfloat16"),
        rnnjax.LayerNormLSTM(4, dtype="bfloat16"),
        rnnjax.MinimalRNN(4, dtype="bfloat16"),
    ],
)
def test_products_in_half_precision_keep_a_wide_carry(cell):
    in_dim = (3, 2, 3) if isinstance(cell, rnnjax.ConvLSTM) else (3,)
    params = cell.init(KEY, in_dim)
    xs = jax.random.normal(KEY, (2, 1, *in_dim))

    def loss(params):
        carry, ys = rnnjax.scan(cell, params, xs)
        return jnp.sum(ys.astype(float)), (carry, ys)

    gradients, (carry, ys) = jax.grad(loss, has_aux=True)(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, gradients))} == {jnp.dtype("float32")}
    assert ys.dtype == jnp.bfloat16


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
        ("li_gru", {"z"}),
        ("layer_norm_gru", {"r", "z"}),
        ("mgu", {"f"}),
        ("janet", {"f"}),
        ("minimal_rnn", {"k"}),
        ("peephole_lstm", {"i", "f", "o"}),
        ("coupled_lstm", {"f", "o"}),
        ("projected_lstm", {"i", "f", "o"}),
        ("layer_norm_lstm", {"i", "f", "o"}),
        ("multiplicative_lstm", {"i", "f", "o"}),
        ("conv_lstm", {"i", "f", "o"}),
        ("slstm", {"i", "f", "o"}),
        ("stack_residual", {"0.r", "0.z", "1.r", "1.z"}),
    ],
)
def test_gates_are_activations_by_name(cell, names):
    c = case(cell)
    carry = jax.tree.map(lambda a: a[0], c.carry)
    x = jnp.ones(IN_DIMS.get(cell, (3,)))
    gates = c.cell.gates(c.params, carry, c.cell.encode(c.params, x))
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
