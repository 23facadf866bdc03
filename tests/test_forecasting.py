"""The forecasting example: series and files, what is known and drawn, scores, baselines, runs."""

import dataclasses
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import norm
from scipy.stats import t as student

import rnnjax
from examples import forecasting
from examples.support import (
    forecast_baselines,
    forecast_results,
    forecaster,
    outlook,
    series,
    stretches,
)
from examples.support.forecast_baselines import Forecast
from examples.support.forecast_scores import score, seasonal_error
from examples.support.forecaster import Forecaster, Units
from examples.support.series import Series
from rnnjax import training

pytestmark = pytest.mark.usefixtures("optax_promotion")

WAVE = 10 + np.array([0.0, 2.0, 5.0, 1.0])  # a season of four


def wave(n=80, noise=0.0, slope=0.0):
    steps = np.arange(n)
    return WAVE[steps % 4] + slope * steps + noise * np.random.default_rng(0).standard_normal(n)


def model_of(values, **options):
    return Forecaster(4, forecaster.units_of(values, 4), size=6, members=2, **options)


def write(path, values, header="month,sales\n"):
    rows = (f"{k},{'' if np.isnan(v) else f'{v:.6f}'}" for k, v in enumerate(values))
    path.write_text(header + "\n".join(rows) + "\n")
    return path


# --- series ---


def test_series_of_statsmodels_are_what_they_are_said_to_be():
    spots, co2 = series.read("sunspots"), series.read("co2")
    assert (len(spots.values), spots.times[0], spots.times[-1]) == (309, 1700, 2008)
    assert not np.isnan(spots.values).any()
    assert (len(co2.values), int(np.isnan(co2.values).sum())) == (2284, 59)
    assert co2.times[0] == pytest.approx(1958.24, abs=0.01)
    assert np.diff(co2.times).max() == pytest.approx(7 / 365.25)
    for name in (spots, co2):
        series.check(name.values, str, name.name)


def test_a_file_is_read_with_its_gaps_and_header(tmp_path):
    path = tmp_path / "sales.csv"
    path.write_text("year,place,sales\n1999,a,1.5\n2000,b,NA\n2001,c,\n2002,d,-2e1\n\n\n")
    found = series.read(str(path))
    np.testing.assert_array_equal(found.values, [1.5, np.nan, np.nan, -20])
    np.testing.assert_array_equal(found.times, [1999, 2000, 2001, 2002])
    assert (found.name, found.labels) == ("sales", ("year", "sales"))


