"""Pictures of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy.optimize import isotonic_regression

INK, FAINT, SERIES, POINTS = "#333333", "#9a9a9a", "#2a6fbb", "#c2410c"


def learning_curve(
    path: Path,
    seen: Sequence[float],
    training: Sequence[float],
    points: Mapping[float, float],
    levels: Mapping[str, float],
    labels: tuple[str, str],
    points_label: str = "validation",
) -> None:
    """Draw training losses, some of another text, and baselines as horizontal lines, labelled.

    Args:
        path: where the picture goes; its suffix chooses the format.
        seen: what the loss is drawn against, (n,).
        training: the loss at each, (n,); drawn smoothed over 1/50 of the run.
        points: a loss on another text by what had been seen then.
        levels: each baseline's loss by its name.
        labels: of the axes: what is seen; the loss and its unit.
        points_label: what the points are of.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    smooth = _smoothed(np.asarray(training), max(1, len(training) // 50))
    axes.plot(seen, smooth, color=SERIES, linewidth=1.2)
    axes.plot(list(points), list(points.values()), "o-", color=POINTS, markersize=4)
    for level in levels.values():
        axes.axhline(level, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    lowest = min([*levels.values(), *points.values(), smooth.min()])
    highest = max([*levels.values(), *points.values()])
    margin = 0.06 * (highest - lowest)
    axes.set_ylim(lowest - margin, highest + 2 * margin)  # the first steps may lie above
    axes.set_xlim(0, seen[-1])
    named = [(level, name, INK) for name, level in levels.items()]
    named.append((points[max(points)], points_label, POINTS))
    named.append((float(smooth[-1]), "training", SERIES))
    _label_right(axes, named)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the last `width` values, of fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - width, 0)
    return (total[end] - total[begin]) / (end - begin)


def _label_right(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Write (level, name, colour) to the right of the axes, moved apart where they would touch."""
    labels = sorted(labels)
    low, high = axes.get_ylim()
    heights = _apart([(level - low) / (high - low) for level, _, _ in labels], 0.055)
    for (level, name, colour), height in zip(labels, heights, strict=True):
        axes.text(
            1.015,
            height,
            f"{name} {level:.2f}",
            transform=axes.transAxes,
            color=colour,
            fontsize=9,
            va="center",
        )


def _apart(heights: Sequence[float], gap: float) -> np.ndarray:
    """The heights, ascending, moved apart to a gap as little (in squares) as that needs."""
    gaps = gap * np.arange(len(heights))
    return isotonic_regression(heights - gaps).x + gaps
