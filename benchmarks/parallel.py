"""In parallel over time: linear cells step by step and by associative scan, as T, B and N grow.

From one base point one axis is varied at a time, D = N. Two cells are measured at every point:
MinGRU, of which a step is three operations an entry and which others have published times of; and
GatedDelta, whose operator is a product of matrices, so that summing up steps costs most. The others
are measured at the base point. A GRU of the same size in one kernel runs beside MinGRU.

Every arm of a case has the same weights and inputs, and its outputs, or the gradient in the inputs,
are compared with a loop in float64. Training is the value and the gradient of mean(y²).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from benchmarks import programs, timing, work
from benchmarks.benchmark import Benchmark, Options, announced
from benchmarks.parallel_figure import draw
from benchmarks.parallel_rows import (
    BLOCK,
    BLOCKED,
    CHUNKED,
    FULL_CELLS,
    HOISTED,
    PARALLEL,
    PLAIN,
    SEQUENTIAL,
    STEPWISE,
    YARDSTICK,
    Point,
    plan,
)
from benchmarks.parallel_words import summarise, tabulate
from benchmarks.results import Row
from benchmarks.speed_rows import PASSES, TRAINING
from rnnjax.array_typing import Array, Params

KEY_SIZE = 16
CELLS: dict[str, Callable[[int], rnnjax.Cell]] = {
    "MinGRU": rnnjax.MinGRU,
    "GatedDelta": lambda size: rnnjax.GatedDelta(
        size, heads=max(1, size // KEY_SIZE), key_size=KEY_SIZE
    ),
    "MinLSTM": rnnjax.MinLSTM,
    "LRU": rnnjax.LRU,
    "S5": rnnjax.S5,
    "RGLRU": rnnjax.RGLRU,
    "GRU": rnnjax.GRU,
}
STRATEGIES: dict[str, rnnjax.Strategy] = {
    SEQUENTIAL: rnnjax.Sequential(),
    HOISTED: rnnjax.Sequential(hoist=True),
    CHUNKED: rnnjax.Chunked(),
    PLAIN: rnnjax.Associative(),
    BLOCKED: rnnjax.Associative(block=BLOCK),
    YARDSTICK[1]: rnnjax.Fused(),
}

BOUNDS = programs.Bounds(seconds=3, gigabytes=6)
# Beyond this, calls are so long that fewer of them tell as much.
LONG_SECONDS, LONG_ROUNDS = 0.2, 3


class Case(NamedTuple):
    """What the rows that take turns have in common."""

    point: Point
    direction: str

    def __str__(self):
        return f"{self.point} {self.direction}"

    def arms(self) -> list[tuple[str, str]]:
        """Return (cell, strategy) of each arm."""
        cell = self.point.cell
        arms = [(cell, name) for name in (*STEPWISE, *PARALLEL)]
        return [*arms, YARDSTICK] if cell == FULL_CELLS[0] else arms


class Problem(NamedTuple):
    """A cell with weights and inputs."""

    cell: rnnjax.Cell
    weights: Params
    xs: np.ndarray

    def run(self, strategy: rnnjax.Strategy) -> Callable[[Params, Array], Any]:
        """Return (weights, xs) → ys."""
        return lambda weights, xs: rnnjax.scan(self.cell, weights, xs, strategy=strategy)[1]


def measure(options: Options) -> list[Row]:
    """Time every arm of every case, those of a case in the same rounds."""
    cases = [Case(point, name) for point in plan(options.quick) for name in PASSES]
    rounds = LONG_ROUNDS if options.quick else timing.ROUNDS
    return [row for case in announced(cases) for row in measure_case(case, rounds)]


def measure_case(case: Case, rounds: int = timing.ROUNDS) -> list[Row]:
    """Compile, compare and time the arms of a case."""
    found = {arm: _prepare(case, *arm) for arm in case.arms()}
    measured = {arm: ready for arm, (ready, _) in found.items() if not isinstance(ready, str)}
    slowest = max((ready.first_seconds for ready in measured.values()), default=0)
    rounds = min(rounds, LONG_ROUNDS) if slowest > LONG_SECONDS else rounds
    times = timing.take_turns({arm: r.turn for arm, r in measured.items()}, rounds=rounds)
    return [
        {
            "cell": cell,
            "implementation": "rnnjax",
            "strategy": strategy,
            **{axis: getattr(case.point, axis) for axis in "TBDN"},
            "pass": case.direction,
            **programs.figures(ready, times.get((cell, strategy))),
            **_counted(case, cell, strategy),
            "error": error,
        }
        for (cell, strategy), (ready, error) in found.items()
    ]


def _prepare(case: Case, cell: str, strategy: str) -> tuple[programs.Ready | str, float | None]:
    """Return the arm, and how far it is from float64; not so of the GRU, a yardstick for time."""
    problem = _problem(case.point._replace(cell=cell))
    function = programs.of_pass(case.direction, problem.run(STRATEGIES[strategy]))
    found = programs.prepare(function, problem.weights, problem.xs, bounds=BOUNDS)
    if isinstance(found, str):
        return found, None
    ready, results = found
    if cell == YARDSTICK[0]:
        return ready, None
    name = "d_xs" if case.direction == TRAINING else "ys"
    expected = _reference(case.point)[name]
    return ready, float(np.abs(results[name] - expected).max() / np.abs(expected).max())


@functools.lru_cache(maxsize=2)
def _problem(point: Point) -> Problem:
    cell = CELLS[point.cell](point.N)
    xs = np.random.default_rng(0).standard_normal((point.T, point.B, point.D), np.float32)
    return Problem(cell, cell.init(jax.random.key(0), point.D), xs)


@functools.lru_cache(maxsize=1)
def _reference(point: Point) -> dict[str, np.ndarray]:
    """Return ys and the gradient in xs as a loop in float64 has them.

    In chunks, for their memory alone: each step is taken after the one before.
    """
    problem = _problem(point)
    run = problem.run(rnnjax.Chunked())

    def both(weights: Params, xs: Array) -> dict[str, Array]:
        return {
            "ys": run(weights, xs),
            "d_xs": programs.of_pass(TRAINING, run)(weights, xs)["d_xs"],
        }

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, _wide(a.dtype)), (problem.weights, problem.xs))
        return jax.tree.map(np.asarray, jax.jit(both)(*wide))


def _wide(dtype: Any) -> str:
    return "complex128" if jnp.issubdtype(dtype, jnp.complexfloating) else "float64"


def _counted(case: Case, cell: str, strategy: str) -> Row:
    """Count what the program computes; a kernel is not made of operations of JAX."""
    if (cell, strategy) == YARDSTICK:
        return dict.fromkeys(work.Count._fields)
    problem = _problem(case.point)
    function = programs.of_pass(case.direction, problem.run(STRATEGIES[strategy]))
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (problem.weights, problem.xs)
    )
    return work.count(function, *shapes)._asdict()


BENCHMARK = Benchmark(measure, summarise, tabulate, draw)
