"""The picture of a run of the forecasting example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from examples.support.figures import FAINT, INK, POINTS, SERIES
from examples.support.series import Series

if TYPE_CHECKING:
    from examples.support.forecast_results import Results

SHOWN, LINES = 3, 4  # origins, and trajectories from each, that are drawn
COLOURS = (POINTS, "#009e73", "#cc79a7", "#e69f00", "#999999", INK)  # of all but the network


def draw(series: Series, origins: np.ndarray, results: Results) -> Figure:
    """Forecasts from some origins; below, the scores at each horizon."""
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    top, bottom = halves
    left, right = bottom.subplots(1, 2)
    draw_forecasts(top.subplots(), series, origins, results)
    draw_errors(left, results)
    draw_coverage(right, results)
    bottom.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_forecasts(axes: Axes, series: Series, origins: np.ndarray, results: Results) -> None:
    """The series, and what was forecast from a few origins."""
    horizon = len(results.drawn)
    shown = slice(max(0, origins[0] - horizon), origins[-1] + horizon + 1)
    axes.plot(series.times[shown], series.values[shown], color=INK, lw=1.1, label="measured")
    for k in np.linspace(0, len(origins) - 1, SHOWN).astype(int):
        axes.axvline(float(series.times[origins[k]]), color=FAINT, lw=0.8, ls=":")
        draw_outlook(axes, series.times[origins[k] + 1 + np.arange(horizon)], results, k)
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))  # one stands for all of its name
    axes.legend(unique.values(), unique.keys(), loc="upper left", ncols=5, frameon=False)
    axes.set(xlabel=series.labels[0], ylabel=series.labels[1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.01)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.12 * (high - low))  # for the legend
    axes.spines[["top", "right"]].set_visible(False)


def draw_outlook(axes: Axes, when: np.ndarray, results: Results, k: int) -> None:
    """What was forecast from one origin, by the network and by the best baseline."""
    best = results.baselines[0]
    ours, other = results.forecasts["GRU"], results.forecasts[best]
    band = (ours.low[:, k], ours.high[:, k])
    axes.fill_between(when, *band, color=SERIES, alpha=0.18, lw=0, label="80 % interval")
    some = results.drawn[:, k, :: results.drawn.shape[-1] // LINES]  # of each network
    axes.plot(when, some, color=SERIES, alpha=0.35, lw=0.6, label="what may come")
    axes.plot(when, ours.middle[:, k], color=SERIES, lw=1.6, label="GRU, median")
    axes.plot(when, other.middle[:, k], color=POINTS, lw=1.2, ls="--", label=best)


def draw_errors(axes: Axes, results: Results) -> None:
    """MASE at each horizon."""
    for name, colour, scores in _looks(results):
        steps = np.arange(1, len(scores.mase) + 1)
        axes.plot(steps, scores.mase, color=colour, lw=2 if colour == SERIES else 1.1, label=name)
    axes.set(xlabel="steps ahead", ylabel="MASE", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)


def draw_coverage(axes: Axes, results: Results) -> None:
    """The share of values in the interval at each horizon."""
    for _, colour, scores in _looks(results):
        steps = np.arange(1, len(scores.coverage) + 1)
        axes.plot(steps, scores.coverage, color=colour, lw=2 if colour == SERIES else 1.1)
    axes.axhline(0.8, color=INK, lw=0.9, ls=(0, (4, 3)))
    axes.set(xlabel="steps ahead", ylabel="inside the 80 % interval", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)


def _looks(results: Results) -> list[tuple]:
    """Name, colour and scores of everybody."""
    others = [*results.baselines, *(n for n in results.scores if n not in results.baselines)]
    colours = dict(zip([n for n in others if n != "GRU"], COLOURS, strict=True))
    return [(n, colours.get(n, SERIES), scores) for n, scores in results.scores.items()]
