"""The speed benchmark: every library computes the same, and what is said of the times is true."""

import importlib.util
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

import rnnjax
from benchmarks import __main__ as command
from benchmarks import choose, results, speed, speed_models, speed_rows
from benchmarks.benchmark import OptionError
from benchmarks.speed import Case, SpeedOptions
from benchmarks.speed_models import Size
from benchmarks.speed_rows import FORWARD, TRAINING
from rnnjax import interop
from rnnjax.kernels import build
from rnnjax.strategies import measured

SIZE = Size(T=5, B=2, D=3, N=4, dtype="float32")
JAX_PEERS = tuple(name for name in speed.PEERS if name != "torch")
# Compiling is what costs; all of these strategies stand in other tests too.
FEW = ("Auto()", "Sequential(hoist=True, defer=True)", "Chunked()")


@pytest.fixture(autouse=True)
def _peers_promote():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def installed(names):
    return tuple(name for name in names if importlib.util.find_spec(name) is not None)


@pytest.mark.parametrize(
    ("cell", "direction"),
    [("LSTM", TRAINING), ("GRU", FORWARD), ("Elman", TRAINING)],
)
def test_all_libraries_compute_the_same(cell, direction, monkeypatch):
    monkeypatch.setattr(speed_models, "STRATEGIES", {k: speed_models.STRATEGIES[k] for k in FEW})
    monkeypatch.setattr(speed, "STRATEGIES", FEW)
    peers = installed(speed.PEERS)
    case = Case(cell, direction, SIZE)
    arms = speed.arms_of(case, peers, quick=False)
    with speed._torch(peers) as torch:
        rows = speed.measure_case(case, arms, torch, peak=100.0, rounds=1)
    assert {row["implementation"] for row in rows} >= {"rnnjax", "flax.linen", "flax.nnx"}
    assert [row["skipped"] for row in rows] == [None] * len(rows)
    for row in rows:
        assert row["gflops"] == pytest.approx(case.flops / row["milliseconds"] / 1e6)
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / 100)


def test_two_runs_agree_as_far_as_their_ratios_to_the_fastest_peer_do(tmp_path, capsys):
    def rows(auto, loop, peer):
        times = [
            ("rnnjax", "Auto()", auto),
            ("rnnjax", "Sequential()", loop),
            ("haiku", "GRU", peer),
        ]
        sizes = {"T": 1, "B": 1, "D": 1, "N": 1, "pass": FORWARD, "cell": "GRU", "skipped": None}
        return [
            {**sizes, "implementation": who, "strategy": how, "milliseconds": time}
            for who, how, time in times
        ]

    for name, times in {"first": (1.0, 4.0, 2.0), "second": (3.0, 5.0, 2.0)}.items():
        results.record("speed", ("jax",), "", rows(*times)).save(tmp_path / name)
    command.main(["agree", *(str(tmp_path / name / "speed.json") for name in ("first", "second"))])
    assert "1 rows: the median differs by 25.0%; 0 rows by at most 15 %" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"benchmarks agree: .*none.json"):
        command.main(["agree", str(tmp_path / "none.json"), str(tmp_path / "none.json")])


def test_a_users_own_cell_is_compared_with_the_loop_that_everybody_writes():
    case = Case("own", TRAINING, SIZE)
    arms = speed.arms_of(case, (), quick=False)
    rows = speed.measure_case(case, arms, None, peak=100.0, rounds=1)
    assert {row["implementation"] for row in rows} == {"rnnjax", "jax.lax.scan"}
    assert [row["skipped"] for row in rows] == [None] * len(rows)
    T, B, D, N, _ = SIZE
    assert case.flops == 3 * 2 * T * B * 3 * N * (D + N)


def test_an_arm_with_other_results_is_a_gap():
    case = Case("Elman", FORWARD, SIZE)
    (right,) = [arm for arm in speed.arms_of(case, (), quick=False) if arm.name == "Sequential()"]

    def make(size):
        model = right.make(size)
        return model._replace(run=lambda weights, xs: model.run(weights, xs) + 0.01)

    (row,) = speed.measure_case(case, [right._replace(make=make)], None, peak=1.0)
    assert row["milliseconds"] is None
    assert row["skipped"].startswith("ys differs by ")


def test_bfloat16_is_compared_too():
    case = Case("GRU", FORWARD, SIZE._replace(dtype="bfloat16"))
    peers = speed.choose_peers(SpeedOptions(peers=("flax.linen", "keras"), dtype="bfloat16"))
    assert peers == ("flax.linen",)
    arms = [a for a in speed.arms_of(case, peers, quick=True) if a.name != "Sequential()"]
    rows = speed.measure_case(case, arms, None, peak=1.0, rounds=1)
    assert [(row["implementation"], row["skipped"]) for row in rows] == [
        ("rnnjax", None),
        ("flax.linen", None),
    ]


def test_long_unrolled_loops_are_left_out():
    case = Case("Elman", FORWARD, SIZE._replace(T=65))
    (arm,) = [a for a in speed.arms_of(case, (), quick=False) if a.name == "Unrolled()"]
    (row,) = speed.measure_case(case, [arm], None, peak=1.0)
    assert row["skipped"] == "compiling takes minutes beyond T = 64"


