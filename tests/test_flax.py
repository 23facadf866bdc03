"""Modules for Flax NNX and Linen: Flax's own behaviour where it is meant to be the same."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnnjax
import rnnjax.linen
import rnnjax.nnx
from rnnjax import interop
from rnnjax.testing import largest_difference

B, T, D, N = 3, 6, 4, 5
INPUTS = jax.random.normal(jax.random.key(0), (B, T, D))
LENGTHS = jnp.array([6, 2, 4])
CELL = rnnjax.LSTM(N)
TOLERANCE = 1e-6


def of_nnx(cell=CELL, **options):
    return rnnjax.nnx.RNN(cell, D, rngs=nnx.Rngs(0), **options)


def of_linen(cell=CELL, **options):
    """A Linen module as a function, its params those of ``of_nnx``."""
    rnn = rnnjax.linen.RNN(cell, **options)
    params = rnnjax.nnx.RNN(cell, D, rngs=nnx.Rngs(0)).cell_params()
    return functools.partial(rnn.apply, {"params": {"cell": params}})


def of_flax_linen(**options):
    """Flax's own module with the same weights."""
    rnn = nn.RNN(nn.OptimizedLSTMCell(N), **options)
    weights = interop.to_linen(CELL, of_nnx().cell_params())
    return functools.partial(rnn.apply, {"params": {"cell": weights}})


KINDS = pytest.mark.parametrize("kind", [of_nnx, of_linen])


def both(got):
    carry, outputs = got
    return tuple(carry), outputs


@KINDS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reverse": True},
        {"reverse": True, "keep_order": True},
        {"time_major": True, "reverse": True},
    ],
)
def test_as_flax_without_lengths(kind, options):
    inputs = jnp.swapaxes(INPUTS, 0, 1) if options.get("time_major") else INPUTS
    expected = of_flax_linen(return_carry=True, **options)(inputs)
    got = kind(return_carry=True, **options)(inputs)
    assert largest_difference(both(expected), both(got)) < TOLERANCE
    # What the module says can be said of one call, too.
    again = kind()(inputs, return_carry=True, **options)
    assert largest_difference(got, again) == 0


@KINDS
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("keep_order", [False, True])
def test_as_flax_with_lengths_but_for_the_padding(kind, reverse, keep_order):
    options = {"return_carry": True, "reverse": reverse, "keep_order": keep_order}
    carry, outputs = of_flax_linen(**options)(INPUTS, seq_lengths=LENGTHS)
    got, ys = kind(**options)(INPUTS, seq_lengths=LENGTHS)
    valid = (jnp.arange(T)[None] < LENGTHS[:, None])[..., None]
    assert largest_difference(tuple(carry), tuple(got)) < TOLERANCE
    assert largest_difference(jnp.where(valid, outputs, 0.0), ys) < TOLERANCE


@KINDS
def test_a_row_of_length_zero_keeps_its_carry(kind):
    start = rnnjax.LSTMCarry(jnp.ones((B, N)), jnp.full((B, N), 2.0))
    carry, ys = kind(return_carry=True)(
        INPUTS, initial_carry=start, seq_lengths=jnp.array([0, 1, 6])
    )
    assert (carry.c[0] == 1).all()
    assert (carry.h[0] == 2).all()
    assert not ys[0].any()


@KINDS
@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("time_major", [False, True])
def test_any_number_of_batch_axes(kind, batch, time_major):
    inputs = jax.random.normal(jax.random.key(1), (*batch, T, D))
    lengths = jnp.arange(np.prod(batch, dtype=int)).reshape(batch) + 1
    flat = kind()(inputs.reshape(-1, T, D), seq_lengths=lengths.reshape(-1))
    if time_major:
        inputs = jnp.moveaxis(inputs, -2, 0)
    carry, ys = kind(return_carry=True, time_major=time_major)(inputs, seq_lengths=lengths)
    assert carry.h.shape == (*batch, N)
    ys = jnp.moveaxis(ys, 0, -2) if time_major else ys
    assert largest_difference(flat.reshape(*batch, T, N), ys) < TOLERANCE


