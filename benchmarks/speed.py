"""How fast, against whom: LSTM, GRU and Elman in every strategy and in other libraries.

Every arm of a case has the same weights and inputs, and what it returns is compared with
``Sequential()`` before it is timed. Training is the value and the gradient of mean(y²) with respect
to weights and inputs.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from benchmarks import programs, timing
from benchmarks.benchmark import Benchmark, OptionError, Options, announced
from benchmarks.programs import Ready
from benchmarks.results import Row, cpus
from benchmarks.speed_figure import draw
from benchmarks.speed_models import (
    CELLS,
    LOOP,
    STRATEGIES,
    Arm,
    Kind,
    Model,
    Size,
    gate_count,
    ours,
    peer_arms,
    rnnjax_arm,
    rnnjax_model,
)
from benchmarks.speed_rows import FORWARD, TRAINING
from benchmarks.speed_torch import Torch
from benchmarks.speed_words import summarise, tabulate
from rnnjax import interop
from rnnjax.array_typing import Array

GRID = (
    (256, 32, 256, 256),
    (256, 1, 128, 128),
    (1024, 16, 128, 128),
    (128, 64, 512, 512),
    (784, 128, 1, 128),
    (64, 256, 64, 64),
)
QUICK_GRID = tuple(GRID[k] for k in (1, 2, 5, 4))
QUICK_CELLS = ("LSTM", "GRU")
OWN_ARMS = ("Auto()", "Auto(kernels=False)", "Sequential()")
QUICK_ARMS = {
    ("rnnjax", "Auto()"),
    ("rnnjax", "Sequential()"),
    ("flax.linen", "OptimizedLSTMCell"),
    ("flax.linen", "GRUCell"),
    ("equinox", "LSTMCell"),
    ("equinox", "GRUCell"),
    ("torch", "LSTM"),
    ("torch", "GRU"),
}

PEERS = ("flax.linen", "flax.nnx", "haiku", "equinox", "keras", "jax.experimental.rnn", "torch")
# The others mix a carry in float32 with weights in bfloat16 and compute in float32.
BFLOAT16_PEERS = ("flax.linen", "flax.nnx", "equinox", "torch")
TORCH_KINDS = {"LSTM": "LSTM", "GRU": "GRU", "Elman": "RNN"}

# Beyond, compiling it takes minutes; `scan_vs_unrolled` has those times.
LONGEST_UNROLLED = 64
# Of the largest entry. A GPU multiplies float32 matrices in TF32.
TOLERANCES = {"cpu": 1e-4, "gpu": 2e-2}
BFLOAT16_TOLERANCE = 1e-1


@dataclasses.dataclass(frozen=True)
class SpeedOptions(Options):
    """What to run the speed benchmark on; ``--quick`` takes under three minutes.

    Args:
        peers: the libraries to compare with; those that are not installed are left out.
        dtype: of weights and inputs.
    """

    peers: tuple[str, ...] = PEERS
    dtype: Literal["float32", "bfloat16"] = "float32"


class Case(NamedTuple):
    """What the rows that take turns have in common."""

    cell: str
    direction: str
    size: Size

    def __str__(self):
        T, B, D, N, dtype = self.size
        return f"{self.cell} T={T:,} B={B} D={D} N={N} {dtype} {self.direction}"

    @property
    def flops(self) -> float:
        """Operations in products of matrices; training takes three times those of forward."""
        T, B, D, N, _ = self.size
        gates = gate_count(CELLS[self.cell], N)
        return 2.0 * T * B * gates * N * (D + N) * (3 if self.direction == TRAINING else 1)


Outcome = dict[str, np.ndarray]
"""ys, or the loss and its gradient in xs: what is compared."""


# --- measuring ---------------------------------------------------------------------------------


def measure(options: SpeedOptions) -> list[Row]:
    """Time every arm of every case, those of a case in the same rounds."""
    peers = choose_peers(options)
    cells, grid = (QUICK_CELLS, QUICK_GRID) if options.quick else (tuple(CELLS), GRID)
    sizes = [Size(*axes, options.dtype) for axes in grid]
    cases = [Case(*parts) for parts in itertools.product(cells, (FORWARD, TRAINING), sizes)]
    peak = matmul_gflops()
    print(f"Products of matrices reach {peak:,.0f} GFLOP/s here.")
    with _torch(peers) as torch:
        return [
            row
            for case in announced(cases)
            for row in measure_case(case, arms_of(case, peers, options.quick), torch, peak)
        ]


def choose_peers(options: SpeedOptions) -> tuple[str, ...]:
    """Return the peers asked for that are installed, and say which are not.

    Raises:
        OptionError: when there is none of that name.
    """
    unknown = sorted(set(options.peers) - set(PEERS))
    if unknown:
        names = ", ".join(PEERS)
        raise OptionError(f"speed: --peers must be among {names}; got {', '.join(unknown)}.")
    known = BFLOAT16_PEERS if options.dtype == "bfloat16" else PEERS
    missing = [name for name in options.peers if importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"{name} is not installed and left out.")
    return tuple(name for name in known if name in options.peers and name not in missing)


def arms_of(case: Case, peers: tuple[str, ...], quick: bool) -> list[Arm]:
    """Return the arms of a case that run in this process."""
    arms = [
        rnnjax_arm(case.cell, name)
        for name in STRATEGIES
        if case.cell in TORCH_KINDS or name in OWN_ARMS
    ]
    known = (*peers, LOOP)
    arms += [arm for arm in peer_arms(case.cell, _platform()) if arm.implementation in known]
    return [arm for arm in arms if not quick or (arm.implementation, arm.name) in QUICK_ARMS]


def measure_case(
    case: Case,
    arms: list[Arm],
    torch: Torch | None,
    peak: float,
    rounds: int = timing.ROUNDS,
) -> list[Row]:
    """Compile, compare and time the arms of a case."""
    xs = np.random.default_rng(0).standard_normal(case.size[:3], np.float32)
    expected = functools.cache(lambda kind: reference(case, kind, xs))
    found = {(arm.implementation, arm.name): prepare(case, arm, xs, expected) for arm in arms}
    if torch is not None and case.cell in TORCH_KINDS:
        found["torch", TORCH_KINDS[case.cell]] = prepare_torch(case, torch, xs, expected)
    turns = {key: arm.turn for key, arm in found.items() if isinstance(arm, Ready)}
    times = timing.take_turns(turns, rounds=rounds)
    return [_row(case, key, arm, times.get(key), peak) for key, arm in found.items()]


def reference(case: Case, kind: Kind, xs: np.ndarray) -> Outcome:
    """Return what the loop gives that the others are compared with."""
    model = rnnjax_model(kind, rnnjax.Sequential(), case.size)
    function = jax.jit(programs.of_pass(case.direction, model.run))
    return _outcome(function(model.weights, _inputs(case, model, xs)), model)


def prepare(
    case: Case, arm: Arm, xs: np.ndarray, expected: Callable[[Kind], Outcome]
) -> Ready | str:
    """Compile an arm and run it once; say why where it is not to be timed."""
    if arm.name == "Unrolled()" and case.size.T > LONGEST_UNROLLED:
        return f"compiling takes minutes beyond T = {LONGEST_UNROLLED}"
    model = arm.make(case.size)
    function = programs.of_pass(case.direction, model.run)
    found = programs.prepare(function, model.weights, _inputs(case, model, xs))
    if isinstance(found, str):
        return found
    ready, results = found
    return disagreement(case, _outcome(results, model), expected(model.kind)) or ready


def prepare_torch(
    case: Case, torch: Torch, xs: np.ndarray, expected: Callable[[Kind], Outcome]
) -> Ready | str:
    """Hand the case to PyTorch's process."""
    kind = CELLS[case.cell]
    arrays = {**interop.to_torch(*ours(kind, case.size)), "xs": xs}
    float32 = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    reply = torch.prepare(
        TORCH_KINDS[case.cell], case.size.dtype, case.direction == TRAINING, float32
    )
    ready = Ready(torch.turn, None, reply.pop("peak_bytes"))
    return disagreement(case, reply, expected(kind)) or ready


