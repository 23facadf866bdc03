"""Sampling, streaming and beam search against oracles in plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.stats import chi2

import rnnjax
from rnnjax.decoding import beam_search, filters, sample, stream
from tests.cases import Attend

V, B = 6, 3
KEY = jax.random.key(3)
PROMPT = np.array([[1, 4, 0], [2, 77, 5], [5, -1, 88], [3, 99, -9]])
"""Padded on the right with what is in no vocabulary."""
LENGTHS = np.array([4, 1, 2])

CELL = rnnjax.Stack((rnnjax.LSTM(5), rnnjax.GRU(5)))
TRACES: list[None] = []
CALLS: list[None] = []


@functools.cache
@jax.jit
def draw_params(seed):
    k_embed, k_rnn, k_head = jax.random.split(jax.random.key(seed), 3)
    return {
        "embed": jax.random.normal(k_embed, (V, 4)),
        "rnn": CELL.init(k_rnn, 4),
        "head": 3 * jax.random.normal(k_head, (5, V)),
    }


def read(params, carry, token, context):
    """One token through a stack of two cells."""
    TRACES.append(None)
    carry, y = rnnjax.step(CELL, params["rnn"], params["embed"][token], carry)
    return carry, y @ params["head"]


MODEL = Partial(read, draw_params(0))
STEP = jax.jit(read)


def initial(batch):
    zeros = np.zeros((batch, 5), np.float32)
    return rnnjax.LSTMCarry(zeros, zeros), zeros


def row(tree, b):
    return jax.tree.map(lambda a: np.asarray(a)[b : b + 1], tree)


def look_up(table, carry, token, context):
    """A model that knows the last token only, and counts its steps."""
    return carry + 1, table[token]


def look_up_counted(table, carry, token, context):
    """The same; it counts also the steps that are run."""
    jax.debug.callback(lambda: CALLS.append(None))
    return look_up(table, carry, token, context)


def steps_run(call):
    CALLS.clear()
    result = jax.block_until_ready(call())
    jax.effects_barrier()
    return len(CALLS), result


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1))


# --- filters ---

ROW = np.array([1.3, -0.4, 0.9, -2.1, 2.2, 0.1], np.float32)
SEEN = np.array([True, True, False, False, False, False])


def oracle(
    logits, seen, temperature=1.0, top_k=None, top_p=None, min_p=None, repetition_penalty=1.0
):
    """Probabilities of one row, tokens one after the other in falling order."""
    logits = np.asarray(logits, np.float64)
    penalised = np.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty)
    logits = np.where(seen, penalised, logits)
    p = np.exp(log_softmax(logits / temperature))
    order = list(np.argsort(-p))[: top_k or len(p)]
    p = np.where(np.isin(np.arange(len(p)), order), p, 0) / p[order].sum()
    if top_p is not None:
        while len(order) > 1 and p[order[:-1]].sum() >= top_p:
            order.pop()
    if min_p is not None:
        order = [token for token in order if p[token] >= min_p * p.max()]
    p = np.where(np.isin(np.arange(len(p)), order), p, 0)
    return p / p.sum()


NEUTRAL = {"temperature": 1.0, "top_k": V, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
OPTIONS = [
    *({"temperature": temperature} for temperature in (0.5, 3.0)),
    *({"top_k": k} for k in (1, 2, 5)),
    *({"top_p": p} for p in (0.01, 0.5, 0.75, 0.9)),
    *({"min_p": p} for p in (0.1, 0.3, 0.9)),
    *({"repetition_penalty": p} for p in (1.5, 0.7)),
    {"temperature": 0.7, "top_k": 4, "top_p": 0.8, "min_p": 0.2, "repetition_penalty": 1.6},
    {"temperature": 1.5, "top_k": 5, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.1},
]


@pytest.mark.parametrize("options", [{}, *(NEUTRAL | changes for changes in OPTIONS)])
def test_draws_have_the_distribution_of_the_filters(options):
    """The support is exact; frequencies are within chi-square's 0.9999 quantile."""
    count = 4000
    step_fn, carry = Partial(constant, ROW), np.zeros((count,), np.float32)
    prompt = np.tile(np.array([[0], [1]]), (1, count))
    drawn = sample(step_fn, carry, prompt, KEY, max_length=1, **options)
    p = oracle(ROW, SEEN, **options)
    counts = np.bincount(np.asarray(drawn.tokens[0]), minlength=V)
    assert not counts[p == 0].any()
    expected = count * p[p > 0]
    statistic = ((counts[p > 0] - expected) ** 2 / expected).sum()
    assert statistic <= chi2.ppf(0.9999, max(len(expected) - 1, 1))
    model = log_softmax(ROW)[np.asarray(drawn.tokens[0])]
    np.testing.assert_allclose(drawn.log_probabilities[0], model, rtol=1e-5)