@KINDS
def test_mask_resets_context_and_strategy(kind):
    cell = rnnjax.VariationalDropout(rnnjax.LSTM(N), 0.5, 0.5)
    params = of_nnx(cell).cell_params()
    mask, resets = (
        jnp.ones((B, T), bool).at[0, 2].set(False),
        jnp.zeros((B, T), bool).at[1, 3].set(True),
    )
    context = rnnjax.sequence_noise(jax.random.key(5), cell, params, B)
    expected, ys = rnnjax.scan(
        cell, params, INPUTS.swapaxes(0, 1), mask=mask.T, resets=resets.T, context=context
    )
    got = kind(cell, return_carry=True, strategy=rnnjax.Chunked(2))(
        INPUTS, mask=mask, resets=resets, context=context, deterministic=True
    )
    assert largest_difference((expected, ys.swapaxes(0, 1)), got) < TOLERANCE


NOISY = rnnjax.VariationalDropout(rnnjax.Zoneout(rnnjax.LSTM(N), rate=0.5), 0.5)


def test_noise_of_nnx_comes_from_its_rngs_in_training():
    rnn = of_nnx(NOISY)
    first, second = rnn(INPUTS), rnn(INPUTS)
    assert largest_difference(first, second) > 0
    again = of_nnx(NOISY)
    assert largest_difference(first, again(INPUTS)) == 0
    rnn.eval()
    still = rnn(INPUTS)
    assert largest_difference(still, rnn(INPUTS)) == 0
    assert largest_difference(still, of_nnx(NOISY)(INPUTS, deterministic=True)) == 0
    given = [again(INPUTS, rngs=nnx.Rngs(dropout=7)) for _ in range(2)]
    assert largest_difference(*given) == 0


def test_noise_of_linen_comes_from_the_rng_dropout():
    rnn = of_linen(NOISY)
    first = rnn(INPUTS, rngs={"dropout": jax.random.key(1)})
    assert largest_difference(first, rnn(INPUTS, rngs={"dropout": jax.random.key(1)})) == 0
    assert largest_difference(first, rnn(INPUTS, rngs={"dropout": jax.random.key(2)})) > 0
    still = rnn(INPUTS, rngs={"dropout": jax.random.key(1)}, deterministic=True)
    assert largest_difference(still, rnn(INPUTS)) == 0


@KINDS
def test_a_bfloat16_cell_keeps_its_carry(kind):
    carry, ys = kind(rnnjax.LSTM(N, dtype="bfloat16"), return_carry=True)(INPUTS)
    assert ys.dtype == jnp.bfloat16
    assert carry.c.dtype == jnp.float32


