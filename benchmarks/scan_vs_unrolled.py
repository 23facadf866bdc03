"""A compiled loop against a Python loop: compile time, speed and memory as T grows.

Does ``Unrolled()``, what everybody writes first, run any faster for its compile time? Does taking
several steps in a turn of the loop pay, and in which direction? What does ``Chunked()`` save?
"""

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

import rnnjax
from benchmarks import pictures, timing, wording
from benchmarks.benchmark import Benchmark, Options, Table, announced
from benchmarks.pictures import Line, draw_line, log_log
from benchmarks.results import Results, Row
from rnnjax import Strategy
from rnnjax.array_typing import Array, Carry, Params, PyTree

CELLS = {"LSTM": rnnjax.LSTM, "GRU": rnnjax.GRU, "Elman": rnnjax.Elman}

LOOP, UNROLLED, CHUNKED = "Sequential()", "Unrolled()", "Chunked()"
STRATEGIES: dict[str, Strategy] = {
    LOOP: rnnjax.Sequential(),
    "Sequential(unroll=2)": rnnjax.Sequential(unroll=2),
    "Sequential(unroll=4)": rnnjax.Sequential(unroll=4),
    "Sequential(unroll=8)": rnnjax.Sequential(unroll=8),
    "Sequential(unroll=16)": rnnjax.Sequential(unroll=16),
    UNROLLED: rnnjax.Unrolled(),
    CHUNKED: rnnjax.Chunked(),
}
UNROLLS = tuple(name for name in STRATEGIES if "unroll=" in name)

FORWARD, TRAINING = "forward", "forward+backward"
PASSES = (FORWARD, TRAINING)

EVERY_STEP, LAST_CARRY = "every step", "last carry"


def _mean_square(tree: PyTree) -> Array:
    return sum((jnp.mean(leaf**2) for leaf in jax.tree.leaves(tree)), jnp.zeros(()))


LOSSES: dict[str, Callable[[Carry, PyTree], Array]] = {
    EVERY_STEP: lambda carry, ys: _mean_square(ys),
    LAST_CARRY: lambda carry, ys: _mean_square(carry),
}


class Case(NamedTuple):
    """One program but for its strategy. ``loss`` is None where the pass has none."""

    cell: str
    T: int
    B: int
    D: int
    N: int
    direction: str
    loss: str | None

    @property
    def long(self) -> bool:
        """Whether it is there for its memory: a long sequence has one row."""
        return self.B == 1

    def __str__(self):
        sizes = f"T={self.T:,} B={self.B} D={self.D} N={self.N}"
        return f"{self.cell} {sizes} {self.direction}" + (f", loss: {self.loss}" * bool(self.loss))


class Plan(NamedTuple):
    """What is measured.

    A step of 16 rows of 64 units is small, some 10 µs on a CPU, so that what a turn of the loop
    costs beside its arithmetic can be seen: where unrolling has most to give. The long sequences
    are those of one signal: few channels, one row.
    """

    cells: tuple[str, ...]
    times: tuple[int, ...]
    long_times: tuple[int, ...]
    budget_seconds: float

    def short_cases(self) -> list[Case]:
        """Return the cases that every strategy runs."""
        losses = {FORWARD: None, TRAINING: EVERY_STEP}
        product = itertools.product(self.cells, PASSES, self.times)
        return [Case(cell, T, 16, 64, 64, name, losses[name]) for cell, name, T in product]

    def long_cases(self) -> list[Case]:
        """Return the cases that show memory."""
        product = itertools.product(self.cells, LOSSES, self.long_times)
        return [Case(cell, T, 1, 8, 128, TRAINING, loss) for cell, loss, T in product]


FULL = Plan(
    cells=("LSTM", "GRU", "Elman"),
    times=(8, 16, 32, 64, 128, 256, 512, 1024),
    long_times=(1_000, 10_000, 100_000),
    budget_seconds=60,
)
QUICK = Plan(cells=("LSTM",), times=(8, 16, 64), long_times=(1_000, 10_000), budget_seconds=5)


