"""The long memory example: cells in one block, scored beside baselines, resumed, drawn."""

import functools
import json
import math

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from examples import long_memory
from examples.support import deep, long_memory_results, long_memory_tasks, texts
from rnnjax import training

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both tasks in one folder, a cell each."""
    out = tmp_path_factory.mktemp("runs") / "long_memory"
    # As in the tests, so that they find its programs compiled.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("raise"):
        for task, cell in (("digits", "s5"), ("text", "mingru")):
            long_memory.command(small(out, "--task", task, "--cell", cell))
    return out


def small(out, *argv):
    return ["--quick", "--layers", "1", "--out", str(out), *argv]


def result_of(out, task, cell):
    return json.loads((out / f"{task}-{cell}.json").read_text())


# --- runs ---


def test_a_quick_run_is_compared_with_the_baselines(trained):
    digits = result_of(trained, "digits", "s5")
    assert set(digits["baselines"]) == {"softmax regression", "nearest picture"}
    assert digits["test"]["accuracy"] > 0.3
    text = result_of(trained, "text", "mingru")
    ((name, nats),) = text["baselines"].items()
    assert name in {f"{order}-gram" for order in long_memory_tasks.ORDERS}
    assert nats < text["test"]["loss"] < 3.2  # 100 steps do not reach an n-gram
    for result in (digits, text):
        assert result["steps"] == long_memory.QUICK["digits"].steps
        assert result["size"] > 1000


def test_the_curve_is_of_the_validation(trained):
    for task, cell in (("digits", "s5"), ("text", "mingru")):
        result = result_of(trained, task, cell)
        minutes, scores = zip(*result["curve"], strict=True)
        assert len(scores) == long_memory.QUICK_POINTS
        assert sorted(minutes) == list(minutes)
        assert minutes[-1] == pytest.approx(result["minutes"])
        best = max(scores) if result["higher_is_better"] else min(scores)
        every = math.ceil(result["steps"] / long_memory.QUICK_POINTS)
        assert result["best_step"] == min(every * (1 + scores.index(best)), result["steps"])
        assert result["test"][result["measure"]] == pytest.approx(best, rel=0.25)


def test_a_stopped_run_goes_on_to_the_same_scores(trained, tmp_path, monkeypatch):
    """With the options that it was begun with, whatever is typed then."""
    out, fit = tmp_path / "run", training.fit

    def stopped(*arguments, steps, **options):
        fit(*arguments, steps=50, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            long_memory.command(small(out, "--task", "text", "--cell", "mingru"))
    assert not list(out.glob("*.json"))
    long_memory.command(
        ["--resume", "--task", "text", "--cell", "mingru", "--features", "7", "--out", str(out)]
    )
    expected, found = (result_of(folder, "text", "mingru") for folder in (trained, out))
    assert found["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-3)
    assert found["best_step"] == expected["best_step"]
    assert found["options"] == expected["options"]


def test_the_picture_is_drawn_from_the_files(trained):
    picture = trained / long_memory_results.PICTURE
    first = imread(picture)
    picture.unlink()
    long_memory.command(["--draw", "--out", str(trained)])
    np.testing.assert_array_equal(imread(picture), first)
    assert first.std() > 0.05
    assert first.shape[1] > 1.5 * first.shape[0]  # two panels


def test_every_cell_and_baseline_stands_in_the_picture(trained):
    one = long_memory_results.read(trained)[0]
    results = [one._replace(name=name) for name in long_memory_results.LOOKS]
    longer = one._replace(minutes=2 * one.minutes)
    figure = long_memory_results.draw([*results, longer])
    (ax,) = figure.axes
    assert len(ax.lines) == 2 * 7 + len(one.levels)  # an end for each curve
    assert len(ax.texts) == len(one.levels)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [look.label for look in long_memory_results.LOOKS.values()]


# --- what is asked ---


def test_the_end_of_the_text_to_train_on_validates(monkeypatch):
    monkeypatch.setattr(long_memory_tasks, "ngrams", lambda text: {})
    task = long_memory_tasks.text(None, 50_000, batch=4, chunk=16)
    text = texts.read(None, "character", 50_000)
    learnt = round(0.95 * len(text.train.tokens))
    rows = task.batches.batch(0, 0)
    np.testing.assert_array_equal(rows.inputs[:, 0], text.train.tokens[:16])
    assert len(task.batches) == (learnt - 1) // 4 // 16
    held_out = task.validation.inputs[task.validation.targets >= 0]
    assert len(held_out) == len(text.train.tokens) - learnt - 1
    everything = long_memory_tasks.text(None, 50_000, batch=4, chunk=16, everything=True)
    assert len(everything.batches) == (len(text.train.tokens) - 1) // 4 // 16
    scored = task.test.targets[task.test.targets >= 0]
    assert sorted(scored) == sorted(text.scored.tokens[1:])


def test_all_pictures_are_scored_once():
    task = long_memory_tasks.digits("scikit-learn", 32, 0, 0)
    seen = []

    def loss(params, carry, batch, key):
        jax.debug.callback(lambda xs: seen.append(xs.shape[1]), batch.xs)
        return batch.xs.mean(), (carry, {"accuracy": batch.targets.astype(float).mean()})

    scores = long_memory_tasks.digits_score(None, loss, task.test, {})
    jax.effects_barrier()
    assert sum(seen) == len(task.test.targets) == 300
    assert scores["accuracy"] == pytest.approx(task.test.targets.mean(), rel=1e-5)


def test_cells_differ_and_the_rest_of_the_model_does_not():
    options = long_memory.QUICK["text"]
    task = long_memory_tasks.text(None, 50_000, options.batch, options.chunk)
    inputs, key, seen = task.batches.batch(0, 0).inputs, jax.random.key(0), []
    for name in long_memory.NAMES:
        model = long_memory.arm_of(name, task, options).model
        params = jax.eval_shape(functools.partial(deep.initial_params, model), key, inputs)
        cells = [block.pop("rnn") for block in params["blocks"].values()]
        assert len(cells) == options.layers
        seen.append(params)
    assert all(params == seen[0] for params in seen)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--minutes", "0"], "--minutes: expected a number above 0; got 0.0"),
        (["--layers", "0"], "--layers: expected a whole number from 1 up; got 0"),
        (["--dropout", "1"], "--dropout: expected a number in [0, 1); got 1.0"),
        (["--average", "1"], "--average: expected a number in [0, 1); got 1.0"),
        (["--shift", "-1"], "--shift: expected 0 or more pixels; got -1"),
        (["--seed", "-1"], "--seed: expected a number from 0 to 2**32 - 1; got -1"),
        (["--draw", "--resume"], "--draw, --resume: expected one of the two; got both"),
        (["--resume", "--out", "{}/none"], "none has none of digits with this cell"),
        (["--draw", "--out", "{}/none"], "--out: expected results of long_memory in"),
        (["--draw", "--out", "{}"], "text-lstm.json is none"),
        (["--quick", "--batch", "1198"], "at most the number of examples, 1197; got 1198"),
        ([], "--task: digits/mnist10k.npz is not in"),
    ],
)
def test_mistakes_are_one_line_and_status_2(typed, words, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RNNJAX_DATA", raising=False)
    (tmp_path / "text-lstm.json").write_text("{}")
    with pytest.raises(SystemExit) as left:
        long_memory.command([option.format(tmp_path) for option in typed])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert words in error
    assert error.count("\n") == 1
