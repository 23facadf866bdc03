"""The benchmarks package: timing, result files, what they are summed up as, the page of results."""

import dataclasses
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks import document, fused, gradients, results, streaming, timing
from benchmarks import scan_vs_unrolled as bench
from benchmarks.speed_models import Size
from rnnjax.kernels import build

MILLISECONDS = {
    bench.LOOP: 10.0,
    "Sequential(unroll=2)": 10.0,
    "Sequential(unroll=4)": 5.0,
    "Sequential(unroll=8)": 8.0,
    "Sequential(unroll=16)": 40.0,
    bench.UNROLLED: 20.0,
    bench.CHUNKED: 12.5,
}


def made_up_row(case, strategy, skipped=None, **changes):
    """A row of which every figure can be told by its strategy and pass."""
    slower = 3.0 if case.direction == bench.TRAINING and "unroll=" in strategy else 1.0
    figures = {
        "milliseconds": slower * MILLISECONDS[strategy],
        "milliseconds_median": 2 * slower * MILLISECONDS[strategy],
        "rounds": 7,
        "compile_seconds": 15.0 if strategy == bench.UNROLLED else 0.5,
        "peak_bytes": 1_000_000 if strategy == bench.CHUNKED else 8_000_000,
    }
    return {
        "cell": case.cell,
        "implementation": "rnnjax",
        "strategy": strategy,
        **{axis: getattr(case, axis) for axis in "TBDN"},
        "pass": case.direction,
        "loss": case.loss,
        **({} if skipped is None else dict.fromkeys(figures)),
        **({} if skipped else figures),
        "skipped": skipped,
        **changes,
    }


def made_up_rows():
    plan = bench.Plan(("LSTM", "GRU"), (8, 32), (1_000,), 5)
    return [
        made_up_row(case, strategy, skipped=skip(case, strategy))
        for case in plan.short_cases() + plan.long_cases()
        for strategy in ((bench.LOOP, bench.CHUNKED) if case.long else bench.STRATEGIES)
    ]


def skip(case, strategy):
    over = strategy == bench.UNROLLED and case.direction == bench.TRAINING and case.T == 32
    return "compiling would take about 9 s; the budget is 5 s" if over else None


def made_up_results():
    rows = made_up_rows()
    return results.record("scan_vs_unrolled", ("jax",), bench.summarise(rows), rows)


def test_timing_tells_a_slow_arm_from_a_fast_one():
    def matmul(x):
        return x @ x

    def chain(x):
        for _ in range(20):
            x = jnp.tanh(x @ x)
        return x

    x = np.ones((64, 64), np.float32)
    arms = {f.__name__: timing.compile_program(f, x) for f in (matmul, chain)}
    calls = {name: program.call for name, program in arms.items()}
    times = timing.time_together(calls, rounds=5, round_seconds=0.005)
    assert times["matmul"].milliseconds < times["chain"].milliseconds
    assert all(t.milliseconds <= t.milliseconds_median and t.rounds == 5 for t in times.values())
    assert all(program.compile_seconds > 0 for program in arms.values())
    # One product needs its output alone; nothing of the argument is counted.
    assert arms["matmul"].peak_bytes == x.nbytes
    assert arms["chain"].peak_bytes > x.nbytes


def test_arms_take_turns_and_short_calls_are_repeated():
    turns = []

    def arm(name, seconds):
        def call():
            turns.append(name)
            time.sleep(seconds)

        return call

    timing.time_together({"a": arm("a", 0.001), "b": arm("b", 0.01)}, rounds=3, round_seconds=0.01)
    runs = [(name, len(list(run))) for name, run in itertools.groupby(turns)]
    assert [name for name, _ in runs] == ["a", "b"] * 4  # The first turn warms up.
    assert all(count > 1 for name, count in runs[2:] if name == "a")


def test_peak_bytes_counts_what_the_backward_pass_saves():
    case = bench.Case("Elman", 512, 2, 3, 16, bench.TRAINING, bench.LAST_CARRY)
    loop, chunked = (bench.compile_case(case, name) for name in (bench.LOOP, bench.CHUNKED))
    assert loop.peak_bytes > case.T * case.B * case.N * 4
    assert chunked.peak_bytes < loop.peak_bytes / 2


def test_result_file_round_trip(tmp_path):
    written = made_up_results()
    path = written.save(tmp_path / results.slug(written.device))
    assert results.load(path) == written
    assert path.read_text(encoding="utf-8").count('{"cell"') == len(written.rows)


def test_result_files_name_what_is_missing(tmp_path):
    written = made_up_results()
    nameless = {key: value for key, value in written.rows[1].items() if key != "D"}
    broken = dataclasses.replace(written, rows=[written.rows[0], nameless])
    with pytest.raises(ValueError, match=r"Results: rows\[1\] must have .*; it lacks D\."):
        broken.save(tmp_path)
    (tmp_path / "old.json").write_text('{"benchmark": "old"}')
    with pytest.raises(ValueError, match=r"load: .*old\.json must have .*; it lacks device, "):
        results.load(tmp_path / "old.json")
    (tmp_path / "cut.json").write_text('{"bench')
    with pytest.raises(ValueError, match=r"load: .*cut\.json must be JSON"):
        results.load(tmp_path / "cut.json")


