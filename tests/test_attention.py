"""Attention, its decoders and scheduled sampling against plain NumPy, loops and enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import rnnjax
from rnnjax.decoding import beam_search
from rnnjax.testing import check_cell, largest_difference

T, S, B, D, N, M = 3, 4, 3, 3, 5, 6
LENGTHS = np.array([4, 2, 0])
"""Of the memories: the last row has nothing to attend to."""

ADDITIVE = rnnjax.AdditiveAttention(7)
BIASED = rnnjax.AdditiveAttention(7, bias_init=jax.nn.initializers.normal(1.0))
MULTIPLICATIVE = rnnjax.MultiplicativeAttention(N)
DOT = rnnjax.DotAttention(scale=0.5)
LSTM = rnnjax.LSTM(N)

DECODERS = {
    "bahdanau, additive": rnnjax.BahdanauDecoder(LSTM, ADDITIVE, M),
    "bahdanau, multiplicative": rnnjax.BahdanauDecoder(LSTM, MULTIPLICATIVE, M),
    "luong, additive": rnnjax.LuongDecoder(LSTM, BIASED, M, 8),
    "luong, dot": rnnjax.LuongDecoder(LSTM, DOT, N, 8),
    "input feeding, additive": rnnjax.InputFeeding(rnnjax.LuongDecoder(LSTM, ADDITIVE, M, 8)),
    "input feeding, multiplicative": rnnjax.InputFeeding(
        rnnjax.LuongDecoder(LSTM, MULTIPLICATIVE, M, 8)
    ),
}


def normal(random, *shape):
    return random.standard_normal(shape)


def arguments(decoder, seed=0):
    """Params, the encoder's outputs, inputs and the first carry of the cell inside, float64."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: decoder.init(key, D), jax.random.key(0))
    params = jax.tree.map(lambda a: 0.7 * normal(random, *a.shape), shapes)
    width = decoder.cell.memory_dim if fed(decoder) else decoder.memory_dim
    carry = rnnjax.LSTMCarry(normal(random, B, N), normal(random, B, N))
    return params, normal(random, S, B, width), normal(random, T, B, D), carry


def fed(decoder):
    return isinstance(decoder, rnnjax.InputFeeding)


# Against plain NumPy


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm_step(p, carry, x):
    i, f, g, o = np.split(x @ p["w_x"] + carry.h @ p["w_h"] + p["b"], 4)
    c = sigmoid(f) * carry.c + sigmoid(i) * np.tanh(g)
    return rnnjax.LSTMCarry(c, sigmoid(o) * np.tanh(c))


def score(attention, p, query, m):
    if isinstance(attention, rnnjax.AdditiveAttention):
        return np.tanh(query @ p["w_q"] + m @ p["w_k"] + p.get("b", 0.0)) @ p["v"]
    if isinstance(attention, rnnjax.MultiplicativeAttention):
        return query @ (m @ p["w_k"])
    return attention.scale * query @ m


def attend(attention, p, query, memory):
    """``memory`` has the valid positions alone."""
    powers = np.exp([score(attention, p, query, m) for m in memory])
    weights = powers / powers.sum() if len(memory) else np.zeros(0)
    return weights @ memory, np.pad(weights, (0, S - len(memory)))


def plain_row(decoder, p, memory, xs, carry):
    """One row in the papers' equations; returns the stacked outputs (output, context, weights)."""
    attention = decoder.cell.attention if fed(decoder) else decoder.attention
    output = np.zeros(decoder.cell.size) if fed(decoder) else None
    rows = []
    for x in xs:
        if isinstance(decoder, rnnjax.BahdanauDecoder):
            context, weights = attend(attention, p["attention"], carry.h, memory)
            carry = lstm_step(p, carry, np.concatenate([x, context]))
            output = carry.h
        else:
            carry = lstm_step(p, carry, np.concatenate([x, output]) if fed(decoder) else x)
            context, weights = attend(attention, p["attention"], carry.h, memory)
            output = np.tanh(np.concatenate([context, carry.h]) @ p["w_c"])
        rows.append((output, context, weights))
    return [np.stack(parts) for parts in zip(*rows, strict=True)]


