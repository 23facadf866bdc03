"""The "hello" example keeps its promises, and says so when it does not."""

import csv

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from examples import hello


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("hello")
    return run_quickly(out), out


def test_it_learns_hello(result):
    run, _ = result
    assert run.text == "hello"
    assert run.losses[-1] < hello.LOSS < hello.MEMORYLESS < run.losses[0]


def test_the_state_tells_the_two_ls_apart(result):
    run, _ = result
    np.testing.assert_array_equal(run.xs[2], run.xs[3])
    assert hello.apart(run) == pytest.approx(np.linalg.norm(run.hs[2] - run.hs[3]))
    assert hello.apart(run) > 1
    assert run.ps[2].argmax() == hello.VOCABULARY.index("l")
    assert run.ps[3].argmax() == hello.VOCABULARY.index("o")


def test_the_tables_hold_the_run(result):
    run, out = result
    steps = read(out / "steps.csv")
    assert [(row["input"], row["target"]) for row in steps] == [*zip("hell", "ello", strict=True)]
    for prefix, values in (("h_", run.hs), ("p_", run.ps)):
        columns = [[float(v) for k, v in row.items() if k.startswith(prefix)] for row in steps]
        np.testing.assert_allclose(columns, values, rtol=1e-6)
    losses = [float(row["nats_per_char"]) for row in read(out / "loss.csv")]
    np.testing.assert_allclose(losses, run.losses, rtol=1e-6)


def test_the_picture_is_a_picture(result):
    _, out = result
    pixels = imread(out / "hello.png")
    assert min(pixels.shape[:2]) > 1000
    assert pixels.std() > 0.1


def test_it_exits_with_status_1_when_it_does_not_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(hello, "LOSS", 0.0)
    with pytest.raises(SystemExit, match="Not learnt"):
        run_quickly(tmp_path)


def run_quickly(out):
    # optax's Adam raises a float to the power of its int32 count, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        return hello.main(hello.Options(out=out, quick=True))


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
