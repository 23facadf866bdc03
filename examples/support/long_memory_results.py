"""What long memory leaves: a file a task and cell, and one picture of all of them."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from examples.support import machine
from examples.support.figures import FAINT, INK
from rnnjax import training

Name = Literal["lstm", "gru", "mingru", "minlstm", "lru", "s5"]
PICTURE = "long_memory.png"


class Look(NamedTuple):
    """How a cell is named and drawn."""

    label: str
    colour: str
    stroke: Any


# Of the palette of Okabe and Ito (2008); gates that see the hidden vector are drawn through.
LOOKS = {
    "lstm": Look("LSTM", "#0072b2", "-"),
    "gru": Look("GRU", "#009e73", "-"),
    "mingru": Look("MinGRU", "#e69f00", (0, (5, 2))),
    "minlstm": Look("MinLSTM", "#d55e00", (0, (5, 2))),
    "lru": Look("LRU", "#cc79a7", (0, (1, 1))),
    "s5": Look("S5", "black", (0, (1, 1))),
}
PANELS = {
    "digits": ("permuted digits", "accuracy, validation"),
    "text": ("Tiny Shakespeare", "nats a character, validation"),
}


class Result(NamedTuple):
    """What became of a cell in a task."""

    task: str
    name: str
    cell: str
    size: int  # numbers that are learnt
    steps: int
    minutes: float  # of the processor, for training
    best_step: int  # of the params that validated best, which are tested
    measure: str
    higher_is_better: bool
    levels: dict[str, float]  # of the baselines on the validation
    baselines: dict[str, float]  # on the test
    test: dict[str, float]
    curve: list[list[float]]  # minutes, validation; none where that is learnt from
    options: dict[str, Any]


def curve(records: Sequence[training.Record], measure: str) -> list[list[float]]:
    """What validated after how many minutes of training."""
    scored = [record for record in records if f"validation_{measure}" in record]
    minutes = itertools.accumulate(record["validation_minutes"] for record in scored)
    return [[m, r[f"validation_{measure}"]] for m, r in zip(minutes, scored, strict=True)]


def keep(out: Path, result: Result) -> None:
    """Write a result, in place of an earlier one of this task and cell."""
    text = json.dumps(
        {
            **result._asdict(),
            "device": machine.device(),
            "versions": machine.versions("jax", "flax", "optax", "rnnjax"),
        },
        indent=2,
        default=str,
    )
    (out / f"{result.task}-{result.name}.json").write_text(text + "\n", "utf-8")


def read(folder: Path) -> list[Result]:
    """Read all results in a folder, those in folders inside too, in the order of the cells.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is none.
    """
    files = sorted(folder.glob("**/*-*.json"))
    files = [file for file in files if file.stem.split("-")[0] in PANELS]
    if not files:
        raise FileNotFoundError(f"expected results of long_memory in {folder}; found none.")
    results = [_read(file) for file in files]
    return sorted(results, key=lambda r: (list(LOOKS).index(r.name), r.minutes))


def _read(file: Path) -> Result:
    try:
        written = json.loads(file.read_text("utf-8"))
        return Result(**{name: written[name] for name in Result._fields})
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"expected a result of long_memory; {file} is none ({error}). Move it away."
        ) from error


def say(result: Result) -> None:
    """Print what became of a cell, beside the baselines."""
    for name, score in {
        LOOKS[result.name].label: result.test[result.measure],
        **result.baselines,
    }.items():
        print(f"{name:20} {words(result.measure, score)} on the test")
    print(
        f"  {result.size:,} params, {result.steps:,} steps, {result.minutes:.1f} minutes",
        flush=True,
    )


def words(measure: str, score: float) -> str:
    """A score in words."""
    return f"{score:.1%}" if measure == "accuracy" else f"{score:.3f} nats"


def draw_folder(folder: Path) -> None:
    """Draw what a folder holds."""
    path, results = folder / PICTURE, [result for result in read(folder) if result.curve]
    if results:
        draw(results).savefig(path, dpi=150)
        print(f"See {path}.")


def draw(results: Sequence[Result]) -> Figure:
    """A panel a task: the measure on the validation against minutes of training."""
    tasks = [task for task in PANELS if any(r.task == task for r in results)]
    figure = Figure(figsize=(6 * len(tasks), 4.8), layout="constrained")
    for ax, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        draw_panel(ax, [r for r in results if r.task == task])
    shown = {}
    for ax in figure.axes:
        lines, labels = ax.get_legend_handles_labels()
        shown |= dict(zip(labels, lines, strict=True))
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=len(LOOKS))
    return figure


def draw_panel(ax: Axes, results: Sequence[Result]) -> None:
    """The curves of one task; baselines are lines across, with their names."""
    seen: set[str] = set()
    for result in results:  # of one cell the shorter runs come first
        look = LOOKS[result.name]
        label = None if result.name in seen else look.label
        seen.add(result.name)
        minutes, scores = zip(*result.curve, strict=True)
        ax.plot(minutes, scores, color=look.colour, ls=look.stroke, label=label)
        ax.plot(minutes[-1], scores[-1], "o", color=look.colour, markersize=4)
    for name, level in results[0].levels.items():
        ax.axhline(level, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        text = f"{name} {words(results[0].measure, level)}"
        ax.text(0.01, level, text, color=INK, va="bottom", transform=ax.get_yaxis_transform())
    title, label = PANELS[results[0].task]
    ax.set(title=title, xlabel="minutes of the processor", ylabel=label, xscale="log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    frame(ax, results)
    ax.spines[["top", "right"]].set_visible(False)


def frame(ax: Axes, results: Sequence[Result]) -> None:
    """Show what is near the baselines: first scores may lie outside."""
    levels = list(results[0].levels.values())
    ends = [result.curve[-1][1] for result in results]
    if results[0].higher_is_better:
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.set_ylim(min(0.6, *ends, *levels) - 0.02, 1.0)
    else:
        low, high = min(*levels, *ends), max(*levels, *ends)
        ax.set_ylim(low - 0.05, max(high + 0.15, low + 0.6))
