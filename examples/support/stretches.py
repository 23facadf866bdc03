"""Stretches of a series: what a forecaster learns from, and what it knows at an origin.

The last fifth of a series is forecast from rolling origins: every so many steps one stands at y_t,
knows all until then, and forecasts the next ones. What comes before that fifth is learnt from.
"""

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from examples.support.forecaster import (
    Batch,
    Forecaster,
    filled,
    from_scale,
    inputs,
    to_scale,
    trajectories,
    windows,
)
from examples.support.series import Series

SHARE = 5  # one part in so many is forecast
SEASONS = 4  # that a stretch to learn from, or to forecast by, is long


class Split(NamedTuple):
    """Where learning ends, and where one stands to forecast."""

    stop: int  # values before it are learnt from
    origins: np.ndarray  # (O,): numbers of the last value that is known


def split(series: Series, season: int, horizon: int, every: int, tuning: bool) -> Split:
    """Cut off the last fifth; to choose options on, the fifth before, as if that were the end.

    Raises:
        ValueError: there is too little of the series.
    """
    n = len(series.values)
    least = next(k for k in itertools.count(n) if _is_enough(_cut(k, tuning), season, horizon))
    if n < least:
        raise ValueError(
            f"{series.name}: expected at least {least} values, for a season of {season} and a "
            f"horizon of {horizon} steps; got {n}. Give a longer series, or a smaller --season or "
            "--horizon."
        )
    stop, end = _cut(n, tuning)
    origins = np.arange(stop - 1, end - horizon, every)
    return Split(stop, origins[~np.isnan(series.values[origins])])


def _cut(n: int, tuning: bool) -> tuple[int, int]:
    """Where a fifth of n values begins and ends: the last one, or the one before."""
    part = n // SHARE
    return (n - 2 * part, n - part) if tuning else (n - part, n)


def _is_enough(cut: tuple[int, int], season: int, horizon: int) -> bool:
    stop, end = cut
    return stop >= 3 * season and end - stop > horizon


def ahead(values: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """What came after each origin, (horizon, O).

    Example:
        >>> ahead(np.arange(10.0), np.array([2, 5]), 3).tolist()
        [[3.0, 6.0], [4.0, 7.0], [5.0, 8.0]]
    """
    return values[1 + np.arange(horizon)[:, None] + origins[None]]


class Draws(NamedTuple):
    """How many trajectories are drawn, how far, by which seed."""

    horizon: int
    samples: int  # of each member
    seed: int


class Known:
    """A series as a forecaster sees it.

    Args:
        model: what sees it.
        values: (n,), NaN for gaps.
    """

    def __init__(self, model: Forecaster, values: np.ndarray):
        scaled = to_scale(model.scale, filled(values)).astype(np.float32)
        self._season, seen = model.season, ~np.isnan(values)
        self._pasts = windows(scaled, model.season)
        self._xs = np.asarray(inputs(model, self._pasts))
        self._seen = seen[model.season :]
        last = np.zeros(1, np.float32)
        self._targets = np.append(
            np.diff(self._pasts[:, -1]) / np.float32(model.units.change), last
        )
        self._counted = self._seen & np.append(self._seen[1:], False)

    def before(self, origins: np.ndarray, length: int) -> Batch:
        """Stretches that end at origins; where the series had not begun yet, gaps."""
        rows = origins[None] - self._season + np.arange(1 - length, 1)[:, None]
        return self._batch(rows, rows >= 0)

    def pasts(self, origins: np.ndarray) -> np.ndarray:
        """The season before each origin and the origin, (O, m + 1), on the scale."""
        return self._pasts[origins - self._season]

    def draw(self, stop: int, length: int, generator: np.random.Generator, size: int) -> Batch:
        """Draw stretches to learn from; the last target stands before `stop`."""
        last = stop - self._season - 1 - length
        starts = generator.integers(0, max(last, 0) + 1, size)
        rows = starts[None] + np.arange(length)[:, None]
        return self._batch(rows, rows < stop - self._season - 1)

    def _batch(self, rows: np.ndarray, here: np.ndarray) -> Batch:
        rows = np.clip(rows, 0, len(self._xs) - 1)
        seen, counted = self._seen[rows] & here, self._counted[rows] & here
        return Batch(self._xs[rows], seen, self._targets[rows], counted)


def draw_ahead(
    model: Forecaster, params: Any, values: np.ndarray, origins: np.ndarray, draws: Draws
) -> np.ndarray:
    """Draw what may come after each origin: (H, O, members · samples)."""
    known = Known(model, values)
    drawn = trajectories(
        model,
        params,
        known.before(origins, SEASONS * model.season),
        known.pasts(origins),
        jax.random.key(draws.seed),
        horizon=draws.horizon,
        samples=draws.samples,
    )
    return from_scale(model.scale, np.asarray(drawn, float))
