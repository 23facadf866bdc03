"""What a forecast has to beat: seasonal naive, and exponential smoothing by statsmodels.

Beside them stands a linear autoregression, the oldest model of sunspots (Yule 1927).
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from statsmodels.tools.sm_exceptions import ConvergenceWarning, ModelWarning
from statsmodels.tsa.ar_model import ar_select_order
from statsmodels.tsa.holtwinters import ExponentialSmoothing

from examples.support.forecaster import filled

INSIDE = 0.8  # of the interval
EDGES = (0.5 - INSIDE / 2, 0.5 + INSIDE / 2)
DRAWS = 200  # trajectories behind an interval


class Forecast(NamedTuple):
    """Forecasts from several origins, and the interval that four in five values fall in."""

    middle: np.ndarray  # (H, O)
    low: np.ndarray
    high: np.ndarray


def of_trajectories(drawn: np.ndarray) -> Forecast:
    """Sum up trajectories (H, O, S): their median and quantiles."""
    low, middle, high = np.quantile(drawn, (EDGES[0], 0.5, EDGES[1]), axis=-1)
    return Forecast(middle, low, high)


def seasonal_naive(values: np.ndarray, season: int, origins: np.ndarray, horizon: int) -> Forecast:
    """Forecast that the last season comes again; in its gaps, the season before.

    ŷ_{t+h} = y_{t+h−m⌈h/m⌉}, with the standard error s √⌈h/m⌉, where s is that of the seasonal
    differences until then (Hyndman and Athanasopoulos, "Forecasting", 2021, 5.5).
    """
    seasons = np.arange(horizon) // season + 1  # back to what is known
    middle = np.stack([_last_season(values[: t + 1], season, horizon) for t in origins], axis=1)
    errors = [values[season : t + 1] - values[: t + 1 - season] for t in origins]
    spread = np.array([np.sqrt(np.nanmean(error**2)) for error in errors])
    reach = norm.ppf(EDGES[1]) * np.sqrt(seasons)[:, None] * spread[None]
    return Forecast(middle, middle - reach, middle + reach)


def _last_season(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
    whole = history[len(history) % season :].reshape(-1, season)
    by_phase = np.stack([filled(phase) for phase in whole.T])[:, -1]
    return np.resize(by_phase, horizon)


def smoothings(season: int) -> dict[str, dict]:
    """Four kinds of exponential smoothing, all of them additive."""
    damped = {"trend": "add", "damped_trend": True}
    seasonal = {"seasonal": "add", "seasonal_periods": season}
    return {
        "simple smoothing": {},
        "damped trend": damped,
        "seasonal smoothing": seasonal,
        "Holt–Winters": {"trend": "add", **seasonal},
    }


def autoregression(values: np.ndarray, season: int, origins: np.ndarray, horizon: int) -> Forecast:
    """Fit y_t = c + Σ φ_i y_{t−i} at each origin, anew; AIC chooses the lags, a season at most."""
    found = [_regress(interpolated(values[: t + 1]), season, horizon) for t in origins]
    return Forecast(*(np.stack(part, axis=1) for part in zip(*found, strict=True)))


def _regress(history: np.ndarray, season: int, horizon: int) -> tuple[np.ndarray, ...]:
    fitted = ar_select_order(history, maxlag=season, ic="aic").model.fit()
    ahead = fitted.get_prediction(len(history), len(history) + horizon - 1)
    low, high = ahead.conf_int(alpha=1 - INSIDE).T
    return ahead.predicted_mean, low, high


def smoothing(values: np.ndarray, kind: dict, origins: np.ndarray, horizon: int) -> Forecast:
    """Fit exponential smoothing to all that is known at each origin, anew, and forecast.

    Gaps are interpolated; intervals are of trajectories, with its residuals drawn anew.
    """
    found = [_smooth(interpolated(values[: t + 1]), kind, horizon) for t in origins]
    return Forecast(*(np.stack(part, axis=1) for part in zip(*found, strict=True)))


def _smooth(history: np.ndarray, kind: dict, horizon: int) -> tuple[np.ndarray, ...]:
    with warnings.catch_warnings():
        for category in (ConvergenceWarning, ModelWarning, RuntimeWarning):
            warnings.simplefilter("ignore", category)  # it says so, and uses the best it found
        fitted = ExponentialSmoothing(history, initialization_method="estimated", **kind).fit()
        residuals = np.random.default_rng(len(history)).choice(fitted.resid, (horizon, DRAWS))
        drawn = fitted.simulate(horizon, repetitions=DRAWS, random_errors=residuals)
        middle = fitted.forecast(horizon)
    low, high = np.quantile(drawn, EDGES, axis=-1)
    return middle, low, high


def interpolated(values: np.ndarray) -> np.ndarray:
    """Lay straight lines over gaps.

    Example:
        >>> interpolated(np.array([1.0, np.nan, np.nan, 4.0])).tolist()
        [1.0, 2.0, 3.0, 4.0]
    """
    seen = np.flatnonzero(~np.isnan(values))
    return np.interp(np.arange(len(values)), seen, values[seen])
