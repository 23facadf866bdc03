"""How much of a gradient is left k steps back: λ_{t−1} = (∂h_t/∂h_{t−1})ᵀ λ_t, ‖λ_{T−k}‖ / ‖λ_T‖.

λ_T is a random direction of norm 1 in what carries the memory: c of an LSTM (Hochreiter &
Schmidhuber 1997), h otherwise; λ_{T−k} is read in the same leaf and counts every path to it. x_t is
drawn from N(0, 1). First at initialisation, for the choices that a user has and for the peers'
cells as they come; then before and after training on the adding problem. Chrono has T_max = 200
throughout, so that lags beyond it show what it costs to choose it too small. h_0 = 0, so the last
few of the longest lags see a network that has only just begun.
"""

import functools
import importlib
import importlib.util
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from benchmarks import peers
from benchmarks.benchmark import Benchmark, Options, announced
from benchmarks.gradient_figure import draw
from benchmarks.gradient_rows import (
    ADDING_TIME,
    AFTER,
    BEFORE,
    BIAS_0,
    BIAS_1,
    BIAS_3,
    CHRONO,
    CURVE_POINTS,
    DEFAULTS,
    FACTOR,
    GLOROT,
    GRU,
    IDENTITY,
    INITIAL,
    JANET,
    LSTM,
    MGU,
    MINIMAL,
    NAMED_LAGS,
    ORTHOGONAL,
    RELU,
    RNN,
    SCALED,
    T_MAX,
    UPDATE_0,
)
from benchmarks.gradient_words import summarise, tabulate
from benchmarks.results import Row
from rnnjax import Cell, LSTMCarry, training
from rnnjax.array_typing import Array, Key, Params
from rnnjax.diagnostics import gradient_norms, memory_horizon
from rnnjax.initializers import Chrono, GlorotUniform, Identity, Orthogonal


class Plan(NamedTuple):
    """What is measured.

    Attributes:
        lag: the longest lag.
        seeds: draws of params, inputs and direction.
        batch: rows of inputs for each seed.
        features: D.
        hidden: N.
        steps: of training.
        runs: of training, each with a seed of its own.
    """

    lag: int
    seeds: int
    batch: int
    features: int
    hidden: int
    steps: int
    runs: int


FULL = Plan(lag=10_000, seeds=10, batch=2, features=32, hidden=128, steps=1_000, runs=3)
QUICK = Plan(lag=1_000, seeds=2, batch=2, features=32, hidden=128, steps=5, runs=1)


# --- what is compared --------------------------------------------------------------------------


class Subject(NamedTuple):
    """One line of the picture: a cell with its initialisation.

    Attributes:
        cell: the kind of cell.
        strategy: how it is initialised.
        make: N → the cell.
        implementation: the package that it is imported from.
    """

    cell: str
    strategy: str
    make: Callable[[int], Cell]
    implementation: str = "rnnjax"

    def __str__(self):
        return f"{self.implementation} {self.cell}, {self.strategy}"


