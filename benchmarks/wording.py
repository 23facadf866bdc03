"""Figures in words and in tables."""

import statistics
from collections.abc import Sequence

from benchmarks.results import Row


def short(value: float) -> str:
    """Write a number with two significant digits and no exponent.

    Example:
        >>> short(1234.5), short(0.0456)
        ('1,200', '0.046')
    """
    return f"{float(f'{value:.2g}'):,g}"


def span(ratios: Sequence[float]) -> str:
    """Write the range of some ratios.

    Example:
        >>> span([0.51, 2.0, 1.0])
        '0.51–2×'
    """
    low, high = short(min(ratios)), short(max(ratios))
    return f"{low}×" if low == high else f"{low}–{high}×"


def mean_span(ratios: Sequence[float]) -> str:
    """Write the geometric mean of some ratios with their range.

    Example:
        >>> mean_span([0.5, 2.0, 1.0])
        '1× (0.5–2×)'
    """
    return f"{short(statistics.geometric_mean(ratios))}× ({span(ratios)})"


def entry(row: Row, figure: str) -> str:
    """Write a figure for a table, bytes in MB; a dash for what was not measured.

    Example:
        >>> row = {"milliseconds": None, "peak_bytes": 1_234_567}
        >>> entry(row, "milliseconds"), entry(row, "peak_bytes")
        ('—', '1.23')
    """
    if row[figure] is None:
        return "—"
    value = row[figure] / 1e6 if figure.endswith("_bytes") else row[figure]
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