def test_packed_weights_are_those_that_cudnn_unpacks():
    cell, params = speed_models.ours(rnnjax.LSTM, SIZE)
    packed = speed_models.pack_cudnn(interop.to_torch(cell, params))
    unpacked = rnn.unpack_lstm_weights(packed, SIZE.D, SIZE.N, 1, False)
    xs = jax.random.normal(jax.random.key(2), (SIZE.B, SIZE.T, SIZE.D))
    zeros = jnp.zeros((1, SIZE.B, SIZE.N))
    lengths = jnp.full((SIZE.B,), SIZE.T, jnp.int32)
    ys, *_ = rnn.lstm_ref(xs, zeros, zeros, *unpacked, lengths, SIZE.D, SIZE.N, 1, 0.0, False)
    _, expected = rnnjax.scan(cell, params, xs.swapaxes(0, 1))
    np.testing.assert_allclose(ys, expected.swapaxes(0, 1), atol=1e-6)


def test_peers_are_chosen_by_name(capsys, monkeypatch):
    with pytest.raises(OptionError, match=r"--peers must be among flax\.linen, .*; got flux"):
        speed.choose_peers(SpeedOptions(peers=("flux",)))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "keras" else found(n))
    assert speed.choose_peers(SpeedOptions(peers=("keras", "flax.nnx"))) == ("flax.nnx",)
    assert capsys.readouterr().out == "keras is not installed and left out.\n"


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SystemExit, match=r"--out must be a folder that can be written; got "):
        command.main(["speed", "--quick", "--out", str(blocked / "results")])


MEASURED = [results.load(path) for path in sorted(command.RESULTS.glob("*/speed.json"))]


@pytest.mark.parametrize("kernels", [True, False])
def test_auto_is_near_the_fastest_where_it_was_measured(kernels):
    if kernels and (why := build.missing()):
        pytest.skip(why)
    candidates = choose.CANDIDATES if kernels else choose.SCANS
    for found in MEASURED:
        rows = choose.measured(found)
        behind = [choose.slowdown(g, choose.picked(g, kernels=kernels), candidates) for g in rows]
        assert speed_rows.mean(behind) < 1.05
        # One pick serves both passes, so it may be behind in one of them.
        assert max(behind) < 1.3
        assert sum(ratio > choose.NEAR for ratio in behind) <= 2


def test_what_auto_picks_is_generated_from_the_results(tmp_path, capsys):
    out = tmp_path / "measured.py"
    command.main(["choose", "--out", str(out)])
    assert out.read_text(encoding="utf-8") == inspect.getsource(measured)
    assert "what Auto picks" in capsys.readouterr().out


# --- what is said of the times -----------------------------------------------------------------


def row(implementation, strategy, milliseconds, cell="LSTM", direction=FORWARD, skipped=None):
    return {
        "cell": cell,
        "implementation": implementation,
        "strategy": strategy,
        **SIZE._asdict(),
        "pass": direction,
        "milliseconds": milliseconds,
        "milliseconds_median": milliseconds,
        "peak_bytes": 1000,
        "compile_seconds": 0.5,
        "gflops": 1.0,
        "share_of_peak": 0.25,
        "skipped": skipped,
    }


ROWS = [
    row("rnnjax", "Auto()", 2.0),
    row("rnnjax", "Sequential()", 3.0),
    row("rnnjax", "Unrolled()", None, skipped="compiling takes minutes beyond T = 64"),
    row("haiku", "LSTM", 4.0),
    row("torch", "LSTM", 1.0),
    row("rnnjax", "Auto()", 2.0, "GRU"),
    row("rnnjax", "Sequential()", 1.9, "GRU"),
    row("haiku", "GRU", 6.0, "GRU"),
]


def test_groups_find_the_fastest():
    lstm, gru = speed_rows.groups(ROWS)
    assert (lstm.fastest_peer()["implementation"], lstm.speedup()) == ("torch", 0.5)
    assert lstm.speedup(jax_only=True) == 2.0
    assert gru.speedup("Sequential()") == pytest.approx(6 / 1.9)
    assert (lstm.fastest_strategy()["strategy"], lstm.of("Unrolled()")) == ("Sequential()", None)


def test_losses_come_first_and_gaps_have_their_reason(tmp_path):
    summary = speed.summarise(ROWS)
    assert "LSTM forward 2× (2×), GRU forward 3× (3×)" in summary
    assert "LSTM forward 0.5× (0.5×), GRU forward 3× (3×)" in summary
    assert "It loses in 1 of 2 rows." in summary
    assert "Unrolled(): compiling takes minutes beyond T = 64" in summary
    lost, means, everything = speed.tabulate(ROWS)
    assert [line[0] for line in lost.rows] == ["LSTM"]
    assert (len(means.rows), len(everything.rows)) == (2, 2)
    found = results.Results("speed", "a device", 1, {}, None, "2026-01-01", summary, ROWS)
    figure = speed.draw(found)
    assert [axes.get_title() for axes in figure.axes] == [FORWARD, TRAINING]
    figure.savefig(tmp_path / "picture.png")