OURS = (
    Subject(RNN, GLOROT, lambda n: rnnjax.Elman(n, recurrent_kernel_init=GlorotUniform())),
    Subject(RNN, ORTHOGONAL, lambda n: rnnjax.Elman(n)),
    Subject(RNN, SCALED, lambda n: rnnjax.Elman(n, recurrent_kernel_init=Orthogonal(0.9))),
    Subject(RELU, GLOROT, lambda n: _relu(n, GlorotUniform())),
    Subject(RELU, IDENTITY, lambda n: _relu(n, Identity())),
    Subject(LSTM, BIAS_0, lambda n: rnnjax.LSTM(n, forget_bias=0.0)),
    Subject(LSTM, BIAS_1, lambda n: rnnjax.LSTM(n, forget_bias=1.0)),
    Subject(LSTM, BIAS_3, lambda n: rnnjax.LSTM(n, forget_bias=3.0)),
    Subject(LSTM, CHRONO, lambda n: rnnjax.LSTM(n, forget_bias=Chrono(T_MAX))),
    Subject(GRU, UPDATE_0, lambda n: rnnjax.GRU(n)),
    Subject(GRU, CHRONO, lambda n: rnnjax.GRU(n, update_bias=Chrono(T_MAX))),
    Subject(MGU, BIAS_0, lambda n: rnnjax.MGU(n)),
    Subject(MINIMAL, UPDATE_0, lambda n: rnnjax.MinimalRNN(n)),
    Subject(JANET, BIAS_1, lambda n: rnnjax.JANET(n)),
    Subject(JANET, CHRONO, lambda n: rnnjax.JANET(n, forget_bias=Chrono(T_MAX))),
)
PEERS = (
    Subject(LSTM, DEFAULTS, lambda n: peers.flax(rnnjax.LSTM(n)), "flax"),
    Subject(LSTM, DEFAULTS, lambda n: peers.haiku(rnnjax.LSTM(n)), "haiku"),
    Subject(LSTM, DEFAULTS, lambda n: peers.equinox(rnnjax.LSTM(n)), "equinox"),
    Subject(GRU, DEFAULTS, lambda n: peers.flax(rnnjax.GRU(n)), "flax"),
    Subject(GRU, DEFAULTS, lambda n: peers.haiku(rnnjax.GRUResetBefore(n)), "haiku"),
    Subject(GRU, DEFAULTS, lambda n: peers.equinox(rnnjax.GRU(n)), "equinox"),
)
SUBJECTS = OURS + PEERS
TRAINED_NAMES = ((RNN, ORTHOGONAL), (LSTM, BIAS_1), (LSTM, CHRONO), (GRU, UPDATE_0))
TRAINED = tuple(subject for subject in OURS if subject[:2] in TRAINED_NAMES)


def _relu(size: int, recurrent: Any) -> rnnjax.Elman:
    return rnnjax.Elman(size, activation=jax.nn.relu, recurrent_kernel_init=recurrent)


def program(cell: Cell) -> Cell:
    """Return the cell that runs these params, without what only ``init`` reads.

    Cells that differ in nothing else share a compiled program.

    Example:
        >>> program(rnnjax.LSTM(8, forget_bias=3.0)) == rnnjax.LSTM(8)
        True
    """
    match cell:
        case rnnjax.LSTM() | rnnjax.GRU():
            return type(cell)(cell.size)
        case rnnjax.Elman():
            return rnnjax.Elman(cell.size, activation=cell.activation)
        case peers.AsDrawn():
            return cell.cell
        case _:
            return cell


def theory(cell: Cell, params: Params) -> float | None:
    """Return log10 of the factor a step that theory has for a new cell, None where it has none.

    For an RNN with slopes φ' ≤ 1 that is σ_max(W), a bound (Pascanu et al. 2013); for an LSTM with
    one forget bias σ(b_f), the factor of the path from c to c alone, where x and h move no gate.

    Example:
        >>> cell = rnnjax.LSTM(8, forget_bias=0.0)
        >>> round(theory(cell, cell.init(jax.random.key(0), 3)), 4)
        -0.301
    """
    match cell:
        case rnnjax.Elman():
            return math.log10(np.linalg.norm(np.asarray(params["w_h"]), 2))
        case rnnjax.LSTM(forget_bias=float(bias)):
            return -math.log10(1 + math.exp(-bias))
        case _:
            return None


# --- measuring ---------------------------------------------------------------------------------


def measure(options: Options) -> list[Row]:
    """Measure every subject at initialisation, and some before and after training."""
    plan = QUICK if options.quick else FULL
    rows = [measure_initial(subject, plan) for subject in announced(SUBJECTS)]
    trained = [measure_trained(subject, plan) for subject in announced(TRAINED)]
    return rows + list(itertools.chain.from_iterable(trained))


