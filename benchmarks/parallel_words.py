"""The parallel benchmark in words and tables: who wins where, for how much work."""

from collections.abc import Collection

from benchmarks import wording
from benchmarks.benchmark import Table
from benchmarks.parallel_rows import (
    FULL_CELLS,
    HOISTED,
    PARALLEL,
    PUBLISHED,
    SEQUENTIAL,
    STEPWISE,
    YARDSTICK,
    Point,
    Published,
    Turns,
    base_of,
    turns,
)
from benchmarks.results import Row
from benchmarks.speed_rows import FORWARD, PASSES, TRAINING

FEW = 4


def summarise(rows: list[Row]) -> str:
    """Say where steps win and where summing them up, and set others' reports beside ours."""
    found = turns(rows)
    sentences = [
        f"Summed up is the faster of {' and '.join(PARALLEL)}, step by step the fastest of "
        f"{', '.join(STEPWISE)}.",
        *(_winner(found, cell, direction) for cell in FULL_CELLS for direction in PASSES),
        _hoisted(found),
        *(_work(found, cell) for cell in FULL_CELLS),
        _errors(rows),
        *(_published(found, one) for one in PUBLISHED),
        _gaps(rows),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _winner(found: list[Turns], cell: str, direction: str) -> str:
    here = [one for one in found if (one.point.cell, one.direction) == (cell, direction)]
    ratios = {one.point: ratio for one in here if (ratio := one.ratio(PARALLEL, STEPWISE))}
    if not ratios:
        return ""
    won = [point for point, ratio in ratios.items() if ratio > 1]
    return (
        f"{cell} {direction}: summed up {wording.mean_span(list(ratios.values()))} as fast as step "
        f"by step, and faster at {len(won)} of {len(ratios)} points{_exceptions(won, ratios)}."
    )


def _exceptions(won: list[Point], points: Collection[Point]) -> str:
    """Name the points that are won, or those that are lost, where these are fewer."""
    lost = [point for point in points if point not in won]
    fewer, verb = (won, "won") if len(won) <= len(lost) else (lost, "lost")
    named = "; ".join(_sizes(point) for point in fewer[:FEW])
    return f" ({verb}: {named}{'; …' * (len(fewer) > FEW)})" if fewer else ""


def _hoisted(found: list[Turns]) -> str:
    """Say what products of all steps at once give by themselves, which summing up has, too."""
    here = [_at_base(found, cell) for cell in FULL_CELLS]
    ratios = {one.point.cell: one.ratio((HOISTED,), (SEQUENTIAL,)) for one in here}
    parts = [f"{cell} {wording.short(ratio)} times" for cell, ratio in ratios.items() if ratio]
    if not parts:
        return ""
    return (
        f"Against {SEQUENTIAL} alone it would look better: products of all steps at once, which "
        f"{HOISTED} has too, train {', '.join(parts)} as fast at {_sizes(here[0].point)}."
    )


def _at_base(found: list[Turns], cell: str) -> Turns:
    point = base_of(found)._replace(cell=cell)
    (here,) = [one for one in found if (one.point, one.direction) == (point, TRAINING)]
    return here


def _sizes(point: Point) -> str:
    return f"T={point.T:,} B={point.B} N={point.N}"


def _work(found: list[Turns], cell: str) -> str:
    """Compare operations and chains at the base point."""
    here = _at_base(found, cell)
    steps = here.rows[0]
    parts = []
    for row in here.rows:
        if row["strategy"] in PARALLEL:
            more = wording.short(row["work"] / steps["work"])
            shorter = wording.short(steps["depth"] / row["depth"])
            parts.append(f"{row['strategy']} {more}× in a chain {shorter}× shorter")
    return (
        f"At {_sizes(here.point)}, operations to train {cell}, counted in the traced program, "
        f"against {SEQUENTIAL}: {', '.join(parts)}."
    )


def _errors(rows: list[Row]) -> str:
    linear = [row for row in rows if row["error"] is not None]
    worst = {
        words: max((row["error"] for row in linear if row["strategy"] in names), default=None)
        for words, names in (("summed up", PARALLEL), ("step by step", STEPWISE))
    }
    if None in worst.values():
        return ""
    parts = [f"{words} {error:.0e}" for words, error in worst.items()]
    return f"Largest error against float64, relative to the largest entry: {', '.join(parts)}."


def _published(found: list[Turns], one: Published) -> str:
    sizes = FULL_CELLS[0], one.T, one.B, one.N
    here = [turn for turn in found if (turn.point, turn.direction) == (sizes, TRAINING)]
    if not here:
        return f"{_capital(one.claim)}."
    ways = {"summed up": PARALLEL, "step by step": STEPWISE}
    ratios = {way: here[0].ratio(names, YARDSTICK[1:]) for way, names in ways.items()}
    parts = [f"{way} {wording.short(ratio)} times" for way, ratio in ratios.items() if ratio]
    if not parts:
        return f"{_capital(one.claim)}."
    return (
        f"{_capital(one.claim)}; here, at those sizes and N = {one.N}, it trains "
        f"{' and '.join(parts)} as fast as {YARDSTICK[0]} under {YARDSTICK[1]}."
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _gaps(rows: list[Row]) -> str:
    gaps = sum(row["skipped"] is not None for row in rows)
    return f"{gaps} of {len(rows)} rows are gaps, each with its reason." if gaps else ""


# --- tables ------------------------------------------------------------------------------------


def tabulate(rows: list[Row]) -> list[Table]:
    """Return every cell at the base point, the times of all points, and why any is missing."""
    found = turns(rows)
    tables = _base_table(found), _all_table(found), _gap_table(rows)
    return [table for table in tables if table.rows]


def _gap_table(rows: list[Row]) -> Table:
    names = ("cell", "pass", "T", "B", "N", "strategy")
    body = [
        (*(f"{row[name]:,}" if name in "TBN" else row[name] for name in names), row["skipped"])
        for row in rows
        if row["skipped"]
    ]
    return Table("Not measured", (*names, "because"), body, names=7)


def _base_table(found: list[Turns]) -> Table:
    base = base_of(found)
    here = [one for one in found if one.point[1:] == base[1:]]
    forward = {one.point.cell: one for one in here if one.direction == FORWARD}
    body = []
    for one in here:
        if one.direction == TRAINING:
            for ahead, row in zip(forward[one.point.cell].rows, one.rows, strict=True):
                body.append((row["cell"], row["strategy"], *_figures(ahead, row)))
    caption = (
        f"{_sizes(base)}; MB, s to compile, operations and chain are of {TRAINING}; error is "
        f"relative to the largest entry, of the outputs and of the gradient in the inputs"
    )
    header = (
        *("cell", "strategy", "ms forward", f"ms {TRAINING}", "MB", "s to compile"),
        *("million operations", "chain", "error", "error of gradient"),
    )
    return Table(caption, header, body, names=2)


def _figures(forward: Row, training: Row) -> tuple[str, ...]:
    times = wording.entry(forward, "milliseconds"), wording.entry(training, "milliseconds")
    memory = wording.entry(training, "peak_bytes"), wording.entry(training, "compile_seconds")
    counted = "—", "—"
    if training["work"] is not None:
        counted = f"{training['work'] / 1e6:,.0f}", f"{training['depth']:,}"
    errors = ("—" if row["error"] is None else f"{row['error']:.0e}" for row in (forward, training))
    return (*times, *memory, *counted, *errors)


def _all_table(found: list[Turns]) -> Table:
    names = (*STEPWISE, *PARALLEL, YARDSTICK[1])
    body = [
        (
            one.point.cell,
            one.direction,
            *(f"{size:,}" for size in one.point[1:]),
            *(wording.entry(row, "milliseconds") if (row := one.of(n)) else "—" for n in names),
            wording.short(ratio) if (ratio := one.ratio(PARALLEL, STEPWISE)) else "—",
        )
        for one in found
    ]
    header = (
        "cell",
        "pass",
        "T",
        "B",
        "N",
        *names[:-1],
        " ".join(YARDSTICK),
        "summed up, × as fast",
    )
    return Table("Milliseconds; a dash: not measured", header, body, names=5)
