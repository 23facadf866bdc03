"""CTC against all paths, one after the other, in plain NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from rnnjax import ctc
from rnnjax.ctc import PADDING

T, B, V = 5, 6, 3
LENGTHS = np.array([5, 4, 1, 0, 3, 5])
LABELS = {
    0: np.array([[1, 2, 1], [2, 2, 9], [1, -7, 2], [0, 0, 0], [1, 1, 2], [-1, 1, 2]]),
    2: np.array([[0, 1, 0], [1, 1, 9], [0, -7, 1], [2, 2, 2], [0, 0, 1], [-1, 0, 1]]),
}
"""By the blank. Beyond the label lengths stands what is no label."""
LABEL_LENGTHS = np.array([3, 2, 1, 0, 3, 0])
FEASIBLE = np.array([True, True, True, True, False, True])
MOST = sum((V - 1) ** u for u in range(T + 1))
"""As many as there are labellings of at most T labels."""


def draw(seed, dirty=True):
    """Logits with NaN and Inf beyond the lengths."""
    logits = 2 * np.random.default_rng(seed).normal(size=(T, B, V)).astype(np.float32)
    if dirty:
        for b, length in enumerate(LENGTHS):
            logits[length:, b] = np.array([np.nan, np.inf, -np.inf])
    return logits


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def collapse(path, blank):
    return tuple(v for v, _ in itertools.groupby(path) if v != blank)


def all_paths(logits, length, blank):
    """(path, its log probability, its labelling) of every path of one row."""
    log_p = log_softmax(logits[:length])
    for path in itertools.product(range(logits.shape[-1]), repeat=length):
        total = sum(log_p[t, v] for t, v in enumerate(path))
        yield path, total, collapse(path, blank)


@functools.cache
def enumerated(seed, blank):
    """Of each row all its paths, and log p(y | x) of every labelling that has one."""
    logits = draw(seed)
    rows = []
    for b, length in enumerate(LENGTHS):
        paths = list(all_paths(logits[:, b], length, blank))
        totals = {}
        for _, log_p, labelling in paths:
            totals[labelling] = np.logaddexp(totals.get(labelling, -np.inf), log_p)
        rows.append((paths, totals))
    return rows


def spoken(labels, lengths):
    """Rows of padded labels as tuples."""
    return [tuple(map(int, row[:n])) for row, n in zip(labels, lengths, strict=True)]


CASES = pytest.mark.parametrize(("seed", "blank"), [(0, 0), (1, 2)])


@CASES
def test_greedy_is_the_likeliest_path(seed, blank):
    found = ctc.greedy(draw(seed), LENGTHS, blank=blank)
    best = [max(paths, key=lambda path: path[1]) for paths, _ in enumerated(seed, blank)]
    assert spoken(found.labels, found.lengths) == [labelling for _, _, labelling in best]
    np.testing.assert_allclose(found.log_probabilities, [p for _, p, _ in best], atol=1e-5)
    behind = np.arange(T) >= np.asarray(found.lengths)[:, None]
    assert (np.asarray(found.labels) == PADDING)[behind].all()
    assert found.labels.shape == (B, T)


@CASES
def test_the_loss_sums_over_all_paths(seed, blank):
    found = ctc.loss(draw(seed), LABELS[blank], LENGTHS, LABEL_LENGTHS, blank=blank)
    rows = enumerated(seed, blank)
    wanted = [
        -totals.get(labelling, 0.0)
        for (_, totals), labelling in zip(rows, spoken(LABELS[blank], LABEL_LENGTHS), strict=True)
    ]
    np.testing.assert_array_equal(found.feasible, FEASIBLE)
    np.testing.assert_allclose(found.nats, wanted, atol=1e-5)


def test_the_gradient_of_the_loss_is_that_of_optax_and_zero_where_nothing_counts():
    def ours(logits):
        return ctc.loss(logits, LABELS[0], LENGTHS, LABEL_LENGTHS).nats.sum()

    def theirs(logits):
        paddings = (np.arange(T)[None] >= LENGTHS[:, None]).astype(np.float32)
        label_paddings = (np.arange(3)[None] >= LABEL_LENGTHS[:, None]).astype(np.float32)
        labels = np.where(label_paddings, 0, LABELS[0])
        losses = optax.ctc_loss(logits.swapaxes(0, 1), paddings, labels, label_paddings)
        return jnp.where(FEASIBLE, losses, 0.0).sum()

    got = np.asarray(jax.grad(ours)(draw(0)))
    np.testing.assert_allclose(got, jax.grad(theirs)(draw(0, dirty=False)), atol=1e-5)
    for b, length in enumerate(LENGTHS):
        assert not got[length:, b].any()
    assert not got[:, ~FEASIBLE].any()
    assert np.abs(got[:, 0]).min() > 0


def test_feasible_says_which_labellings_have_a_path():
    """All labellings of up to four labels, over every number of frames."""
    labellings = [y for n in range(5) for y in itertools.product((1, 2), repeat=n)]
    labels = np.full((len(labellings), 4), 1)
    for row, labelling in zip(labels, labellings, strict=True):
        row[: len(labelling)] = labelling
    counts = np.array([len(labelling) for labelling in labellings])
    for length in range(T + 1):
        reached = {collapse(path, 0) for path in itertools.product(range(3), repeat=length)}
        wanted = [labelling in reached for labelling in labellings]
        lengths = np.full(len(labellings), length)
        np.testing.assert_array_equal(ctc.feasible(labels, lengths, counts), wanted)


@CASES
def test_a_beam_wide_enough_finds_all_labellings(seed, blank):
    found = ctc.prefix_beam(draw(seed), LENGTHS, width=MOST, n_best=MOST, blank=blank)
    for b, (_, totals) in enumerate(enumerated(seed, blank)):
        n = len(totals)
        wanted = sorted(totals.items(), key=lambda item: -item[1])
        assert spoken(found.labels[b, :n], found.lengths[b, :n]) == [y for y, _ in wanted]
        np.testing.assert_allclose(found.scores[b, :n], [p for _, p in wanted], atol=1e-5)
        np.testing.assert_array_equal(found.log_probabilities[b, :n], found.scores[b, :n])
        assert np.isneginf(found.scores[b, n:]).all()
        assert not found.lengths[b, n:].any()
        assert (np.asarray(found.labels[b, n:]) == PADDING).all()


def narrow(logits, length, width, longest, blank, log_q, alpha, beta):
    """Prefix beam search of one row, the beam a dictionary."""
    log_p = log_softmax(logits[:length])

    def bonus(y):
        return sum(alpha * log_q(y[:u])[y[u]] + beta for u in range(len(y)))

    beam = {(): (0.0, -np.inf)}
    for frame in log_p:
        after = {}
        for y, (in_blank, in_label) in beam.items():
            total = np.logaddexp(in_blank, in_label)
            reached = [(y, 0, total + frame[blank])]
            if y:
                reached.append((y, 1, in_label + frame[y[-1]]))
            for v in range(len(frame)):
                if v != blank and len(y) < longest:
                    before = in_blank if y and y[-1] == v else total
                    reached.append(((*y, v), 1, before + frame[v]))
            for prefix, kind, log in reached:
                both = list(after.get(prefix, (-np.inf, -np.inf)))
                both[kind] = np.logaddexp(both[kind], log)
                after[prefix] = tuple(both)
        scores = {y: np.logaddexp(*both) + bonus(y) for y, both in after.items()}
        kept = sorted(scores, key=scores.get, reverse=True)[:width]
        beam = {y: after[y] for y in kept if scores[y] > -np.inf}
    scores = {
        y: np.logaddexp(*both) + bonus(y) + alpha * log_q(y)[blank] for y, both in beam.items()
    }
    return sorted(scores.items(), key=lambda item: -item[1])


def silent(y):
    return np.zeros(V)


@pytest.mark.parametrize(("width", "longest"), [(1, None), (3, None), (5, 2)])
def test_a_narrow_beam_merges_equal_prefixes(width, longest):
    """Prefixes drop out of a narrow beam, and come back while what they begin is still there."""
    time, batch = 23, 64
    logits = np.random.default_rng(7).normal(size=(time, batch, V)).astype(np.float32)
    lengths = np.arange(batch) % (time + 1)
    found = ctc.prefix_beam(logits, lengths, width=width, n_best=width, max_length=longest, blank=1)
    for b in range(batch):
        wanted = narrow(logits[:, b], lengths[b], width, longest or time, 1, silent, 0.0, 0.0)
        n = len(wanted)
        assert spoken(found.labels[b, :n], found.lengths[b, :n]) == [y for y, _ in wanted]
        np.testing.assert_allclose(found.scores[b, :n], [p for _, p in wanted], atol=1e-4)
        assert np.isneginf(found.scores[b, n:]).all()


TABLES = np.random.default_rng(3).normal(size=(V, V, V))
"""A trigram's logits: the two symbols before, and the next one; the blank is the border."""


