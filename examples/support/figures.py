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
    validation: Mapping[float, float],
    levels: Mapping[str, float],
    x_label: str,
    y_label: str,
) -> None:
    """Draw training and validation losses, and baselines as horizontal lines, each labelled.

    Args:
        path: where the picture goes; its suffix chooses the format.
        seen: what the loss is drawn against, (n,).
        training: the loss at each, (n,); drawn smoothed over 1/50 of the run.
        validation: a loss by what had been seen then.
        levels: each baseline's loss by its name.
        x_label: what is seen.
        y_label: the loss and its unit.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    smooth = _smoothed(np.asarray(training), max(1, len(training) // 50))
    axes.plot(seen, smooth, color=SERIES, linewidth=1.2)
    axes.plot(list(validation), list(validation.values()), "o-", color=POINTS, markersize=4)
    for level in levels.values():
        axes.axhline(level, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    lowest = min([*levels.values(), *validation.values(), smooth.min()])
    highest = max([*levels.values(), *validation.values()])
    margin = 0.06 * (highest - lowest)
    axes.set_ylim(lowest - margin, highest + 2 * margin)  # the first steps may lie above
    axes.set_xlim(0, seen[-1])
    labels = [(level, name, INK) for name, level in levels.items()]
    labels.append((validation[max(validation)], "validation", POINTS))
    labels.append((float(smooth[-1]), "training", SERIES))
    _label_right(axes, labels)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
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
