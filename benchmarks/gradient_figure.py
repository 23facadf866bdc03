"""The picture of the gradient benchmark: one line a cell, labelled where it leaves."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.optimize import isotonic_regression

from benchmarks import gradient_rows as read
from benchmarks import pictures
from benchmarks.gradient_rows import (
    AFTER,
    BEFORE,
    BIAS_0,
    BIAS_1,
    BIAS_3,
    CHRONO,
    GLOROT,
    GRU,
    IDENTITY,
    JANET,
    LSTM,
    MGU,
    MINIMAL,
    ORTHOGONAL,
    REFERENCE_LAG,
    RELU,
    RNN,
    SCALED,
    UPDATE_0,
)
from benchmarks.pictures import Line
from benchmarks.results import Results, Row

FLOOR, CEILING = -20.0, 3.0
MARK_EVERY = 7

LINES = {
    (RNN, GLOROT): Line(pictures.BLACK, "o"),
    (RNN, ORTHOGONAL): Line(pictures.BLACK, "s", style="--"),
    (RNN, SCALED): Line(pictures.BLACK, "D", style="-."),
    (RELU, GLOROT): Line(pictures.ORANGE, "v"),
    (RELU, IDENTITY): Line(pictures.ORANGE, "^", style="--"),
    (LSTM, BIAS_0): Line(pictures.SKY, "o", 1.8),
    (LSTM, BIAS_1): Line(pictures.BLUE, "s", 1.8),
    (LSTM, BIAS_3): Line(pictures.BLUE, "D", 1.8, "--"),
    (LSTM, CHRONO): Line(pictures.VERMILION, "X", 1.8),
    (GRU, UPDATE_0): Line(pictures.GREEN, "P"),
    (GRU, CHRONO): Line(pictures.GREEN, "*", style="--"),
    (MGU, BIAS_0): Line(pictures.PINK, "o"),
    (MINIMAL, UPDATE_0): Line(pictures.PINK, "v", style="-."),
    (JANET, BIAS_1): Line(pictures.PINK, "s"),
    (JANET, CHRONO): Line(pictures.PINK, "^", style="--"),
}
LIBRARIES = {
    "rnnjax": (pictures.BLUE, "s"),
    "flax": (pictures.ORANGE, "o"),
    "haiku": (pictures.GREEN, "D"),
    "equinox": (pictures.VERMILION, "^"),
}


class Drawn(NamedTuple):
    """A row as a line with its label."""

    row: Row
    line: Line
    label: str


def draw(results: Results) -> Figure:
    """Draw our cells at initialisation, the libraries' defaults, and cells around training."""
    rows = [row for row in results.rows if not row["skipped"]]
    figure = Figure(figsize=(11, 10), dpi=150, layout="constrained")
    panels = figure.subplot_mosaic([["ours", "ours"], ["defaults", "trained"]])
    _draw_ours(panels["ours"], read.initial(rows, "rnnjax"))
    _draw_defaults(panels["defaults"], read.initial(rows))
    _draw_trained(panels["trained"], rows)
    sizes = "N={N}, D={D}, x ~ N(0, 1)".format(**rows[0])
    figure.suptitle(f"What is left of a gradient k steps back; {sizes}", fontsize=11)
    return figure


def _draw_ours(axes: Axes, rows: list[Row]) -> None:
    _frame(axes, rows, "at initialisation")
    for row in rows:
        _draw_theory(axes, row)
    _draw_lines(
        axes,
        [
            Drawn(row, LINES[row["cell"], row["strategy"]], read.name(row) + _beyond(row))
            for row in rows
        ],
    )
    grey: dict[str, Any] = {"color": "0.4"}
    handles = [
        Line2D([], [], marker="o", markersize=4, **grey),
        Patch(alpha=0.25, linewidth=0, **grey),
        Line2D([], [], linestyle=":", **grey),
    ]
    labels = (
        "median over seeds and rows",
        "quartiles",
        "theory: $σ(b_f)^k$, an LSTM's path from c to c alone;\n"
        "$σ_{max}(W)^k$, a bound for a tanh RNN",
    )
    axes.legend(handles, labels, loc="lower left", fontsize=8, frameon=False)


def _beyond(row: Row) -> str:
    """Say where a line goes that leaves the axes above."""
    end = read.numbers(row, "median")[-1]
    return f"\n↑ to {read.power(end)}" if end > CEILING else ""


def _draw_defaults(axes: Axes, rows: list[Row]) -> None:
    shown = list(filter(read.is_default, rows))
    _frame(axes, shown, "as they come from each library")
    drawn = []
    for row in shown:
        color, marker = LIBRARIES[row["implementation"]]
        style = "-" if row["cell"] == LSTM else "--"
        label = f"{row['implementation']} {row['cell']}"
        drawn.append(Drawn(row, Line(color, marker, style=style), label))
    _draw_lines(axes, drawn)


def _draw_trained(axes: Axes, rows: list[Row]) -> None:
    after = [row for row in rows if row["stage"] == AFTER]
    steps = f"{after[0]['training_steps']:,} steps of " if after else ""
    title = f"on the adding problem,\nafter {steps}training (dotted: before)"
    _frame(axes, after, title)
    for row in rows:
        if row["stage"] == BEFORE:
            line = LINES[row["cell"], row["strategy"]]
            axes.plot(row["lags"], _drawable(row, "median"), color=line.color, linestyle=":")
    _draw_lines(
        axes,
        [Drawn(row, LINES[row["cell"], row["strategy"]], _with_error(row)) for row in after],
    )


def _with_error(row: Row) -> str:
    return f"{read.name(row)}\nMSE {row['mse']:.2g}"