def measure_initial(subject: Subject, plan: Plan) -> Row:
    """Measure a new cell, or say why not."""
    shape = (plan.lag + 1, plan.batch, plan.features)
    if not is_installed(subject.implementation):
        reason = f"{subject.implementation} is not installed"
        return _row(subject, INITIAL, shape, plan.hidden, skipped=reason)
    cell, logs, theories = subject.make(plan.hidden), [], []
    for seed in range(plan.seeds):
        k_params, k_xs, k_direction = jax.random.split(jax.random.key(seed), 3)
        params = cell.init(k_params, plan.features)
        logs.append(log_norms(cell, params, jax.random.normal(k_xs, shape), k_direction))
        theories.append(theory(cell, params))
    figures = decay(np.stack(logs))
    if theories[0] is not None:
        figures["theory_log10_per_step"] = round(statistics.median(theories), 6)
    return _row(subject, INITIAL, shape, plan.hidden, figures)


def is_installed(package: str) -> bool:
    """Say whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def log_norms(cell: Cell, params: Params, xs: Array, key: Key) -> np.ndarray:
    """Return log ‖λ_t‖ (T, B) in the leaf of the memory, from a random λ_T of norm 1 in it."""
    carry = rnnjax.initial_carry(program(cell), params, xs.shape[1])
    drawn = jax.random.normal(key, memory(carry).shape)
    unit = drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)
    cotangent = carry._replace(c=unit) if isinstance(carry, LSTMCarry) else unit
    norms = gradient_norms(program(cell), params, xs, cotangent=cotangent)
    return np.asarray(memory(norms.carry), np.float64)


def memory(carry: Any) -> Any:
    """Return c of an LSTM's carry and h of another."""
    return carry.c if isinstance(carry, LSTMCarry) else carry


def decay(logs: np.ndarray) -> dict[str, Any]:
    """Return the quartiles over seeds and rows at each lag, and the horizon: logs are (S, T, B).

    None stands for a ratio of exactly zero, and for a horizon beyond the longest lag.
    """
    lags = lag_grid(logs.shape[1] - 1)
    ratios = (logs - logs[:, -1:])[:, -1 - lags] / math.log(10)
    # Observed values: between a number and −inf there is nothing to interpolate.
    levels = (0.25, 0.5, 0.75)
    lower, median, upper = np.quantile(ratios, levels, axis=(0, 2), method="inverted_cdf")
    horizon = memory_horizon(logs, FACTOR)
    return {
        "seeds": len(logs),
        "lags": lags.tolist(),
        "log10_ratio_lower": _plain(lower),
        "log10_ratio_median": _plain(median),
        "log10_ratio_upper": _plain(upper),
        "horizon_steps": _plain([horizon.lag])[0],
        "horizon_steps_low": _plain([horizon.low])[0],
        "horizon_steps_high": _plain([horizon.high])[0],
    }


def lag_grid(longest: int) -> np.ndarray:
    """Return lags evenly spaced in their logarithm, and the named ones.

    Example:
        >>> lag_grid(11).tolist()
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    """
    spaced = np.geomspace(1, longest, CURVE_POINTS).round().astype(int)
    named = [lag for lag in NAMED_LAGS if lag <= longest]
    return np.union1d(spaced, named)