# --- measuring ---------------------------------------------------------------------------------


def measure(options: Options) -> list[Row]:
    """Compile and time every program of the plan, but for those that would take too long."""
    plan = QUICK if options.quick else FULL
    budgets = {}
    rows = []
    for case in announced(plan.short_cases() + plan.long_cases()):
        budget = budgets.setdefault((case.cell, case.direction), Budget(plan.budget_seconds, []))
        rows += measure_case(case, budget)
    return rows


class Budget(NamedTuple):
    """Bounds the compile time of a program whose size grows with T.

    Attributes:
        seconds: the bound.
        compiled: (T, seconds) of the programs so far, T ascending.
    """

    seconds: float
    compiled: list[tuple[int, float]]

    def refusal(self, time: int) -> str | None:
        """Say why the program of that T is not compiled; None if it is."""
        predicted = predict_seconds(self.compiled, time)
        if predicted <= self.seconds:
            return None
        about = wording.short(predicted)
        return f"compiling would take about {about} s; the budget is {self.seconds:g} s"


def predict_seconds(compiled: Sequence[tuple[int, float]], time: int) -> float:
    """Continue the power law of the last two compile times; 0 where nothing is known yet.

    From one time alone the square is assumed; the exponent is kept within 1 … 3 against noise.

    Example:
        >>> predict_seconds([(8, 0.5), (16, 2.0)], 64)
        32.0
    """
    if not compiled:
        return 0.0
    exponent = 2.0
    if len(compiled) > 1:
        (t0, s0), (t1, s1) = compiled[-2:]
        exponent = min(3.0, max(1.0, math.log(s1 / s0) / math.log(t1 / t0)))
    last, seconds = compiled[-1]
    return seconds * (time / last) ** exponent


def measure_case(case: Case, budget: Budget) -> list[Row]:
    """Measure one case: the strategies take turns in the same rounds."""
    names = (LOOP, CHUNKED) if case.long else tuple(STRATEGIES)
    reason = None if case.long else budget.refusal(case.T)
    programs = {
        name: compile_case(case, name) for name in names if name != UNROLLED or reason is None
    }
    if UNROLLED in programs:
        budget.compiled.append((case.T, programs[UNROLLED].compile_seconds))
    calls = {name: program.call for name, program in programs.items()}
    # The long ones take seconds a call and are there for their memory.
    times = timing.time_together(calls, rounds=3 if case.long else timing.ROUNDS)
    return [_row(case, name, programs.get(name), times.get(name), reason) for name in names]


def compile_case(case: Case, strategy: str) -> timing.Program:
    """Compile one program on random params and inputs."""
    run = functools.partial(_run, CELLS[case.cell](case.N), STRATEGIES[strategy])
    arguments = (
        _params(case.cell, case.D, case.N),
        np.random.default_rng(0).standard_normal((case.T, case.B, case.D), np.float32),
    )
    if case.loss is None:
        return timing.compile_program(run, *arguments)
    loss = LOSSES[case.loss]

    def train(params: Params, xs: Array) -> tuple[Array, PyTree]:
        return jax.value_and_grad(lambda *args: loss(*run(*args)), argnums=(0, 1))(params, xs)

    return timing.compile_program(train, *arguments)


# Drawing them compiles some programs of its own, which the clearing of caches would repeat.
@functools.cache
def _params(cell: str, in_dim: int, hidden: int) -> Params:
    return CELLS[cell](hidden).init(jax.random.key(0), in_dim)


def _run(cell: rnnjax.Cell, strategy: Strategy, params: Params, xs: Array) -> tuple[Carry, PyTree]:
    return rnnjax.scan(cell, params, xs, strategy=strategy)


