"""Which strategy ``Auto`` picks, and what the results of the speed benchmark say to it."""

import jax

import rnnjax
from benchmarks import wording
from benchmarks.benchmark import Table
from benchmarks.results import Row
from benchmarks.speed_models import CELLS, STRATEGIES
from benchmarks.speed_rows import Group, groups, mean

# Chunked is picked by memory alone, and Unrolled by nobody who can help it.
CANDIDATES = tuple(name for name in STRATEGIES if name.startswith("Sequential("))
NEAR = 1.1


def picked(group: Group) -> str:
    """Return the name of the strategy that ``Auto().select`` picks for a group."""
    T, B, D, N = group.sizes
    cell = CELLS[group.cell](N)
    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((T, B, D), "float32")
    strategy, _ = rnnjax.Auto().select(cell, params, xs)
    (name,) = [name for name in CANDIDATES if STRATEGIES[name] == strategy]
    return name


def slowdowns(found: list[Group], strategy: str | None = None) -> list[float]:
    """Return ``slowdown`` for each group, of a strategy or, by None, of what is picked."""
    return [slowdown(group, strategy or picked(group)) for group in found]


def slowdown(group: Group, strategy: str) -> float:
    """Return the time of a strategy over that of the fastest candidate."""
    times = {name: row["milliseconds"] for name in CANDIDATES if (row := group.of(name))}
    return times[strategy] / min(times.values())


def table(device: str, rows: list[Row]) -> Table:
    """Return what always picking one strategy would cost, beside what ``Auto`` picks."""
    found = groups(rows)
    names = {"what Auto picks": None, **{name: name for name in CANDIDATES}}
    body = []
    for label, strategy in names.items():
        ratios = slowdowns(found, strategy)
        near = sum(ratio <= NEAR for ratio in ratios)
        figures = (
            wording.short(mean(ratios)),
            wording.short(max(ratios)),
            f"{near} of {len(ratios)}",
        )
        body.append((label, *figures))
    header = ("strategy", "geometric mean", "worst", "rows within 10 %")
    return Table(f"{device}: time over that of the fastest strategy of the row", header, body)