def disagreement(case: Case, outcome: Outcome, expected: Outcome) -> str | None:
    """Say how far an outcome is off; None where it is within the tolerance."""
    tolerance = TOLERANCES[_platform()] if case.size.dtype == "float32" else BFLOAT16_TOLERANCE
    for name, wanted in expected.items():
        difference = np.abs(outcome[name] - wanted).max() / np.abs(wanted).max()
        if not difference <= tolerance:
            return (
                f"{name} differs by {difference:.1e} of its largest entry; {tolerance} is allowed"
            )
    return None


def _inputs(case: Case, model: Model, xs: np.ndarray) -> Array:
    return jnp.asarray(xs.swapaxes(0, 1) if model.batch_major else xs, case.size.dtype)


def _outcome(results: dict[str, Any], model: Model) -> Outcome:
    """Return what is compared, in time order: all but the gradients of weights."""
    arrays = {k: np.asarray(v, np.float32) for k, v in results.items() if k != "d_weights"}
    return {k: a.swapaxes(0, 1) if model.batch_major and a.ndim else a for k, a in arrays.items()}


def matmul_gflops(size: int = 4096) -> float:
    """Return what a product of two square matrices in float32 reaches at best."""
    a = jnp.ones((size, size))
    program = timing.compile_program(jnp.matmul, a, a)
    (best,) = timing.time_together({"product": program.call}, rounds=5).values()
    return 2 * size**3 / best.milliseconds / 1e6


def _platform() -> str:
    return jax.devices()[0].platform


@contextlib.contextmanager
def _torch(peers: tuple[str, ...]) -> Iterator[Torch | None]:
    """Start PyTorch's process where it is wanted, and end it."""
    if "torch" not in peers:
        yield None
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Torch(Path(folder), cpus(), _platform() == "gpu")) as torch,
    ):
        yield torch


def _row(
    case: Case,
    key: tuple[str, str],
    arm: Ready | str,
    times: timing.Timing | None,
    peak: float,
) -> Row:
    gflops = case.flops / times.milliseconds / 1e6 if times else None
    return {
        "cell": case.cell,
        "implementation": key[0],
        "strategy": key[1],
        **case.size._asdict(),
        "pass": case.direction,
        **programs.figures(arm, times),
        "gflops": gflops,
        "share_of_peak": gflops and gflops / peak,
    }


BENCHMARK = Benchmark(
    measure,
    summarise,
    tabulate,
    draw,
    ("jax", "jaxlib", "numpy", "flax", "dm-haiku", "equinox", "keras", "torch"),
    SpeedOptions,
)
