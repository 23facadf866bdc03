"""Series of numbers with gaps: two that statsmodels has, or a CSV file.

    sunspots    yearly numbers of sunspots, 1700–2008 (309 years, no gap); a cycle takes about 11
    co2         weekly CO₂ on Mauna Loa in ppm, 1958–2001 (2,284 weeks, 59 of them gaps); 52 a year

A gap is NaN. A series begins and ends with something that was measured, so that there is something
to go on from.
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from statsmodels.datasets import co2, sunspots

GAPS = ("", "na", "nan", "null", ".")
MOST = 10_000_000  # bytes of a file: more is no series to be learnt here


class Series(NamedTuple):
    """Numbers at equal intervals."""

    name: str
    values: np.ndarray  # (n,), float64; NaN where nothing was measured
    times: np.ndarray  # (n,): years, or numbers of the steps from 0
    labels: tuple[str, str]  # what is drawn against what: times, values


def read(data: str) -> Series:
    """Read a series by its name, or from a file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no table, or not a series; says which line.
    """
    bundled = {"sunspots": _sunspots, "co2": _co2}
    return bundled[data]() if data in bundled else read_csv(Path(data))


def _sunspots() -> Series:
    table: Any = sunspots.load_pandas().data
    values, years = table.SUNACTIVITY.to_numpy(float), table.YEAR.to_numpy(float)
    return Series("sunspots", values, years, ("year", "sunspot number"))


def _co2() -> Series:
    table: Any = co2.load_pandas().data
    days = (table.index - np.datetime64("1958-01-01")).days
    return Series("co2", table.co2.to_numpy(float), 1958 + days / 365.25, ("year", "CO₂, ppm"))


# --- files ---


def read_csv(path: Path) -> Series:
    """Read the last column of a table, under a header or none; times are the first, if numbers.

    Gaps are empty fields, ``NA`` or ``NaN``.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no table of numbers, has a gap at an end, or never changes.
    """
    lines, rows = _rows(path)
    if rows and _number(rows[0][-1]) is None:
        names, lines, rows = rows[0], lines[1:], rows[1:]
    else:
        names = ["step", path.stem]

    def where(k: int) -> str:
        return f"{path}, line {lines[k]}"

    values = np.array([_value(row[-1], where(k)) for k, row in enumerate(rows)])
    check(values, where, str(path))
    return Series(path.stem, values, _times(rows), (names[0], names[-1]))


def _rows(path: Path) -> tuple[list[int], list[list[str]]]:
    """The rows of a table that has as many fields in each, and their lines."""
    numbered = list(_numbered(path))
    width = len(numbered[0][1]) if numbered else 0
    for line, row in numbered:
        if len(row) != width:
            raise ValueError(
                f"{path}, line {line}: expected {width} fields, as in the first line; got "
                f"{len(row)}. Write gaps as NA."
            )
    return [line for line, _ in numbered], [row for _, row in numbered]


def _numbered(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table without the empty lines at its end."""
    reader = csv.reader(_text(path).rstrip().splitlines(), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(
            f"expected sunspots, co2 or a CSV file; there is no file {str(path)!r}."
        )
    if path.stat().st_size > MOST:
        raise ValueError(f"{path}: expected at most {MOST:,} bytes; got {path.stat().st_size:,}.")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: expected text in UTF-8.") from error


def _number(field: str) -> float | None:
    """A field as a number, NaN for a gap, None for anything else."""
    field = field.strip()
    if field.lower() in GAPS:
        return np.nan
    try:
        return float(field)
    except ValueError:
        return None


def _value(field: str, where: str) -> float:
    value = _number(field)
    if value is None or np.isinf(value):
        raise ValueError(f"{where}: expected a finite number, or NA for a gap; got {field!r}.")
    return value


def _times(rows: list[list[str]]) -> np.ndarray:
    """The first of several columns where its numbers rise, else the numbers of the rows."""
    times = np.array([np.nan if (t := _number(row[0])) is None else t for row in rows])
    rising = len(rows[0]) > 1 and bool((np.diff(times) > 0).all())
    return times if rising else np.arange(len(rows), dtype=float)


def check(values: np.ndarray, where: Callable[[int], str], name: str) -> None:
    """Check that there is something to learn from, and to go on from.

    Args:
        values: (n,), NaN for gaps.
        where: says where the value of a number stands.
        name: of the series.

    Raises:
        ValueError: it is empty, constant, or begins or ends with a gap.
    """
    if not np.isfinite(values).any():
        raise ValueError(f"{name}: expected numbers, one a line; got none.")
    for end, k in (("begin", 0), ("end", len(values) - 1)):
        if np.isnan(values[k]):
            raise ValueError(
                f"{where(k)}: expected the series to {end} with a number; got a gap. Cut it off."
            )
    if np.nanmin(values) == np.nanmax(values):
        raise ValueError(f"{name}: expected a series that changes; all values are {values[0]:g}.")


def check_scale(series: Series, scale: str) -> None:
    """Check that the values can be brought to a scale.

    Raises:
        ValueError: it is a root and one is below 0, or a logarithm and one is not above.
    """
    k = int(np.nanargmin(series.values))
    least = series.values[k]
    if (scale == "sqrt" and least < 0) or (scale == "log" and least <= 0):
        expected = "from 0 up" if scale == "sqrt" else "above 0"
        raise ValueError(
            f"{series.name}: --scale {scale} is for values {expected}; value {k + 1} is {least:g}. "
            "Take --scale plain."
        )