def test_an_nnx_model_trains_splits_and_merges(optax_promotion):
    rnn = of_nnx(rnnjax.Stack((rnnjax.LSTM(N), rnnjax.GRU(N))))
    optimizer = nnx.Optimizer(rnn, optax.adam(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(rnn, optimizer):
        value, gradients = nnx.value_and_grad(lambda rnn: jnp.mean((rnn(INPUTS) - 0.3) ** 2))(rnn)
        optimizer.update(rnn, gradients)
        return value

    losses = [float(step(rnn, optimizer)) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    graph, state = nnx.split(rnn)
    assert largest_difference(nnx.merge(graph, state)(INPUTS), rnn(INPUTS)) == 0
    count = sum(leaf.size for leaf in jax.tree.leaves(rnn.cell_params()))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(rnn, nnx.Param))) == count


def test_nnx_tabulates():
    table = nnx.tabulate(of_nnx(), INPUTS)
    assert "RNN" in table
    assert f"{N * 4 * (D + N + 1)}" in table.replace(",", "")


def test_linen_tabulates_and_trains():
    rnn = rnnjax.linen.RNN(CELL)
    assert "cell" in nn.tabulate(rnn, jax.random.key(0))(INPUTS)
    variables = rnn.init(jax.random.key(0), INPUTS)
    gradient = jax.grad(lambda v: jnp.mean(rnn.apply(v, INPUTS) ** 2))(variables)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_images_for_linen_and_nnx():
    cell, images = rnnjax.ConvLSTM(2, spatial_shape=(4, 3)), jnp.ones((B, T, 4, 3, D))
    ys, _ = rnnjax.linen.RNN(cell, feature_axes=3).init_with_output(jax.random.key(0), images)
    assert ys.shape == (B, T, 4, 3, 2)
    assert rnnjax.nnx.RNN(cell, (4, 3, D), rngs=nnx.Rngs(0))(images).shape == ys.shape


# --- both directions ---


def bidirectional_nnx(**options):
    rngs = nnx.Rngs(0)
    pair = (rnnjax.nnx.RNN(CELL, D, rngs=rngs) for _ in range(2))
    return rnnjax.nnx.Bidirectional(*pair, **options)


def bidirectional_linen(**options):
    module = bidirectional_nnx()
    pair = (rnnjax.linen.RNN(CELL) for _ in range(2))
    params = {
        f"{way}_rnn": {"cell": getattr(module, f"{way}_rnn").cell_params()}
        for way in ("forward", "backward")
    }
    both = rnnjax.linen.Bidirectional(*pair, **options)
    return functools.partial(both.apply, {"params": params})


BOTH = pytest.mark.parametrize("kind", [bidirectional_nnx, bidirectional_linen])


@BOTH
@pytest.mark.parametrize("time_major", [False, True])
def test_both_directions_as_flax_but_for_the_padding(kind, time_major):
    module = bidirectional_nnx()
    weights = {
        f"{way}_rnn": {"cell": interop.to_linen(CELL, getattr(module, f"{way}_rnn").cell_params())}
        for way in ("forward", "backward")
    }
    flax = nn.Bidirectional(*(nn.RNN(nn.OptimizedLSTMCell(N)) for _ in range(2)))
    options = {"seq_lengths": LENGTHS, "return_carry": True}
    carries, outputs = flax.apply({"params": weights}, INPUTS, **options)
    inputs = INPUTS.swapaxes(0, 1) if time_major else INPUTS
    got, ys = kind(time_major=time_major)(inputs, **options)
    valid = (jnp.arange(T)[None] < LENGTHS[:, None])[..., None]
    ys = ys.swapaxes(0, 1) if time_major else ys
    assert largest_difference(jax.tree.leaves(carries), jax.tree.leaves(got)) < TOLERANCE
    assert largest_difference(jnp.where(valid, outputs, 0.0), ys) < TOLERANCE


@BOTH
def test_both_directions_merge_and_carry(kind):
    merged = kind(merge_fn=jnp.add)(INPUTS)
    assert merged.shape == (B, T, N)
    carries, _ = kind(return_carry=True)(INPUTS)
    again, _ = kind(return_carry=True)(INPUTS, initial_carry=carries)
    assert largest_difference(carries, again) > 0


# --- bad input ---


@KINDS
@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"seq_lengths": jnp.ones((B + 1,), int)},
            r"seq_lengths must lead with the batch axes \(3,\)",
        ),
        ({"mask": jnp.ones((T, B), bool)}, r"mask must lead with the axes \(3, 6\)"),
        (
            {"initial_carry": rnnjax.LSTMCarry(*jnp.zeros((2, 1, N)))},
            "initial_carry must lead with",
        ),
        (
            {"mask": jnp.ones((B, T), bool), "reverse": True},
            "keep_order must be True with reverse and a mask",
        ),
    ],
)
def test_bad_input(kind, options, match):
    with pytest.raises(ValueError, match=match):
        kind()(INPUTS, **options)


@KINDS
def test_inputs_without_time(kind):
    with pytest.raises(ValueError, match=r"inputs must be \(…, T, features\)"):
        kind()(INPUTS[0, 0])


def test_one_module_for_both_directions():
    rnn = of_nnx()
    with pytest.raises(ValueError, match="another module than forward_rnn"):
        rnnjax.nnx.Bidirectional(rnn, rnn)(INPUTS)
    rnn = rnnjax.linen.RNN(CELL)
    with pytest.raises(ValueError, match="another module than forward_rnn"):
        rnnjax.linen.Bidirectional(rnn, rnn).init(jax.random.key(0), INPUTS)


def test_what_is_no_cell():
    with pytest.raises(TypeError, match=r"RNN: cell must be a Cell; got the class LSTM"):
        rnnjax.nnx.RNN(rnnjax.LSTM, D, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"RNN: cell must be a Cell; got the class LSTM"):
        rnnjax.linen.RNN(rnnjax.LSTM).init(jax.random.key(0), INPUTS)