def test_commit_is_none_outside_of_a_checkout(tmp_path):
    assert results.commit(tmp_path) is None


def test_summary_is_computed_from_the_rows():
    summary = bench.summarise(made_up_rows())
    for part in (
        "Forward, at the largest T that Unrolled() was compiled for (LSTM 32, GRU 32): it compiles "
        "30× longer than Sequential() and runs 0.5× as fast. ",
        "Forward+backward, at the largest T that Unrolled() was compiled for (LSTM 8, GRU 8): it "
        "compiles 30× longer than Sequential() and runs 0.5× as fast; beyond that it is over",
        "Forward, unroll=4 runs 2× (2×) as fast as unroll=1, more than 5 % faster in 4 and more "
        "than 5 % slower in 0 of 4 cases; averaged over T, what pays best: LSTM unroll=4 (2×), "
        "GRU unroll=4 (2×).",
        "Forward+backward, unroll=4 runs 0.67× (0.67×) as fast as unroll=1, more than 5 % faster "
        "in 0 and more than 5 % slower in 4 of 4 cases; averaged over T, no unroll pays",
        "Training at T=1,000, the loss on the last carry: Chunked() needs 8× less memory than "
        "Sequential() for 1.2× the time.",
    ):
        assert part in summary


def test_skipped_rows_are_gaps_and_in_no_ratio():
    rows = made_up_rows()
    skipped = [row for row in rows if row["skipped"]]
    assert {(row["strategy"], row["T"]) for row in skipped} == {(bench.UNROLLED, 32)}
    assert all(row["milliseconds"] is None and row["peak_bytes"] is None for row in skipped)
    ratios = bench.ratios(rows, "compile_seconds", bench.UNROLLED, bench.LOOP)
    training = [case for case in ratios if case.direction == bench.TRAINING]
    assert {case.T for case in training} == {8}
    short = bench.tabulate(rows)[0].markdown()
    assert "| LSTM | 32 | Unrolled() | 20 | — | — | — |" in short
    assert "| LSTM | 8 | Unrolled() | 20 | 20 | 8 | 15 |" in short


def test_picture_leaves_a_gap(tmp_path):
    figure = bench.draw(made_up_results())
    forward, training = figure.axes[2], figure.axes[4]
    lines = dict(zip(bench.LINES, forward.get_lines(), strict=True))
    assert list(lines[bench.UNROLLED].get_xdata()) == [8, 32]
    lines = dict(zip(bench.LINES, training.get_lines(), strict=True))
    assert list(lines[bench.UNROLLED].get_xdata()) == [8]
    assert len(training.patches) == 1  # Hatched where Unrolled is missing.
    assert not forward.patches
    figure.savefig(tmp_path / "picture.png")


def test_budget_predicts_before_it_compiles():
    budget = bench.Budget(60, [])
    assert budget.refusal(1024) is None
    budget.compiled.append((8, 1.0))
    assert budget.refusal(32) is None
    budget.compiled.append((16, 2.0))
    assert bench.predict_seconds(budget.compiled, 128) == pytest.approx(16)
    budget.compiled.append((32, 16.0))
    assert budget.refusal(64) == "compiling would take about 130 s; the budget is 60 s"


def test_a_case_over_the_budget_is_recorded():
    case = bench.Case("Elman", 4, 2, 2, 3, bench.FORWARD, None)
    rows = bench.measure_case(case, bench.Budget(1, [(2, 100.0)]))
    by_strategy = {row["strategy"]: row for row in rows}
    assert list(by_strategy) == list(bench.STRATEGIES)
    assert by_strategy[bench.UNROLLED]["milliseconds"] is None
    assert "the budget is 1 s" in by_strategy[bench.UNROLLED]["skipped"]
    assert by_strategy[bench.LOOP]["milliseconds"] > 0
    assert by_strategy[bench.LOOP]["skipped"] is None


def test_list_command_names_every_benchmark(capsys):
    command.main([])
    lines = capsys.readouterr().out.splitlines()
    for name, line in {**benchmarks.BENCHMARKS, "tables": "Generate"}.items():
        assert sum(name in out and line in out for out in lines) == 1


def test_unknown_benchmark_is_told_the_names():
    with pytest.raises(
        SystemExit,
        match=r"NAME must be one of scan_vs_unrolled, speed, .*, agree, choose, tables; got",
    ):
        command.main(["sc"])


def test_every_way_of_streaming_writes_its_tokens():
    pytest.importorskip("torch")
    case = streaming.Case(T=3, B=2, N=8)
    with jax.numpy_rank_promotion("allow"):  # Flax's Dense broadcasts its bias
        rows = streaming.measure_case(case, rounds=1)
    assert [row["strategy"] for row in rows] == [arm.name for arm in streaming.ARMS]
    for row in rows:
        assert row["microseconds_per_token"] == pytest.approx(1e3 * row["milliseconds"] / 3)
    (table,) = streaming.tabulate(rows)
    assert len(table.rows) == len(streaming.ARMS)
    assert streaming.summarise(rows).startswith("B=2, N=8: sample writes")
    made_up = results.Results("streaming", "a device", 1, {}, None, "2026-01-01", "", rows)
    assert streaming.draw(made_up).axes


