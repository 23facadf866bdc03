"""What a benchmark is: how to measure, and how to sum up, tabulate and draw what was measured."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tyro
from matplotlib.figure import Figure
from rich import table as rich_table

from benchmarks.results import Results, Row


class OptionError(ValueError):
    """What the command line asks for cannot be done."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run a benchmark.

    Args:
        quick: fewer sizes.
        out: the folder for the result file and its picture; by default
            benchmarks/results/<device>, with --quick runs/benchmarks/<device>.
    """

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    out: Path | None = None


class Table(NamedTuple):
    """A table for the terminal and the docs; the first columns are names, the others figures."""

    caption: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    names: int = 1

    def rich(self) -> rich_table.Table:
        """Return the table for a terminal."""
        table = rich_table.Table(title=self.caption, title_justify="left")
        for i, column in enumerate(self.header):
            name = i < self.names
            table.add_column(column, justify="left" if name else "right", no_wrap=name)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return the table in Markdown."""
        rules = [":--" if i < self.names else "--:" for i in range(len(self.header))]
        lines = ["| " + " | ".join(row) + " |" for row in (self.header, rules, *self.rows)]
        return "\n".join([f"{self.caption}:", "", *lines])


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One benchmark; all but ``measure`` work from the rows of a result file alone.

    Args:
        measure: takes the options and returns the rows.
        summarise: says in words what the rows show, in numbers computed from them.
        tabulate: returns the compact tables.
        draw: returns the picture.
        packages: the packages whose versions matter, besides rnnjax.
        options: what the command line takes.
    """

    measure: Callable[[Any], list[Row]]
    summarise: Callable[[list[Row]], str]
    tabulate: Callable[[list[Row]], list[Table]]
    draw: Callable[[Results], Figure]
    packages: tuple[str, ...] = ("jax", "jaxlib", "numpy")
    options: type[Options] = Options


Case = TypeVar("Case")


def announced(cases: Sequence[Case]) -> Iterator[Case]:
    """Go through the cases and name each on standard error as it begins."""
    for i, case in enumerate(cases, 1):
        print(f"[{i}/{len(cases)}] {case}", file=sys.stderr, flush=True)
        yield case
