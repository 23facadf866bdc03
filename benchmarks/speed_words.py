"""The speed benchmark in words and tables; where rnnjax loses comes first."""

from benchmarks import wording
from benchmarks.benchmark import Table
from benchmarks.results import Row
from benchmarks.speed_rows import AUTO, OWN, PASSES, WITHOUT_KERNELS, Group, groups, speedups


def summarise(rows: list[Row]) -> str:
    """Say how ``Auto()`` does against the fastest peer of each group, and where it loses."""
    found = groups(rows)
    sentences = [
        _against(found, AUTO, jax_only=True),
        _against(found, AUTO, jax_only=False),
        _losses(found),
        _against(found, WITHOUT_KERNELS, jax_only=True),
        _gaps(rows),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _against(found: list[Group], strategy: str, *, jax_only: bool) -> str:
    """Give the geometric means by cell and pass."""
    parts = []
    for (cell, direction), chosen in _by_cell_and_pass(found).items():
        if ratios := speedups(chosen, strategy, jax_only=jax_only):
            parts.append(f"{cell} {direction} {wording.mean_span(ratios)}")
    if not parts:
        return ""
    if jax_only:
        classic = [group for group in found if group.cell != OWN]
        overall = wording.mean_span(speedups(classic, strategy, jax_only=True))
        whom = f"the fastest peer on JAX of each row: {overall} but for a user's own cell"
    else:
        whom = "the fastest peer of all, PyTorch among them"
    return f"{strategy} against {whom}; geometric mean (range): {', '.join(parts)}."


def _by_cell_and_pass(found: list[Group]) -> dict[tuple[str, str], list[Group]]:
    """Return the groups by cell, and within it by pass."""
    cells = dict.fromkeys(group.cell for group in found)
    keys = [(cell, direction) for cell in cells for direction in PASSES]
    chosen = {key: [g for g in found if (g.cell, g.direction) == key] for key in keys}
    return {key: groups for key, groups in chosen.items() if groups}


def _losses(found: list[Group]) -> str:
    ratios = speedups(found)
    lost = [ratio for ratio in ratios if ratio < 1]
    return f"It loses in {len(lost)} of {len(ratios)} rows." if ratios else ""


def _gaps(rows: list[Row]) -> str:
    reasons = {f"{row['strategy']}: {row['skipped']}" for row in rows if row["skipped"]}
    return f"Not measured: {'; '.join(sorted(reasons))}." if reasons else ""


def tabulate(rows: list[Row]) -> list[Table]:
    """Return the rows that are lost, the means, and all rows."""
    found = groups(rows)
    return [table for table in (_lost(found), _means(found), _all(found)) if table.rows]


def _lost(found: list[Group]) -> Table:
    ratios = [(group.speedup(), group) for group in found]
    lost = [(ratio, group) for ratio, group in ratios if ratio is not None and ratio < 1]
    body = [
        (*_names(group), _auto(group)[0], *_peer(group), f"{ratio:.2f}")
        for ratio, group in sorted(lost, key=lambda pair: pair[0])
    ]
    header = (*_NAMES, f"ms {AUTO}", "fastest peer", "ms", f"{AUTO} is … times as fast")
    return Table("Where rnnjax loses, worst first", header, body, names=6)


def _means(found: list[Group]) -> Table:
    body = [
        (
            *key,
            _mean(chosen, AUTO, jax_only=True),
            _mean(chosen, AUTO, jax_only=False),
            _mean(chosen, WITHOUT_KERNELS, jax_only=True),
        )
        for key, chosen in _by_cell_and_pass(found).items()
    ]
    header = (
        "cell",
        "pass",
        f"{AUTO} against the fastest peer on JAX",
        f"{AUTO} against the fastest of all",
        f"{WITHOUT_KERNELS} against the fastest peer on JAX",
    )
    return Table("Times as fast: geometric mean (range)", header, body, names=2)


def _mean(chosen: list[Group], strategy: str, *, jax_only: bool) -> str:
    ratios = speedups(chosen, strategy, jax_only=jax_only)
    return wording.mean_span(ratios) if ratios else "—"


def _all(found: list[Group]) -> Table:
    body = [(*_names(group), *_auto(group), *_best(group), *_peer(group)) for group in found]
    header = (*_NAMES, f"ms {AUTO}", "of the peak", "fastest strategy", "ms", "fastest peer", "ms")
    return Table(
        "All rows; of the peak: of what products of matrices reach here", header, body, names=6
    )


_NAMES = ("cell", "pass", "T", "B", "D", "N")


def _names(group: Group) -> tuple[str, ...]:
    return (group.cell, group.direction, *(f"{axis:,}" for axis in group.sizes))


def _auto(group: Group) -> tuple[str, str]:
    auto = group.of(AUTO)
    if auto is None:
        return "—", "—"
    return wording.entry(auto, "milliseconds"), f"{auto['share_of_peak']:.0%}"


def _best(group: Group) -> tuple[str, str]:
    best = group.fastest_strategy()
    return best["strategy"], wording.entry(best, "milliseconds")


def _peer(group: Group) -> tuple[str, str]:
    peer = group.fastest_peer()
    if peer is None:
        return "—", "—"
    return f"{peer['implementation']} {peer['strategy']}", wording.entry(peer, "milliseconds")