def trigram(table, state, label):
    """The label before the last is the state."""
    before, read = state
    first = read == 0
    log_q = jax.nn.log_softmax(table[jnp.where(first, label, before), label])
    return (label, read + 1), log_q


def test_a_language_model_scores_every_labelling():
    """With a state that a wrong parent would give away, a bonus, and an end."""
    blank, alpha, beta = 2, 0.7, 0.4
    score_fn = Partial(trigram, jnp.asarray(TABLES, jnp.float32))
    start = (np.full(B, 77, np.int32), np.zeros(B, np.int32))

    def search(width):
        return ctc.prefix_beam(
            draw(1),
            LENGTHS,
            width=width,
            n_best=width,
            blank=blank,
            score_fn=score_fn,
            state=start,
            score_weight=alpha,
            length_bonus=beta,
        )

    def log_q(y):
        history = (blank, blank, *y)
        return log_softmax(TABLES[history[-2], history[-1]])

    wide = search(MOST)
    for b, (_, totals) in enumerate(enumerated(1, blank)):
        wanted = {}
        for y, log_p in totals.items():
            each = [alpha * log_q(y[:u])[y[u]] + beta for u in range(len(y))]
            wanted[y] = log_p + sum(each) + alpha * log_q(y)[blank]
        order = sorted(wanted, key=wanted.get, reverse=True)
        n = len(order)
        assert spoken(wide.labels[b, :n], wide.lengths[b, :n]) == order
        np.testing.assert_allclose(wide.scores[b, :n], [wanted[y] for y in order], atol=1e-5)
        alone = [totals[y] for y in order]
        np.testing.assert_allclose(wide.log_probabilities[b, :n], alone, atol=1e-5)
    few = search(3)
    for b in range(B):
        wanted = narrow(draw(1)[:, b], LENGTHS[b], 3, T, blank, log_q, alpha, beta)
        n = len(wanted)
        assert spoken(few.labels[b, :n], few.lengths[b, :n]) == [y for y, _ in wanted]
        np.testing.assert_allclose(few.scores[b, :n], [p for _, p in wanted], atol=1e-5)


