"""What the rows of the speed benchmark say about each other: who is fastest, and by how much."""

import statistics
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.results import Row

FORWARD, TRAINING = "forward", "forward+backward"
PASSES = (FORWARD, TRAINING)
OURS = "rnnjax"
OWN = "own"  # the cell that a user has written
AUTO, WITHOUT_KERNELS = AUTOS = ("Auto()", "Auto(kernels=False)")


class Group(NamedTuple):
    """The rows that took turns: one cell, one size, one pass."""

    cell: str
    sizes: tuple[int, int, int, int]
    direction: str
    rows: list[Row]

    def __str__(self):
        T, B, D, N = self.sizes
        return f"{self.cell} {self.direction} T={T:,} B={B} D={D} N={N}"

    @property
    def measured(self) -> list[Row]:
        """The rows without gaps."""
        return [row for row in self.rows if not row["skipped"]]

    def of(self, strategy: str) -> Row | None:
        """Return the row of a strategy of rnnjax; None where it was not measured."""
        own = [r for r in self.measured if (r["implementation"], r["strategy"]) == (OURS, strategy)]
        return own[0] if own else None

    def fastest_peer(self, *, jax_only: bool = False) -> Row | None:
        """Return the row of the fastest other library."""
        others = [r for r in self.measured if r["implementation"] != OURS]
        others = [r for r in others if not (jax_only and r["implementation"] == "torch")]
        return min(others, key=_milliseconds, default=None)

    def fastest_strategy(self) -> Row:
        """Return the row of the fastest strategy of rnnjax."""
        own = [r for r in self.measured if r["implementation"] == OURS]
        return min((r for r in own if r["strategy"] not in AUTOS), key=_milliseconds)

    def speedup(self, strategy: str = AUTO, *, jax_only: bool = False) -> float | None:
        """Return how many times as fast a strategy is as the fastest peer."""
        own, peer = self.of(strategy), self.fastest_peer(jax_only=jax_only)
        return peer["milliseconds"] / own["milliseconds"] if own and peer else None


def groups(rows: list[Row]) -> list[Group]:
    """Return the groups in the order of their rows."""
    found: dict[tuple, Group] = {}
    for row in rows:
        key = row["cell"], (row["T"], row["B"], row["D"], row["N"]), row["pass"]
        found.setdefault(key, Group(*key, [])).rows.append(row)
    return list(found.values())


def speedups(
    chosen: Iterable[Group], strategy: str = AUTO, *, jax_only: bool = False
) -> list[float]:
    """Return the speed-ups where both were measured."""
    found = (group.speedup(strategy, jax_only=jax_only) for group in chosen)
    return [ratio for ratio in found if ratio is not None]


def disagreements(first: list[Row], second: list[Row]) -> list[float]:
    """Compare two runs: by what share the times of our strategies over the fastest peer's differ.

    What ``Auto`` picks may have changed between them, so it is left out.
    """
    one, other = (
        {
            (group[:3], row["strategy"]): row["milliseconds"] / peer
            for group in groups(rows)
            if (fastest := group.fastest_peer())
            for peer in [fastest["milliseconds"]]
            for row in group.measured
            if row["implementation"] == OURS and row["strategy"] not in AUTOS
        }
        for rows in (first, second)
    )
    return [max(one[k] / other[k], other[k] / one[k]) - 1 for k in one.keys() & other.keys()]


def mean(ratios: list[float]) -> float:
    """Return the geometric mean."""
    return statistics.geometric_mean(ratios)


def _milliseconds(row: Row) -> float:
    return row["milliseconds"]
