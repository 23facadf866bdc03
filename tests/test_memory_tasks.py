"""The memory tasks ask what they say, beside baselines that hold, and remember runs themselves."""

import csv
import dataclasses
import json
import math
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import rnnjax
from examples import adding, copying, permuted_digits
from examples.support import datasets, handwritten, memory, memory_results, memory_training
from rnnjax import training
from rnnjax.initializers import Identity, Orthogonal
from tests.data import DATA

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "adding"
    # As in the tests, so that they find its programs compiled.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("raise"):
        adding.command(["--quick", "--out", str(out)])
    return out


def read_scores(out):
    return json.loads((out / memory.SCORES).read_text())


# --- runs ---


def test_a_quick_run_is_compared_with_the_baseline(added):
    scores = read_scores(added)
    assert scores["baselines"] == {"always 1 (1/6)": {"loss": 1 / 6}}
    assert scores["test_sequences"] == 10_000
    assert scores["options"]["T"] == adding.QUICK.T
    assert list(scores["cells"]) == ["tanh", "lstm-1"]
    assert min(cell["test"]["loss"] for cell in scores["cells"].values()) < 1 / 12
    for cell in scores["cells"].values():
        assert cell["steps"] == adding.QUICK.steps
        assert cell["log10_gradient_left"] < 0