def forbid(state, label):
    """A model that knows no 1, whatever came before."""
    log_q = jnp.where(jnp.arange(V) == 1, -jnp.inf, 0.0)
    return state, jnp.broadcast_to(log_q[None], (len(label), V))


def test_what_the_language_model_forbids_is_not_found_unless_its_weight_is_zero():
    logits = np.zeros((2, 1, V), np.float32) + np.array([0, 3, 1], np.float32)[None, None]
    options = {"width": 4, "n_best": 4, "score_fn": forbid}
    found = ctc.prefix_beam(logits, np.array([2]), **options)
    assert sorted(spoken(found.labels[0, :2], found.lengths[0, :2])) == [(), (2,)]
    assert np.isneginf(found.scores[0, 2:]).all()
    ignored = ctc.prefix_beam(logits, np.array([2]), score_weight=0.0, **options)
    assert spoken(ignored.labels[0], ignored.lengths[0])[0] == (1,)


@CASES
def test_the_alignment_is_the_best_path(seed, blank):
    found = ctc.align(draw(seed), LABELS[blank], LENGTHS, LABEL_LENGTHS, blank=blank)
    np.testing.assert_array_equal(found.exists, FEASIBLE)
    for b, labelling in enumerate(spoken(LABELS[blank], LABEL_LENGTHS)):
        paths = [(p, path) for path, p, y in enumerated(seed, blank)[b][0] if y == labelling]
        length, n = LENGTHS[b], len(labelling)
        starts, ends = np.asarray(found.starts[b]), np.asarray(found.ends[b])
        assert (np.asarray(found.path[length:, b]) == PADDING).all()
        assert (np.asarray(found.states[length:, b]) == PADDING).all()
        if not paths:
            assert np.isneginf(found.log_probabilities[b])
            assert (starts == PADDING).all()
            assert (ends == PADDING).all()
            assert (np.asarray(found.path[:, b]) == PADDING).all()
            continue
        log_p, path = max(paths)
        assert tuple(found.path[:length, b].tolist()) == path
        np.testing.assert_allclose(found.log_probabilities[b], log_p, atol=1e-5)
        runs = [(v, len(list(frames))) for v, frames in itertools.groupby(path)]
        edges = np.cumsum([0, *(count for _, count in runs)])
        said = [k for k, (v, _) in enumerate(runs) if v != blank]
        assert starts[:n].tolist() == [edges[k] for k in said]
        assert ends[:n].tolist() == [edges[k + 1] for k in said]
        assert (starts[n:] == PADDING).all()
        assert (ends[n:] == PADDING).all()
        states = [2 * sum(edges[k + 1] <= t for k in said) for t in range(length)]
        states = [s + (path[t] != blank) for t, s in enumerate(states)]
        assert found.states[:length, b].tolist() == states


