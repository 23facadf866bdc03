"""Sources of batches: nothing lost, nothing twice, and the same again from any position."""

import itertools
import json

import jax
import numpy as np
import optax
import pytest

from rnnjax import training
from rnnjax.training import Checkpoints

DRAW = np.random.default_rng(0)
WORDS = [DRAW.integers(1, 9, n).astype(np.int32) for n in DRAW.integers(0, 12, 23)]
DRAW_XS = DRAW.random((5, 10, 2))
SOURCES = {
    "arrays": lambda: training.ArrayBatches(
        {"xs": DRAW_XS, "labels": np.arange(10)}, 3, in_axes={"xs": 1, "labels": 0}, seed=4
    ),
    "in order": lambda: training.ArrayBatches(np.arange(10), 4, shuffle=False),
    "streams": lambda: training.TokenStreams(np.arange(50), batch_size=2, chunk=5),
    "buckets": lambda: training.Buckets(
        {"words": WORDS, "tags": [w[: len(w) // 2] for w in WORDS]},
        boundaries=(4, 12),
        batch_size=4,
    ),
}


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_goes_on_from_any_position(name):
    source = SOURCES[name]()
    count = 2 * len(source) + 1
    whole = take(iter(source), count)
    assert isinstance(iter(source), training.BatchIterator)
    for position in range(count):
        before = iter(source)
        take(before, position)
        state = json.loads(json.dumps(before.get_state()))
        after = iter(SOURCES[name]())  # as another process would build it
        after.set_state(state)
        same(take(after, count - position), whole[position:])


@pytest.mark.parametrize("name", SOURCES)
def test_a_position_in_other_data_is_refused(name):
    other = iter(training.ArrayBatches(np.arange(10) + 1, 3))
    with pytest.raises(ValueError, match="one in other data"):
        other.set_state(iter(SOURCES[name]()).get_state())


def test_examples_come_once_an_epoch_in_an_order_of_its_own():
    source = SOURCES["arrays"]()
    epochs = [
        np.concatenate([b["labels"] for b in take(iter(source), 6)[s]])
        for s in (np.s_[:3], np.s_[3:])
    ]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()
    batch = next(iter(source))
    np.testing.assert_array_equal(batch["xs"], DRAW_XS[:, batch["labels"]])


def test_evaluation_sees_every_example_once_and_in_order():
    labels = [batch["labels"] for batch in SOURCES["arrays"]().once()]
    assert [len(b) for b in labels] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(labels), np.arange(10))


def test_streams_go_on_from_chunk_to_chunk():
    starts = np.arange(50) % 17 == 3
    source = training.TokenStreams(np.arange(50), batch_size=2, chunk=5, starts=starts)
    chunks = take(iter(source), len(source) + 1)
    same(chunks[-1], chunks[0])
    inputs = np.concatenate([c.inputs for c in chunks[:-1]])
    targets = np.concatenate([c.targets for c in chunks[:-1]])
    resets = np.concatenate([c.resets for c in chunks[:-1]])
    np.testing.assert_array_equal(inputs, np.arange(20)[:, None] + [0, 24])
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(resets[1:], starts[inputs][1:])
    assert resets[0].all()
    assert np.concatenate([c.inputs for c in source.once()]).shape == (24, 2)


def test_buckets_hold_every_sequence_once_in_few_shapes():
    source = SOURCES["buckets"]()
    assert source.shapes == {4: (4, 4), 12: (12, 4)}
    epochs = iter(source)
    for batches in (take(epochs, len(source)), take(epochs, len(source)), list(source.once())):
        assert {batch["words"].values.shape for batch in batches} == {(4, 4), (12, 4)}
        found = []
        for words, tags in (batch.values() for batch in batches):
            for row, (length, half) in enumerate(zip(words.lengths, tags.lengths, strict=True)):
                word = words.values[:length, row]
                assert not words.values[length:, row].any()
                np.testing.assert_array_equal(tags.values[:half, row], word[: length // 2])
                found.append(tuple(word))
        expected = sorted(tuple(word) for word in WORDS)
        assert sorted(w for w in found if w) == [w for w in expected if w]


def test_a_bucket_is_what_it_says_whatever_the_types():
    fields = {"a": [[], [1], [2.5, 3.0]], "b": [[1, 2], [3], []]}
    one = training.Buckets(fields, boundaries=np.array([1, 2]), batch_size=np.int64(2))
    batches = list(one.once())
    assert {b["a"].values.dtype for b in batches} == {np.dtype(float)}
    assert {b["b"].values.dtype for b in batches} == {np.dtype(int)}
    by_b = training.Buckets(fields, boundaries=(1, 2), batch_size=2, by="b")
    assert one.fingerprint() != by_b.fingerprint()


def test_the_order_within_a_bucket_is_not_that_of_the_batches():
    words = [np.full(1, n) for n in range(12)]
    source = training.Buckets({"words": words}, boundaries=(1,), batch_size=1)
    order = [int(b["words"].values[0, 0]) for b in take(iter(source), 12)]
    assert sorted(order) == list(range(12))
    assert order != [int(k) for k in np.random.default_rng((0, 0, 0)).permutation(12)]


def test_what_is_handed_in_is_not_written_to():
    starts = np.zeros(9, bool)
    training.TokenStreams(np.arange(9), batch_size=1, chunk=2, starts=starts)
    assert not starts.any()


def test_fit_compiles_once_a_bucket():
    def loss(params, carry, batch, key):
        return params * batch["words"].values.sum().astype(float), (carry, {})

    fitted = training.fit(
        loss, np.float32(1), optax.sgd(1e-3), SOURCES["buckets"](), steps=12, key=jax.random.key(0)
    )
    assert len(fitted.compilations) == 2


def test_grain_goes_on_from_every_element():
    grain = pytest.importorskip("grain")
    dataset = (
        grain.MapDataset.source(np.arange(20, dtype=np.float32))
        .seed(3)
        .shuffle()
        .map(lambda x: 2 * x)
        .batch(3)
        .repeat()
        .to_iter_dataset()
    )
    iterator = iter(dataset)
    assert isinstance(iterator, training.BatchIterator)
    states, elements = [], []
    for _ in range(15):
        states.append(json.dumps(iterator.get_state()))
        elements.append(next(iterator))
    for k, state in enumerate(states):
        iterator.set_state(json.loads(state))
        np.testing.assert_array_equal(next(iterator), elements[k])


def test_a_run_on_grain_is_resumed_with_the_same_elements(tmp_path):
    grain = pytest.importorskip("grain")

    def loss(params, carry, batch, key):
        return (params * batch).mean(), (carry, {"sum": batch.sum()})

    def run(folder, steps):
        data = grain.MapDataset.source(np.arange(20, dtype=np.float32)).shuffle(seed=1).batch(2)
        return training.fit(
            loss,
            np.float32(1),
            optax.sgd(1e-3),
            data.repeat().to_iter_dataset(),
            steps=steps,
            key=jax.random.key(0),
            checkpoints=Checkpoints(folder, every=100),
            log_every=1,
        )

    whole = run(tmp_path / "whole", 12)
    run(tmp_path / "parts", 5)
    parts = run(tmp_path / "parts", 12)
    assert parts.resumed_from == 5
    assert [r["sum"] for r in parts.records] == [r["sum"] for r in whole.records]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: training.ArrayBatches(np.arange(3), 4), ValueError, "at most the number of ex"),
        (lambda: training.ArrayBatches(np.arange(3), 0), ValueError, "batch_size must be at lea"),
        (lambda: training.ArrayBatches([[1, 2]], 1), ValueError, r"got an array \(\).*np.array"),
        (
            lambda: training.ArrayBatches(np.array(["a", None]), 1),
            TypeError,
            "arrays of numbers",
        ),
        (lambda: training.ArrayBatches((np.arange(3), np.arange(4)), 2), ValueError, r"\[3, 4\]"),
        (
            lambda: training.TokenStreams(np.arange(10), batch_size=2, chunk=5),
            ValueError,
            "at least 11 tokens; got 10",
        ),
        (
            lambda: training.TokenStreams(np.ones(10), batch_size=2, chunk=2),
            TypeError,
            "integers; got .* float64",
        ),
        (
            lambda: training.TokenStreams(np.arange(9), batch_size=2, chunk=2, starts=[True]),
            ValueError,
            "starts must be",
        ),
        (
            lambda: training.Buckets({"a": WORDS}, boundaries=(4, 8), batch_size=2),
            ValueError,
            "reach the longest sequence, 11; the last is 8",
        ),
        (
            lambda: training.Buckets({"a": WORDS}, boundaries=(12, 4), batch_size=2),
            ValueError,
            "must ascend",
        ),
        (
            lambda: training.Buckets({"a": WORDS}, boundaries=(4, 12), batch_size=(2,)),
            ValueError,
            "one for each of the 2",
        ),
        (
            lambda: training.Buckets({"a": WORDS, "b": []}, boundaries=(12,), batch_size=2),
            ValueError,
            "n ≥ 1 examples",
        ),
        (
            lambda: training.Buckets({"a": WORDS}, boundaries=(12,), batch_size=2, by="b"),
            ValueError,
            "by must name",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