@pytest.mark.skipif(build.missing() is not None, reason="no kernels without a compiler")
def test_masks_and_resets_are_set_against_whole_sequences(tmp_path):
    case = fused.Case("LSTM", Size(4, 2, 3, 16, "float32"), fused.PASSES[0])
    rows = fused.measure_case(case, rounds=1)
    assert len(rows) == 2 * len(fused.READS) + 1
    for row, milliseconds in zip(rows, [2.0, 1.0, 3.0, 4.0] * 2 + [1.0], strict=True):
        assert row["milliseconds"] > 0
        assert 0 <= row["system_share"] <= 1
        row["milliseconds"] = milliseconds
    rows += [{**row, "pass": fused.PASSES[1]} for row in rows]
    seconds = {"compile_seconds": 2.5, "compile_seconds_again": 0.5}
    names = {key: rows[0][key] for key in results.ROW_KEYS}
    rows.append({**names, **seconds, "kernels": 3, "kernels_again": 0})
    written = results.record("fused", ("jax",), fused.summarise(rows), rows)
    assert written.summary.startswith(
        "Fused(), forward: of the time without, a mask takes 0.5× (0.5×), resets 1.5× (1.5×), both "
        "2× (2×)."
    )
    assert "forward, is 2× (2×) as fast as Fused()." in written.summary
    assert "compiles in 2.5 s at most, in another process in 0.5 s, for which 0" in written.summary
    assert results.load(written.save(tmp_path)) == written
    times, compiled = fused.tabulate(rows)
    assert (len(times.rows), len(compiled.rows)) == (6, 1)
    fused.draw(written).savefig(tmp_path / "picture.png")


def test_gradients_keep_to_their_bounds_and_a_missing_peer_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(gradients, "is_installed", lambda name: name in ("rnnjax", "flax"))
    plan = gradients.Plan(lag=12, seeds=2, batch=2, features=3, hidden=8, steps=1, runs=1)
    measured = {gradients.SCALED, gradients.BIAS_0, gradients.DEFAULTS}
    chosen = [subject for subject in gradients.SUBJECTS if subject.strategy in measured]
    chosen.remove(next(s for s in chosen if (s.implementation, s.cell) == ("flax", "GRU")))
    # Flax's Dense broadcasts its bias, and Adam counts its steps in integers.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        rows = [gradients.measure_initial(subject, plan) for subject in chosen]
        rows += gradients.measure_trained(gradients.TRAINED[0], plan)
    shrunk, forgetful = rows[:2]
    assert shrunk["theory_log10_per_step"] == pytest.approx(np.log10(0.9), abs=1e-5)
    for lag, ratio in zip(shrunk["lags"], shrunk["log10_ratio_upper"], strict=True):
        assert ratio <= lag * np.log10(0.9) + 1e-3
    assert forgetful["theory_log10_per_step"] == pytest.approx(np.log10(0.5), abs=1e-5)
    skipped = {row["implementation"]: row["skipped"] for row in rows if row["skipped"]}
    assert skipped == {name: f"{name} is not installed" for name in ("haiku", "equinox")}

    rest = [subject for subject in gradients.OURS if subject.strategy not in measured]
    rows += [{**forgetful, "cell": s.cell, "strategy": s.strategy} for s in rest]
    written = results.record("gradients", ("jax",), gradients.summarise(rows), rows)
    assert "As they come from each library: LSTM 0." in written.summary
    assert results.load(written.save(tmp_path)) == written
    at_start, trained = gradients.tabulate(rows)
    assert (len(at_start.rows), len(trained.rows)) == (len(gradients.SUBJECTS) - 1, 1)
    gradients.draw(written).savefig(tmp_path / "picture.png")


def test_a_gradient_that_vanishes_has_no_logarithm():
    logs = np.zeros((2, 4, 1))
    logs[0, :2] = -np.inf
    found = gradients.decay(logs)
    assert found["log10_ratio_lower"] == [0.0, None, None]
    assert found["log10_ratio_upper"] == [0.0, 0.0, 0.0]
    assert found["horizon_steps"] is None


def test_every_benchmark_keeps_the_contract():
    for name in benchmarks.BENCHMARKS:
        assert isinstance(benchmarks.find(name), benchmarks.Benchmark)


def test_page_is_generated_from_the_result_files(tmp_path, capsys):
    written = made_up_results()
    path = written.save(tmp_path / "results" / "some-device")
    out = tmp_path / "docs" / "benchmarks.md"
    command.main(["tables", "--results", str(tmp_path / "results"), "--out", str(out), "--redraw"])
    page = out.read_text(encoding="utf-8")
    assert f"### {written.device}" in page
    assert written.summary in page
    assert "](../results/some-device/scan_vs_unrolled.png)" in page
    assert path.with_suffix(".png").exists()
    assert results.load(path) == written


def test_page_without_result_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tables: --results must be a folder with result files"):
        document.document(tmp_path, tmp_path / "benchmarks.md")