def test_a_file_may_be_one_column_without_a_header(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_bytes(b"\xef\xbb\xbf3\r\nnan\r\n4\r\n")
    found = series.read(str(path))
    np.testing.assert_array_equal(found.values, [3, np.nan, 4])
    np.testing.assert_array_equal(found.times, [0, 1, 2])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("t,y\n0,1\n1,two\n2,3\n", "line 3: expected a finite number, or NA for a gap; got 'two'"),
        ("t,y\n0,1\n1,inf\n", "line 3: expected a finite number"),
        ("t,y\n0,1\n1\n2,3\n", "line 3: expected 2 fields, as in the first line; got 1"),
        ("1\n\n2\n", "line 2: expected 1 fields, as in the first line; got 0. Write gaps as NA"),
        ("t,y\n0,\n1,2\n", "line 2: expected the series to begin with a number; got a gap"),
        ("t,y\n0,1\n1,2\n2,NaN\n", "line 4: expected the series to end with a number; got a gap"),
        ("t,y\n0,3\n1,3\n2,3\n", "expected a series that changes; all values are 3"),
        ("", "expected numbers, one a line; got none"),
        ("t,y\n", "expected numbers, one a line; got none"),
        ("t,y\nNA,NA\n", "expected numbers, one a line; got none"),
        ('t,y\n0,1\n1,"2\n', "line 3: unexpected end of data"),
        (b"t,y\n0,1\n1,\xff\n", "line 3: expected text in UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_its_line(content, words, tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as left:
        forecasting.command(["--data", str(path), "--season", "2"])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert f"--data: {path}" in error
    assert words in error
    assert error.count("\n") == 1


def test_a_split_stands_on_measured_values_and_looks_no_further():
    values = wave(100)
    values[[82, 90]] = np.nan
    line = Series("wave", values, np.arange(100.0), ("t", "y"))
    cut = stretches.split(line, season=4, horizon=5, every=2, tuning=False)
    assert cut.stop == 80
    np.testing.assert_array_equal(cut.origins, [79, 81, 83, 85, 87, 89, 91, 93])
    assert cut.origins[-1] + 5 <= 99
    tuned = stretches.split(line, season=4, horizon=5, every=1, tuning=True)
    assert (tuned.stop, tuned.origins[0], tuned.origins[-1]) == (60, 59, 74)


@pytest.mark.parametrize("tuning", [False, True])
def test_a_series_is_long_enough_or_told_how_long(tuning):
    def cut(n):
        line = Series("wave", wave(n), np.arange(float(n)), ("t", "y"))
        return stretches.split(line, season=12, horizon=6, every=1, tuning=tuning)

    with pytest.raises(ValueError, match=r"wave: expected at least \d+ values") as found:
        cut(20)
    least = int(str(found.value).split("at least ")[1].split()[0])
    assert len(cut(least).origins) > 0
    with pytest.raises(ValueError, match=f"at least {least} values"):
        cut(least - 1)


# --- what is known ---


def test_inputs_are_what_they_are_called():
    units = Units(change=2.0, swing=4.0, drift=5.0, level=10.0, middle=3.0)
    model = Forecaster(3, units, level=True)
    found = forecaster.inputs(model, np.array([1.0, 4.0, 2.0, 8.0], np.float32))
    change, swing = (8 - 2) / 2, (8 - 14 / 3) / 4
    np.testing.assert_allclose(found, [change, swing, (8 - 1) / 5, (8 - 3) / 10], rtol=1e-6)


def test_a_known_series_masks_gaps_and_what_came_before_it():
    values = wave(20, noise=0.1)
    values[9] = np.nan
    known = stretches.Known(model_of(wave(20, noise=0.1)), values)
    before = known.before(np.array([11, 5]), 4)
    np.testing.assert_array_equal(before.seen[:, 0], [True, False, True, True])  # 8 … 11
    np.testing.assert_array_equal(before.seen[:, 1], [False, False, True, True])  # 4 and 5
    np.testing.assert_array_equal(before.counted[:, 0], [False, False, True, True])
    units = forecaster.units_of(wave(20, noise=0.1), 4)
    expected = (values[11] - values[10]) / units.change
    assert float(before.targets[2, 0]) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(known.pasts(np.array([8]))[0], values[4:9], rtol=1e-6)


def test_nothing_is_learnt_from_the_stretch_that_is_scored():
    values = wave(60, noise=0.1)
    known = stretches.Known(model_of(values), values)
    for length in (16, 100):
        batch = known.draw(40, length, np.random.default_rng(0), 200)
        told = batch.targets[batch.counted]
        changes = np.diff(values) / forecaster.units_of(values, 4).change
        assert np.isin(told.round(4), changes[:39].round(4).astype(np.float32)).all()
        assert not np.isin(told.round(4), changes[39:].round(4).astype(np.float32)).any()


def test_what_stands_in_a_gap_is_not_read():
    values = wave(40, noise=0.1)
    model = model_of(values)
    params = jax.tree.map(lambda leaf: leaf[0], forecaster.initial_params(model, 0))
    known = stretches.Known(model, np.where(np.arange(40) == 30, np.nan, values))
    batch = known.before(np.array([36]), 12)
    gap = int(np.flatnonzero(~batch.seen[:, 0])[0])
    changed = np.where(np.arange(12)[:, None, None] == gap, np.float32(99), batch.xs)
    carry, again = (
        rnnjax.scan(model.cell, params["rnn"], xs, mask=batch.seen)[0] for xs in (batch.xs, changed)
    )
    np.testing.assert_array_equal(carry, again)


# --- what is drawn ---


def fixed(model, middle, spread):
    """Params of networks that say the same at every step."""
    params = forecaster.initial_params(model, 0)
    bias = jnp.array([middle, math.log(math.expm1(spread - 1e-3)), 9.0])
    head = {"w": 0 * params["head"]["w"], "b": jnp.broadcast_to(bias, (model.members, 3))}
    return {**params, "head": head}


def test_trajectories_add_up_the_changes_that_are_drawn():
    values = wave(40, noise=0.1)
    model = model_of(values)
    params = fixed(model, middle=0.5, spread=0.3)
    draws = stretches.Draws(horizon=4, samples=4000, seed=0)
    drawn = stretches.draw_ahead(model, params, values, np.array([20, 30]), draws)
    assert drawn.shape == (4, 2, 8000)
    begin = np.broadcast_to(values[[20, 30]][None, :, None], (1, 2, 8000))
    changes = np.diff(drawn, axis=0, prepend=begin) / model.units.change
    freedom = 2.1 + 5 * np.log1p(np.exp(9.0))
    expected = student.ppf([0.1, 0.5, 0.9], freedom) * 0.3 + 0.5
    for step in range(4):
        found = np.quantile(changes[step], (0.1, 0.5, 0.9))
        np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.corrcoef(changes[0, 0], changes[1, 0])[0, 1] == pytest.approx(0, abs=0.05)


def test_the_loss_is_that_of_students_t():
    values = wave(40, noise=0.1)
    model = model_of(values)
    batch = stretches.Known(model, values).draw(40, 10, np.random.default_rng(0), 3)
    params = fixed(model, middle=0.5, spread=0.3)
    found, (_, metrics) = forecaster.loss(model, 0.2, 4, params, None, batch, None)
    told = batch.targets[4:]
    expected = -student.logpdf(told, 2.1 + 5 * np.log1p(np.exp(9.0)), 0.5, 0.3).mean()
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert int(metrics["tokens"]) == told.size


@pytest.mark.parametrize("scale", ["plain", "sqrt", "log"])
def test_scales_go_there_and_back(scale):
    values = np.array([0.5, 1.0, 30.0])
    back = forecaster.from_scale(scale, forecaster.to_scale(scale, values))
    np.testing.assert_allclose(back, values)
    assert forecaster.from_scale("sqrt", np.array([-2.0]))[0] == 0


# --- scores and baselines ---


def test_scores_are_those_of_paper_and_pencil():
    """Two horizons, three origins, one gap; the scale is 2."""
    middle = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    came = np.array([[2.0, 2.0, 7.0], [np.nan, 0.0, 4.0]])
    found = score(Forecast(middle, middle - 1, middle + 2), came, 2.0)
    np.testing.assert_allclose(found.mase, [(1 + 0 + 4) / 3 / 2, (1 + 3) / 2 / 2])
    np.testing.assert_allclose(found.coverage, [2 / 3, 1 / 2])
    np.testing.assert_allclose(found.width, [1.5, 1.5])


def test_the_scale_of_mase_is_what_seasonal_naive_errs():
    values = np.array([1.0, 5.0, 2.0, 9.0, np.nan, 7.0])
    assert seasonal_error(values, 2) == pytest.approx((1 + 4 + 2) / 3)


def test_seasonal_naive_repeats_the_last_season():
    values = np.array([9.0, 1.0, 2.0, 3.0, 1.5, np.nan, 3.5])
    found = forecast_baselines.seasonal_naive(values, 3, np.array([6]), 5)
    np.testing.assert_array_equal(found.middle[:, 0], [1.5, 2, 3.5, 1.5, 2])
    spread = np.sqrt(np.mean([(3 - 9) ** 2, 0.5**2, 0.5**2]))
    reach = norm.ppf(0.9) * spread
    np.testing.assert_allclose((found.high - found.middle)[:, 0] / reach, [1] * 3 + [2**0.5] * 2)
    np.testing.assert_allclose(found.middle - found.low, found.high - found.middle)


def test_exponential_smoothing_knows_a_wave_on_a_slope():
    values = wave(60, noise=0.05, slope=0.5)
    kinds = forecast_baselines.smoothings(4)
    origins = np.array([40, 51])
    came = stretches.ahead(wave(60, slope=0.5), origins, 8)
    seasonal = forecast_baselines.smoothing(values, kinds["Holt–Winters"], origins, 8)
    np.testing.assert_allclose(seasonal.middle, came, atol=0.25)
    assert ((seasonal.low < came) & (came < seasonal.high)).mean() > 0.5
    simple = forecast_baselines.smoothing(values, kinds["simple smoothing"], origins, 8)
    assert (np.ptp(simple.middle, axis=0) < 1e-9).all()  # it forecasts a level
    gap = np.where(np.arange(60) == 20, np.nan, values)
    filled = forecast_baselines.smoothing(gap, kinds["Holt–Winters"], origins[:1], 8)
    np.testing.assert_allclose(filled.middle[:, 0], came[:, 0], atol=1.0)


def test_autoregression_finds_the_regression_that_made_a_series():
    """y_t = 2 + 0.9 y_{t−2} + noise: two steps ahead, nine tenths are left."""
    values, noise = [20.0, 21.0], np.random.default_rng(0).standard_normal(4000)
    for shock in noise:
        values.append(2 + 0.9 * values[-2] + shock)
    values = np.array(values)
    found = forecast_baselines.autoregression(values, 4, np.array([3990]), 2)
    expected = 2 + 0.9 * values[[3989, 3990]]
    np.testing.assert_allclose(found.middle[:, 0], expected, atol=0.3)
    np.testing.assert_allclose((found.high - found.low)[:, 0], 2 * norm.ppf(0.9), rtol=0.1)


# --- runs ---


@pytest.fixture(scope="module")
def forecast(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    values = wave(120, noise=0.2, slope=0.05)
    values[[30, 31, 100]] = np.nan
    file = write(folder / "sales.csv", values)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("raise"):
        typed = ["--quick", "--data", str(file), "--season", "4", "--save", str(folder / "run")]
        forecasting.command(typed)
    return folder / "run"


def read_scores(out):
    return json.loads((out / forecast_results.SCORES).read_text())


def test_a_quick_run_stands_beside_all_baselines(forecast):
    scores = read_scores(forecast)
    names = {"GRU", "seasonal naive", "autoregression", *forecast_baselines.smoothings(4)}
    assert set(scores["scores"]) == names
    assert (scores["values"], scores["learnt_from"], scores["origins"]) == (120, 96, 3)
    assert scores["scores"]["GRU"]["one_step"]["mase"] < 3
    beaten = names - {"GRU", "autoregression"}
    best = min(scores["scores"][name]["all_steps"]["mase"] for name in beaten)
    ratio = scores["scores"]["GRU"]["all_steps"]["mase"] / best
    assert scores["mase_by_best_baseline"]["all_steps"] == pytest.approx(ratio)
    lines = (forecast / forecast_results.HORIZONS).read_text().splitlines()
    assert lines[0] == "method,step,mase,coverage,width"
    assert len(lines) == 1 + len(names) * 4
    assert imread(forecast / forecast_results.PICTURE).std() > 0.05


def test_a_stopped_run_goes_on_to_the_same_scores(forecast, tmp_path, monkeypatch):
    out, fit = tmp_path / "run", training.fit
    begun = outlook.load(forecast).options

    def stopped(*arguments, steps, **options):
        fit(*arguments, steps=steps // 2, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            forecasting.main(forecasting.Options(**begun, out=out))
    forecasting.command(["--resume", "--out", str(out)])
    found, expected = read_scores(out)["scores"]["GRU"], read_scores(forecast)["scores"]["GRU"]
    assert found["all_steps"]["mase"] == pytest.approx(expected["all_steps"]["mase"], rel=1e-3)


def test_a_kept_network_looks_beyond_the_end_of_a_file(forecast, tmp_path, capsys):
    file = write(tmp_path / "other.csv", wave(30, noise=0.2))
    forecasting.command(["--load", str(forecast), str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "other, after 30 values:"
    assert len(lines) == 2 + 4
    for step, line in enumerate(lines[2:], 1):
        number, middle, low, dots, high = line.split()
        assert (int(number), dots) == (step, "…")
        assert float(low) < float(middle) < float(high)
    forecasting.command(["--load", str(forecast)])
    assert capsys.readouterr().out.startswith("sales, after 120 values:")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2.0, 3.0, 4.0], "short: expected more than 4 values, a season; got 4"),
        ([1.0, 1.0, 1.0, 1.0, 1.0], "short.csv: expected a series that changes"),
        ([1.0, 2.0, 3.0, 4.0, 1.0, np.nan], "short.csv, line 7: expected the series to end"),
    ],
)
def test_a_series_that_cannot_be_looked_beyond(values, words, forecast, tmp_path, capsys):
    file = write(tmp_path / "short.csv", np.array(values))
    with pytest.raises(SystemExit) as left:
        forecasting.command(["--load", str(forecast), str(file)])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--data", "{}/wave.csv"], "--season: expected steps after which the series comes again"),
        (["--data", "{}/wave.csv", "--season", "20"], "--data: wave: expected at least"),
        (["--data", "{}/none.csv", "--season", "4"], "there is no file"),
        (["--data", "{}/wave.csv", "--season", "4", "--scale", "log"], "values above 0; value 1"),
        (["--season", "1"], "--season: expected at least 2 steps; got 1"),
        (["--noise", "nan"], "--noise: expected a number from 0 to 10; got nan"),
        (["--members", "0"], "--members: expected a whole number from 1 up; got 0"),
        (["--out", "{}"], "also holds"),
        (["--load", "{}/none"], "none has none. Train one first: python -m examples.forecasting"),
        (["--resume", "--out", "{}/none"], "none has none. Train one first"),
        (["--load", "{}", "a.csv", "b.csv"], "--load: expected a folder and one file; got 2 files"),
    ],
)
def test_mistakes_are_one_line_and_status_2(typed, words, tmp_path, capsys):
    write(tmp_path / "wave.csv", wave(40) - 10)
    with pytest.raises(SystemExit) as left:
        forecasting.command([option.format(tmp_path) for option in typed])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert words in error
    assert error.count("\n") == 1