def test_no_labels_at_all():
    nothing, none = np.zeros((B, 0), np.int32), np.zeros(B, np.int32)
    in_blank = [log_softmax(draw(0)[:n, b])[:, 0].sum() for b, n in enumerate(LENGTHS)]
    found = ctc.align(draw(0), nothing, LENGTHS, none)
    np.testing.assert_allclose(found.log_probabilities, in_blank, atol=1e-5)
    assert found.exists.all()
    losses = ctc.loss(draw(0), nothing, LENGTHS, none)
    np.testing.assert_allclose(-losses.nats, in_blank, atol=1e-5)


def test_logits_of_minus_infinity_forbid_a_symbol():
    logits = draw(0)
    logits[:, 0, 1] = -np.inf
    found = ctc.align(logits, LABELS[0], LENGTHS, LABEL_LENGTHS)
    assert not found.exists[0]
    assert found.exists[1]
    best = ctc.prefix_beam(logits, LENGTHS, width=MOST, n_best=MOST)
    there = ~np.isneginf(best.scores[0])
    assert there.sum() == 4  # nothing, 2, 22, 222
    assert 1 not in np.asarray(best.labels[0])


def test_nan_shows_in_its_row_alone():
    logits = draw(0)
    logits[1, 0, 1] = np.nan
    clean = draw(0)
    for function in (
        lambda z: ctc.greedy(z, LENGTHS).log_probabilities,
        lambda z: ctc.prefix_beam(z, LENGTHS, width=MOST, n_best=MOST).scores[:, 0],
        lambda z: ctc.align(z, LABELS[0], LENGTHS, LABEL_LENGTHS).log_probabilities,
    ):
        got = np.asarray(function(logits))
        assert np.isnan(got[0])
        np.testing.assert_array_equal(got[1:], np.asarray(function(clean))[1:])


def test_half_precision_logits_are_summed_in_float32():
    logits = jnp.asarray(draw(0), jnp.bfloat16)
    for function in (
        lambda z: ctc.greedy(z, LENGTHS).log_probabilities,
        lambda z: ctc.loss(z, LABELS[0], LENGTHS, LABEL_LENGTHS).nats,
        lambda z: ctc.align(z, LABELS[0], LENGTHS, LABEL_LENGTHS).log_probabilities,
    ):
        np.testing.assert_array_equal(function(logits), function(logits.astype(jnp.float32)))


