"""Unrolled networks as boxes and arrows, each with its score beside that of a control."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# Light, dark and white, so that the rows stay apart in grey, too.
INPUT, STATE, OUTPUT = "#f0c068", "#0072b2", "white"
INK, CONTROL = "0.15", "0.75"
ROWS = {0.0: "input", 1.9: "state", 3.8: "output"}  # the foot of each row of boxes
WIDTH, PITCH = 1.0, 1.45  # of a box, and from one box to the next


class Panel(NamedTuple):
    """One network with what it read and wrote; shares are in [0, 1]."""

    title: str
    asks: str
    inputs: Sequence[str]  # one a step, from the first
    outputs: Sequence[str]  # one a step, from step `first`, counted from 0
    first: int
    right: float
    without: str  # what the control lacks
    control_right: float  # NaN where it was not trained
    chance: float

    @property
    def steps(self) -> int:
        """How many states there are."""
        return max(len(self.inputs), self.first + len(self.outputs))


def draw(panels: Sequence[Panel], notes: str) -> Figure:
    """The diagrams in rows of three, a bar for each network and its control below; then notes."""
    down, steps = len(panels) // 3 + 1, max(panel.steps for panel in panels)
    figure = Figure(figsize=(13.5, 5 * down))
    for i, panel in enumerate(panels):
        left, foot = i % 3 / 3 + 0.015, 1 - (i // 3 + 1) / down
        diagram = figure.add_axes((left, foot + 0.29 / down, 0.31, 0.7 / down))
        _diagram(diagram, panel, PITCH * (steps - panel.steps) / 2)
        _bars(figure.add_axes((left + 0.02, foot + 0.05 / down, 0.28, 0.2 / down)), panel)
    left, middle = len(panels) % 3 / 3 + 0.035, 1 - (len(panels) // 3 + 0.45) / down
    figure.text(left, middle, notes, va="center", fontsize=13, linespacing=1.7)
    return figure


def _diagram(ax: Axes, panel: Panel, spare: float) -> None:
    right = PITCH * (panel.steps - 1) + WIDTH
    ax.set(xlim=(-spare - 1.9, right + spare + 0.2), ylim=(-0.1, 7.5), aspect="equal")
    ax.axis("off")
    ax.text(right / 2, 7, panel.title, ha="center", fontsize=16, weight="bold")
    ax.text(right / 2, 5.35, panel.asks, ha="center", fontsize=13, linespacing=1.3)
    low, middle, high = ROWS
    for y, name in ROWS.items():
        ax.text(-0.3, y + WIDTH / 2, name, ha="right", va="center", fontsize=12)
    for t in range(panel.steps):
        x = PITCH * t
        _box(ax, x, middle, STATE)
        if t:
            _arrow(ax, (x - PITCH + WIDTH, middle + WIDTH / 2), (x, middle + WIDTH / 2))
        if t < len(panel.inputs):
            _box(ax, x, low, INPUT, panel.inputs[t])
            _arrow(ax, (x + WIDTH / 2, low + WIDTH), (x + WIDTH / 2, middle))
        if 0 <= t - panel.first < len(panel.outputs):
            _box(ax, x, high, OUTPUT, panel.outputs[t - panel.first])
            _arrow(ax, (x + WIDTH / 2, middle + WIDTH), (x + WIDTH / 2, high))
        if max(panel.first + 1, len(panel.inputs)) <= t:  # what was written goes back in
            _arrow(ax, (x - PITCH + WIDTH, high), (x + 0.15, middle + WIDTH), "--")


def _box(ax: Axes, x: float, y: float, face: str, words: str = "") -> None:
    ax.add_patch(Rectangle((x, y), WIDTH, WIDTH, facecolor=face, edgecolor=INK, linewidth=1.2))
    size = 14 if len(words) < 3 else 10
    ax.text(x + WIDTH / 2, y + WIDTH / 2 - 0.03, words, ha="center", va="center", fontsize=size)


def _arrow(ax: Axes, start, end, style: str = "-") -> None:
    looks = {"arrowstyle": "-|>", "linestyle": style, "color": INK, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=looks)


def _bars(ax: Axes, panel: Panel) -> None:
    values = [panel.right, panel.control_right]
    bars = ax.barh([0, 1.6], values, height=0.6, color=[STATE, CONTROL], edgecolor=INK)
    control = "not trained" if math.isnan(panel.control_right) else f"{panel.control_right:.1%}"
    scores = [f"{panel.right:.1%}", f"{control} (chance {panel.chance:.1%})"]
    words = ["this shape", f"without {panel.without}"]
    ends = [panel.right, np.fmax(panel.control_right, panel.chance)]
    for bar, end, score, word in zip(bars, ends, scores, words, strict=True):
        ax.text(end + 0.03, bar.get_y() + 0.3, score, va="center", fontsize=12)
        ax.text(0, bar.get_y() - 0.2, word, fontsize=12)
    ax.plot([panel.chance] * 2, [1.32, 1.88], color="black", linewidth=3)
    ax.set(xlim=(-0.02, 1.25), ylim=(2.1, -0.9))
    ax.axis("off")
