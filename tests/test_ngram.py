"""The Kneser-Ney baseline: against the equations written plainly, and as a distribution."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.support.ngram import KneserNey, cross_entropy
from tests.data import DATA

TINY_SHAKESPEARE = DATA / "text/tinyshakespeare.txt"


def plain_kneser_ney(train, order, vocabulary_size):
    """p(w, u) by dictionaries: the equations of the module, one symbol at a time."""
    counts = [_plain_counts(train, k, highest=k == order) for k in range(1, order + 1)]
    discounts = [_plain_discounts(c) for c in counts]

    def p(w, u, k):
        if k == 0:
            return 1 / vocabulary_size
        lower = p(w, u, k - 1)
        context = tuple(u[len(u) - k + 1 :])
        continued = [c for g, c in counts[k - 1].items() if g[:-1] == context]
        if len(context) < k - 1 or not continued:
            return lower
        c, total = counts[k - 1].get((*context, w), 0), sum(continued)
        spared = sum(discounts[k - 1][min(n, 3)] for n in continued)
        return (c - discounts[k - 1][min(c, 3)]) / total + spared / total * lower

    return lambda w, u: p(w, tuple(u), order)


def _plain_counts(train, k, highest):
    grams = [(tuple(train[j : j + k]), tuple(train[max(j - 1, 0) : j])) for j in _windows(train, k)]
    if highest:
        return Counter(gram for gram, _ in grams)
    left = defaultdict(set)
    for gram, before in grams:
        left[gram].add(before)
    return {gram: len(before) for gram, before in left.items()}


def _windows(train, k):
    return range(len(train) - k + 1)


def _plain_discounts(counts):
    n = Counter(counts.values())
    discounts = [0.0]
    for r in (1, 2, 3):
        d = math.nan
        if n[r] and n[1]:
            d = r - (r + 1) * n[1] / (n[1] + 2 * n[2]) * n[r + 1] / n[r]
        discounts.append(d if 0 < d < r else r / 2)
    return discounts


def zipf(rng, n, vocabulary_size):
    """Symbols of unequal frequency, so that the counts of counts are not all zero."""
    p = 1 / np.arange(1, vocabulary_size + 1)
    return rng.choice(vocabulary_size, n, p=p / p.sum())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_plain_equations(order):
    rng = np.random.default_rng(order)
    train, test = zipf(rng, 401, 11), zipf(rng, 67, 13)  # 13: symbols that training lacks
    p = plain_kneser_ney(train.tolist(), order, 13)
    expected = [math.log(p(w, test[:i].tolist())) for i, w in enumerate(test.tolist())]
    scores = KneserNey(order, 13).fit(train).log_probabilities(test)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


texts = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(train=texts, context=st.lists(st.integers(0, 4), max_size=6), order=st.integers(1, 6))
def test_is_a_distribution(train, context, order):
    # Symbol 4 never occurs in training, so contexts are seen, unseen and unseeable.
    model = KneserNey(order, 5).fit(train)
    p = np.exp([model.log_probabilities([w], history=context)[0] for w in range(5)])
    assert np.all(p > 0)
    assert p.sum() == pytest.approx(1, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(train=texts, test=texts, order=st.integers(1, 6), data=st.data())
def test_history_then_tokens_equals_one_text(train, test, order, data):
    k = data.draw(st.integers(0, len(test)))
    model = KneserNey(order, 4).fit(train)
    whole = model.log_probabilities(test)
    np.testing.assert_array_equal(model.log_probabilities(test[k:], history=test[:k]), whole[k:])


def test_large_alphabet_and_order_fit_in_the_keys():
    # V**order = 3e72: packed keys would overflow without the ranks.
    train = np.random.default_rng(0).integers(0, 10**6, 1000)
    model = KneserNey(order=12, vocabulary_size=10**6).fit(train)
    assert np.exp(model.log_probabilities(train)[12:]).min() > 0.2


def test_higher_order_learns_a_cycle():
    cycle = np.tile([0, 1, 0, 2], 100)
    unigram, trigram = (cross_entropy(cycle, cycle, order, 3) for order in (1, 3))
    assert unigram == pytest.approx(1.5 * math.log(2), abs=0.01)  # H(1/2, 1/4, 1/4)
    assert trigram < 0.05


@pytest.mark.skipif(not TINY_SHAKESPEARE.exists(), reason="needs tinyshakespeare: set RNNJAX_DATA")
@pytest.mark.parametrize(("order", "nats"), [(1, 3.347), (5, 1.561), (6, 1.523), (8, 1.519)])
def test_tiny_shakespeare(order, nats):
    text = TINY_SHAKESPEARE.read_bytes()
    symbols, tokens = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)
    assert (len(tokens), len(symbols)) == (1_115_394, 65)
    train, test = np.split(tokens, [1_003_854])
    assert cross_entropy(train, test, order, 65) == pytest.approx(nats, abs=2e-3)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0, 3], r"tokens must lie in \[0, vocabulary_size\) = \[0, 3\); got values from 0 to 3"),
        ([-1, 0], "got values from -1 to 0"),
        ([0.5], r"tokens must be \(n,\) integers; got shape \(1,\), dtype float64"),
        ([[0, 1]], r"got shape \(1, 2\)"),
        ([], "expected at least 1 token; got none"),
    ],
)
def test_fit_refuses(tokens, message):
    with pytest.raises(ValueError, match=message):
        KneserNey(2, 3).fit(tokens)


def test_refusals_name_the_argument():
    with pytest.raises(ValueError, match="order must be at least 1; got 0"):
        KneserNey(0, 3)
    with pytest.raises(ValueError, match="vocabulary_size must be at least 1; got 0"):
        KneserNey(1, 0)
    model = KneserNey(2, 3).fit([0, 1])
    with pytest.raises(ValueError, match="history must lie in"):
        model.log_probabilities([0], history=[7])
    assert model.log_probabilities([]).shape == (0,)
    with pytest.raises(ValueError, match="at least 1 token in test"):
        cross_entropy([0, 1], [], 2, 3)
