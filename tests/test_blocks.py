"""Blocks for Linen and NNX: parts equal the whole, steps too, and nothing leaks into anything."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import rnnjax
import rnnjax.linen
import rnnjax.nnx
from rnnjax.linen import Block, BlockCarry, Blocks
from rnnjax.testing import FAST_COMPILATION, TOLERANCE, largest_difference, random_like

T, B, D, N = 5, 4, 4, 5
CELLS = {
    "lstm": rnnjax.LSTM(N),
    "gru": rnnjax.GRU(N),
    "min_gru": rnnjax.MinGRU(N, activation=jnp.tanh),
    "min_lstm": rnnjax.MinLSTM(N),
    "lru": rnnjax.LRU(N),
    "s5": rnnjax.S5(N),
    "rg_lru": rnnjax.RGLRU(D, heads=2),
    "gated_delta": rnnjax.GatedDelta(6, heads=2, key_size=2),
}
PLAIN = rnnjax.Sequential()  # compiles sooner than what Auto() chooses
MODULES = {name: Block(cell, D, 3, strategy=PLAIN) for name, cell in CELLS.items()} | {
    "without a convolution": Block(CELLS["min_gru"], D, None, strategy=PLAIN),
    "one on top of the other": Blocks(
        [Block(CELLS["lru"], D), Block(CELLS["gru"], D, conv_width=2, norm=nn.LayerNorm)]
    ),
}
KEYS = jax.random.split(jax.random.key(3), 6)
CLEAN = jax.random.normal(KEYS[0], (T, B, D))
LENGTHS = jnp.array([0, 1, T, 4])
HOLES = jax.random.bernoulli(KEYS[1], 0.8, (T, B))
MASK = HOLES & (jnp.arange(T)[:, None] < LENGTHS)
RESETS = jnp.zeros((T, B), bool).at[2, 2].set(True).at[3, 3].set(True).at[0, 1].set(True)
XS = jnp.where(MASK[..., None], CLEAN, jnp.nan)
TOLERATED = 4 * TOLERANCE["float32"]  # a norm of few features magnifies


def compiled(function):
    return functools.partial(jax.jit, compiler_options=FAST_COMPILATION)(function)


def variables_of(module):
    """Generic params: drawn here, because to compile ``init`` takes longer than the test."""
    return random_like(jax.random.key(1), jax.eval_shape(module.init, KEYS[3], CLEAN), ())


def carry_of(module, variables):
    """Generic numbers in the shapes of a carry."""
    call = functools.partial(module.apply, time_major=True, return_carry=True)
    carry, _ = jax.eval_shape(call, variables, CLEAN)
    return random_like(KEYS[2], carry, ())


def whole(module, variables, xs, carry):
    options = {"seq_lengths": LENGTHS, "mask": HOLES, "resets": RESETS}
    return call(module, variables, xs, carry, **options)


def call(module, variables, xs, carry, **options):
    options |= {"time_major": True, "return_carry": True}
    return module.apply(variables, xs, initial_carry=carry, **options)


def in_parts(module, variables, xs, carry):
    outputs = []
    for part in (slice(0, 2), slice(2, T)):
        options = {"mask": MASK[part], "resets": RESETS[part]}
        carry, ys = call(module, variables, xs[part], carry, **options)
        outputs.append(ys)
    return carry, jnp.concatenate(outputs)


def in_steps(module, variables, xs, carry):
    def one(carry, step):
        x, mask, reset = step
        return module.apply(variables, x, carry, mask=mask, reset=reset, method="step")

    return jax.lax.scan(one, carry, (xs, MASK, RESETS))


@pytest.mark.parametrize("name", MODULES)
def test_parts_and_steps_equal_the_whole(name):
    module = MODULES[name]
    variables = variables_of(module)

    @compiled
    def all_ways(*arguments):
        return [run(module, *arguments) for run in (whole, in_parts, in_steps)]

    expected, parts, steps = all_ways(variables, XS, carry_of(module, variables))
    _, ys = expected
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(expected))
    assert not jnp.where(MASK[..., None], 0, ys).any()
    assert ys[MASK].all()
    assert largest_difference(expected, parts) < TOLERATED
    assert largest_difference(expected, steps) < TOLERATED


@pytest.mark.parametrize("name", ["lstm", "one on top of the other"])
def test_their_gradients_too(name):
    module = MODULES[name]
    variables = variables_of(module)

    def value(run, *arguments):
        after, ys = run(module, *arguments)
        total = jnp.sum(jnp.sin(ys))
        for leaf in jax.tree.leaves(after):
            total += jnp.sum(jnp.cos(leaf.real) + jnp.sin(leaf.imag))
        return total

    @compiled
    def both_ways(*arguments):
        return [jax.grad(value, (1, 2, 3))(run, *arguments) for run in (whole, in_steps)]

    expected, steps = both_ways(variables, XS, carry_of(module, variables))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(expected))
    assert all(bool(leaf.any()) for leaf in jax.tree.leaves(expected[0]))
    assert not jnp.where(MASK[..., None], 0, expected[1]).any()
    assert largest_difference(expected, steps) < TOLERATED


BLOCK = Block(rnnjax.LSTM(N), D, conv_width=3)
DEEP = Blocks([BLOCK, Block(rnnjax.MinGRU(N), D)])


@pytest.fixture(scope="module")
def run():
    options = {"static_argnames": ("return_carry", "time_major")}
    apply = jax.jit(DEEP.apply, compiler_options=FAST_COMPILATION, **options)
    return functools.partial(apply, variables_of(DEEP))


def test_nothing_crosses_a_reset(run):
    resets = jnp.zeros((B, T), bool).at[:, 2].set(True)
    spoilt = CLEAN.at[:2].set(jnp.nan).swapaxes(0, 1)
    after = run(CLEAN[2:].swapaxes(0, 1))
    ys = run(spoilt, resets=resets)
    assert bool(jnp.isnan(ys[:, :2]).all())
    assert largest_difference(after, ys[:, 2:]) < TOLERATED


def test_padding_is_as_if_it_were_not_there(run):
    rows = CLEAN.swapaxes(0, 1)
    padded = jnp.where((jnp.arange(T)[None] < LENGTHS[:, None])[..., None], rows, jnp.nan)
    carry, ys = run(padded, seq_lengths=LENGTHS, return_carry=True)
    for row in (0, 1, 3):
        length = int(LENGTHS[row])
        alone, expected = run(rows[row, :length], return_carry=True)
        assert largest_difference(alone, jax.tree.map(lambda a, r=row: a[r], carry)) < TOLERATED
        assert largest_difference(expected, ys[row, :length]) < TOLERATED
        assert not ys[row, length:].any()


@pytest.mark.parametrize("batch", [(), (2, 2)])
@pytest.mark.parametrize("time_major", [True, False])
def test_any_number_of_batch_axes(run, batch, time_major):
    rows = CLEAN.swapaxes(0, 1)[2:3] if batch == () else CLEAN.swapaxes(0, 1)
    lengths = LENGTHS[2:3] if batch == () else LENGTHS
    before, expected = run(rows, seq_lengths=lengths, return_carry=True)
    inputs = rows.reshape(*batch, T, D)
    inputs = jnp.moveaxis(inputs, -2, 0) if time_major else inputs
    options = {"return_carry": True, "time_major": time_major}
    carry, ys = run(inputs, seq_lengths=lengths.reshape(batch), **options)
    ys = jnp.moveaxis(ys, 0, -2) if time_major else ys
    assert ys.shape == (*batch, T, D)
    assert largest_difference(expected, ys.reshape(expected.shape)) < TOLERATED
    assert carry[0].window.shape == (*batch, 2, D)
    assert jax.tree.leaves(carry)[0].size == jax.tree.leaves(before)[0].size


def test_no_steps_and_the_initial_carry(run):
    carry, ys = run(CLEAN[:, :0].swapaxes(0, 1)[:, :0], return_carry=True)
    assert ys.size == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(carry))


def test_a_linear_cell_in_parallel():
    ways = [rnnjax.Sequential(), rnnjax.Associative(), rnnjax.Associative(block=2)]
    blocks = [Block(rnnjax.LRU(N), D, strategy=way) for way in ways]
    variables = variables_of(blocks[0])
    expected, *others = (whole(block, variables, XS, None) for block in blocks)
    for got in others:
        assert largest_difference(expected, got) < TOLERATED


def test_context_is_what_the_cell_reads():
    cell = rnnjax.VariationalDropout(rnnjax.GRU(N), 0.5, 0.5)
    block = Block(cell, D)
    variables = variables_of(block)
    params = variables["params"]["rnn"]["cell"]
    context = rnnjax.sequence_noise(jax.random.key(5), cell, params, B)
    inputs = CLEAN.swapaxes(0, 1)
    ys = block.apply(variables, inputs, context=context, deterministic=True)
    assert largest_difference(ys, block.apply(variables, inputs)) > 0.01


# --- noise ---


def test_noise_of_linen():
    block = Block(rnnjax.Zoneout(rnnjax.GRU(N), rate=0.5), D, dropout=0.5)
    variables = variables_of(block)
    run = functools.partial(block.apply, variables, CLEAN)
    first = run(rngs={"dropout": jax.random.key(1)})
    assert largest_difference(first, run(rngs={"dropout": jax.random.key(1)})) == 0
    assert largest_difference(first, run(rngs={"dropout": jax.random.key(2)})) > 0
    still = run(rngs={"dropout": jax.random.key(1)}, deterministic=True)
    assert largest_difference(still, run()) == 0


def of_nnx(cell=BLOCK.cell, **options):
    return rnnjax.nnx.Block(cell, D, rngs=nnx.Rngs(0), **options)


def test_noise_of_nnx():
    block = of_nnx(rnnjax.Zoneout(rnnjax.GRU(N), rate=0.5), dropout=0.5)
    assert largest_difference(block(CLEAN), block(CLEAN)) > 0
    block.eval()
    assert largest_difference(block(CLEAN), block(CLEAN)) == 0
    without = of_nnx()
    assert largest_difference(without(CLEAN), without(CLEAN)) == 0


# --- NNX ---


def as_linen(module):
    """The params of an NNX module as Linen has them."""
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    blocks = {f"blocks_{k}": b for k, b in params["blocks"].items()} if "blocks" in params else {}
    for block in blocks.values() or [params]:
        block["rnn"] = {"cell": block["rnn"]["params"]}
    return {"params": blocks or params}


def test_nnx_is_linen():
    rngs = nnx.Rngs(0)
    cells = rnnjax.LSTM(N), rnnjax.S5(N)
    module = rnnjax.nnx.Blocks(
        [rnnjax.nnx.Block(cell, D, conv_width=3, rngs=rngs) for cell in cells], time_major=True
    )
    twin = Blocks([Block(cell, D, conv_width=3) for cell in cells])
    variables = as_linen(module)
    expected = whole(twin, variables, XS, None)
    options = {"seq_lengths": LENGTHS, "mask": HOLES, "resets": RESETS, "return_carry": True}
    got = module(XS, **options)
    assert largest_difference(expected, got) < TOLERATED
    carry, y = module.step(CLEAN[0], got[0], reset=RESETS[0])
    other = twin.apply(variables, CLEAN[0], got[0], reset=RESETS[0], method="step")
    assert largest_difference(other, (carry, y)) < TOLERATED
    graph, state = nnx.split(module)
    assert largest_difference(nnx.merge(graph, state)(CLEAN), module(CLEAN)) == 0


def test_nnx_has_gradients_and_other_norms():
    block = of_nnx(rnnjax.MinLSTM(N), conv_width=None, norm=nnx.LayerNorm)
    gradients = nnx.grad(lambda block: jnp.mean(block(CLEAN) ** 2))(block)
    assert all(bool(leaf.any()) for leaf in jax.tree.leaves(gradients))
    carry, _ = block(CLEAN, return_carry=True)
    assert carry.window is None


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"cell": rnnjax.LSTM}, TypeError, "Block: cell must be a Cell; got the class LSTM"),
        ({"features": 0}, ValueError, "Block: features must be at least 1; got 0"),
        ({"conv_width": 0}, ValueError, "Block: conv_width must be at least 1; got 0"),
        ({"expansion": 1.5}, TypeError, r"Block: expansion must be an int; got 1\.5"),
        ({"dropout": 1.0}, ValueError, r"Block: dropout must be a probability in \[0, 1\)"),
        ({"cell": rnnjax.RGLRU(8)}, ValueError, "RGLRU: in_dim must be size = 8"),
        (
            {"cell": rnnjax.ConvLSTM(2, spatial_shape=(3, 4))},
            ValueError,
            "ConvLSTM",
        ),
        (
            {"cell": rnnjax.WithCarry(rnnjax.GRU(N))},
            ValueError,
            r"Block: cell must return one vector \(N,\) a step; WithCarry",
        ),
    ],
)
def test_what_no_block_is_made_of(change, error, match):
    made = {"cell": BLOCK.cell, "features": D, **change}
    with pytest.raises(error, match=match):
        Block(**made).init(jax.random.key(0), CLEAN)
    with pytest.raises(error, match=match):
        rnnjax.nnx.Block(**made, rngs=nnx.Rngs(0))


ROWS = CLEAN.swapaxes(0, 1)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"inputs": ROWS[..., :3]}, ValueError, "inputs must have features = 4 on their last"),
        ({"inputs": ROWS[0, 0]}, ValueError, r"inputs must be \(…, T, features\)"),
        ({"mask": MASK}, ValueError, r"mask must lead with the axes \(4, 5\)"),
        ({"mask": MASK.T.astype(int)}, TypeError, "Block: mask must be boolean; got int"),
        ({"resets": RESETS.T.astype(float)}, TypeError, "Block: resets must be boolean; got float"),
        ({"seq_lengths": LENGTHS[1:]}, ValueError, "seq_lengths must lead with the batch axes"),
        ({"seq_lengths": LENGTHS + 1}, ValueError, "lengths must be within 0…T = 5; got 6"),
        ({"initial_carry": ((None, None),) * 2}, TypeError, "must be a BlockCarry; got tuple"),
        (
            {"initial_carry": (BlockCarry(jnp.zeros((B, 1, D)), None),) * 2},
            ValueError,
            r"carry must be \(B, K − 1, D\)",
        ),
        (
            {"initial_carry": (BlockCarry(None, None),)},
            ValueError,
            "one carry for each of 2 blocks; got 1",
        ),
    ],
)
def test_what_no_block_reads(run, options, error, match):
    options = {"inputs": ROWS, **options}
    with pytest.raises(error, match=match):
        DEEP.apply(run.args[0], **options)
