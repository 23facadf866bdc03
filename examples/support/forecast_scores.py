"""How good forecasts are, at each horizon and over all.

MASE      mean |y − ŷ| / mean |y_t − y_{t−m}|, the latter where it is learnt from: the mean
          absolute scaled error (Hyndman and Koehler 2006); 1 is what seasonal naive errs there
coverage  the share of values inside the interval, which should be 80 %
width     high − low by the same scale: of two that cover as much, the narrower one is better
"""

from typing import NamedTuple

import numpy as np

from examples.support.forecast_baselines import Forecast


class Scores(NamedTuple):
    """By horizon, (H,) each."""

    mase: np.ndarray
    coverage: np.ndarray
    width: np.ndarray


def seasonal_error(values: np.ndarray, season: int) -> float:
    """The mean absolute error of seasonal naive, where both values were measured.

    Example:
        >>> seasonal_error(np.array([1.0, 2.0, 4.0, np.nan, 5.0]), 2)
        2.0
    """
    return float(np.nanmean(np.abs(values[season:] - values[:-season])))


def score(forecast: Forecast, came: np.ndarray, scale: float) -> Scores:
    """Score forecasts of what came (H, O), NaN at gaps, which do not count.

    Example:
        >>> forecast = Forecast(*np.array([[[3.0, 3.0]], [[1.0, 1.0]], [[4.0, 4.0]]]))
        >>> found = score(forecast, np.array([[4.0, 6.0]]), 2.0)
        >>> [part.tolist() for part in found]
        [[1.0], [0.5], [1.5]]
    """
    missing = np.isnan(came)
    inside = np.where(missing, np.nan, (forecast.low <= came) & (came <= forecast.high))
    width = np.where(missing, np.nan, forecast.high - forecast.low)
    error = np.abs(came - forecast.middle)
    return Scores(
        np.nanmean(error, axis=1) / scale,
        np.nanmean(inside, axis=1),
        np.nanmean(width, axis=1) / scale,
    )
