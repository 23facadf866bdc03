"""What the gradient benchmark found, in words and as tables."""

from benchmarks import gradient_rows as read
from benchmarks import wording
from benchmarks.benchmark import Table
from benchmarks.gradient_rows import (
    ADDING_TIME,
    AFTER,
    BEFORE,
    BIAS_0,
    BIAS_1,
    CHRONO,
    FACTOR,
    GLOROT,
    GUESS_MSE,
    LSTM,
    OUR_DEFAULTS,
    REFERENCE_LAG,
    RNN,
)
from benchmarks.results import Row


def summarise(rows: list[Row]) -> str:
    """Say what is left after 100 steps, what the peers' defaults do, and what training changes."""
    rows = [row for row in rows if not row["skipped"]]
    sentences = (_initial_sentence, _default_sentence, _lesson, _long_sentence, _trained_sentence)
    return " ".join(text for text in (sentence(rows) for sentence in sentences) if text)


def _initial_sentence(rows: list[Row]) -> str:
    ours = read.initial(rows, "rnnjax")
    gates = {row["strategy"]: read.left(row) for row in ours if row["cell"] == LSTM}
    plain = {read.name(row): read.left(row) for row in ours if row["cell"] != LSTM}
    return (
        f"At initialisation, what is left of a gradient {read.lag(ours)} steps back (median over "
        f"{ours[0]['seeds']} seeds): in c of an LSTM {read.listed(gates)}; in h "
        f"{read.listed(plain)}."
    )


def _default_sentence(rows: list[Row]) -> str:
    """List the cells as they come."""
    kinds = []
    for cell in OUR_DEFAULTS:
        here = filter(read.is_default, read.of_cell(read.initial(rows), cell))
        kept = {row["implementation"]: read.left(row) for row in here}
        kinds.append(f"{cell} {read.listed(kept)}")
    return f"As they come from each library: {'; '.join(kinds)}."


def _lesson(rows: list[Row]) -> str:
    """Say what a forget bias is worth, and which cells are worse than a tanh RNN as they come."""
    lstms = read.of_cell(read.initial(rows, "rnnjax"), LSTM)
    ours = {row["strategy"]: read.horizon(row) for row in lstms}
    text = (
        f"In an LSTM 1/{1 / FACTOR:,.0f} is left after {ours[BIAS_0]} steps with a forget bias of "
        f"0, {ours[BIAS_1]} with 1 and {ours[CHRONO]} with {CHRONO}"
    )
    worse = [f"the {cell} of {read.joined(names)}" for cell, names in _worse(rows).items()]
    if not worse:
        return f"{text}."
    return (
        f"{text}. As they come, {read.joined(worse)} start with less left than a tanh RNN: set "
        "their forget or update bias by hand."
    )


def _worse(rows: list[Row]) -> dict[str, list[str]]:
    """Return by cell the libraries whose default leaves less than a tanh RNN with Glorot."""
    ours = read.initial(rows, "rnnjax")
    plain = next(row for row in ours if read.name(row) == f"{RNN}, {GLOROT}")
    found = {}
    for row in filter(read.is_default, read.initial(rows)):
        if read.log10(row) < read.log10(plain):
            found.setdefault(row["cell"], []).append(row["implementation"])
    return found


def _long_sentence(rows: list[Row]) -> str:
    """Say what is left at the longest lag."""
    ours = read.initial(rows, "rnnjax")
    longest = ours[0]["lags"][-1]
    kept = {read.name(row): read.left(row, longest) for row in ours if row["horizon_steps"] is None}
    if not kept:
        return f"Within {longest:,} steps every cell comes to less than {FACTOR:g}."
    listed = read.listed(kept)
    return f"Within {longest:,} steps all but these come to less than {FACTOR:g}: {listed}."


def _trained_sentence(rows: list[Row]) -> str:
    """Say what training on the adding problem does to the gradient."""
    after = [row for row in rows if row["stage"] == AFTER]
    if not after:
        return ""
    before = {read.name(row): read.left(row) for row in rows if row["stage"] == BEFORE}
    names = [f"{read.name(row)}; MSE {wording.short(row['mse'])}" for row in after]
    changes = [f"from {before[read.name(row)]} to {read.left(row)}" for row in after]
    return (
        f"{after[0]['training_steps']:,} steps of training on the adding problem, T={ADDING_TIME}, "
        f"where guessing has an MSE of {GUESS_MSE:.3f}, change what is left {read.lag(after)} "
        f"steps back {read.listed(dict(zip(names, changes, strict=True)))}."
    )


# --- tables ------------------------------------------------------------------------------------


TABLE_LAGS = (100, 1_000, 10_000)


def tabulate(rows: list[Row]) -> list[Table]:
    """Return one table at initialisation and one around training."""
    return [_initial_table(read.initial(rows)), _trained_table(rows)]


def _initial_table(rows: list[Row]) -> Table:
    lags = [lag for lag in TABLE_LAGS if lag < rows[0]["T"]]
    header = ("library", "cell", *(f"{lag:,}" for lag in lags), f"to {FACTOR:g}")
    body = [
        (row["implementation"], read.name(row), *_entries(row, lags), _steps(row)) for row in rows
    ]
    caption = (
        "log10 of ‖λ_{{T−k}}‖ / ‖λ_T‖ at lags k, and the steps to {factor:g}, medians; "
        "x ~ N(0, 1), B={B}, D={D}, N={N}"
    )
    return Table(caption.format(factor=FACTOR, **rows[0]), header, body, names=2)


def _trained_table(rows: list[Row]) -> Table:
    after = {read.name(row): row for row in rows if row["stage"] == AFTER}
    before = {read.name(row): row for row in rows if row["stage"] == BEFORE}
    body = [
        (
            name,
            *_entries(before[name], [REFERENCE_LAG]),
            *_entries(row, [REFERENCE_LAG]),
            wording.entry(row, "mse"),
        )
        for name, row in after.items()
    ]
    caption = (
        f"log10 of the same on the adding problem at lag {REFERENCE_LAG}, T={ADDING_TIME}; "
        f"guessing has an MSE of {GUESS_MSE:.3f}"
    )
    return Table(caption, ("cell", BEFORE, AFTER, "MSE"), body)


def _entries(row: Row, lags: list[int]) -> list[str]:
    if row["skipped"]:
        return ["—"] * len(lags)
    return [read.signed(read.log10(row, lag)).replace("inf", "∞") for lag in lags]


def _steps(row: Row) -> str:
    if row["skipped"]:
        return "—"
    return "∞" if row["horizon_steps"] is None else f"{row['horizon_steps']:,.0f}"
