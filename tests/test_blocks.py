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
ROWS = CLEAN.swapaxes(0, 1)
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
    run = compiled(lambda *arguments: [whole(block, *arguments, None) for block in blocks])
    expected, *others = run(variables, XS)
    for got in others:
        assert largest_difference(expected, got) < TOLERATED


# --- context and noise ---

NOISY = Block(
    rnnjax.VariationalDropout(rnnjax.Zoneout(rnnjax.GRU(N), rate=0.5), 0.5), D, dropout=0.5
)


def test_context_is_what_the_cell_reads():
    variables = variables_of(NOISY)
    params = variables["params"]["rnn"]["cell"]
    context = rnnjax.sequence_noise(jax.random.key(5), NOISY.cell, params, B)
    run = compiled(functools.partial(NOISY.apply, deterministic=True))
    with_masks = run(variables, ROWS, context=context)
    assert largest_difference(with_masks, run(variables, ROWS)) > 0.01


def test_noise_of_linen():
    variables = variables_of(NOISY)
    draw = compiled(lambda key: NOISY.apply(variables, ROWS, rngs={"dropout": key}))
    first, other = draw(jax.random.key(1)), draw(jax.random.key(2))
    assert largest_difference(first, draw(jax.random.key(1))) == 0
    assert largest_difference(first, other) > 0
    rngs = {"dropout": jax.random.key(1)}
    still = compiled(lambda: NOISY.apply(variables, ROWS, rngs=rngs, deterministic=True))
    assert largest_difference(still(), compiled(lambda: NOISY.apply(variables, ROWS))()) == 0


def of_nnx(cell, **options):
    return rnnjax.nnx.Block(cell, D, rngs=nnx.Rngs(0), **options)


def test_noise_of_nnx():
    block = of_nnx(NOISY.cell, dropout=0.5)
    run = nnx.jit(lambda block: block(ROWS))
    assert largest_difference(run(block), run(block)) > 0
    block.eval()
    assert largest_difference(run(block), run(block)) == 0


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
    options = {"seq_lengths": LENGTHS, "mask": HOLES, "resets": RESETS, "return_carry": True}

    def of_nnx(module):
        carry, ys = module(XS, **options)
        return carry, ys, module.step(CLEAN[0], carry, reset=RESETS[0])

    def of_linen(variables):
        carry, ys = whole(twin, variables, XS, None)
        marks = {"reset": RESETS[0], "method": "step"}
        return carry, ys, twin.apply(variables, CLEAN[0], carry, **marks)

    got = nnx.jit(of_nnx)(module)
    assert largest_difference(compiled(of_linen)(variables), got) < TOLERATED
    merged = nnx.merge(*nnx.split(module))
    assert largest_difference(nnx.jit(of_nnx)(merged), got) == 0


def test_nnx_has_gradients_and_other_norms():
    block = of_nnx(rnnjax.MinLSTM(N), conv_width=None, norm=nnx.LayerNorm)

    def loss(block):
        carry, ys = block(ROWS, return_carry=True)
        return jnp.mean(ys**2), carry

    gradients, carry = nnx.jit(nnx.grad(loss, has_aux=True))(block)
    assert all(bool(leaf.any()) for leaf in jax.tree.leaves(gradients))
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