def plain(decoder, params, encoded, xs, carry):
    rows = [
        plain_row(
            decoder, params, encoded[:n, b], xs[:, b], rnnjax.LSTMCarry(carry.c[b], carry.h[b])
        )
        for b, n in enumerate(LENGTHS)
    ]
    return rnnjax.DecoderOutput(*(np.stack(parts, 1) for parts in zip(*rows, strict=True)))


def run(decoder, params, encoded, xs, carry):
    context = rnnjax.attention_memory(decoder, params, encoded, lengths=LENGTHS)
    first = rnnjax.initial_carry(decoder, params, B, context=context)
    first = carry if isinstance(first, rnnjax.LSTMCarry) else first._replace(cell=carry)
    return rnnjax.scan(decoder, params, xs, first, context=context)[1]


def weigh(outputs):
    return sum((np.cos(np.arange(a.size)).reshape(a.shape) * a).sum() for a in outputs)


@pytest.mark.parametrize("name", DECODERS)
def test_values_and_gradients_are_those_of_the_papers_equations(name):
    decoder = DECODERS[name]
    primal = arguments(decoder)

    def library(*primal):
        outputs = run(decoder, *primal)
        return weigh(outputs), outputs

    with jax.enable_x64(True):
        differentiate = jax.value_and_grad(library, argnums=(0, 1, 2, 3), has_aux=True)
        (_, outputs), gradient = jax.jit(differentiate)(*primal)
        outputs, gradient = jax.tree.map(np.asarray, (outputs, gradient))
    assert largest_difference(plain(decoder, *primal), outputs) < 1e-12
    # A direction for each argument, so that a gradient that is missing altogether shows.
    for k in range(4):
        along = jax.tree.map(np.zeros_like, primal)
        direction = arguments(decoder, seed=1 + k)[k]
        along = (*along[:k], direction, *along[k + 1 :])
        ahead, back = (
            weigh(plain(decoder, *jax.tree.map(lambda a, d, e=e: a + e * d, primal, along)))
            for e in (1e-5, -1e-5)
        )
        products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, along)
        slope = sum(jax.tree.leaves(products))
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(slope, (ahead - back) / 2e-5, rtol=1e-6, atol=1e-8)


# Masks


@pytest.mark.parametrize("name", ["bahdanau, additive", "input feeding, multiplicative"])
def test_what_is_masked_reaches_neither_values_nor_gradients(name):
    decoder = DECODERS[name]
    params, encoded, xs, _ = jax.tree.map(np.float32, arguments(decoder))
    mask = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]], bool)

    def loss(params, encoded, xs):
        context = rnnjax.attention_memory(decoder, params, encoded, mask=mask)
        outputs = rnnjax.scan(decoder, params, xs, context=context)[1]
        return weigh(outputs), outputs

    differentiate = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, outputs), gradient = differentiate(params, encoded, xs)
    rubbish = np.where(np.arange(S)[:, None, None] % 2, np.nan, np.inf).astype(np.float32)
    dirty = np.where(mask[..., None], encoded, rubbish)
    (_, again), gradient_again = differentiate(params, dirty, xs)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((outputs, gradient)))
    assert largest_difference((outputs, gradient), (again, gradient_again)) == 0

    weights = np.moveaxis(outputs.weights, -1, 1)  # (T, S, B)
    np.testing.assert_allclose(weights[:, :, :2].sum(1), 1, rtol=1e-6)
    assert (weights[:, mask] > 0).all()
    assert not weights[:, ~mask].any()
    # The last row has nothing to attend to.
    assert not outputs.context[:, 2].any()
    assert outputs.output[:, 2].all()
    assert not gradient[1][~mask].any()
    assert gradient[1][mask].all()


def test_lengths_and_mask_both_hold():
    decoder = DECODERS["luong, dot"]
    params, encoded, *_ = jax.tree.map(np.float32, arguments(decoder))
    mask = np.array([[1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]], bool)
    memory = rnnjax.attention_memory(decoder, params, encoded, mask=mask, lengths=LENGTHS)["memory"]
    assert memory.mask.tolist() == [
        [True, False, True, True],
        [True, True, False, False],
        [False, False, False, False],
    ]
    assert memory.keys is None
    wanted = np.where(memory.mask[..., None], np.moveaxis(encoded, 0, 1), 0)
    np.testing.assert_array_equal(memory.values, wanted)


# What is computed when, and in what dtype