def _frame(axes: Axes, rows: list[Row], title: str) -> None:
    """Set limits and ticks; lags stand above, because lines leave below and are labelled there."""
    longest = _longest(rows)
    axes.set_xscale("log")
    axes.set_xlim(1, longest)
    axes.set_ylim(FLOOR, CEILING)
    decades = [10**k for k in range(1 + int(math.log10(longest)))]
    axes.set_xticks(decades, [f"{lag:,}" for lag in decades])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("lag k (steps)", fontsize=9)
    axes.set_ylabel(r"$\log_{10}\ \|λ_{T-k}\|\,/\,\|λ_T\|$", fontsize=10)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _longest(rows: list[Row]) -> int:
    """Return the longest lag, or the power of ten by which every line has left below."""
    longest = max((row["lags"][-1] for row in rows), default=REFERENCE_LAG)
    if any(_drawable(row, "median")[-1] >= FLOOR for row in rows):
        return longest
    last = max((_exit(row) for row in rows), default=longest)
    return min(longest, 10 ** math.ceil(math.log10(last)))


def _draw_theory(axes: Axes, row: Row) -> None:
    """Draw what theory says where that is a decay, and write its factor where the line leaves."""
    rate = row["theory_log10_per_step"]
    if rate is None or rate > -1e-3:
        return
    color = LINES[row["cell"], row["strategy"]].color
    lags = np.array(row["lags"])
    axes.plot(lags, rate * lags, color=color, linestyle=":", linewidth=1.2)
    end = FLOOR / rate
    if end < 0.8 * lags[-1]:
        axes.text(1.02 * end, FLOOR + 0.4, f"${10**rate:.2g}^k$", color=color, fontsize=8)


def _draw_lines(axes: Axes, drawn: list[Drawn]) -> None:
    """Draw medians with their quartiles, and each label where its line leaves the axes."""
    for number, (row, line, _) in enumerate(drawn):
        lower, median, upper = (_drawable(row, name) for name in ("lower", "median", "upper"))
        axes.fill_between(row["lags"], lower, upper, color=line.color, alpha=0.15, linewidth=0)
        axes.plot(
            row["lags"],
            median,
            color=line.color,
            marker=line.marker,
            markersize=4,
            markevery=(number % MARK_EVERY, MARK_EVERY),
            linewidth=line.width,
            linestyle=line.style,
        )
    below = [one for one in drawn if _drawable(one.row, "median")[-1] < FLOOR]
    _label_below(axes, below)
    _label_right(axes, [one for one in drawn if one not in below])


def _drawable(row: Row, name: str) -> np.ndarray:
    """Return the numbers as matplotlib can draw them: far below the axes where they are −inf."""
    return np.maximum(read.numbers(row, name), -1e6)


def _label_right(axes: Axes, drawn: list[Drawn]) -> None:
    ends = [min(_drawable(one.row, "median")[-1], CEILING) for one in drawn]
    places = [(end - FLOOR) / (CEILING - FLOOR) for end in ends]
    lines = 1 + max((one.label.count("\n") for one in drawn), default=0)
    gap = 0.15 * lines / _inches(axes)[1]
    for one, end, place in zip(drawn, ends, spread(places, gap), strict=True):
        at, text_at = (one.row["lags"][-1], end), (1.03, place)
        _label(axes, one, at, text_at, (0.0, 0.5), va="center", ha="left")


def _label_below(axes: Axes, drawn: list[Drawn]) -> None:
    exits = [_exit(one.row) for one in drawn]
    longest = math.log(axes.get_xlim()[1])
    places = [math.log(lag) / longest for lag in exits]
    gap = 0.2 / _inches(axes)[0]
    for one, lag, place in zip(drawn, exits, spread(places, gap), strict=True):
        turned: dict[str, Any] = {"rotation": -50, "rotation_mode": "anchor"}
        at, text_at = (lag, FLOOR), (place, -0.06)
        flat = one._replace(label=one.label.replace("\n", ", "))
        _label(axes, flat, at, text_at, (0.0, 1.0), va="center", ha="left", **turned)


def _label(axes: Axes, one: Drawn, at: tuple, text_at: tuple, corner: tuple, **text: Any) -> None:
    """Write a label outside of the axes, with a thin stroke from the end of its line."""
    stroke = {"arrowstyle": "-", "color": one.line.color, "linewidth": 0.6, "shrinkB": 0}
    axes.annotate(
        one.label,
        at,
        text_at,
        xycoords="data",
        textcoords="axes fraction",
        color=one.line.color,
        fontsize=7.5,
        annotation_clip=False,
        arrowprops={**stroke, "relpos": corner},
        **text,
    )


def _exit(row: Row) -> float:
    """Return the lag at which the median leaves the axes."""
    median = _drawable(row, "median")
    after = int(np.argmax(median < FLOOR))
    if after == 0:
        return row["lags"][0]
    pair = slice(after - 1, after + 1)
    return float(np.interp(-FLOOR, -median[pair], row["lags"][pair]))


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart, to at least a gap, and as little as can be.

    Example:
        >>> [round(place, 2) for place in spread([0.5, 0.0, 0.5], 0.2)]
        [0.4, 0.0, 0.6]
    """
    if not places:
        return []
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = isotonic_regression(np.array(places)[order] - steps).x + steps
    return moved[np.argsort(order)].tolist()


def _inches(axes: Axes) -> np.ndarray:
    """Return about how wide and high the axes will be; labels outside will make them smaller."""
    return 0.85 * np.asarray(axes.bbox.size) / axes.figure.dpi
