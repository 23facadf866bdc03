"""What is taken for what, and how much of a series has to be heard."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from examples.support.figures import FAINT, INK, POINTS, SERIES
from examples.support.series_baselines import NEAREST, REGRESSION


def draw(scores: dict[str, Any]) -> Figure:
    """The confusion matrix of all seeds; accuracy against steps."""
    figure = Figure(figsize=(12, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    draw_confusion(left, np.array(scores["confusion"]), scores["classes"])
    draw_steps(right, scores)
    return figure


def draw_confusion(ax: Axes, counts: np.ndarray, classes: list[str]) -> None:
    """A row for each class, the share of it that is taken for each; mistakes as numbers."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        colour = "white" if row == column else POINTS
        text = str(counts[row, column])
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    ax.set_xticks(range(len(classes)), classes)
    ax.set_yticks(range(len(classes)), classes)
    ax.tick_params(length=0)
    ax.set(xlabel="taken for", ylabel="class", title="series of the test, all seeds")


def draw_steps(ax: Axes, scores: dict[str, Any]) -> None:
    """The share that is right of the first steps, beside logistic regression on as many."""
    steps = np.arange(1, len(scores["by_steps"]) + 1)
    each = np.array([seed["by_steps"] for seed in scores["seeds"]])
    if len(each) > 1:
        ax.fill_between(steps, each.min(0), each.max(0), color=SERIES, alpha=0.2, linewidth=0)
    ax.plot(
        steps,
        scores["by_steps"],
        color=SERIES,
        label="BiGRU that has learnt whole series, range of seeds",
    )
    label = f"{REGRESSION}, learnt anew for each number of steps"
    ax.plot(steps, scores["baseline_by_steps"], color=POINTS, linestyle="--", label=label)
    level = scores["baselines"][NEAREST]
    label = f"{NEAREST}, all steps"
    ax.axhline(level, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), label=label)
    ax.set(xlabel="steps heard", ylabel="right", xlim=(1, len(steps)), ylim=(None, 1.003))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower right", frameon=False, labelcolor=INK)
    ax.spines[["top", "right"]].set_visible(False)
