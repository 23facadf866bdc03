"""The picture of the speed benchmark: every arm against the fastest peer of its row."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks import pictures
from benchmarks.pictures import Line
from benchmarks.results import Results
from benchmarks.speed_rows import AUTO, AUTOS, OURS, PASSES, WITHOUT_KERNELS, Group, groups

# The order is that of drawing: what matters most comes last.
MARKERS = {
    "flax.linen": Line(pictures.GREEN, "v"),
    "flax.nnx": Line(pictures.GREEN, "^"),
    "haiku": Line(pictures.SKY, "D"),
    "equinox": Line(pictures.PINK, "P"),
    "keras": Line(pictures.ORANGE, "s"),
    "jax.experimental.rnn": Line(pictures.BLUE, "*"),
    "jax.lax.scan": Line(pictures.BLUE, "<"),
    "torch": Line(pictures.VERMILION, "X"),
    "rnnjax, other strategies": Line("#888888", "|"),
    f"rnnjax {WITHOUT_KERNELS}": Line("#777777", "o"),
    f"rnnjax {AUTO}": Line(pictures.BLACK, "o"),
}


def draw(results: Results) -> Figure:
    """Draw a panel for each pass, and in it a line for each cell and size."""
    found = [group for group in groups(results.rows) if group.fastest_peer()]
    cells = list(dict.fromkeys((group.cell, group.sizes) for group in found))
    figure = Figure(figsize=(11, 1.6 + 0.3 * len(cells)), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(PASSES), sharex=True, sharey=True)
    for axes, direction in zip(panels, PASSES, strict=True):
        axes.set_title(direction)
        for group in found:
            if group.direction == direction:
                _draw_group(axes, group, cells.index((group.cell, group.sizes)))
        axes.set_xlabel("times as fast as the fastest peer")
        axes.axvline(1, color="#444444", linewidth=0.8, zorder=1)
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(cells)), [_label(*cell) for cell in cells], fontsize=8)
    panels[0].set_xscale("log")
    panels[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    panels[0].xaxis.set_minor_locator(NullLocator())
    panels[0].invert_yaxis()
    handles = {
        line.get_label(): line
        for axes in panels
        for line in axes.get_lines()
        if line.get_label()[0] != "_"
    }
    figure.legend(
        [handles[label] for label in MARKERS if label in handles],
        [label for label in MARKERS if label in handles],
        title=results.device,
        loc="outside upper center",
        ncols=5,
        fontsize=8,
        title_fontsize=9,
    )
    return figure


def _draw_group(axes: Axes, group: Group, height: int) -> None:
    fastest = group.fastest_peer()
    assert fastest is not None, "groups without a peer are not drawn"
    for order, (label, marker) in enumerate(MARKERS.items()):
        speeds = [
            fastest["milliseconds"] / row["milliseconds"]
            for row in group.measured
            if _label_of(row["implementation"], row["strategy"]) == label
        ]
        axes.plot(
            speeds,
            [height] * len(speeds),
            color=marker.color,
            marker=marker.marker,
            markersize=7 if label == f"rnnjax {AUTO}" else 5,
            linestyle="none",
            label=label if speeds else None,
            zorder=2 + order,
        )


def _label_of(implementation: str, strategy: str) -> str:
    if implementation != OURS:
        return implementation
    return f"rnnjax {strategy}" if strategy in AUTOS else "rnnjax, other strategies"


def _label(cell: str, sizes: tuple[int, ...]) -> str:
    return f"{cell}  " + " ".join(
        f"{axis}={size:,}" for axis, size in zip("TBDN", sizes, strict=True)
    )