def constant(logits, carry, token, context):
    return carry, jnp.broadcast_to(logits, (len(token), len(logits)))


def test_filters_keep_exactly_the_support():
    logits = np.random.default_rng(0).normal(0, 2, (50, 11)).astype(np.float32)
    tables = {"top_k": (1, 4, 11), "top_p": (1e-6, 0.3, 0.93, 1.0), "min_p": (0.0, 0.07, 0.6)}
    for name, values in tables.items():
        apply = jax.jit(getattr(filters, name))
        for value in values:
            kept = np.isfinite(apply(jnp.asarray(logits), value))
            wanted = [oracle(x, False, **{name: value}) > 0 for x in logits]
            np.testing.assert_array_equal(kept, wanted)


def test_ties_at_the_border_are_all_kept_and_what_is_masked_stays_so():
    logits = jnp.array([[2.0, 1.0, -jnp.inf, 1.0, 0.0]])
    for kept in (filters.top_k(logits, 2), filters.top_p(logits, 0.6), filters.min_p(logits, 0.3)):
        assert np.isfinite(kept).tolist() == [[True, True, False, True, False]]
    for kept in (filters.top_k(logits, 5), filters.top_p(logits, 1.0), filters.min_p(logits, 0.0)):
        assert kept.tolist() == logits.tolist()


def test_a_tiny_temperature_is_greedy_and_overflows_nowhere():
    step_fn = Partial(constant, jnp.asarray(ROW))
    draw = functools.partial(sample, step_fn, jnp.zeros((5,)), jnp.zeros((1, 5), int), KEY)
    for temperature in (0, 1e-38, 1e-6):
        drawn = draw(max_length=2, temperature=temperature, top_k=3, top_p=0.9, min_p=0.1)
        assert (drawn.tokens == ROW.argmax()).all()
        assert np.isfinite(drawn.log_probabilities).all()


# --- sampling ---


def by_hand(carry, prompt, length):
    """Greedy decoding of one row as a plain loop."""
    params = draw_params(0)
    for token in prompt[:-1]:
        carry, _ = STEP(params, carry, token[None], None)
    token, tokens, log_probabilities = prompt[-1][None], [], []
    for _ in range(length):
        carry, logits = STEP(params, carry, token, None)
        token = np.asarray(logits).argmax(-1)
        tokens.append(int(token[0]))
        log_probabilities.append(log_softmax(logits[0])[tokens[-1]])
    return tokens, log_probabilities, carry


VARIED = {"temperature": 1.5, "top_p": 0.95, "repetition_penalty": 1.2, "stop": 2}


def draw(max_length=7, step_fn=MODEL, **options):
    return sample(
        step_fn, initial(B), PROMPT, KEY, max_length=max_length, lengths=LENGTHS, **options
    )


def close(a, b):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), a, b)


def test_greedy_is_the_plain_loop_and_goes_on_from_its_carry():
    first = draw(temperature=0)
    second = sample(MODEL, first.carry, first.tokens[-1:], KEY, max_length=7, temperature=0)
    assert first.lengths.tolist() == [7] * B
    for b in range(B):
        tokens, scores, carry = by_hand(row(initial(B), b), PROMPT[: LENGTHS[b], b], length=14)
        assert [*first.tokens[:, b].tolist(), *second.tokens[:, b].tolist()] == tokens
        close(first.log_probabilities[:, b], np.array(scores[:7], np.float32))
        close(row(second.carry, b), carry)