def _row(
    case: Case,
    strategy: str,
    program: timing.Program | None,
    times: timing.Timing | None,
    reason: str | None,
) -> Row:
    return {
        "cell": case.cell,
        "implementation": "rnnjax",
        "strategy": strategy,
        **{axis: getattr(case, axis) for axis in "TBDN"},
        "pass": case.direction,
        "loss": case.loss,
        **(times._asdict() if times else dict.fromkeys(timing.Timing._fields)),
        "compile_seconds": program.compile_seconds if program else None,
        "peak_bytes": program.peak_bytes if program else None,
        "skipped": None if program else reason,
    }


# --- summing up --------------------------------------------------------------------------------


def summarise(rows: list[Row]) -> str:
    """Say what Unrolled costs and gives, which unroll pays where, and what Chunked saves."""
    short, long = _short_rows(rows), _long_rows(rows)
    sentences = [
        *(_unrolled_sentence(short, name) for name in PASSES),
        *(_unroll_sentence(short, name) for name in PASSES),
        *(_chunked_sentence(long, loss) for loss in LOSSES),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def ratios(rows: list[Row], figure: str, over: str, under: str) -> dict[Case, float]:
    """Return figure(over) / figure(under) for each case in which both strategies were measured."""
    measured = [row for row in rows if row[figure] is not None]
    values = {(_case(row), row["strategy"]): row[figure] for row in measured}
    return {
        case: value / values[case, under]
        for (case, strategy), value in values.items()
        if strategy == over and (case, under) in values
    }


def _unrolled_sentence(rows: list[Row], direction: str) -> str:
    """Compare at the largest T that Unrolled was compiled for, which differs by cell."""
    rows = _of(rows, direction)
    slower = ratios(rows, "compile_seconds", UNROLLED, LOOP)
    faster = ratios(rows, "milliseconds", LOOP, UNROLLED)
    if not slower:
        return ""
    last = {case.cell: case for case in sorted(slower, key=lambda case: case.T)}
    where = ", ".join(f"{cell} {case.T:,}" for cell, case in last.items())
    compiles, runs = (wording.span([r[case] for case in last.values()]) for r in (slower, faster))
    text = (
        f"{direction.capitalize()}, at the largest T that Unrolled() was compiled for ({where}): "
        f"it compiles {compiles} longer than Sequential() and runs {runs} as fast"
    )
    if any(row["skipped"] for row in rows):
        text += "; beyond that it is over the compile budget"
    return text + "."


def _unroll_sentence(rows: list[Row], direction: str) -> str:
    """Say what unroll=4 does, and name the unroll that is best for each cell, where one pays."""
    rows = _of(rows, direction)
    speedups = {name: ratios(rows, "milliseconds", LOOP, name) for name in UNROLLS}
    four = list(speedups["Sequential(unroll=4)"].values())
    if not four:
        return ""
    faster = sum(ratio > 1.05 for ratio in four)
    slower = sum(ratio < 0.95 for ratio in four)
    return (
        f"{direction.capitalize()}, unroll=4 runs {wording.mean_span(four)} as fast as unroll=1, "
        f"more than 5 % faster in {faster} and more than 5 % slower in {slower} of {len(four)} "
        f"cases; {_where_it_pays(speedups)}."
    )


def _where_it_pays(speedups: dict[str, dict[Case, float]]) -> str:
    """Name the best unroll of each cell, by the geometric mean over T."""
    best = []
    for cell in dict.fromkeys(case.cell for ratio in speedups.values() for case in ratio):
        means = {
            name: statistics.geometric_mean(r for case, r in ratio.items() if case.cell == cell)
            for name, ratio in speedups.items()
        }
        name = max(means, key=means.__getitem__)
        if means[name] > 1.05:
            best.append(f"{cell} {_unroll(name)} ({wording.short(means[name])}×)")
    if not best:
        return "averaged over T, no unroll pays for any cell"
    return f"averaged over T, what pays best: {', '.join(best)}"


def _chunked_sentence(rows: list[Row], loss: str) -> str:
    rows = [row for row in rows if row["loss"] == loss]
    longest = max((row["T"] for row in rows), default=0)
    rows = [row for row in rows if row["T"] == longest]
    saved = list(ratios(rows, "peak_bytes", LOOP, CHUNKED).values())
    slower = list(ratios(rows, "milliseconds", CHUNKED, LOOP).values())
    if not saved:
        return ""
    words = {EVERY_STEP: "on every step", LAST_CARRY: "on the last carry"}
    return (
        f"Training at T={longest:,}, the loss {words[loss]}: Chunked() needs {wording.span(saved)} "
        f"less memory than Sequential() for {wording.span(slower)} the time."
    )


def _short_rows(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["B"] > 1]


def _long_rows(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["B"] == 1]


def _of(rows: list[Row], direction: str) -> list[Row]:
    return [row for row in rows if row["pass"] == direction]


def _case(row: Row) -> Case:
    axes = {axis: row[axis] for axis in "TBDN"}
    return Case(row["cell"], direction=row["pass"], loss=row["loss"], **axes)


def _unroll(strategy: str) -> str:
    return strategy.removeprefix("Sequential(").removesuffix(")")


# --- tables ------------------------------------------------------------------------------------

FIGURES = ("milliseconds", "peak_bytes", "compile_seconds")
HEADER = ("ms", "MB", "s to compile")


def tabulate(rows: list[Row]) -> list[Table]:
    """Return the short sequences at two T, and the long ones at the largest."""
    return [_short_table(_short_rows(rows)), _long_table(_long_rows(rows))]


def _short_table(rows: list[Row]) -> Table:
    """Show the largest T for which nothing was skipped, and the largest."""
    times = {row["T"] for row in rows}
    whole = times - {row["T"] for row in rows if row["skipped"]}
    shown = {max(whole or times), max(times)}
    values = {(row["cell"], row["T"], row["strategy"], row["pass"]): row for row in rows}
    keys = [key[:3] for key in values if key[1] in shown and key[3] == TRAINING]
    body = [
        (
            cell,
            f"{T:,}",
            strategy,
            wording.entry(values[cell, T, strategy, FORWARD], "milliseconds"),
            *(wording.entry(values[cell, T, strategy, TRAINING], figure) for figure in FIGURES),
        )
        for cell, T, strategy in keys
    ]
    sizes = "B={B}, D={D}, N={N}".format(**rows[0])
    caption = f"{sizes}; MB and s to compile are of forward+backward; a dash: over the budget"
    header = ("cell", "T", "strategy", "ms forward", "ms forward + backward", *HEADER[1:])
    return Table(caption, header, body, names=3)


def _long_table(rows: list[Row]) -> Table:
    longest = max(row["T"] for row in rows)
    shown = [row for row in rows if row["T"] == longest]
    body = [
        (
            *(row[name] for name in ("cell", "loss", "strategy")),
            *(wording.entry(row, figure) for figure in FIGURES),
        )
        for row in shown
    ]
    header = ("cell", "loss", "strategy", *HEADER)
    caption = "{}, T={T:,}, B={B}, D={D}, N={N}".format(TRAINING, **shown[0])
    return Table(caption, header, body, names=3)


# --- picture -----------------------------------------------------------------------------------


LINES = {
    LOOP: Line(pictures.BLACK, "o", 2.0),
    "Sequential(unroll=2)": Line(pictures.BLUE, "v"),
    "Sequential(unroll=4)": Line(pictures.SKY, "s"),
    "Sequential(unroll=8)": Line(pictures.GREEN, "D"),
    "Sequential(unroll=16)": Line(pictures.PINK, "^"),
    UNROLLED: Line(pictures.VERMILION, "X", 2.0),
    CHUNKED: Line(pictures.ORANGE, "P", 2.0, "--"),
}
MEMORY_ARMS = tuple(itertools.product((LOOP, CHUNKED), LOSSES))
GAP: dict[str, Any] = {"facecolor": "none", "edgecolor": f"{pictures.VERMILION}40", "hatch": "//"}


class Panel(NamedTuple):
    """One row of the picture: a figure against T."""

    title: str
    direction: str
    value: Callable[[Row], float]
    unit: str = ""


def _microseconds_per_step(row: Row) -> float:
    """Return the time per step: over decades of milliseconds, a factor of 1.3 cannot be seen."""
    return 1e3 * row["milliseconds"] / row["T"]


def _peak_bytes(row: Row) -> float:
    return row["peak_bytes"]


PANELS = (
    Panel("compiling\nforward+backward (s)", TRAINING, lambda row: row["compile_seconds"]),
    Panel("forward\n(µs per step)", FORWARD, _microseconds_per_step),
    Panel("forward+backward\n(µs per step)", TRAINING, _microseconds_per_step),
    Panel("peak memory,\nforward+backward", TRAINING, _peak_bytes, "B"),
)


def draw(results: Results) -> Figure:
    """Draw a column for each cell: the panels against T, and the memory of long sequences."""
    short, long = _short_rows(results.rows), _long_rows(results.rows)
    cells = list(dict.fromkeys(row["cell"] for row in short))
    count = len(PANELS) + 1
    figure = Figure(figsize=(2.5 + 2.8 * len(cells), 2.2 * count), dpi=150, layout="constrained")
    axes = figure.subplots(count, len(cells), sharey="row", squeeze=False)
    for column, cell in zip(axes.T, cells, strict=True):
        column[0].set_title(cell)
        for panel, below in zip(PANELS, column, strict=False):
            _draw_panel(below, panel, [row for row in short if row["cell"] == cell])
        _draw_memory(column[-1], [row for row in long if row["cell"] == cell])
    for panel, below in zip(PANELS, axes[:, 0], strict=False):
        below.set_ylabel(panel.title)
    sizes = "B={B}, D={D}, N={N}".format(**long[0])
    axes[-1, 0].set_ylabel(f"peak memory,\nforward+backward,\n{sizes}")
    _add_memory_legend(axes[-1, 0])
    _add_legend(figure, axes[0, 0].get_lines(), results)
    return figure


def _draw_panel(axes: Axes, panel: Panel, rows: list[Row]) -> None:
    rows = _of(rows, panel.direction)
    for strategy, line in LINES.items():
        draw_line(axes, [row for row in rows if row["strategy"] == strategy], line, panel.value)
    _mark_gap(axes, [row["T"] for row in rows if row["skipped"]])
    log_log(axes, [row["T"] for row in rows], panel.unit)


def _mark_gap(axes: Axes, gap: list[int]) -> None:
    """Hatch the T for which Unrolled was not compiled."""
    if gap:
        axes.axvspan(min(gap) / 2**0.5, max(gap) * 2**0.5, **GAP)


def _draw_memory(axes: Axes, rows: list[Row]) -> None:
    for strategy, loss in MEMORY_ARMS:
        chosen = [row for row in rows if (row["strategy"], row["loss"]) == (strategy, loss)]
        style = "-" if loss == EVERY_STEP else ":"
        draw_line(axes, chosen, LINES[strategy]._replace(style=style), _peak_bytes)
    log_log(axes, [row["T"] for row in rows], "B")
    axes.set_xlabel("T")


def _add_memory_legend(axes: Axes) -> None:
    """Add a legend above the lines."""
    axes.set_ylim(top=20 * axes.get_ylim()[1])
    labels = [f"{strategy}, loss: {loss}" for strategy, loss in MEMORY_ARMS]
    axes.legend(axes.get_lines(), labels, loc="upper left", fontsize=6.5, frameon=False)


def _add_legend(figure: Figure, lines: list[Line2D], results: Results) -> None:
    sizes = "B={B}, D={D}, N={N}".format(**_short_rows(results.rows)[0])
    figure.legend(
        [*lines, Patch(**GAP)],
        [*LINES, "Unrolled() over the compile budget"],
        title=f"{results.device}; {sizes}",
        loc="outside upper center",
        ncols=2 if figure.get_figwidth() < 8 else 4,
        fontsize=8,
        title_fontsize=8,
    )


BENCHMARK = Benchmark(measure, summarise, tabulate, draw)
