"""The picture of the parallel benchmark: who overtakes the loop, and where, along each axis."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import pictures
from benchmarks.parallel_rows import (
    AXES,
    BLOCKED,
    CHUNKED,
    FULL_CELLS,
    HOISTED,
    PLAIN,
    SEQUENTIAL,
    YARDSTICK,
    Turns,
    along,
    base_of,
    turns,
)
from benchmarks.pictures import Line, log_log
from benchmarks.results import Results
from benchmarks.speed_rows import PASSES

LINES = {
    HOISTED: Line(pictures.BLUE, "v"),
    CHUNKED: Line(pictures.SKY, "s"),
    PLAIN: Line(pictures.VERMILION, "o", 2.0),
    BLOCKED: Line(pictures.ORANGE, "D", 2.0),
    YARDSTICK[1]: Line("#777777", "^", 1.2, "--"),
}


def draw(results: Results) -> Figure:
    """Draw a row for each cell and pass, a panel for each axis, a line for each strategy."""
    found = turns(results.rows)
    kinds = [(cell, direction) for cell in FULL_CELLS for direction in PASSES]
    figure = Figure(figsize=(10, 2.4 * len(kinds) + 0.8), dpi=150, layout="constrained")
    panels = figure.subplots(len(kinds), len(AXES), sharey="row", squeeze=False)
    for row, kind in zip(panels, kinds, strict=True):
        for axes, axis in zip(row, AXES, strict=True):
            _draw_panel(axes, along(found, *kind, axis), axis)
        row[0].set_ylabel(" ".join(kind), fontsize=9)
    for axes, axis in zip(panels[-1], AXES, strict=True):
        axes.set_xlabel(axis)
    for axes, axis in zip(panels[0], AXES, strict=True):
        fixed = ", ".join(f"{k} = {getattr(base_of(found), k):,}" for k in AXES if k != axis)
        axes.set_title(fixed, fontsize=9)
    handles = {line.get_label(): line for axes in panels.flat for line in axes.get_lines()}
    labels = [label for label in map(_label, LINES) if label in handles]
    figure.legend(
        [handles[label] for label in labels],
        labels,
        title=f"times as fast as {SEQUENTIAL} · {results.device}",
        loc="outside upper center",
        ncols=len(labels),
        fontsize=8,
        title_fontsize=9,
    )
    return figure


def _draw_panel(axes: Axes, points: list[Turns], axis: str) -> None:
    for strategy, line in LINES.items():
        ratios = [
            (getattr(one.point, axis), ratio)
            for one in points
            if (ratio := one.ratio((strategy,), (SEQUENTIAL,)))
        ]
        if ratios:
            axes.plot(
                *zip(*ratios, strict=True),
                color=line.color,
                marker=line.marker,
                markersize=4,
                linewidth=line.width,
                linestyle=line.style,
                label=_label(strategy),
            )
    log_log(axes, [getattr(one.point, axis) for one in points])
    axes.axhline(1, color=pictures.BLACK, linewidth=1.0, zorder=1)


def _label(strategy: str) -> str:
    return " ".join(YARDSTICK) if strategy == YARDSTICK[1] else strategy