def test_a_row_of_a_ragged_batch_is_the_row_alone():
    drawn = draw(**VARIED)
    for b in (1, 2):
        alone = sample(
            MODEL,
            row(initial(B), b),
            PROMPT[: LENGTHS[b], b : b + 1],
            jax.random.fold_in(KEY, b)[None],
            max_length=7,
            **VARIED,
        )
        assert drawn.tokens[:, b].tolist() == alone.tokens[:, 0].tolist()
        assert int(drawn.lengths[b]) == int(alone.lengths[0])
        close(drawn.log_probabilities[:, b], alone.log_probabilities[:, 0])
        close(row(drawn.carry, b), alone.carry)


COUNTING = Partial(look_up_counted, np.roll(20 * np.eye(V, dtype=np.float32), 1, axis=1))
"""Token t is followed by t + 1."""


def count(**options):
    carry = jnp.array([0, 100, 200])
    return sample(
        COUNTING, carry, jnp.array([[0, 3, 2]]), KEY, **{"max_length": 50, "stop": 4} | options
    )


def test_a_row_is_finished_by_the_stop_token():
    steps, drawn = steps_run(count)
    assert drawn.tokens[:5].tolist() == [[1, 4, 3], [2, 4, 4], [3, 4, 4], [4, 4, 4], [4, 4, 4]]
    assert (drawn.tokens[5:] == 4).all()
    assert drawn.lengths.tolist() == [4, 1, 2]
    assert drawn.carry.tolist() == [4, 101, 202]  # A step a token, and none after the last.
    assert not drawn.log_probabilities[4:].any()
    assert not drawn.log_probabilities[1:, 1].any()
    assert steps == 4  # The loop ends with the last row.


@pytest.mark.parametrize("block", [3, 7])
def test_a_stream_is_the_sample(block):
    drawn = draw(**VARIED)
    arguments = (MODEL, initial(B), PROMPT, KEY)
    tokens = list(stream(*arguments, max_length=7, lengths=LENGTHS, block=block, **VARIED))
    assert all(isinstance(token, np.ndarray) and token.shape == (B,) for token in tokens)
    np.testing.assert_array_equal(tokens, drawn.tokens[: int(drawn.lengths.max())])


def test_a_stream_ends_with_its_last_row():
    whole = count().tokens
    for max_length, length in ((3, 3), (4, 4), (50, 4)):
        arguments = (COUNTING, np.zeros((3,), int), np.array([[0, 3, 2]]), KEY)
        tokens = list(stream(*arguments, max_length=max_length, stop=4, block=2))
        np.testing.assert_array_equal(tokens, whole[:length])


def test_new_numbers_params_and_keys_compile_nothing():
    def run(seed, temperature, top_p, penalty, stop, alpha):
        step_fn, key = Partial(read, draw_params(seed)), jax.random.key(seed)
        options = {"top_p": top_p, "repetition_penalty": penalty, "stop": stop}
        arguments = (step_fn, initial(B), PROMPT, key)
        options = {"temperature": temperature, "lengths": LENGTHS, "max_length": 7, **options}
        sample(*arguments, **options)
        list(stream(*arguments, **options, block=7))
        search_greedily(step_fn, seed, stop, alpha)

    run(0, 1.0, 0.9, 1.1, 2, 0.6)
    traces = len(TRACES)
    run(1, 0, np.float32(0.5), 2, 3, 1)
    run(2, np.float64(0.3), 1, jnp.array(0.9), np.int64(0), 0.0)
    assert len(TRACES) == traces


