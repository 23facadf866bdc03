"""What a run of the control example leaves: lines to read, scores, curves, a picture."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from examples.support import machine
from examples.support.acting import Policy, initial_params
from examples.support.figures import FAINT, INK, POINTS, SERIES
from examples.support.policies import EPISODES, Result

FILES = SCORES, CURVES, PICTURE = ("scores.json", "curves.csv", "picture.png")
LOOKS = {
    "recurrent": (SERIES, "-"),
    "feed-forward": (POINTS, "--"),
    "feed-forward, velocities seen": ("#009e73", "-."),
}


class Task(NamedTuple):
    """How the scores of a task are called, written and drawn."""

    label: str
    form: str
    levels: dict[str, float]  # that are drawn across


TASKS = {
    "tmaze": Task("right turns", "{:.1%}", {"chance": 0.5}),
    "cartpole": Task("steps in balance", "{:.1f}", {"the longest": 500.0}),
}


def by_policy(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each policy, one a seed."""
    return {r.name: [s for s in results if s.name == r.name] for r in results}


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """The mean of each seed, and what the seeds are on the mean and how far apart."""
    seeds = {str(r.seed): float(r.scores.mean()) for r in results}
    means = list(seeds.values())
    return {"mean": float(np.mean(means)), "sd": float(np.std(means)), "seeds": seeds}


def say(task: Task, results: Sequence[Result]) -> None:
    """Print the scores of each policy, seed by seed."""
    print(f"{task.label} in {EPISODES:,} new environments")
    for name, learnt in by_policy(results).items():
        found = summary(learnt)
        each = ", ".join(task.form.format(mean) for mean in found["seeds"].values())
        print(f"{name:30} {task.form.format(found['mean'])}  ({each})")


def size_of(policy: Policy) -> int:
    """How many numbers a policy learns."""
    shapes = jax.eval_shape(initial_params, policy, 0)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def keep(
    out: Path,
    task: Task,
    results: Sequence[Result],
    policies: Mapping[str, Policy],
    options: dict[str, Any],
) -> None:
    """Write the scores, the curves and the picture."""
    learnt = by_policy(results)
    scores = {
        "measure": task.label,
        "episodes": EPISODES,
        "policies": {
            name: {
                **summary(each),
                "params": size_of(policies[name]),
                "training_seconds": [r.records[-1]["seconds"] for r in each],
                "environment_steps": int(options["steps"] * steps_at_once(options)),
            }
            for name, each in learnt.items()
        },
        "options": options,
        "device": machine.device(),
        "versions": machine.versions("jax", "optax", "rnnjax"),
    }
    (out / SCORES).write_text(json.dumps(scores, indent=2, default=str) + "\n", "utf-8")
    write_curves(out / CURVES, results, steps_at_once(options))
    draw(task, learnt, steps_at_once(options)).savefig(out / PICTURE, dpi=150)
    print(f"See {out / PICTURE}.")


def steps_at_once(options: Mapping[str, Any]) -> int:
    """Steps of environments in a step of the optimiser."""
    return options["environments"] * options["unroll"]


def write_curves(path: Path, results: Sequence[Result], each: int) -> None:
    """One row a policy, seed and record."""
    rows = [
        [
            r.name,
            r.seed,
            record["step"] * each,
            f"{record['score']:.6g}",
            f"{record['entropy']:.6g}",
        ]
        for r in results
        for record in r.records
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        names = ["policy", "seed", "environment_steps", "score", "entropy"]
        csv.writer(file, lineterminator="\n").writerows([names, *rows])


def draw(task: Task, learnt: Mapping[str, Sequence[Result]], each: int) -> Figure:
    """Scores while learning against steps: a thin line a seed, a thick one for their mean."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, results in learnt.items():
        colour, stroke = LOOKS[name]
        steps = np.array([record["step"] for record in results[0].records]) * each
        curves = np.array([[record["score"] for record in r.records] for r in results])
        axes.plot(steps, curves.T, color=colour, ls=stroke, lw=0.7, alpha=0.5)
        axes.plot(steps, curves.mean(0), color=colour, ls=stroke, lw=2, label=name)
    for name, level in task.levels.items():
        axes.axhline(level, color=FAINT, lw=0.9, ls=":")
        axes.text(1.01, level, name, transform=axes.get_yaxis_transform(), color=INK, va="center")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if task.form.endswith("%}"):
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="steps of environments", ylabel=f"{task.label}, while learning")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