def test_the_curves_are_kept_in_numbers_and_as_a_picture(added):
    with (added / memory.CURVES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, cell in read_scores(added)["cells"].items():
        curve = {int(r["step"]): float(r["validation_loss"]) for r in rows if r["cell"] == name}
        assert max(curve) == cell["steps"]
        assert min(curve, key=curve.__getitem__) == cell["best_step"]
        assert cell["test"]["loss"] == pytest.approx(min(curve.values()), rel=0.2)
    pixels = imread(added / memory.PICTURE)
    assert min(pixels.shape[:2]) > 700
    assert pixels.std() > 0.1


def test_a_stopped_run_goes_on_to_the_same_scores(added, tmp_path, monkeypatch):
    out, fit = tmp_path / "run", training.fit

    def stopped(*arguments, steps, **options):
        fit(*arguments, steps=100, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            adding.command(["--quick", "--cells", "lstm-1", "--out", str(out)])
    adding.command(["--resume", "--T", "9", "--out", str(out)])
    (found,) = read_scores(out)["cells"].values()
    expected = read_scores(added)["cells"]["lstm-1"]
    assert found["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-3)
    assert found["best_step"] == expected["best_step"]


def test_copying_is_run(tmp_path):
    small = ["--quick", "--cells", "lstm-chrono", "--out", str(tmp_path / "run")]
    copying.command(small)
    scores = read_scores(tmp_path / "run")
    (cell,) = scores["cells"].values()
    assert cell["test"]["recall"] > 2 / 8
    assert scores["baselines"]["without memory"]["loss"] == pytest.approx(3 * math.log(8) / 8)
    assert scores["lag"] == 5


def test_digits_are_run(tmp_path):
    small = ["--quick", "--cells", "gru", "--out", str(tmp_path / "run")]
    permuted_digits.command(small)
    scores = read_scores(tmp_path / "run")
    (cell,) = scores["cells"].values()
    assert cell["best_step"] % (1197 // permuted_digits.QUICK.batch) in (0, cell["steps"] % 18)
    assert set(scores["baselines"]) == {"softmax regression", "nearest picture"}
    for baseline in scores["baselines"].values():
        assert 0.93 < baseline["accuracy"] < 1


def test_what_initialisation_leaves_of_a_gradient():
    """With W orthogonal times 0.9, and h = 0, it falls by 0.9 a step."""
    options = adding.Options(size=5, T=12)
    task = adding.task_of(options)
    silent = task.validation[0]._replace(xs=0 * task.validation[0].xs)
    task = dataclasses.replace(task, validation=[silent])
    cell = rnnjax.Elman(5, recurrent_kernel_init=Orthogonal(0.9))
    left = memory_training.gradient_left(task, memory.Arm("tanh", cell, 0.1), options)
    assert task.lag == 9
    assert left == pytest.approx(9 * math.log10(0.9), rel=1e-4)


def test_steps_fill_the_minutes(monkeypatch):
    def step(loss, optimiser, state, batch):
        time.sleep(0.005)
        return state, {}

    monkeypatch.setattr(training, "compiled_step", step)
    options = adding.Options(size=5, T=12, minutes=1 / 60)
    arm = memory.arm_of("tanh", options, 12)
    steps = memory_training.steps_in_time(adding.task_of(options), arm, options)
    assert 20 < steps <= 200


def test_the_search_takes_the_least_validation_loss(monkeypatch, capsys):
    asked = []

    def fit(task, arm, options, steps, every):
        kernel, rate = arm.cell.recurrent_kernel_init, arm.learning_rate
        asked.append((kernel, rate, steps))
        good = kernel == Identity() and rate == memory_training.RATES[1]
        return SimpleNamespace(records=[{"validation_loss": 0.1 if good else 0.2}])

    monkeypatch.setattr(memory_training, "fit", fit)
    arm = memory_training.search(None, adding.Options(size=5), steps=1200)
    assert arm.cell == rnnjax.Elman(5, recurrent_kernel_init=Identity())
    assert arm.learning_rate == memory_training.RATES[1]
    assert len({entry[:2] for entry in asked}) == 12
    assert {steps for _, _, steps in asked} == {100}
    assert "identity" in capsys.readouterr().out


# --- what is asked ---


@pytest.mark.parametrize("steps", [3, 10, 11])
def test_two_numbers_are_marked_one_in_each_half(steps):
    batch = adding.draw(steps, np.random.default_rng(0), 500)
    numbers, marks = batch.xs[..., 0], batch.xs[..., 1]
    half = steps // 2
    assert batch.xs.shape == (steps, 500, 2)
    assert set(np.unique(marks)) == {0, 1}
    for part in (marks[:half], marks[half:]):
        assert (part.sum(axis=0) == 1).all()
        assert (part.sum(axis=1) > 0).all()  # every step is marked now and then
    np.testing.assert_allclose(batch.targets, (numbers * marks).sum(axis=0), rtol=1e-6)
    assert 0 <= numbers.min() < 0.01
    assert 0.99 < numbers.max() < 1


def test_always_1_has_the_error_1_6():
    task = adding.task_of(adding.Options(T=10))
    targets = np.concatenate([batch.targets for batch in task.test])
    assert len(targets) == 10_000
    assert np.mean((targets - 1) ** 2) == pytest.approx(1 / 6, abs=4 * 0.0021)


def test_copying_is_laid_out_as_it_says():
    options = copying.Options(T=6, recall=4)
    xs, targets = copying.draw(options, np.random.default_rng(0), 300)
    read = xs.argmax(axis=-1)
    assert xs.shape == (14, 300, 10)
    assert (xs.sum(axis=-1) == 1).all()
    assert set(np.unique(read[:4])) == set(range(1, 9))
    assert (read[4:9] == copying.BLANK).all()  # T − 1
    assert (read[9] == copying.COLON).all()
    assert (read[10:] == copying.BLANK).all()
    assert (targets[:10] == copying.BLANK).all()
    np.testing.assert_array_equal(targets[10:], read[:4])
    np.testing.assert_array_equal(targets[options.T + options.recall :], read[: options.recall])


@pytest.mark.parametrize(("silence", "nats"), [(50, 0.2971), (100, 0.1733), (1000, 0.0204)])
def test_without_memory_copying_costs_its_baseline(silence, nats):
    options = copying.Options(T=silence)
    _, targets = copying.draw(options, np.random.default_rng(0), 20)
    chances = np.zeros((*targets.shape, 9))
    chances[:-10, :, copying.BLANK] = 1
    chances[-10:, :, 1:] = 1 / 8
    found = -np.log(np.take_along_axis(chances, targets[..., None], axis=-1)).mean()
    assert copying.baseline(options) == pytest.approx(found)
    assert copying.baseline(options) == pytest.approx(nats, abs=5e-5)


def test_recall_is_of_the_ten_symbols_alone():
    options = copying.Options(T=20, size=3)
    task = copying.task_of(options)
    arm = memory.arm_of("gru", options, 40)
    params = memory_training.initial_params(task, arm, options)
    params = {**params, "w": 0 * params["w"], "b": params["b"].at[5].set(9.0)}  # says 5
    loss = memory_training.loss_of(task.loss, arm.cell)
    recall = training.evaluate(loss, params, task.test)["recall"]
    assert recall == pytest.approx(np.mean(task.test[0].targets[-10:] == 5), rel=1e-5)
    assert recall == pytest.approx(1 / 8, abs=0.02)


def test_batches_come_again_and_never_twice():
    def source(seed):
        return memory.Fresh(lambda g, size: g.random(size), 4, seed=seed, what="numbers")

    batches = iter(source(3))
    seen = [next(batches) for _ in range(3)]
    state = json.loads(json.dumps(batches.get_state()))
    following = next(batches)
    again = iter(source(3))
    again.set_state(state)
    np.testing.assert_array_equal(next(again), following)
    others = [next(iter(source(seed))) for seed in (0, 1)]
    for part in (memory.VALIDATION, memory.TEST):
        (held,) = memory.held_out(lambda g, size: g.random(size), part, 1)
        others.append(held[:4])
    drawn = [*seen, following, *others]
    assert len({batch.tobytes() for batch in drawn}) == len(drawn)
    with pytest.raises(ValueError, match="other data"):
        iter(source(4)).set_state(state)


def test_pixels_are_read_in_one_order():
    pictures, digits = np.arange(20 * 9).reshape(20, 3, 3), np.arange(20)
    parts = permuted_digits.split(handwritten.split(pictures, digits, 5), pool=1)
    assert [len(part.digits) for part in parts] == [10, 5, 5]
    rows = np.concatenate([part.pixels for part in parts])
    order = rows[0].astype(int)
    assert sorted(order) == list(range(9))
    assert list(order) != list(range(9))
    np.testing.assert_array_equal(rows, pictures.reshape(20, 9)[:, order])
    batch = parts.test.batch()
    assert batch.xs.shape == (9, 5, 1)
    np.testing.assert_array_equal(batch.xs[:, 2, 0], rows[17])
    np.testing.assert_array_equal(batch.targets, digits[15:])


def test_pictures_are_moved_each_in_its_own_way():
    pictures = np.zeros((40, 6, 6))
    pictures[:, 2:4, 2:4] = np.arange(1, 41)[:, None, None]
    part = permuted_digits.Part(pictures, np.arange(40), 2)
    moved = part.shifted(2, np.random.default_rng(0)).pictures
    places = {tuple(np.argwhere(picture)[0]) for picture in moved}
    assert {place for pair in places for place in pair} == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(moved.sum(axis=(1, 2)), pictures.sum(axis=(1, 2)))
    np.testing.assert_array_equal(part.shifted(0, np.random.default_rng(0)).pictures, pictures)
    # Means of 2 × 2: each picture has one tile of its own value.
    np.testing.assert_array_equal(part.pixels.max(axis=1), np.arange(1, 41))


def test_moved_batches_are_drawn_anew_and_alike_in_every_run():
    part = permuted_digits.Part(np.random.default_rng(0).random((8, 8, 8)), np.arange(8), 1)
    options = dataclasses.replace(permuted_digits.QUICK, batch=8, shift=1)
    first, again = (permuted_digits.Shifted(part, options) for _ in range(2))
    np.testing.assert_array_equal(first.batch(3, 0).xs, again.batch(3, 0).xs)
    seen = [np.sort(first.batch(epoch, 0).xs.sum(axis=(0, 2))) for epoch in (0, 1)]
    assert not np.allclose(*seen)
    still = permuted_digits.Shifted(part, dataclasses.replace(options, shift=0))
    assert still.fingerprint() != first.fingerprint()


def test_no_picture_of_scikit_learn_is_lost_or_used_twice():
    parts = permuted_digits.read("scikit-learn")
    assert [len(part.digits) for part in parts] == [1197, 300, 300]
    found = np.concatenate([np.sort(part.pixels, axis=1) for part in parts])
    expected = np.sort(load_digits().data, axis=1) / 16
    np.testing.assert_allclose(sorted(map(tuple, found)), sorted(map(tuple, expected)))


@pytest.mark.skipif(not (DATA / handwritten.MNIST.path).is_file(), reason="needs digits/")
def test_mnist_is_split_as_its_baseline_was(monkeypatch):
    monkeypatch.setenv(datasets.ROOT, str(DATA))
    parts = permuted_digits.read("digits")
    assert [part.pixels.shape for part in parts] == [(8000, 196), (1000, 196), (1000, 196)]
    train, _, test = ((part.pixels, part.digits) for part in parts)
    assert KNeighborsClassifier(1).fit(*train).score(*test) == pytest.approx(0.953, abs=0.0015)


# --- what is drawn and said ---


def result(name, losses):
    records = [{"step": 10 * k, "validation_accuracy": a} for k, a in enumerate(losses, 1)]
    return memory_training.Result(name, "", 0.1, -3.0, 20, 1.0, 10, {"accuracy": 0.5}, records)


def test_every_cell_and_baseline_stands_in_the_picture():
    task = SimpleNamespace(
        measure="accuracy",
        label="accuracy",
        higher_is_better=True,
        lag=32,
        levels={"one": 0.9, "two": 0.95},
    )
    results = [result(name, [0.2, 0.4]) for name in memory_results.LOOKS]
    figure = memory_results.draw(task, results)
    left, right = figure.axes
    assert len(left.lines) == len(results) + 2
    assert [text.get_text() for text in left.texts] == ["dotted, one: 90.0%, two: 95.0%"]
    assert len(right.patches) == len(results)
    assert len(figure.legends[0].get_texts()) == len(results)


@pytest.mark.parametrize(
    ("task", "typed", "words"),
    [
        (adding, ["--T", "2"], "--T: expected at least 3 steps; got 2"),
        (adding, ["--cells", "gru", "gru"], "--cells: expected one or more different cells"),
        (adding, ["--minutes", "0"], "--minutes: expected a number above 0; got 0.0"),
        (adding, ["--seed", "-1"], "--seed: expected a number from 0 to 2**32 - 1; got -1"),
        (adding, ["--out", "{}"], "also holds 'notes.txt'"),
        (adding, ["--resume", "--out", "{}/none"], "none has none. Leave out --resume"),
        (copying, ["--recall", "0"], "--recall: expected a whole number from 1 up; got 0"),
        (permuted_digits, ["--batch", "1198"], "--batch: expected at most 1197, all digits"),
        (permuted_digits, ["--shift", "8"], "--shift: expected 0 … 7 pixels; got 8"),
        (permuted_digits, ["--data", "digits"], "--data: digits/mnist10k.npz is not in"),
    ],
)
def test_mistakes_are_one_line_and_status_2(task, typed, words, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(datasets.ROOT, raising=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as left:
        task.command([option.format(tmp_path) for option in typed])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert words in error
    assert error.count("\n") == 1


def test_a_run_is_not_gone_on_with_by_another_task(added, capsys):
    with pytest.raises(SystemExit):
        copying.command(["--resume", "--out", str(added)])
    assert "expected a run of this task" in capsys.readouterr().err


def test_a_quick_run_that_learns_nothing_fails(tmp_path, monkeypatch):
    learnt_nothing = memory_training.Result(
        "tanh", "", 0.1, -3.0, 1, 1.0, 1, {"loss": 0.2}, [{"step": 1, "validation_loss": 0.2}]
    )
    monkeypatch.setattr(memory_results, "compare", lambda task, options: [learnt_nothing])
    with pytest.raises(SystemExit, match=r"Not learnt: expected loss 0\.0833; got 0\.2"):
        adding.command(["--quick", "--cells", "tanh", "--out", str(tmp_path / "run")])