def products(jaxpr, looped=False):
    """(is in a loop, shapes) of every matrix product of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield looped, [v.aval.shape for v in (*equation.invars, *equation.outvars)]
        inside = looped or equation.primitive.name in ("scan", "while")
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda a: hasattr(a, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner, inside)


@pytest.mark.parametrize("attention", [rnnjax.AdditiveAttention(11), MULTIPLICATIVE])
@pytest.mark.parametrize("kind", [rnnjax.BahdanauDecoder, rnnjax.LuongDecoder])
def test_keys_are_computed_once_a_sequence(kind, attention):
    wide = 13  # no other width
    if kind is rnnjax.BahdanauDecoder:
        decoder = kind(LSTM, attention, wide)
    else:
        decoder = rnnjax.InputFeeding(kind(LSTM, attention, wide, 8))
    params = decoder.init(jax.random.key(0), D)

    def loss(params, encoded):
        context = rnnjax.attention_memory(decoder, params, encoded)
        _, ys = rnnjax.scan(decoder, params, jnp.ones((T, B, D)), context=context)
        return jnp.sum(ys.output)

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params, jnp.ones((S, B, wide))).jaxpr
    found = list(products(jaxpr))
    w_k = {(wide, attention.size), (attention.size, wide)}
    of_keys = [looped for looped, shapes in found if w_k & set(shapes)]
    # Forwards, and backwards for the gradient of W_k.
    assert of_keys == [False, False]
    assert sum(looped for looped, _ in found) > 4


def test_a_luong_decoder_stays_gated_and_attends_outside_of_a_hoisted_loop():
    decoder = rnnjax.LuongDecoder(LSTM, rnnjax.AdditiveAttention(11), 13, 8)
    params = decoder.init(jax.random.key(0), D)
    context = rnnjax.attention_memory(decoder, params, jnp.ones((S, B, 13)))
    strategy = rnnjax.Sequential(hoist=True, defer=True)

    def scan(params):
        xs = jnp.ones((T, B, D))
        return rnnjax.scan(decoder, params, xs, context=context, strategy=strategy)

    in_loop = [shapes for looped, shapes in products(jax.make_jaxpr(scan)(params).jaxpr) if looped]
    assert in_loop == [[(B, N), (N, 4 * N), (B, 4 * N)]]


def test_half_precision_leaves_the_carry_wide():
    attention = rnnjax.AdditiveAttention(7, dtype="bfloat16")
    decoder = rnnjax.InputFeeding(rnnjax.LuongDecoder(LSTM, attention, M, 8))
    params, encoded, xs, _ = jax.tree.map(jnp.float32, arguments(decoder))
    context = rnnjax.attention_memory(decoder, params, encoded, lengths=LENGTHS)
    carry, y = rnnjax.step(decoder, params, xs[0], context=context)
    assert {a.dtype.name for a in jax.tree.leaves(carry)} == {"float32"}
    assert {a.dtype.name for a in jax.tree.leaves(y)} == {"bfloat16"}
    wide = DECODERS["input feeding, additive"]
    context = rnnjax.attention_memory(wide, params, encoded, lengths=LENGTHS)
    _, expected = rnnjax.step(wide, params, xs[0], context=context)
    assert 0 < largest_difference(expected, y) < 4e-2


def test_decoders_read_memories_of_different_names():
    lower = rnnjax.LuongDecoder(LSTM, DOT, N, 8, name="sentence")
    upper = rnnjax.BahdanauDecoder(rnnjax.Zoneout(LSTM), ADDITIVE, M, name="picture")
    learnt = rnnjax.WithCarry(upper)
    k_lower, k_upper, k_memory = jax.random.split(jax.random.key(0), 3)
    p_lower, p_upper = lower.init(k_lower, D), learnt.init(k_upper, D)
    memory = jax.random.normal(k_memory, (S, B, M))
    context = rnnjax.attention_memory(lower, p_lower, memory[..., :N])
    context |= rnnjax.attention_memory(learnt, p_upper, memory)
    assert set(context) == set(lower.context_shapes()) | set(learnt.context_shapes())
    assert context["sentence"].values.shape == (B, S, N)
    assert context["picture"].keys.shape == (B, S, 7)


# Decoding


def test_an_exhaustive_beam_finds_what_enumeration_finds():
    size, longest, end = 3, 3, 0
    decoder = rnnjax.InputFeeding(rnnjax.LuongDecoder(rnnjax.GRU(4), rnnjax.DotAttention(), 4, 5))
    k_params, k_memory, k_head = jax.random.split(jax.random.key(3), 3)
    params = {
        "decoder": jax.tree.map(lambda a: 2 * a, decoder.init(k_params, size)),
        "head": 2 * jax.random.normal(k_head, (5, size)),
    }
    encoded = 2 * jax.random.normal(k_memory, (S, 2, 4))
    context = rnnjax.attention_memory(
        decoder, params["decoder"], encoded, lengths=jnp.array([4, 2])
    )
    carry = rnnjax.initial_carry(decoder, params["decoder"], 2, context=context)

    def step(params, carry, token, context):
        x = jax.nn.one_hot(token, size)
        carry, y = rnnjax.step(decoder, params["decoder"], x, carry, context=context)
        return carry, y.output @ params["head"]

    found = beam_search(
        Partial(step, params), carry, jnp.array([1, 1]), width=9, max_length=longest, end=end,
        length_penalty=0.0, n_best=5, context=context,
    )  # fmt: skip

    # Every sequence beside every other, as a batch whose reference is the sequence itself.
    every = np.array(list(itertools.product(range(size), repeat=longest))).T  # (T, 27)
    read = jnp.asarray(np.concatenate([np.ones_like(every[:1]), every[:-1]]))
    for b in range(2):
        repeated = jax.tree.map(lambda a, b=b: jnp.repeat(a[b : b + 1], 27, axis=0), context)
        xs = jax.nn.one_hot(read, size)
        _, ys = rnnjax.scan(decoder, params["decoder"], xs, context=repeated)
        log_p = np.asarray(jax.nn.log_softmax(ys.output @ params["head"]))
        scores = {}
        for n, sequence in enumerate(every.T.tolist()):
            length = sequence.index(end) + 1 if end in sequence else longest
            padded = (*sequence[:length], *[end] * (longest - length))
            scores[padded] = sum(log_p[t, n, sequence[t]] for t in range(length))
        best = sorted(scores, key=lambda sequence: -scores[sequence])[:5]
        assert [tuple(h) for h in found.tokens[:, b].T.tolist()] == best
        np.testing.assert_allclose(found.scores[b], [scores[h] for h in best], rtol=1e-4)


# Scheduled sampling


def leaves(key):
    k_table, k_head = jax.random.split(key)
    return {
        "table": jax.random.normal(k_table, (4, D)),
        "head": 3 * jax.random.normal(k_head, (N, 4)),
    }


def embed(params, token):
    return params["table"][token]


def head(params, y):
    return y @ params["head"]


def likeliest(key, logits):
    return logits.argmax()


def always_two(key, logits):
    return jnp.int32(2)


def attended_head(params, y):
    return y.output @ params["head"]


SAMPLING = rnnjax.ScheduledSampling(rnnjax.GRU(N), embed, head, leaves, predict=likeliest)
TOKENS = jax.random.randint(jax.random.key(5), (6, B), 0, 4)
SAMPLING_PARAMS = SAMPLING.init(jax.random.key(6), ())


def sampled(rate, cell=SAMPLING, tokens=TOKENS, keyed=True, **options):
    """Return the carry over time, and the outputs."""
    xs = rnnjax.with_keys(jax.random.key(7), tokens) if keyed else tokens
    rate = {"sampling_rate": jnp.full(tokens.shape[1:], rate)}
    cell = rnnjax.WithCarry(cell)
    _, (ys, carry) = rnnjax.scan(cell, SAMPLING_PARAMS, xs, context=rate, **options)
    return carry, ys


@pytest.mark.parametrize("keyed", [True, False])
def test_without_sampling_it_is_teacher_forcing(keyed):
    carry, ys = sampled(0.0 if keyed else 1.0, keyed=keyed)
    expected = rnnjax.scan(SAMPLING.cell, SAMPLING_PARAMS, SAMPLING_PARAMS["table"][TOKENS])[1]
    assert largest_difference(expected, ys) == 0
    np.testing.assert_array_equal(carry.read, TOKENS)


def test_with_nothing_else_the_model_reads_itself():
    resets = np.zeros(TOKENS.shape, bool)
    resets[3, 1] = True
    carry, ys = sampled(1.0, resets=resets)
    h = jnp.zeros((B, N))
    token = TOKENS[0]
    for t in range(len(TOKENS)):
        # The first token of a sequence is the reference's.
        token = jnp.where(resets[t], TOKENS[t], token)
        h = jnp.where(resets[t][:, None], 0.0, h)
        np.testing.assert_array_equal(carry.read[t], token)
        h, y = rnnjax.step(SAMPLING.cell, SAMPLING_PARAMS, embed(SAMPLING_PARAMS, token), h)
        assert largest_difference(y, ys[t]) < 1e-6
        token = head(SAMPLING_PARAMS, y).argmax(-1)
    assert (carry.read != TOKENS).any()


def test_so_many_tokens_are_the_models_own_as_the_rate_says():
    cell = rnnjax.ScheduledSampling(rnnjax.GRU(N), embed, head, leaves, predict=always_two)
    carry, _ = sampled(0.3, cell, jnp.ones((50, 40), int))
    own = np.asarray(carry.read[1:] == 2)
    assert abs(own.mean() - 0.3) < 0.03
    assert (carry.read[0] == 1).all()


def test_a_prediction_is_drawn_from_the_models_distribution():
    cell = rnnjax.ScheduledSampling(rnnjax.GRU(N), embed, head, leaves)
    tokens = jnp.full((1, 4000), 3)
    carry, ys = sampled(1.0, cell, tokens)
    shares = np.bincount(carry.prediction[0], minlength=4) / 4000
    p = jax.nn.softmax(head(SAMPLING_PARAMS, ys[0, 0]))
    assert p.min() > 0.005
    np.testing.assert_allclose(shares, p, atol=0.03)


# The contract


# The table of cells has the other decoders.
@pytest.mark.slow
def test_a_decoder_keeps_the_contract():
    check_cell(rnnjax.LuongDecoder(LSTM, MULTIPLICATIVE, M, 8), jax.random.key(0), D)


@pytest.mark.slow
def test_scheduled_sampling_keeps_the_contract():
    inside = rnnjax.Stack((rnnjax.LSTM(3), rnnjax.Zoneout(rnnjax.GRU(N))))
    decoder = rnnjax.InputFeeding(rnnjax.LuongDecoder(inside, MULTIPLICATIVE, M, N))
    cell = rnnjax.ScheduledSampling(decoder, embed, attended_head, leaves)
    check_cell(cell, jax.random.key(0), jax.ShapeDtypeStruct((), jnp.int32))


def test_scheduled_sampling_around_a_decoder_hands_the_context_on():
    decoder = rnnjax.InputFeeding(rnnjax.LuongDecoder(rnnjax.GRU(4), rnnjax.DotAttention(), 4, N))
    cell = rnnjax.ScheduledSampling(decoder, embed, attended_head, leaves)
    params = cell.init(jax.random.key(0), ())
    encoded = jax.random.normal(jax.random.key(1), (S, B, 4))
    context = rnnjax.attention_memory(cell, params, encoded)
    context |= {"sampling_rate": jnp.zeros((B,))}
    xs = rnnjax.with_keys(jax.random.key(2), TOKENS)
    _, ys = rnnjax.scan(cell, params, xs, context=context)
    _, expected = rnnjax.scan(decoder, params, params["table"][TOKENS], context=context)
    assert largest_difference(expected, ys) == 0


# Errors

BAHDANAU = DECODERS["bahdanau, additive"]
PARAMS = BAHDANAU.init(jax.random.key(0), D)
ENCODED = np.ones((S, B, M), np.float32)


def memory(cell=BAHDANAU, params=PARAMS, encoded=ENCODED, **options):
    return rnnjax.attention_memory(cell, params, encoded, **options)


ERRORS = {
    "mechanism": (
        lambda: rnnjax.BahdanauDecoder(LSTM, "dot", M),
        TypeError,
        "BahdanauDecoder: attention must be an Attention; got 'dot'. Pass an Attention such as",
    ),
    "memory_dim": (
        lambda: rnnjax.LuongDecoder(LSTM, DOT, 0, 8),
        ValueError,
        "LuongDecoder: memory_dim must be at least 1; got 0",
    ),
    "size": (
        lambda: rnnjax.LuongDecoder(LSTM, DOT, M, 0),
        ValueError,
        "LuongDecoder: size must be at least 1; got 0",
    ),
    "name": (
        lambda: rnnjax.BahdanauDecoder(LSTM, DOT, M, name=1),
        TypeError,
        "BahdanauDecoder: name must be a string; got 1",
    ),
    "kernel_init": (
        lambda: rnnjax.DotAttention(kernel_init=1),
        TypeError,
        "DotAttention: kernel_init must be a function; got 1",
    ),
    "scale": (
        lambda: rnnjax.DotAttention(scale=0.0),
        ValueError,
        "DotAttention: scale must be greater than zero",
    ),
    "param_dtype": (
        lambda: rnnjax.AdditiveAttention(3, param_dtype=None),
        TypeError,
        "AdditiveAttention: param_dtype must be a dtype; got None",
    ),
    "dot of different widths": (
        lambda: rnnjax.BahdanauDecoder(LSTM, DOT, M).init(jax.random.key(0), D),
        ValueError,
        r"query and memory must have one width; got 5 and 6. MultiplicativeAttention\(5\) puts",
    ),
    "general of another width": (
        lambda: rnnjax.BahdanauDecoder(rnnjax.GRU(4), MULTIPLICATIVE, M).init(jax.random.key(0), D),
        ValueError,
        "size must be the width of the query, 4; got 5. AdditiveAttention takes any size",
    ),
    "an output that is no vector": (
        lambda: rnnjax.LuongDecoder(rnnjax.WithCarry(LSTM), DOT, N, 8).init(jax.random.key(0), D),
        ValueError,
        r"LuongDecoder: cell must have one vector \(N,\) as its output; WithCarry\(LSTM\(5\)\) has",
    ),
    "input feeding of another cell": (
        lambda: rnnjax.InputFeeding(LSTM),
        TypeError,
        "InputFeeding: cell must be a LuongDecoder; got LSTM",
    ),
    "memory of no decoder": (
        lambda: memory(rnnjax.Stack((LSTM, BAHDANAU))),
        TypeError,
        "cell must be a decoder with attention, .*Of a Stack pass the layer that attends",
    ),
    "memory of other params": (
        lambda: memory(params=LSTM.init(jax.random.key(0), D)),
        ValueError,
        r"params must be what BahdanauDecoder\(.*\).init.*these hold \['b', 'w_h', 'w_x'\]",
    ),
    "memory of another width": (
        lambda: memory(encoded=ENCODED[..., 1:]),
        ValueError,
        r"encoded must be \(S, B, M\) = \(S, B, 6\), .*; got \(4, 3, 5\)",
    ),
    "memory of integers": (
        lambda: memory(encoded=ENCODED.astype(int)),
        TypeError,
        "encoded must be floating point; got int32",
    ),
    "memory mask": (
        lambda: memory(mask=np.ones((B, S), bool)),
        ValueError,
        r"mask must be \(S, B\) = \(4, 3\); got \(3, 4\)",
    ),
    "memory lengths": (
        lambda: memory(lengths=np.array([4, 5, 1])),
        ValueError,
        "lengths must be within 0…S = 4; got 5",
    ),
    "memory missing": (
        lambda: rnnjax.scan(BAHDANAU, PARAMS, jnp.ones((T, B, D))),
        ValueError,
        "context must hold 'memory', which BahdanauDecoder",
    ),
    "width of the input": (
        lambda: rnnjax.scan(BAHDANAU, PARAMS, jnp.ones((T, B, D + 1)), context=memory()),
        ValueError,
        r"xs must be \(T, B, D\) = \(3, 3, 3\)",
    ),
    "sampling function": (
        lambda: rnnjax.ScheduledSampling(LSTM, embed, "head", leaves),
        TypeError,
        "ScheduledSampling: head must be a function; got 'head'",
    ),
    "sampling of vectors": (
        lambda: SAMPLING.init(jax.random.key(0), D),
        ValueError,
        r"in_dim must be \(\), the shape of one token; got 3",
    ),
    "sampling without a rate": (
        lambda: rnnjax.scan(SAMPLING, SAMPLING_PARAMS, TOKENS),
        ValueError,
        "context must hold 'sampling_rate', which ScheduledSampling",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_refused_by_name(name):
    function, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        function()
