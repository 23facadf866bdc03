"""Lines and axes of the pictures, alike in all of them."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

from benchmarks.results import Row

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLACK, BLUE, SKY, GREEN = "#000000", "#0072b2", "#56b4e9", "#009e73"
PINK, VERMILION, ORANGE = "#cc79a7", "#d55e00", "#e69f00"


class Line(NamedTuple):
    """How a line is drawn: also its marker tells it from others, for print in grey."""

    color: str
    marker: str
    width: float = 1.2
    style: str = "-"


def draw_line(axes: Axes, rows: list[Row], line: Line, value: Callable[[Row], float]) -> None:
    """Draw a value against T, with nothing where a row was skipped."""
    measured = [row for row in rows if not row["skipped"]]
    axes.plot(
        [row["T"] for row in measured],
        [value(row) for row in measured],
        color=line.color,
        marker=line.marker,
        markersize=4,
        linewidth=line.width,
        linestyle=line.style,
    )


def log_log(axes: Axes, times: Iterable[int], unit: str = "") -> None:
    """Make both axes logarithmic, ticks in plain numbers or, with a unit, in its multiples."""
    times = sorted(set(times))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(times, [f"{T:,}" for T in times])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain = FuncFormatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_major_formatter(EngFormatter(unit) if unit else plain)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=7)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