def test_plain_functions_traced_options_and_old_keys():
    def follow(carry, token, context):
        return carry, jax.nn.one_hot((token + 1) % V, V, dtype=jnp.bfloat16)

    @jax.jit
    def run(temperature, key, prompt):
        return sample(follow, (), prompt, key, max_length=3, temperature=temperature)

    prompt = jnp.array([[1, 5]], jnp.uint8)
    drawn = run(0.0, jax.random.PRNGKey(0), prompt)
    assert drawn.tokens.tolist() == [[2, 0], [3, 1], [4, 2]]
    assert drawn.log_probabilities.dtype == jnp.float32
    assert run(2.0, jax.random.PRNGKey(1), prompt).tokens.shape == (3, 2)


def test_nan_shows_in_its_row_alone():
    table = jnp.zeros((V, V)).at[3, 2].set(jnp.nan)
    step_fn, carry, tokens = Partial(look_up, table), jnp.zeros((2,)), jnp.array([3, 1])
    drawn = sample(step_fn, carry, tokens[None], KEY, max_length=1, temperature=0, top_p=0.5)
    assert np.isnan(drawn.log_probabilities).tolist() == [[True, False]]
    best = beam_search(step_fn, carry, tokens, width=2, max_length=1, end=0)
    assert np.isnan(best.scores).tolist() == [[True], [False]]


# --- beam search ---

SMALL, LONGEST, END = 4, 5, 0


def small_params():
    k_in, k_h, k_out = jax.random.split(jax.random.key(11), 3)
    return {
        "w_x": 2 * jax.random.normal(k_in, (SMALL, 3)),
        "w_h": jax.random.normal(k_h, (3, 3)),
        "head": 2 * jax.random.normal(k_out, (3, SMALL)),
    }


def read_small(params, carry, token, context):
    """An Elman network over four tokens: the whole history matters."""
    h = jnp.tanh(params["w_x"][token] + carry["h"] @ params["w_h"])
    return {"h": h}, h @ params["head"]


SMALL_MODEL = Partial(read_small, small_params())