def _plain(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Write numbers for JSON, which knows no infinity."""
    return [round(float(value), 4) if math.isfinite(value) else None for value in values]


FIGURES = (
    *("seeds", "lags"),
    *(f"log10_ratio_{name}" for name in ("lower", "median", "upper")),
    *("horizon_steps", "horizon_steps_low", "horizon_steps_high"),
    *("theory_log10_per_step", "training_steps", "mse"),
)


def _row(
    subject: Subject,
    stage: str,
    shape: tuple[int, int, int],
    hidden: int,
    figures: dict[str, Any] | None = None,
    skipped: str | None = None,
) -> Row:
    time, batch, features = shape
    return {
        "cell": subject.cell,
        "implementation": subject.implementation,
        "strategy": subject.strategy,
        "T": time,
        "B": batch,
        "D": features,
        "N": hidden,
        "pass": "backward",
        "stage": stage,
        **dict.fromkeys(FIGURES),
        **(figures or {}),
        "skipped": skipped,
    }


# --- training ----------------------------------------------------------------------------------

ADDING_BATCH, ADDING_ROWS, TEST_ROWS = 32, 16, 1_000
OPTIMISER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))


class Run(NamedTuple):
    """One run of training: log ‖λ_t‖ (T, B) before and after it, and the test error."""

    before: np.ndarray
    after: np.ndarray
    mse: float


def measure_trained(subject: Subject, plan: Plan) -> list[Row]:
    """Train on the adding problem; measure the same inputs before and after."""
    runs = [train(subject, plan, seed) for seed in range(plan.runs)]
    before = decay(np.stack([run.before for run in runs]))
    after = decay(np.stack([run.after for run in runs]))
    after |= {"training_steps": plan.steps, "mse": statistics.median(run.mse for run in runs)}
    shape = (ADDING_TIME + 1, ADDING_ROWS, 2)
    return [
        _row(subject, BEFORE, shape, plan.hidden, before),
        _row(subject, AFTER, shape, plan.hidden, after),
    ]


def train(subject: Subject, plan: Plan, seed: int) -> Run:
    """Train one network on fresh sequences and measure it on others."""
    cell, (fresh, held_out, probe) = subject.make(plan.hidden), np.random.default_rng(seed).spawn(3)
    k_params, k_fit, k_direction = jax.random.split(jax.random.key(seed), 3)
    # It begins as the best constant guess, 1.
    head = {"weights": jnp.zeros((plan.hidden,)), "bias": jnp.ones(())}
    params = {"rnn": cell.init(k_params, 2), "head": head}
    loss, data = _loss(program(cell)), adding_problem(fresh, ADDING_TIME, ADDING_BATCH)
    fitted = training.fit(
        loss, params, OPTIMISER, data, steps=plan.steps, key=k_fit, progress=False
    )
    trained = fitted.state.params
    xs = jnp.asarray(next(adding_problem(probe, ADDING_TIME + 1, ADDING_ROWS))["xs"])
    test = next(adding_problem(held_out, ADDING_TIME, TEST_ROWS))
    return Run(
        log_norms(cell, params["rnn"], xs, k_direction),
        log_norms(cell, trained["rnn"], xs, k_direction),
        training.evaluate(loss, trained, [test])["loss"],
    )


def adding_problem(rng: np.random.Generator, time: int, batch: int) -> Iterator[dict[str, Any]]:
    """Yield batches of the adding problem (Hochreiter & Schmidhuber 1997; Arjovsky et al. 2016).

    ``xs`` (T, B, 2) are numbers from U[0, 1] and marks, one in each half of the sequence;
    ``targets`` (B,) are the sums of the two marked numbers.

    Example:
        >>> batch = next(adding_problem(np.random.default_rng(0), 10, 4))
        >>> batch["xs"][..., 1].sum(axis=0).tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    rows = np.arange(batch)
    while True:
        numbers = rng.random((time, batch), np.float32)
        marks = np.zeros_like(numbers)
        marks[rng.integers(0, time // 2, batch), rows] = 1
        marks[rng.integers(time // 2, time, batch), rows] = 1
        targets = np.sum(numbers * marks, axis=0)
        yield {"xs": np.stack([numbers, marks], axis=-1), "targets": targets}


# Once for each program, because a loss that is made anew is compiled anew.
@functools.cache
def _loss(cell: Cell) -> training.Loss:
    """Return the mean square error of a linear guess from the last output."""

    def loss(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        del key
        _, ys = rnnjax.scan(cell, params["rnn"], batch["xs"])
        guess = ys[-1] @ params["head"]["weights"] + params["head"]["bias"]
        return jnp.mean((guess - batch["targets"]) ** 2), (carry, {})

    return loss


OPTIONAL = {"dm-haiku": "haiku", "equinox": "equinox"}
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy"),
    *(package for package, name in OPTIONAL.items() if is_installed(name)),
)

BENCHMARK = Benchmark(measure, summarise, tabulate, draw, PACKAGES)
