"""One kernel for the loop: what masks and resets cost, system time, and seconds to compile.

Half of all steps are masked, and before half of them the carry is reset, at random. System time is
what the system takes to hand out memory, as a share of all processor time; a page fault a page.
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from matplotlib.figure import Figure

import rnnjax
from benchmarks import pictures, programs, timing, wording
from benchmarks.benchmark import Benchmark, Options, Table, announced
from benchmarks.results import Results, Row
from benchmarks.speed_models import CELLS, Size, ours
from benchmarks.speed_rows import PASSES, TRAINING

KERNEL, LOOP = "Fused()", "Auto(kernels=False)"
ROUNDED = 'Fused(product_dtype="bfloat16")'
RUNS = {
    KERNEL: rnnjax.Fused(),
    LOOP: rnnjax.Auto(kernels=False),
    ROUNDED: rnnjax.Fused(product_dtype="bfloat16"),
}
READS: dict[str, tuple[str, ...]] = {
    "all steps": (),
    "mask": ("mask",),
    "resets": ("resets",),
    "mask and resets": ("mask", "resets"),
}


class Case(NamedTuple):
    """One cell at one size, in one direction; all arms take turns at it."""

    cell: str
    size: Size
    direction: str

    def __str__(self):
        T, B, D, N, _ = self.size
        return f"{self.cell} T={T:,} B={B} D={D} N={N} {self.direction}"


class Plan(NamedTuple):
    """What is measured."""

    cells: tuple[str, ...]
    sizes: tuple[tuple[int, int, int, int], ...]
    rounds: int

    def cases(self) -> list[Case]:
        """Return the cases."""
        every = itertools.product(self.cells, self.sizes, PASSES)
        return [Case(cell, Size(*size, "float32"), way) for cell, size, way in every]


FULL = Plan(
    cells=("LSTM", "GRU"),
    sizes=((256, 32, 256, 256), (1024, 16, 128, 128), (784, 128, 1, 128), (64, 256, 64, 64)),
    rounds=timing.ROUNDS,
)
QUICK = Plan(cells=("LSTM",), sizes=((64, 32, 64, 64),), rounds=3)


# --- measuring ---------------------------------------------------------------------------------


def measure(options: Options) -> list[Row]:
    """Time every arm of every case, and the compilation of every cell."""
    plan = QUICK if options.quick else FULL
    rows = [row for case in announced(plan.cases()) for row in measure_case(case, plan.rounds)]
    return rows + [compilation_row(cell, plan.sizes[0]) for cell in plan.cells]


def measure_case(case: Case, rounds: int) -> list[Row]:
    """Time the arms in turn, in the same rounds."""
    arms = [*itertools.product((KERNEL, LOOP), READS), (ROUNDED, "all steps")]
    calls = {arm: timing.compile_program(*program(case, *arm)).call for arm in arms}
    times = timing.time_together(calls, rounds=rounds)
    return [
        {**_names(case, *arm), **times[arm]._asdict(), **memory_work(calls[arm])} for arm in arms
    ]


def program(case: Case, strategy: str, reads: str) -> tuple:
    """Return a function of (params, xs, flags), and what it is called with."""
    cell, params = ours(CELLS[case.cell], case.size)
    T, B, D, *_ = case.size
    xs = jax.random.normal(jax.random.key(2), (T, B, D))
    flags = {
        name: jax.random.bernoulli(jax.random.key(3 + k), 0.5, (T, B))
        for k, name in enumerate(READS[reads])
    }

    def run(params: Any, xs: Any, flags: dict) -> Any:
        def scan(params: Any, xs: Any) -> Any:
            return rnnjax.scan(cell, params, xs, strategy=RUNS[strategy], **flags)[1]

        return programs.of_pass(case.direction, scan)(params, xs)

    return run, params, xs, flags


def memory_work(call: Callable[[], Any], repeats: int = 10) -> dict[str, float]:
    """Return what the system does for a call."""
    begin = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(repeats):
        call()
    end = resource.getrusage(resource.RUSAGE_SELF)
    system, user = end.ru_stime - begin.ru_stime, end.ru_utime - begin.ru_utime
    return {
        "system_share": system / max(system + user, 1e-9),
        "page_faults": (end.ru_minflt - begin.ru_minflt) / repeats,
    }


def compilation_row(cell: str, size: tuple[int, int, int, int]) -> Row:
    """Compile a training step in two processes, one after the other, that share an empty cache."""
    case = Case(cell, Size(*size, "float32"), TRAINING)
    with tempfile.TemporaryDirectory() as cache:
        first, again = (_in_new_process(case, cache) for _ in range(2))
    return {
        **_names(case, KERNEL, "all steps"),
        "compile_seconds": first["seconds"],
        "kernels": first["kernels"],
        "compile_seconds_again": again["seconds"],
        "kernels_again": again["kernels"] - first["kernels"],
    }


def _in_new_process(case: Case, cache: str) -> dict[str, Any]:
    code = f"from benchmarks import fused; fused.compile_here({case.cell!r}, {tuple(case.size)!r})"
    environment = {**os.environ, "RNNJAX_CACHE": cache}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return {**json.loads(done.stdout), "kernels": len(os.listdir(cache))}


def compile_here(cell: str, size: tuple) -> None:
    """Compile a training step and print the seconds that it took."""
    case = Case(cell, Size(*size), TRAINING)
    compiled = timing.compile_program(*program(case, KERNEL, "all steps"))
    print(json.dumps({"seconds": compiled.compile_seconds}))


def _names(case: Case, strategy: str, reads: str) -> Row:
    sizes = dict(zip("TBDN", case.size, strict=False))
    names = {"cell": case.cell, "implementation": "rnnjax", "strategy": strategy, **sizes}
    return {**names, "pass": case.direction, "reads": reads}


# --- summing up --------------------------------------------------------------------------------


def summarise(rows: list[Row]) -> str:
    """Compare masked and reset sequences with whole ones, and say what the system and g++ take."""
    sentences = [_costs(rows, *arm) for arm in itertools.product((KERNEL, LOOP), PASSES)]
    sentences += [
        f"{ROUNDED}, {direction}, is {gain} as fast as {KERNEL}."
        for direction in PASSES
        for gain in [wording.mean_span(_gains(rows, direction))]
    ]
    compiled = [row for row in rows if "kernels" in row]
    seconds, again = (
        max(row[name] for row in compiled) for name in ("compile_seconds", "compile_seconds_again")
    )
    more = max(row["kernels_again"] for row in compiled)
    sentences.append(
        f"A training step of a new cell compiles in {wording.short(seconds)} s at most, in another "
        f"process in {wording.short(again)} s, for which {more} kernels are compiled."
    )
    return " ".join(sentences)


def _costs(rows: list[Row], strategy: str, direction: str) -> str:
    """Write what a mask, resets and both cost."""
    every = _ratios(rows, strategy, direction).values()
    mask, resets, both = (
        wording.mean_span([ratios[reads] for ratios in every]) for reads in list(READS)[1:]
    )
    return (
        f"{strategy}, {direction}: of the time without, a mask takes {mask}, resets {resets}, "
        f"both {both}."
    )


def _ratios(rows: list[Row], strategy: str, direction: str) -> dict[tuple, dict[str, float]]:
    """Return the time over that of all steps, by what is read, for each cell and size."""
    found: dict[tuple, dict[str, Row]] = {}
    for row in _timed(rows):
        if (row["strategy"], row["pass"]) == (strategy, direction):
            found.setdefault(_sizes(row), {})[row["reads"]] = row
    return {
        sizes: {
            reads: row["milliseconds"] / arms["all steps"]["milliseconds"]
            for reads, row in arms.items()
        }
        for sizes, arms in found.items()
    }


def _gains(rows: list[Row], direction: str) -> list[float]:
    """Return how many times as fast rounding makes the kernel."""
    times: dict[tuple, dict[str, float]] = {}
    for row in _timed(rows):
        if (row["reads"], row["pass"]) == ("all steps", direction):
            times.setdefault(_sizes(row), {})[row["strategy"]] = row["milliseconds"]
    return [arms[KERNEL] / arms[ROUNDED] for arms in times.values()]


def _timed(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "milliseconds" in row]


def _sizes(row: Row) -> tuple:
    return tuple(row[name] for name in ("cell", "T", "B", "D", "N"))


# --- table and picture -------------------------------------------------------------------------


def tabulate(rows: list[Row]) -> list[Table]:
    """Return the times with what the system does for them, and the seconds to compile."""
    header = ("cell", "T, B, D, N", "pass", "strategy", "ms", "× mask", "× resets", "× both")
    header += ("system time, %", "page faults a call")
    body = [
        (
            *_words(row),
            row["pass"],
            row["strategy"],
            wording.entry(row, "milliseconds"),
            *(
                wording.short(ratios[reads]) if reads in ratios else "—"
                for reads in list(READS)[1:]
            ),
            wording.short(100 * row["system_share"]),
            f"{row['page_faults']:,.0f}",
        )
        for row in _timed(rows)
        if row["reads"] == "all steps"
        for ratios in [_ratios(rows, row["strategy"], row["pass"])[_sizes(row)]]
    ]
    compiled = [
        (
            *_words(row),
            wording.entry(row, "compile_seconds"),
            wording.entry(row, "compile_seconds_again"),
        )
        for row in rows
        if "kernels" in row
    ]
    return [
        Table("half of all steps masked, or reset before", header, body, names=4),
        Table(
            "a training step on an empty cache, and in another process",
            (*header[:2], "s to compile", "s to compile again"),
            compiled,
            names=2,
        ),
    ]


def _words(row: Row) -> tuple[str, ...]:
    return row["cell"], ", ".join(str(row[axis]) for axis in "TBDN")


COLORS = {"mask": pictures.BLUE, "resets": pictures.ORANGE, "mask and resets": pictures.GREEN}


def draw(results: Results) -> Figure:
    """Draw a panel a strategy and pass: the time over that of all steps."""
    panels = list(itertools.product((KERNEL, LOOP), PASSES))
    labels = list(_ratios(results.rows, *panels[0]))
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(labels)), dpi=150, layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (strategy, direction) in zip(every, panels, strict=True):
        ratios = _ratios(results.rows, strategy, direction)
        for k, (reads, color) in enumerate(COLORS.items()):
            places = [place + 0.25 * (k - 1) for place in range(len(labels))]
            values = [ratios[label][reads] for label in labels]
            axes.barh(places, values, height=0.22, color=color, label=reads)
        axes.axvline(1, color=pictures.BLACK, linewidth=0.8)
        axes.set_title(f"{strategy}\n{direction}", fontsize=8)
        axes.set_xlabel("time over that without", fontsize=8)
        axes.tick_params(labelsize=7)
    names = [f"{cell}  T={T:,} B={B} D={D} N={N}" for cell, T, B, D, N in labels]
    every[0].set_yticks(range(len(labels)), names)
    every[0].invert_yaxis()
    handles = every[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(f"{results.device}; half of all steps masked, or reset before", fontsize=9)
    return figure


BENCHMARK = Benchmark(measure, summarise, tabulate, draw, ("jax", "jaxlib", "numpy"))
