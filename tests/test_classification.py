"""The classification example: padding is not heard, runs, baselines, what was measured."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from examples import classification
from examples.support import classifier, labelled_series, series_baselines
from examples.support.classifier import Classifier
from examples.support.datasets import ROOT
from examples.support.labelled_series import Batch, batch_of
from examples.support.series_baselines import NEAREST, REGRESSION, Baselines
from examples.support.ts_files import Cases
from rnnjax import training
from rnnjax.testing import FAST_COMPILATION, TOLERANCE, largest_difference
from tests.compilation import compiled_quickly

pytestmark = pytest.mark.usefixtures("optax_promotion")

HEADER = "@dimensions 2\n@classLabel true down up\n@data\n"
SMALL = ["--quick", "--size", "6", "--batch", "8", "--epochs", "10"]


def slopes(count, seed):
    """Lines that rise or fall in noise, of 2 … 9 steps, as a file has them."""
    generator, lines = np.random.default_rng(seed), [HEADER]
    for k in range(count):
        steps = np.linspace(-1, 1, generator.integers(2, 10)) * (1 if k % 2 else -1)
        channels = steps + 0.2 * generator.normal(size=(2, len(steps)))
        values = ":".join(",".join(f"{v:.4f}" for v in channel) for channel in channels)
        lines.append(f"{values}:{'up' if k % 2 else 'down'}\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    for part, count in (("TRAIN", 60), ("TEST", 31)):
        (folder / f"Slopes_{part}.ts").write_text(slopes(count, count))
    return folder / "Slopes"


def run_classification(*argv, code=None):
    with compiled_quickly():
        if code is None:
            classification.command([str(word) for word in argv])
        else:
            with pytest.raises(SystemExit) as left:
                classification.command([str(word) for word in argv])
            assert left.value.code == code


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run_classification(*SMALL, "--data", data, "--out", out)
    return out


def scores_of(out):
    return json.loads((out / "scores.json").read_text())


# --- the model ---


def jit(function):
    return jax.jit(function, static_argnums=0, compiler_options=FAST_COMPILATION)


logits, varied = jit(classifier.logits), jit(classifier.varied)


def small(**options):
    sizes = {"size": 3, "layers": 2, "dropout": 0.0, "noise": 0.0, "cut": 0.0} | options
    model = Classifier(4, **sizes)
    xs = np.random.default_rng(0).normal(size=(7, 3, 2)).astype(np.float32)
    batch = Batch(xs, np.array([7, 3, 1], np.int32), np.array([0, 3, 1], np.int32))
    params = classifier.initial_params(model, 2, 0)
    return model, params, batch


def test_what_stands_behind_a_series_is_not_heard():
    model, params, batch = small()
    expected = logits(model, params, batch)
    others = batch.xs.copy()
    others[3:, 1], others[1:, 2] = np.nan, 7.0
    found = logits(model, params, batch._replace(xs=others))
    np.testing.assert_array_equal(found, expected)
    longer = np.pad(batch.xs, ((0, 4), (0, 0), (0, 0)), constant_values=9)
    found = logits(model, params, batch._replace(xs=longer))
    assert largest_difference(found, expected) < TOLERANCE["float32"]


def test_a_series_that_varies_is_cut_at_its_ends():
    model, _, batch = small(cut=0.4)
    xs = np.arange(7, dtype=np.float32)[:, None, None] + np.zeros((7, 3, 2), np.float32)
    starts, ends = set(), set()
    for seed in range(30):
        found, lengths = varied(model, jax.random.key(seed), xs, batch.lengths)
        first, last = int(found[0, 0, 0]), int(found[lengths[0] - 1, 0, 0])
        assert last - first + 1 == lengths[0]
        starts.add(first)
        ends.add(last)
        assert (lengths >= 1).all()
    assert starts == {0, 1, 2}
    assert ends == {4, 5, 6}


def test_what_is_learnt_from_varies_and_what_is_scored_does_not():
    for options in ({"noise": 0.5}, {"dropout": 0.5}):
        model, params, batch = small(layers=1, **options)
        values = [logits(model, params, batch, key) for key in (None, None, jax.random.key(0))]
        assert largest_difference(*values[:2]) == 0.0
        assert largest_difference(*values[1:]) > 1e-3


# --- runs ---


def test_slopes_are_told_apart(trained):
    scores = scores_of(trained)
    assert scores["series"] == {"train": 48, "validation": 12, "test": 31}
    assert scores["accuracy"] > 0.9
    assert set(scores["baselines"]) == {REGRESSION, NEAREST, "most frequent class"}
    assert scores["baselines"][REGRESSION] > 0.9
    assert len(scores["by_steps"]) == len(scores["baseline_by_steps"]) == 9
    assert scores["by_steps"][-1] == pytest.approx(scores["accuracy"])
    assert np.sum(scores["confusion"]) == 2 * 31
    assert np.trace(scores["confusion"]) == pytest.approx(scores["accuracy"] * 62)
    assert scores["interval"][0] < scores["accuracy"]
    assert imread(trained / "classes.png").std() > 0.05


def test_a_stopped_run_goes_on_to_the_same_scores(trained, data, tmp_path, monkeypatch):
    """With the options that it was begun with, whatever is typed then."""
    out, fit, calls = tmp_path / "run", training.fit, []

    def stopped(*arguments, steps, **options):
        calls.append(steps)
        fitted = fit(*arguments, steps=steps if len(calls) < 2 else steps // 2, **options)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fitted

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_classification(*SMALL, "--data", data, "--out", out)
    run_classification("--resume", "--size", "9", "--out", out)
    found, expected = scores_of(out), scores_of(trained)
    assert found["confusion"] == expected["confusion"]
    assert [s["epoch"] for s in found["seeds"]] == [s["epoch"] for s in expected["seeds"]]


def test_tuning_leaves_the_test_alone(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classification.series_results, "scores_of", None)
    monkeypatch.setattr(classification.series_results, "summary", None)
    out = tmp_path / "run"
    run_classification(*SMALL, "--tuning", "--seeds", "1", "--data", data, "--out", out)
    assert "of what validates" in capsys.readouterr().out


# --- mistakes ---


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--size", "0"], "--size: expected a whole number from 1 up; got 0"),
        (["--dropout", "1"], "--dropout: expected a number in [0, 1); got 1.0"),
        (["--cut", "0.5"], "--cut: expected a number from 0 to 0.45; got 0.5"),
        (["--average", "0"], "--average: expected a number from"),
        (["--seed", "-1"], "--seed: expected a number from 0 to 2**32 - 1; got -1"),
        (["--batch", "5000"], "--batch: expected at most 1197, all series; got 5000"),
        (["--data", "vowels"], "--data: series/JapaneseVowels_TRAIN.ts is not in"),
        (["--data", "nowhere/Own"], "--data: [Errno 2]"),
        (["--resume", "--out", "nowhere"], "--out: expected a run to go on with; nowhere has none"),
    ],
)
def test_bad_options_are_one_line(argv, message, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv(ROOT, raising=False)
    run_classification(*argv, *([] if "--out" in argv else ["--out", tmp_path / "run"]), code=2)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


FILES = {
    "expected the same classes and channels in both files": (
        slopes(60, 0),
        slopes(9, 0).replace("down up", "down up flat"),
    ),
    "expected at least 5 cases of each class to train; got 4": (slopes(8, 0), slopes(9, 0)),
    "line 5: expected numbers; channel 1": (slopes(60, 0), slopes(9, 0).replace(":up", ",?:up", 1)),
}


@pytest.mark.parametrize("message", FILES)
def test_files_that_do_not_do_are_named(message, tmp_path, capsys):
    for part, text in zip(("TRAIN", "TEST"), FILES[message], strict=True):
        (tmp_path / f"Own_{part}.ts").write_text(text)
    if "line" in message:  # a missing value in the first channel
        broken = re.sub(r"^[^,:]+", "?", FILES[message][1].splitlines()[4])
        lines = slopes(9, 0).splitlines()
        (tmp_path / "Own_TEST.ts").write_text("\n".join([*lines[:4], broken, *lines[5:]]))
    run_classification("--data", tmp_path / "Own", "--out", tmp_path / "run", code=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_of_another_task_is_not_gone_on_with(trained, monkeypatch, capsys):
    monkeypatch.setattr(classification, "TASK", "another")
    run_classification("--resume", "--out", trained, code=2)
    assert "expected a run of classification" in capsys.readouterr().err


# --- baselines ---


def test_frames_stand_at_equal_distances():
    ramp = np.stack([np.arange(5.0), 10 * np.arange(5.0)], 1)
    found = series_baselines.resampled([ramp], 3).reshape(3, 2)
    assert found.tolist() == [[0, 0], [2, 20], [4, 40]]


def test_a_baseline_hears_no_more_than_it_is_told():
    """The class shows in the last step alone."""
    generator = np.random.default_rng(0)
    series = [generator.normal(size=(4, 1)).astype(np.float32) for _ in range(90)]
    labels = np.arange(90, dtype=np.int32) % 2
    for x, label in zip(series, labels, strict=True):
        x[-1] = 5.0 * label
    cases = Cases(series, labels, ("a", "b"))
    places = np.split(np.arange(90), 3)
    parts = labelled_series.Parts(*(labelled_series.take(cases, place) for place in places))
    early, late = np.array(Baselines(parts).by_steps(4))[[2, 3]]
    assert late == 1.0
    assert early < 0.8
    assert batch_of(cases).xs.shape == (4, 90, 1)


# --- what was measured ---


@pytest.mark.parametrize("name", ["rows", "vowels"])
def test_the_page_quotes_the_results(name):
    project = Path(__file__).parents[1]
    page = (project / "docs/classification.md").read_text("utf-8")
    scores = json.loads((project / f"examples/results/classification/{name}.json").read_text())
    column = 1 if name == "rows" else 2
    table = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    cells = {row[0].removeprefix("| "): row[column].removesuffix(" |") for row in table[2:8]}
    assert (
        cells.pop("its seeds")
        == ", ".join(f"{s['accuracy']:.1%}"[:-1] for s in scores["seeds"]) + " %"
    )
    expected = scores["baselines"] | {
        "BiGRU, mean of five seeds": scores["accuracy"],
        "its macro F1, mean": scores["macro_f1"],
    }
    assert cells == {name: f"{share:.1%}".replace("%", " %") for name, share in expected.items()}
