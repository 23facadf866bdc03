"""What a run of the forecasting example leaves: lines to read, scores, a picture."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from examples.support import forecast_baselines, forecast_figures, machine
from examples.support.forecast_baselines import Forecast, of_trajectories
from examples.support.forecast_scores import Scores, score, seasonal_error
from examples.support.forecaster import Forecaster
from examples.support.series import Series
from examples.support.stretches import Draws, Split, ahead, draw_ahead

FILES = SCORES, HORIZONS, PICTURE = ("scores.json", "horizons.csv", "picture.png")
NETWORK, NAIVE, LINEAR = "GRU", "seasonal naive", "autoregression"


class Job(NamedTuple):
    """A series, what forecasts it, and from where."""

    series: Series
    model: Forecaster
    split: Split
    draws: Draws


class Learnt(NamedTuple):
    """What networks learnt, and the origins that they forecast from."""

    origins: np.ndarray
    params: Any
    seconds: float


class Results(NamedTuple):
    """What everybody forecast, and how well."""

    drawn: np.ndarray  # (H, O, S), trajectories of the network
    forecasts: dict[str, Forecast]
    scores: dict[str, Scores]

    @property
    def baselines(self) -> list[str]:
        """Seasonal naive and smoothing by name, the best over all horizons first."""
        names = [name for name in self.scores if name not in (NETWORK, LINEAR)]
        return sorted(names, key=lambda name: self.scores[name].mase.mean())


def compare(job: Job, learnt: Sequence[Learnt]) -> Results:
    """Forecast from every origin with the network and with each baseline, and score them."""
    values, origins, horizon = job.series.values, job.split.origins, job.draws.horizon
    season = job.model.season
    drawn = np.concatenate(
        [draw_ahead(job.model, p.params, values, p.origins, job.draws) for p in learnt], axis=1
    )
    forecasts = {
        NETWORK: of_trajectories(drawn),
        NAIVE: forecast_baselines.seasonal_naive(values, season, origins, horizon),
    }
    for name, kind in forecast_baselines.smoothings(season).items():
        forecasts[name] = forecast_baselines.smoothing(values, kind, origins, horizon)
    forecasts[LINEAR] = forecast_baselines.autoregression(values, season, origins, horizon)
    came = ahead(values, origins, horizon)
    scale = seasonal_error(values[: job.split.stop], season)
    scores = {name: score(forecast, came, scale) for name, forecast in forecasts.items()}
    return Results(drawn, forecasts, scores)


def summary(scores: Scores) -> dict[str, dict[str, float]]:
    """The scores of one step, and their means over all horizons."""
    return {
        "one_step": {name: float(row[0]) for name, row in scores._asdict().items()},
        "all_steps": {name: float(row.mean()) for name, row in scores._asdict().items()},
    }


def ratios(results: Results, others: Sequence[str]) -> dict[str, float]:
    """The network's MASE by that of the best of others, which is another one for each."""
    rows = {name: summary(scores) for name, scores in results.scores.items()}
    return {
        part: rows[NETWORK][part]["mase"] / min(rows[name][part]["mase"] for name in others)
        for part in ("one_step", "all_steps")
    }


def say(results: Results) -> None:
    """Print the scores, and how the network stands to the best baseline."""
    horizon, origins, _ = results.drawn.shape
    print(f"{origins} origins{'':14}one step             all of {horizon} steps")
    print(f"{'':22}MASE  inside 80 %    MASE  inside 80 %  width")
    for name, scores in results.scores.items():
        one, every = summary(scores).values()
        print(
            f"{name:20} {one['mase']:5.3f}  {one['coverage']:11.1%}   {every['mase']:5.3f}  "
            f"{every['coverage']:11.1%}  {every['width']:5.2f}"
        )
    for name, others in (
        ("the best of naive and smoothing", results.baselines),
        (LINEAR, [LINEAR]),
    ):
        one, every = ratios(results, others).values()
        print(f"MASE by that of {name}: {one:.2f} at one step, {every:.2f} over all")


def keep(out: Path, job: Job, results: Results, options: dict[str, Any], seconds: float) -> None:
    """Write the scores, by horizon too, and the picture."""
    scores = {
        "scores": {name: summary(rows) for name, rows in results.scores.items()},
        "mase_by_best_baseline": ratios(results, results.baselines),
        "mase_by_autoregression": ratios(results, [LINEAR]),
        "origins": len(job.split.origins),
        "learnt_from": job.split.stop,
        "values": len(job.series.values),
        "training_seconds": seconds,
        "options": options,
        "device": machine.device(),
        "versions": machine.versions("jax", "optax", "rnnjax", "statsmodels"),
    }
    text = json.dumps(scores, indent=2, ensure_ascii=False, default=str)
    (out / SCORES).write_text(text + "\n", "utf-8")
    write_horizons(out / HORIZONS, results)
    figure = forecast_figures.draw(job.series, job.split.origins, results)
    figure.savefig(out / PICTURE, dpi=150)
    print(f"See {out / PICTURE}.")


def write_horizons(path: Path, results: Results) -> None:
    """One row a method and horizon."""
    rows = [
        [name, step, *(f"{value:.6g}" for value in at)]
        for name, scores in results.scores.items()
        for step, at in enumerate(zip(*scores, strict=True), 1)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["method", "step", *Scores._fields], *rows])