def test_jit_and_vmap_change_nothing_and_values_compile_nothing():
    """All in one program, batched over an axis of its own, with traced lengths and labels."""
    traces = []

    @jax.jit
    @jax.vmap
    def everything(logits, lengths, labels, label_lengths):
        traces.append(None)
        return together(logits, lengths, labels, label_lengths)

    def together(logits, lengths, labels, label_lengths):
        return (
            ctc.greedy(logits, lengths),
            ctc.prefix_beam(logits, lengths, width=MOST, n_best=MOST),
            ctc.align(logits, labels, lengths, label_lengths),
            ctc.loss(logits, labels, lengths, label_lengths),
            ctc.feasible(labels, lengths, label_lengths),
        )

    arguments = [
        np.stack([draw(0), draw(4)]),
        np.stack([LENGTHS, LENGTHS[::-1]]),
        np.stack([LABELS[0], LABELS[0][::-1]]),
        np.stack([LABEL_LENGTHS, LABEL_LENGTHS[::-1]]),
    ]
    arguments[0][:, :, :] = np.nan_to_num(arguments[0], posinf=1.0, neginf=0.0)
    batched = everything(*arguments)
    for k in range(2):
        alone = together(*(argument[k] for argument in arguments))
        for got, wanted in zip(
            jax.tree.leaves(jax.tree.map(lambda a, k=k: a[k], batched)),
            jax.tree.leaves(alone),
            strict=True,
        ):
            np.testing.assert_allclose(got, wanted, atol=1e-5)
    everything(*(argument[::-1] for argument in arguments))
    assert len(traces) == 1


