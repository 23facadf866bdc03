"""Forecasters that were kept, and what they say of the time after the end of a series."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from examples.support.forecast_baselines import of_trajectories
from examples.support.forecaster import Forecaster
from examples.support.kept import read_kept
from examples.support.series import Series, check_scale
from examples.support.stretches import Draws, draw_ahead


class Saved(NamedTuple):
    """A forecaster as it was kept."""

    model: Forecaster
    params: Any
    draws: Draws
    options: dict[str, Any]


def load(out: Path) -> Saved:
    """Read a forecaster back.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or a run of another example.
    """
    saved = read_kept(out, "forecasting", "model", Forecaster)[-1]  # it has learnt from most
    config, params = saved.config, jax.tree.map(jnp.asarray, saved.params)
    return Saved(config["model"], params, Draws(*config["draws"]), config["options"])


def say(saved: Saved, series: Series) -> None:
    """Print the forecast of every step after the end, and its interval.

    Raises:
        ValueError: the series is shorter than a season, or not of the scale.
    """
    count, season = len(series.values), saved.model.season
    if count <= season:
        raise ValueError(
            f"{series.name}: expected more than {season} values, a season; got {count}."
        )
    check_scale(series, saved.model.scale)
    end = np.array([count - 1])
    drawn = draw_ahead(saved.model, saved.params, series.values, end, saved.draws)
    print(f"{series.name}, after {count:,} values:\n step   forecast   80 % interval")
    for step, (middle, low, high) in enumerate(np.stack(of_trajectories(drawn))[..., 0].T, 1):
        print(f"{step:5} {middle:10.5g}   {low:.5g} … {high:.5g}")
