"""The points of the parallel benchmark, and what its rows say about each other."""

import statistics
from typing import NamedTuple

from benchmarks.results import Row

SEQUENTIAL, HOISTED, CHUNKED = STEPWISE = ("Sequential()", "Sequential(hoist=True)", "Chunked()")
BLOCK = 64
PLAIN, BLOCKED = PARALLEL = ("Associative()", f"Associative(block={BLOCK})")
YARDSTICK = ("GRU", "Fused()")

FULL_CELLS = ("MinGRU", "GatedDelta")
OTHER_CELLS = ("MinLSTM", "LRU", "S5", "RGLRU")

BASE = {"T": 4_096, "B": 4, "N": 64}
AXES = {"T": (256, 4_096, 16_384, 131_072), "B": (1, 4, 32), "N": (16, 64, 256)}
QUICK_BASE = {"T": 64, "B": 4, "N": 64}
QUICK_AXES = {"T": (64, 256), "B": (4, 16), "N": (16, 64)}


class Published(NamedTuple):
    """What others report of minGRU, and where: the point nearest to it is measured too."""

    T: int
    B: int
    N: int
    claim: str


PUBLISHED = (
    Published(
        512,
        64,
        64,
        "Its authors report minGRU to train 175 times as fast as a GRU at T = 512 on a T4 with "
        "B = 64 (Feng et al. 2024, arXiv:2410.01201)",
    ),
    Published(
        1_000,
        64,
        100,
        "a user reports half the speed of PyTorch's fused GRU at T = 1,000, N = 100, B = 64 "
        "(lucidrains/minGRU-pytorch, issue 13)",
    ),
)


class Point(NamedTuple):
    """A cell and its sizes, D = N."""

    cell: str
    T: int
    B: int
    N: int

    @property
    def D(self) -> int:
        """Features."""
        return self.N

    def __str__(self):
        return f"{self.cell} T={self.T:,} B={self.B} N={self.N}"


def plan(quick: bool) -> list[Point]:
    """Return the points: those of the cells in full, the published, the other cells' base."""
    first, second = FULL_CELLS
    if quick:
        return [*_varied(first, QUICK_BASE, QUICK_AXES), Point(second, **QUICK_BASE)]
    published = [Point(first, one.T, one.B, one.N) for one in PUBLISHED]
    others = [Point(cell, **BASE) for cell in OTHER_CELLS]
    return [*_varied(first, BASE, AXES), *published, *_varied(second, BASE, AXES), *others]


def _varied(cell: str, base: dict[str, int], axes: dict[str, tuple[int, ...]]) -> list[Point]:
    sizes = [{**base, axis: size} for axis, several in axes.items() for size in several]
    return list(dict.fromkeys(Point(cell, **size) for size in sizes))


class Turns(NamedTuple):
    """The rows that took turns: one point, one pass."""

    point: Point
    direction: str
    rows: list[Row]

    def of(self, strategy: str) -> Row | None:
        """Return the row of a strategy; None where it was not measured."""
        rows = [row for row in self.rows if row["strategy"] == strategy and not row["skipped"]]
        return rows[0] if rows else None

    def fastest(self, strategies: tuple[str, ...]) -> Row | None:
        """Return the fastest of some strategies; None where none was measured."""
        rows = [row for name in strategies if (row := self.of(name))]
        return min(rows, key=lambda row: row["milliseconds"], default=None)

    def ratio(self, strategies: tuple[str, ...], rivals: tuple[str, ...]) -> float | None:
        """Return how many times as fast the fastest of some strategies is as that of others."""
        own, rival = self.fastest(strategies), self.fastest(rivals)
        return rival["milliseconds"] / own["milliseconds"] if own and rival else None


def turns(rows: list[Row]) -> list[Turns]:
    """Return the rows by point and pass, the yardstick's beside those of the cell it stands by."""
    found: dict[tuple, Turns] = {}
    for row in rows:
        cell = FULL_CELLS[0] if row["cell"] == YARDSTICK[0] else row["cell"]
        point = Point(cell, row["T"], row["B"], row["N"])
        key = point, row["pass"]
        found.setdefault(key, Turns(*key, [])).rows.append(row)
    return list(found.values())


def base_of(found: list[Turns]) -> Point:
    """Return the sizes from which one axis is varied: the second cell's that most points share."""
    sizes = [one.point[1:] for one in found if one.point.cell == FULL_CELLS[1]]
    return Point(FULL_CELLS[0], *map(statistics.mode, zip(*sizes, strict=True)))


def along(found: list[Turns], cell: str, direction: str, axis: str) -> list[Turns]:
    """Return the points of one cell and pass at which no other axis is off the base, in order."""
    base = base_of(found)._replace(cell=cell)
    here = [
        one
        for one in found
        if one.direction == direction
        and one.point._replace(**{axis: 0}) == base._replace(**{axis: 0})
    ]
    return sorted(here, key=lambda one: getattr(one.point, axis))
