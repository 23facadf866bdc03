"""What the memory tasks leave: lines to read, scores, curves in numbers and as a picture."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from examples.support import machine
from examples.support.memory import CURVES, PICTURE, SCORES, Options, Task
from examples.support.memory_training import Result, compare


class Look(NamedTuple):
    """How a cell is named and drawn."""

    label: str
    colour: str
    stroke: Any


# Of the palette of Okabe and Ito (2008); the strokes tell the cells apart in grey, too.
LOOKS = {
    "tanh": Look("tanh RNN", "black", "-"),
    "lstm-0": Look("LSTM, forget bias 0", "#56b4e9", (0, (1, 1))),
    "lstm-1": Look("LSTM, forget bias 1", "#0072b2", "-"),
    "lstm-chrono": Look("LSTM, chrono", "#d55e00", "--"),
    "gru": Look("GRU", "#009e73", "-."),
}


def train_and_report(task: Task, options: Options) -> None:
    """Train cell by cell, say what became of each, and keep it.

    Raises:
        SystemExit: no cell of a quick run reached the goal.
    """
    results = []
    for result in compare(task, options):
        say(task, result)
        results.append(result)
    keep(task, options, results)
    reached = [r.test[task.measure] for r in results]
    best = max(reached) if task.higher_is_better else min(reached)
    if options.quick and not (best >= task.goal if task.higher_is_better else best <= task.goal):
        raise SystemExit(f"Not learnt: expected {task.measure} {task.goal:.3g}; got {best:.3g}.")


def say(task: Task, result: Result) -> None:
    """Print what became of a cell."""
    scores = [_words(task, name, score) for name, score in result.test.items()]
    rate = result.steps / max(result.seconds, 1e-9)
    print(f"{LOOKS[result.name].label:20} {', '.join(scores)}")
    print(
        f"  {result.steps:,} steps of Adam({result.learning_rate:g}), {rate:.1f} a second;", end=" "
    )
    print(f"gradient left after {task.lag} steps at first 10^{result.log10_gradient_left:.1f}")


def keep(task: Task, options: Options, results: Sequence[Result]) -> None:
    """Print the baselines; write the scores, the curves and the picture."""
    for name, level in task.baselines.items():
        print(f"{name:20} {_words(task, task.measure, level)}")
    scores = {
        "baselines": {name: {task.measure: level} for name, level in task.baselines.items()},
        "cells": {
            r.name: {k: v for k, v in r._asdict().items() if k != "records"} for r in results
        },
        "lag": task.lag,
        "test_sequences": sum(batch.xs.shape[1] for batch in task.test),
        "options": asdict(options),
        "device": machine.device(),
        "versions": machine.versions("jax", "optax", "rnnjax"),
    }
    text = json.dumps(scores, indent=2, default=str)
    (options.out / SCORES).write_text(text + "\n", "utf-8")
    write_curves(options.out / CURVES, results)
    draw(task, results).savefig(options.out / PICTURE, dpi=160)
    print(f"See {options.out / PICTURE}.")


def write_curves(path: Path, results: Sequence[Result]) -> None:
    """One row a cell and validation."""
    names = ["step", "seconds", *(n for n in results[0].records[-1] if _is_score(n))]
    rows = [[r.name, *(record.get(n) for n in names)] for r in results for record in r.records]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([["cell", *names], *rows])


def draw(task: Task, results: Sequence[Result]) -> Figure:
    """The curves, beside what initialisation had left of a gradient."""
    figure = Figure(figsize=(10.5, 5), layout=ConstrainedLayoutEngine(wspace=0.06))
    left, right = figure.subplots(1, 2, width_ratios=(2.2, 1))
    draw_curves(left, task, results)
    draw_gradients(right, task, results)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def draw_curves(ax: Axes, task: Task, results: Sequence[Result]) -> None:
    """The measure on the validation sequences against steps; baselines are dotted."""
    for result in results:
        look, name = LOOKS[result.name], f"validation_{task.measure}"
        points = [(r["step"], r[name]) for r in result.records if name in r]
        ax.plot(*zip(*points, strict=True), color=look.colour, ls=look.stroke, label=look.label)
    levels = sorted(task.levels.items(), key=lambda entry: entry[1])
    for _, level in levels:
        ax.axhline(level, color="0.3", linestyle=":", linewidth=1.4)
    names = ", ".join(f"{name}: {_number(task.measure, level)}" for name, level in levels)
    ax.text(0.99, 0.99, f"dotted, {names}", transform=ax.transAxes, ha="right", va="top")
    ax.set(xlabel="steps of Adam", ylabel=f"{task.label}, validation", xlim=(0, None))
    if task.higher_is_better:
        ax.set_ylim(0, 1.1)  # the names of the baselines stand above all
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        ax.set_yscale("log")
        ax.set_ylim(top=2 * ax.get_ylim()[1])
    ax.spines[["top", "right"]].set_visible(False)


def draw_gradients(ax: Axes, task: Task, results: Sequence[Result]) -> None:
    """What initialisation leaves of a gradient, a bar a cell: the longer, the less."""
    values = [max(r.log10_gradient_left, -99.0) for r in results]  # −inf: nothing at all
    looks = [LOOKS[r.name] for r in results]
    bars = ax.barh(range(len(values)), values, height=0.5, color=[look.colour for look in looks])
    ax.bar_label(bars, [f"{value:.1f}".replace("-", "−") for value in values], padding=4)
    for k, look in enumerate(looks):
        ax.text(0, k - 0.32, look.label, ha="right" if values[k] < 0 else "left", va="bottom")
    ax.set(yticks=[], ylim=(max(len(values), 4) - 0.5, -0.8))
    ax.set_xlabel(f"before training: log10 of the gradient\nthat is left {task.lag} steps back")
    ax.margins(x=0.25)
    ax.spines[["top", "left", "right"]].set_visible(False)


def _is_score(name: str) -> bool:
    return name == "loss" or name.startswith("validation_")


def _words(task: Task, name: str, score: float) -> str:
    return f"{task.label if name == task.measure else name} {_number(name, score)}"


def _number(name: str, score: float) -> str:
    return f"{score:.4g}" if name == "loss" else f"{score:.1%}"