def test_a_run_of_another_example_is_refused(tmp_path, capsys):
    training.fit(
        lambda params, carry, batch, key: (params**2, (carry, {})),
        jnp.ones(()),
        forecasting.optimiser(0.1, 10),
        training.ArrayBatches(np.ones((2, 1)), batch_size=1),
        steps=1,
        key=jax.random.key(0),
        checkpoints=training.Checkpoints(tmp_path / "run", config={"model": 3}),
    )
    for typed in (["--load", str(tmp_path)], ["--resume", "--out", str(tmp_path)]):
        with pytest.raises(SystemExit):
            forecasting.command(typed)
        assert "is one of another example" in capsys.readouterr().err


def test_each_part_is_forecast_by_what_learnt_before_it(monkeypatch):
    stops = []

    def fit(job, stop, options):
        stops.append(stop)
        return SimpleNamespace(state=SimpleNamespace(params=stop), records=[{"seconds": 0.0}])

    monkeypatch.setattr(forecasting, "fit", fit)
    job = forecasting.job_of(forecasting.SUNSPOTS)
    learnt = list(forecasting.learn(job, forecasting.SUNSPOTS))
    np.testing.assert_array_equal(np.concatenate([p.origins for p in learnt]), job.split.origins)
    assert len(stops) == 5
    assert stops[0] == job.split.stop
    assert all(part.params == part.origins[0] + 1 for part in learnt)  # the first origin is known


def test_the_defaults_of_a_series_are_its_own():
    assert forecasting.DEFAULTS["co2"].season == 52
    job = forecasting.job_of(dataclasses.replace(forecasting.SUNSPOTS, tuning=True))
    assert (job.split.stop, job.draws.horizon, job.model.scale) == (187, 11, "sqrt")