@functools.cache
def every_hypothesis(start):
    """Return all sequences that end or have the longest length, with their log probabilities."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), small_params())

    def grow(h, token, tokens, log_p):
        if tokens and (tokens[-1] == END or len(tokens) == LONGEST):
            yield tokens, log_p
            return
        h = np.tanh(params["w_x"][token] + h @ params["w_h"])
        log_probabilities = log_softmax(h @ params["head"])
        for following in range(SMALL):
            more = (*tokens, following)
            yield from grow(h, following, more, log_p + log_probabilities[following])

    return list(grow(np.zeros(3), start, (), 0.0))


def ranked(start, alpha, allowed=lambda tokens: True):
    scored = [
        (log_p / ((5 + len(tokens)) / 6) ** alpha, tokens)
        for tokens, log_p in every_hypothesis(start)
        if allowed(tokens)
    ]
    return sorted(scored, reverse=True)


def repeats(tokens, n):
    grams = [tokens[i : i + n] for i in range(len(tokens) - n + 1)]
    return len(set(grams)) < len(grams)


STARTS = jnp.array([0, 2])


def search_small(width, **options):
    carry = {"h": jnp.zeros((2, 3))}
    options = {"max_length": LONGEST, "end": END} | options
    return beam_search(SMALL_MODEL, carry, STARTS, width=width, **options)


def agrees(found, b, wanted):
    for k, (score, tokens) in enumerate(wanted[: found.scores.shape[1]]):
        assert int(found.lengths[b, k]) == len(tokens)
        assert found.tokens[: len(tokens), b, k].tolist() == list(tokens)
        assert (found.tokens[len(tokens) :, b, k] == END).all()
        np.testing.assert_allclose(found.scores[b, k], score, rtol=1e-5)


@pytest.mark.parametrize("block_ngrams", [None, 1, 2])
def test_a_wide_beam_is_exhaustive_search(block_ngrams):
    def allowed(tokens):
        return block_ngrams is None or not repeats(tokens, block_ngrams)

    for alpha in (0.0, 0.6, 2.0, -0.5):
        found = search_small(256, n_best=12, length_penalty=alpha, block_ngrams=block_ngrams)
        for b, start in enumerate(STARTS.tolist()):
            agrees(found, b, ranked(start, alpha, allowed))


def test_a_narrow_beam_misses_what_a_wide_one_finds():
    table = jnp.log(jnp.array([[0.0, 0.6, 0.4], [0.3, 0.35, 0.35], [0.9, 0.05, 0.05]]))
    step_fn = Partial(look_up, table)
    found = [
        beam_search(step_fn, jnp.zeros((1,)), jnp.array([0]), width=w, max_length=2, end=0)
        for w in (1, 2)
    ]
    assert [f.tokens[:, 0, 0].tolist() for f in found] == [[1, 1], [2, 0]]
    assert found[0].scores[0, 0] < found[1].scores[0, 0]
    np.testing.assert_allclose(found[1].scores[0, 0], np.log(0.36) / (7 / 6) ** 0.6, rtol=1e-5)


def search_greedily(step_fn, start, end, alpha):
    starts, options = np.full((B,), start), {"width": 1, "max_length": 7, "end": end}
    return beam_search(step_fn, initial(B), starts, length_penalty=alpha, **options)


def test_width_one_is_greedy():
    lengths = set()
    for seed in range(V):
        model, prompt = Partial(read, draw_params(seed)), np.full((1, B), seed)
        drawn = sample(model, initial(B), prompt, KEY, max_length=7, temperature=0, stop=2)
        for alpha in (0.0, 0.6, 3.0):
            found = search_greedily(model, seed, 2, alpha)
            assert found.tokens[:, :, 0].tolist() == drawn.tokens.tolist()
            assert found.lengths[:, 0].tolist() == drawn.lengths.tolist()
            close(found.log_probabilities[..., 0], drawn.log_probabilities)
        lengths.add(int(drawn.lengths[0]))
    # Those that are cut off and those that end, at once or later, are all seen.
    assert {1, 7} < lengths


def test_scores_are_those_of_the_model_fed_with_the_hypotheses():
    """The carry, a tuple of an LSTM's and a GRU's, follows its hypothesis."""
    width, longest, alpha = 4, 7, 0.9
    found = beam_search(
        MODEL,
        initial(B),
        PROMPT[0],
        width=width,
        max_length=longest,
        end=2,
        n_best=width,
        length_penalty=alpha,
    )
    tokens = np.asarray(found.tokens)
    start = np.broadcast_to(PROMPT[0][None, :, None], (1, B, width))
    fed = np.concatenate([start, tokens[:-1]]).reshape(longest, B * width)
    carry, log_probabilities = initial(B * width), []
    for token, target in zip(fed, tokens.reshape(longest, -1), strict=True):
        carry, logits = STEP(draw_params(0), carry, token, None)
        scored = zip(np.asarray(logits), target, strict=True)
        log_probabilities.append([log_softmax(x)[t] for x, t in scored])
    inside = np.arange(longest)[:, None, None] < np.asarray(found.lengths)[None]
    wanted = np.where(inside, np.reshape(log_probabilities, (longest, B, width)), 0.0)
    np.testing.assert_allclose(found.log_probabilities, wanted, rtol=1e-4, atol=1e-5)
    penalty = ((5 + np.asarray(found.lengths)) / 6) ** alpha
    np.testing.assert_allclose(found.scores, wanted.sum(0) / penalty, rtol=1e-4)
    assert (np.diff(found.scores) <= 0).all()
    hypotheses = np.moveaxis(np.asarray(found.tokens), 0, -1).reshape(B, width, longest)
    assert all(len({tuple(h) for h in row}) == width for row in hypotheses)


def test_each_beam_reads_the_context_of_its_row():
    """A row finds the same in a batch whose other row has another context, or its own."""
    cell = Attend(rnnjax.GRU(5), 4)
    k_cell, k_head, k_memory = jax.random.split(KEY, 3)
    params = {"rnn": cell.init(k_cell, V), "head": 3 * jax.random.normal(k_head, (9, V))}
    memory = 3 * np.asarray(jax.random.normal(k_memory, (2, 6, 4)))
    mask = np.arange(6)[None] < np.array([[6], [3]])

    def attend(params, carry, token, context):
        x = jax.nn.one_hot(token, V)
        carry, y = rnnjax.step(cell, params["rnn"], x, carry, context=context)
        return carry, y @ params["head"]

    def search(rows):
        context = {"memory": memory[rows], "memory_mask": mask[rows]}
        options = {"width": 3, "max_length": 6, "end": 0, "n_best": 3, "context": context}
        carry = (np.zeros((2, 5), np.float32), np.zeros((2, 4), np.float32))
        return beam_search(Partial(attend, params), carry, np.array([1, 1]), **options)

    both = search([0, 1])
    assert both.tokens[:, 0].tolist() != both.tokens[:, 1].tolist()
    for b in range(2):
        alike = search([b, b])
        assert alike.tokens[:, 0].tolist() == alike.tokens[:, 1].tolist()
        assert alike.tokens[:, b].tolist() == both.tokens[:, b].tolist()
        close(alike.scores[b], both.scores[b])


def test_the_search_stops_when_nothing_better_can_come_and_no_sooner():
    def search(alpha, p_end):
        # Token 1 ends at once or goes on to 2, which goes on almost surely.
        p = jnp.array([[1, 0, 0, 0], [p_end, 0, 1 - p_end, 0], [1e-3, 0, 0.999, 0], [1, 0, 0, 0]])
        step_fn, start = Partial(look_up_counted, jnp.log(p)), jnp.array([1])
        options = {"max_length": 9, "end": 0, "length_penalty": alpha}
        return beam_search(step_fn, jnp.zeros((1,)), start, width=2, **options)

    steps, found = steps_run(lambda: search(0.0, 0.6))
    assert (steps, found.lengths.tolist()) == (1, [[1]])
    steps, found = steps_run(lambda: search(1.0, 0.99))
    assert (steps, found.lengths.tolist()) == (1, [[1]])
    # At length 1 going on scores less, log 0.4 < log 0.6; its length makes it the better.
    steps, found = steps_run(lambda: search(1.0, 0.6))
    assert (steps, found.lengths.tolist()) == (9, [[9]])


def test_hypotheses_that_do_not_exist_score_minus_infinity():
    table = jnp.log(jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    options = {"width": 3, "n_best": 3, "max_length": 2, "end": 0}
    found = beam_search(Partial(look_up, table), jnp.zeros((1,)), jnp.array([1]), **options)
    assert found.lengths.tolist() == [[1, 0, 0]]
    assert found.scores.tolist() == [[0.0, -np.inf, -np.inf]]


# --- errors ---

TABLE = jnp.zeros((V, V))
CARRY = np.zeros((3,), np.float32)


def call(step_fn=None, carry=CARRY, prompt=PROMPT[:1], key=KEY, **options):
    step_fn = Partial(look_up, TABLE) if step_fn is None else step_fn
    return sample(step_fn, carry, prompt, key, **{"max_length": 2} | options)


def search(step_fn=None, carry=CARRY, start=PROMPT[0], **options):
    step_fn = Partial(look_up, TABLE) if step_fn is None else step_fn
    options = {"width": 2, "max_length": 3, "end": 0} | options
    return beam_search(step_fn, carry, start, **options)


class Unhashable:
    __hash__ = None

    def __call__(self, carry, token, context):
        return carry, TABLE[token]


CASES = {
    "step_fn": (lambda: call(5), TypeError, "sample: step_fn must be a function; got 5"),
    "step_fn unhashable": (lambda: call(Unhashable()), TypeError, "hashable or a pytree; Unhash"),
    "no pair": (
        lambda: call(lambda carry, token, context: carry),
        TypeError,
        r"step_fn must return the pair \(carry, logits\)",
    ),
    "carry structure": (
        lambda: call(lambda carry, token, context: ((carry, carry), TABLE[token])),
        TypeError,
        r"step_fn must return a carry of the structure that it is given, .*\*\)",
    ),
    "carry dtype": (
        lambda: call(lambda carry, token, context: (carry.astype(jnp.bfloat16), TABLE[token])),
        TypeError,
        r"step_fn must keep carry float32\[3\]; it returned bfloat16\[3\]",
    ),
    "carry shape": (
        lambda: search(
            lambda carry, token, context: ({"h": carry["h"][:1]}, TABLE[token]), {"h": CARRY}
        ),
        TypeError,
        r"beam_search: step_fn must keep carry\['h'\] float32\[3\]; it returned float32\[1\]",
    ),
    "carry batch": (
        lambda: call(carry={"h": jnp.zeros((4, 2))}),
        ValueError,
        r"carry\['h'\] must lead with the batch axis \(B,\) = \(3,\); got \(4, 2\). One for all",
    ),
    "carry scalar": (lambda: search(carry=0.5), ValueError, r"carry must lead .*got \(\)"),
    "context batch": (
        lambda: search(context={"memory": jnp.zeros((6, 4))}),
        ValueError,
        r"beam_search: context\['memory'\] must lead with the batch axis .* got \(6, 4\)",
    ),
    "logits rank": (
        lambda: call(lambda carry, token, context: (carry, TABLE[0])),
        ValueError,
        r"step_fn must return logits \(B, V\) = \(3, V\), V at least 1; got \(6,\)",
    ),
    "logits batch": (
        lambda: call(lambda carry, token, context: (carry, TABLE)),
        ValueError,
        r"logits \(B, V\) = \(3, V\), V at least 1; got \(6, 6\)",
    ),
    "logits pair": (
        lambda: call(lambda carry, token, context: (carry, (TABLE[token], 0))),
        ValueError,
        "step_fn must return logits .* got PyTreeDef",
    ),
    "logits dtype": (
        lambda: call(lambda carry, token, context: (carry, token[:, None])),
        TypeError,
        "step_fn must return floating-point logits; got int32",
    ),
    "prompts of different lengths": (
        lambda: call(prompt=[jnp.array([1, 2]), jnp.array([3])]),
        TypeError,
        r"prompt must be one array \(T, B\); got a list of 2. Pad prompts .* lengths=jnp.array",
    ),
    "prompt rank": (
        lambda: call(prompt=jnp.array([1, 2])),
        ValueError,
        r"prompt must be \(T, B\).*got \(2,\). Add a batch axis: prompt\[:, None\]",
    ),
    "prompt empty": (lambda: call(prompt=PROMPT[:0]), ValueError, r"T and B at least 1; got \(0"),
    "prompt float": (lambda: call(prompt=jnp.ones((1, 3))), TypeError, "prompt must be integers"),
    "prompt token": (
        lambda: call(prompt=PROMPT),
        ValueError,
        r"prompt must hold tokens within 0…V − 1 = 5, V being the width of the logits; got 77",
    ),
    "lengths zero": (
        lambda: call(prompt=PROMPT, lengths=jnp.array([4, 0, 1])),
        ValueError,
        "lengths must be within 1…T = 4; got 0. A prompt has at least",
    ),
    "lengths beyond": (lambda: call(lengths=jnp.array([1, 1, 2])), ValueError, "1…T = 1; got 2"),
    "lengths shape": (
        lambda: call(lengths=jnp.array([1])),
        ValueError,
        r"lengths must be \(B,\) = \(3,\); got \(1,\)",
    ),
    "lengths list": (lambda: call(lengths=[1, 1, 1]), TypeError, "lengths must be one array; got"),
    "lengths float": (lambda: call(lengths=CARRY), TypeError, "lengths must be integers; got f"),
    "key": (lambda: call(key=0), TypeError, r"key must be a key of jax.random, .*key\(0\); got 0"),
    "keys": (
        lambda: call(key=jax.random.split(KEY, 2)),
        ValueError,
        r"key must be one key, or one for each row \(B,\) = \(3,\); got \(2,\)",
    ),
    "max_length": (lambda: call(max_length=0), ValueError, "max_length must be at least 1; got 0"),
    "max_length float": (lambda: call(max_length=2.0), TypeError, "max_length must be an int"),
    "temperature": (
        lambda: call(temperature=-0.5),
        ValueError,
        "sample: temperature must be at least 0, which is greedy, and finite; got -0.5",
    ),
    "temperature NaN": (lambda: call(temperature=np.nan), ValueError, "temperature .* got nan"),
    "temperature None": (lambda: call(temperature=None), TypeError, "one number; got None"),
    "temperature a row": (lambda: call(temperature=CARRY), TypeError, "must be one number; got"),
    "top_k zero": (lambda: call(top_k=0), ValueError, "top_k must be within 1…V = 6; None keeps"),
    "top_k beyond": (lambda: call(top_k=7), ValueError, "top_k must be within 1…V = 6.*got 7"),
    "top_k float": (lambda: call(top_k=2.0), TypeError, "top_k must be one int; got 2.0"),
    "top_p zero": (lambda: call(top_p=0.0), ValueError, r"top_p must be in \(0, 1\].*got 0.0"),
    "top_p beyond": (lambda: call(top_p=1.1), ValueError, r"top_p must be in \(0, 1\].*got 1.1"),
    "min_p one": (lambda: call(min_p=1), ValueError, r"min_p must be in \[0, 1\).*got 1"),
    "min_p negative": (lambda: call(min_p=-0.1), ValueError, r"min_p must be in \[0, 1\)"),
    "penalty": (lambda: call(repetition_penalty=0), ValueError, "penalty must be above 0 and fin"),
    "penalty bool": (lambda: call(repetition_penalty=True), TypeError, "must be one number; got T"),
    "stop": (lambda: call(stop=6), ValueError, "stop must be a token within 0…V − 1 = 5; got 6"),
    "stop string": (lambda: call(stop="."), TypeError, "stop must be one int; got '.'"),
    "stream before its first token": (
        lambda: stream(Partial(look_up, TABLE), CARRY, PROMPT[0], KEY, max_length=2),
        ValueError,
        r"stream: prompt must be \(T, B\)",
    ),
    "block": (
        lambda: stream(Partial(look_up, TABLE), CARRY, PROMPT[:1], KEY, max_length=2, block=0),
        ValueError,
        "stream: block must be at least 1; got 0",
    ),
    "start rank": (
        lambda: search(start=PROMPT[:1]),
        ValueError,
        r"start must be \(B,\), B at least 1; got \(1, 3\)",
    ),
    "start scalar": (lambda: search(start=1), ValueError, r"One for all rows: jnp.full\(\(B,\)"),
    "start token": (lambda: search(start=jnp.array([1, 2, 6])), ValueError, "start must hold tok"),
    "start float": (lambda: search(start=CARRY), TypeError, "start must be integers; got float32"),
    "end": (lambda: search(end=-1), ValueError, "end must be a token within 0…V − 1 = 5; got -1"),
    "width": (lambda: search(width=0), ValueError, "width must be at least 1; got 0"),
    "width beyond": (
        lambda: search(width=217),
        ValueError,
        r"width must be at most V \*\* max_length = 6\*\*3 = 216, the number of seq.* got 217",
    ),
    "n_best": (
        lambda: search(n_best=3),
        ValueError,
        "n_best must be at most the width of the beam, 2; got 3. Widen the beam: width=3",
    ),
    "max_length of a beam": (lambda: search(max_length=0), ValueError, "max_length must be at le"),
    "block_ngrams": (lambda: search(block_ngrams=0), ValueError, "block_ngrams must be at least 1"),
    "length_penalty": (
        lambda: search(length_penalty=np.inf),
        ValueError,
        "beam_search: length_penalty must be finite; 0 ranks by the log probability alone; got inf",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_argument_is_named(case):
    make, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        make()


def test_traced_lengths_are_clamped():
    def run(lengths):
        prompt = np.array([[0, 1, 2], [3, 1, 1]])
        step_fn = Partial(look_up, COUNTING.args[0])
        return sample(step_fn, CARRY, prompt, KEY, max_length=2, lengths=lengths).tokens

    assert jax.jit(run)(np.array([-3, 2, 9])).tolist() == [[1, 2, 2], [2, 3, 3]]
