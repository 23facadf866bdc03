"""What the rows of the gradient benchmark are called, and how words and pictures read them."""

import math

import numpy as np

from benchmarks import wording
from benchmarks.results import Row

T_MAX = 200
FACTOR = 1e-3  # Where a gradient counts as gone.
REFERENCE_LAG = 100
NAMED_LAGS = (1, 10, 50, 100, 200, 1_000, 10_000)
CURVE_POINTS = 60

ADDING_TIME = 100  # T of the adding problem.
GUESS_MSE = 1 / 6  # The variance of the sum of two numbers from U[0, 1].

INITIAL, BEFORE, AFTER = "at initialisation", "before training", "after training"

RNN, RELU, LSTM, GRU = "tanh RNN", "ReLU RNN", "LSTM", "GRU"
MGU, JANET, MINIMAL = "MGU", "JANET", "MinimalRNN"
GLOROT, ORTHOGONAL, SCALED = "Glorot", "orthogonal", "0.9 × orthogonal"
IDENTITY, CHRONO, DEFAULTS = "identity", f"chrono {T_MAX}", "as it comes"
BIAS_0, BIAS_1, BIAS_3 = "forget bias 0", "forget bias 1", "forget bias 3"
UPDATE_0 = "update bias 0"

OUR_DEFAULTS = {LSTM: BIAS_1, GRU: UPDATE_0}


def left(row: Row, lag: int = REFERENCE_LAG) -> str:
    """Write what is left of the gradient at a lag, by default 100 or the longest."""
    return power(log10(row, lag))


def power(log10: float) -> str:
    """Write a number of which the logarithm is known; below 10^−300 there is no float.

    Example:
        >>> power(-1.0), power(-17.46), power(float("-inf"))
        ('0.1', '10^−17.5', '0')
    """
    if log10 == -math.inf:
        return "0"
    return wording.short(10**log10) if -3.5 < log10 < 3 else f"10^{signed(log10)}"


def signed(value: float) -> str:
    """Write a number to one digit with a true minus sign."""
    return f"{value:.1f}".replace("-", "−")


def log10(row: Row, lag: int = REFERENCE_LAG) -> float:
    """Return log10 of the median ratio at a lag, or at the longest where that is shorter."""
    place = row["lags"].index(min(lag, row["lags"][-1]))
    return float(numbers(row, "median")[place])


def numbers(row: Row, name: str) -> np.ndarray:
    """Return log10 of a quantile's ratios by lag; zero as −inf."""
    values = row[f"log10_ratio_{name}"]
    return np.array([-math.inf if value is None else value for value in values])


def horizon(row: Row) -> str:
    """Write after how many steps the gradient counts as gone."""
    steps = row["horizon_steps"]
    return f"over {row['lags'][-1]:,}" if steps is None else f"{steps:,.0f}"


def lag(rows: list[Row]) -> int:
    """Return the lag that is compared: 100, or the longest."""
    return min(REFERENCE_LAG, rows[0]["lags"][-1])


def listed(texts: dict[str, str]) -> str:
    """Write entries with their names in brackets."""
    return ", ".join(f"{text} ({name})" for name, text in texts.items())


def joined(names: list[str]) -> str:
    """Write names with commas and a last “and”."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def name(row: Row) -> str:
    """Name the line of a row."""
    return f"{row['cell']}, {row['strategy']}"


def initial(rows: list[Row], implementation: str | None = None) -> list[Row]:
    """Return the rows at initialisation, of one library or of all."""
    rows = [row for row in rows if row["stage"] == INITIAL]
    return [row for row in rows if implementation in (None, row["implementation"])]


def of_cell(rows: list[Row], cell: str) -> list[Row]:
    """Return the rows of one kind of cell."""
    return [row for row in rows if row["cell"] == cell]


def is_default(row: Row) -> bool:
    """Say whether a row is a cell as it comes."""
    return row["strategy"] in (DEFAULTS, OUR_DEFAULTS.get(row["cell"]))