Z = np.zeros((T, B, V), np.float32)
ERRORS = {
    "no batch axis": (
        lambda: ctc.greedy(Z[:, 0], LENGTHS),
        ValueError,
        r"greedy: logits must be \(T, B, V\).*got \(5, 3\)\. Add a batch axis: logits\[:, None\]",
    ),
    "no frames": (lambda: ctc.greedy(Z[:0], 0 * LENGTHS), ValueError, r"T and B at least 1"),
    "only the blank": (lambda: ctc.greedy(Z[..., :1], LENGTHS), ValueError, "at least 2; got"),
    "integers": (
        lambda: ctc.greedy(Z.astype(np.int32), LENGTHS),
        TypeError,
        "logits must be floating point; got int32",
    ),
    "a list": (lambda: ctc.greedy([1.0], LENGTHS), TypeError, "logits must be one array"),
    "no lengths": (lambda: ctc.greedy(Z, None), TypeError, r"All of them: jnp\.full\(\(B,\), T\)"),
    "lengths too many": (
        lambda: ctc.greedy(Z, LENGTHS[:2]),
        ValueError,
        r"greedy: lengths must be \(B,\) = \(6,\); got \(2,\)",
    ),
    "lengths too long": (
        lambda: ctc.prefix_beam(Z, LENGTHS + 1, width=2),
        ValueError,
        "prefix_beam: lengths must be within 0…T = 5; got 6",
    ),
    "lengths of floats": (
        lambda: ctc.greedy(Z, LENGTHS / 2),
        TypeError,
        "lengths must be integers; got float",
    ),
    "blank beyond V": (
        lambda: ctc.greedy(Z, LENGTHS, blank=3),
        ValueError,
        "blank must be within 0…V − 1 = 2, .*; got 3",
    ),
    "blank below 0": (lambda: ctc.greedy(Z, LENGTHS, blank=-1), ValueError, "blank must be within"),
    "blank no int": (
        lambda: ctc.greedy(Z, LENGTHS, blank=True),
        TypeError,
        "blank must be an int; got True",
    ),
    "labels with the blank": (
        lambda: ctc.align(Z, LABELS[2], LENGTHS, LABEL_LENGTHS),
        ValueError,
        "align: labels must not hold the blank, 0; got it in row 0",
    ),
    "labels beyond V": (
        lambda: ctc.loss(Z, LABELS[0] + 1, LENGTHS, LABEL_LENGTHS),
        ValueError,
        "loss: labels must be within 0…V − 1 = 2; got 3 in row 0. If it is padding, label_lengths",
    ),
    "labels time-major": (
        lambda: ctc.align(Z, LABELS[0].T, LENGTHS, LABEL_LENGTHS),
        ValueError,
        r"labels must be \(B, U\) = \(6, U\); got \(3, 6\)\. They are batch-major: labels\.T",
    ),
    "labels of floats": (
        lambda: ctc.align(Z, LABELS[0] * 1.0, LENGTHS, LABEL_LENGTHS),
        TypeError,
        "labels must be integers",
    ),
    "one row of labels": (
        lambda: ctc.feasible(LABELS[0][0], LENGTHS[:1], LABEL_LENGTHS[:1]),
        ValueError,
        r"feasible: labels must be \(B, U\).*Add a batch axis: labels\[None\]",
    ),
    "label lengths too many": (
        lambda: ctc.align(Z, LABELS[0], LENGTHS, LABEL_LENGTHS[:3]),
        ValueError,
        r"label_lengths must be \(B,\) = \(6,\); got \(3,\)",
    ),
    "label lengths too long": (
        lambda: ctc.loss(Z, LABELS[0], LENGTHS, LABEL_LENGTHS + 1),
        ValueError,
        "label_lengths must be within 0…U = 3; got 4",
    ),
    "no label lengths": (
        lambda: ctc.loss(Z, LABELS[0], LENGTHS, None),
        TypeError,
        "label_lengths must be the number of labels of each row",
    ),
    "frames below 0": (
        lambda: ctc.feasible(LABELS[0], LENGTHS - 1, LABEL_LENGTHS),
        ValueError,
        "feasible: lengths must be at least 0; got -1",
    ),
    "a beam wider than there are labellings": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=64),
        ValueError,
        "width must be at most the number of labellings of up to 5 labels out of 2, 63; got 64",
    ),
    "the same with a limit": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=4, max_length=1),
        ValueError,
        "labellings of up to 1 labels out of 2, 3; got 4",
    ),
    "no beam": (lambda: ctc.prefix_beam(Z, LENGTHS, width=0), ValueError, "width must be at least"),
    "more than the beam": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=2, n_best=3),
        ValueError,
        "n_best must be at most the width of the beam, 2; got 3",
    ),
    "no labels allowed": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=1, max_length=0),
        ValueError,
        "max_length must be at least 1",
    ),
    "a negative weight": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=2, score_weight=-1.0),
        ValueError,
        "score_weight must be at least 0",
    ),
    "a bonus without end": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=2, length_bonus=float("inf")),
        ValueError,
        "length_bonus must be finite",
    ),
    "a state without its function": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=2, state=LENGTHS),
        ValueError,
        "state must come with score_fn",
    ),
    "a state of other rows": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=2, score_fn=forbid, state=np.zeros(2)),
        ValueError,
        r"state must lead with the batch axis \(B,\) = \(6,\); got \(2,\)",
    ),
    "no function": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=2, score_fn=3),
        TypeError,
        "score_fn must be a function; got 3",
    ),
    "another state": (
        lambda: ctc.prefix_beam(
            Z, LENGTHS, width=2, score_fn=lambda s, y: (y, jnp.zeros((len(y), V)))
        ),
        TypeError,
        "score_fn must return a state of the structure",
    ),
    "scores of another width": (
        lambda: ctc.prefix_beam(
            Z, LENGTHS, width=2, score_fn=lambda s, y: (s, jnp.zeros((len(y), V - 1)))
        ),
        ValueError,
        r"score_fn must return log probabilities \(B · width, V\) = \(12, 3\).*got \(12, 2\)",
    ),
    "scores alone": (
        lambda: ctc.prefix_beam(Z, LENGTHS, width=2, score_fn=lambda s, y: jnp.zeros((len(y), V))),
        TypeError,
        r"score_fn must return the pair \(state, log probabilities\)",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_refused_before_tracing(case):
    call, kind, words = ERRORS[case]
    with pytest.raises(kind, match=words):
        call()
