"""The parallel benchmark: what is counted, measured, and said of it."""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from benchmarks import parallel, programs, results, work
from benchmarks.parallel import Case
from benchmarks.parallel_rows import (
    FULL_CELLS,
    PARALLEL,
    PUBLISHED,
    QUICK_BASE,
    STEPWISE,
    YARDSTICK,
    Point,
    along,
    base_of,
    plan,
    turns,
)
from benchmarks.speed_rows import FORWARD, PASSES, TRAINING
from rnnjax.kernels import build

TINY = Point("MinGRU", T=8, B=2, N=4)


def test_work_and_depth():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert work.count(jnp.matmul, a, b) == (2 * 3 * 4 * 5, 1)
    assert work.count(lambda x: jnp.concatenate([x, x])[::-1].T, a) == (0, 0)
    with pytest.raises(ValueError, match="loops of known length"):
        work.count(lambda x: jax.lax.while_loop(lambda h: h < 9, lambda h: h + x, x), 1.0)


def test_a_scan_of_pairs_has_a_short_chain():
    """Two combinations a step, three operations each, in 2 log2 T rounds; JAX joins by adding."""
    ones = jax.ShapeDtypeStruct((1024,), jnp.float32)

    def combine(earlier, later):
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    counted = work.count(lambda a, b: jax.lax.associative_scan(combine, (a, b)), ones, ones)
    assert 9 * 1024 < counted.work < 10 * 1024
    assert 40 <= counted.depth <= 60


@pytest.mark.parametrize("direction", PASSES)
def test_every_arm_is_measured_and_compared_with_float64(direction):
    rows = parallel.measure_case(Case(TINY, direction), rounds=1)
    linear = [row for row in rows if row["cell"] == "MinGRU"]
    assert [row["strategy"] for row in linear] == [*STEPWISE, *PARALLEL]
    for row in linear:
        assert row["milliseconds"] > 0
        assert row["error"] < 1e-6
        assert row["work"] > 0
    loop, *_, summed, _ = linear
    assert summed["depth"] < loop["depth"]
    (yardstick,) = [row for row in rows if row["cell"] == "GRU"]
    assert (yardstick["skipped"] is None) == (build.missing() is None)
    assert yardstick["error"] is yardstick["work"] is None


def test_a_wrong_result_has_a_large_error(monkeypatch):
    wrong = {**parallel.STRATEGIES, "Chunked()": Doubled()}
    monkeypatch.setattr(parallel, "STRATEGIES", wrong)
    ready, error = parallel._prepare(Case(TINY, FORWARD), "MinGRU", "Chunked()")
    assert isinstance(ready, programs.Ready)
    assert error > 0.3


class Doubled(rnnjax.Sequential):
    """A strategy that is wrong."""

    def run(self, recurrence):
        carry, ys = super().run(recurrence)
        return carry, 2 * ys


def test_what_takes_too_much_is_a_gap_with_its_reason():
    x = jnp.ones((1000, 1000))
    over = programs.prepare(jnp.sin, x, bounds=programs.Bounds(gigabytes=0.001))
    assert over == "a call allocates 0.004 GB; the bound is 0.001 GB"
    over = programs.prepare(jnp.sin, x, bounds=programs.Bounds(seconds=0))
    assert over == "a call takes 0 s; the bound is 0 s"


def test_the_plan_varies_one_axis_at_a_time():
    points = plan(quick=False)
    assert len(points) == len(set(points))
    assert max(point.T for point in points) == 131_072
    for point in points:
        if point.cell == FULL_CELLS[1]:
            assert sum(a != b for a, b in zip(point[1:], (4_096, 4, 64), strict=True)) <= 1
    assert {(one.T, one.B, one.N) for one in PUBLISHED} < {point[1:] for point in points}


# --- what is said of the times -----------------------------------------------------------------

MILLISECONDS = dict(zip((*STEPWISE, *PARALLEL), (8.0, 4.0, 5.0, 2.0, 1.0), strict=True))


def made_up_row(point, direction, strategy, cell=None):
    """Summing up wins for MinGRU but at T = 64, where it takes ten times as long."""
    slower = 10 if strategy in PARALLEL and (point.T == 64 or point.cell != "MinGRU") else 1
    skipped = strategy == "Associative()" and point.cell != "MinGRU"
    milliseconds = None if skipped else slower * MILLISECONDS.get(strategy, 3.0)
    yardstick = cell == "GRU"
    return {
        "cell": cell or point.cell,
        "implementation": "rnnjax",
        "strategy": strategy,
        **{axis: getattr(point, axis) for axis in "TBDN"},
        "pass": direction,
        "milliseconds": milliseconds,
        "compile_seconds": None if skipped else 0.5,
        "peak_bytes": None if skipped else 2_000_000,
        "skipped": "out of memory" if skipped else None,
        "work": None if yardstick else 3_000_000 * (1 + (strategy in PARALLEL)),
        "depth": None if yardstick else (50 if strategy in PARALLEL else 500),
        "error": None if yardstick or skipped else 1e-6,
    }


def made_up_rows():
    rows = []
    points = plan(quick=True) + [Point("MinGRU", one.T, one.B, one.N) for one in PUBLISHED]
    for point in points:
        for direction in PASSES:
            rows += [made_up_row(point, direction, name) for name in MILLISECONDS]
            if point.cell == "MinGRU":
                rows.append(made_up_row(point, direction, YARDSTICK[1], "GRU"))
    return rows


def test_summary_says_who_wins_where():
    summary = parallel.summarise(made_up_rows())
    for part in (
        "MinGRU forward: summed up 1.3× (0.4–4×) as fast as step by step, and faster at 3 of 6 "
        "points (won: T=256 B=4 N=64; T=512 B=64 N=64; T=1,000 B=64 N=100).",
        "GatedDelta forward+backward: summed up 0.4× (0.4×) as fast as step by step, and faster at "
        "0 of 1 points.",
        "hoist=True) has too, train MinGRU 2 times, GatedDelta 2 times as fast at T=64 B=4 N=64.",
        "operations to train GatedDelta, counted in the traced program, against Sequential(): "
        "Associative() 2× in a chain 10× shorter, Associative(block=64) 2× in a chain 10× shorter.",
        "relative to the largest entry: summed up 1e-06, step by step 1e-06.",
        "arXiv:2410.01201); here, at those sizes and N = 64, it trains summed up 3 times and step "
        "by step 0.75 times as fast as GRU under Fused().",
        "2 of 82 rows are gaps, each with its reason.",
    ):
        assert part in summary


def test_tables_and_picture(tmp_path):
    rows = made_up_rows()
    found = turns(rows)
    assert base_of(found)[1:] == tuple(QUICK_BASE.values())
    assert [one.point.T for one in along(found, "MinGRU", TRAINING, "T")] == [64, 256]
    base, everything, gaps = parallel.tabulate(rows)
    assert len(base.rows) == 2 * len(MILLISECONDS) + 1
    assert len(everything.rows) == len(found)
    assert gaps.rows[0][-3:] == ("64", "Associative()", "out of memory")
    assert "| GatedDelta | Associative() | — | — | — | — | 6 | 50 | — | — |" in base.markdown()
    made_up = results.Results("parallel", "a device", 1, {}, None, "2026-01-01", "", rows)
    figure = parallel.draw(made_up)
    assert len(figure.axes) == 2 * len(FULL_CELLS) * 3
    figure.savefig(tmp_path / "picture.png")
