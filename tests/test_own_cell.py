"""The cell of the example keeps the contract, learns, and runs the same in every way."""

import csv

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from examples import own_cell
from rnnjax.testing import check_cell


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("own_cell")
    # optax's Adam raises a float to the power of its int32 count, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        return own_cell.main(own_cell.Options(out=out, quick=True)), out


@pytest.mark.slow
def test_the_cell_keeps_the_contract():
    check_cell(own_cell.Coupled(4), jax.random.key(0), 3)


def test_the_step_is_the_equations():
    cell = own_cell.Coupled(3)
    k_init, k_peephole, k_x, k_c, k_h = jax.random.split(jax.random.key(0), 5)
    params = cell.init(k_init, 2) | {"p": jax.random.normal(k_peephole, (3,))}
    x, c, h = (np.asarray(jax.random.normal(k, (n,))) for k, n in ((k_x, 2), (k_c, 3), (k_h, 3)))
    w_x, w_h, b, p = (np.asarray(params[name]) for name in ("w_x", "w_h", "b", "p"))
    z_f, z_g, z_o = np.split(x @ w_x + b + h @ w_h, 3)
    f = sigmoid(z_f + p * c)
    c_next = f * c + (1 - f) * np.tanh(z_g)
    after = cell.step(params, own_cell.Memory(c, h), cell.encode(params, x))
    np.testing.assert_allclose(after.c, c_next, rtol=1e-5)
    np.testing.assert_allclose(after.h, sigmoid(z_o) * np.tanh(c_next), rtol=1e-5)


def test_the_sums_are_of_one_number_from_each_half():
    xs, sums = own_cell.adding(jax.random.key(0), steps=7, batch=50)
    numbers, marks = np.asarray(xs[..., 0]), np.asarray(xs[..., 1])
    np.testing.assert_array_equal(marks[:3].sum(axis=0), 1)
    np.testing.assert_array_equal(marks[3:].sum(axis=0), 1)
    np.testing.assert_allclose(sums, (numbers * marks).sum(axis=0), rtol=1e-6)


def test_it_beats_the_baseline(result):
    report, _ = result
    assert report.error < own_cell.BASELINE / 10


def test_the_strategies_agree(result):
    report, _ = result
    assert [row.strategy for row in report.strategies] == list(own_cell.STRATEGIES)
    for row in report.strategies:
        assert row.loss_difference < 1e-5
        # Near the optimum a gradient is a small difference of large terms.
        assert row.gradient_difference < 1e-4
        assert row.milliseconds > 0
        assert row.temporary_bytes > 0


def test_the_tables_hold_the_report(result):
    report, out = result
    losses = [float(row["mse"]) for row in read(out / "loss.csv")]
    np.testing.assert_allclose(losses, report.losses, rtol=1e-6)
    for row, measured in zip(read(out / "strategies.csv"), report.strategies, strict=True):
        assert row["strategy"] == measured.strategy
        assert float(row["milliseconds"]) == measured.milliseconds
        assert int(row["temporary_bytes"]) == measured.temporary_bytes


def test_the_picture_is_a_picture(result):
    _, out = result
    pixels = imread(out / "own_cell.png")
    assert min(pixels.shape[:2]) > 500
    assert pixels.std() > 0.1


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
