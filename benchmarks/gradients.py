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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.optimize import isotonic_regression

import rnnjax
from benchmarks import peers, pictures, wording
from benchmarks.benchmark import Benchmark, Table, announced
from benchmarks.pictures import Line
from benchmarks.results import Results, Row
from rnnjax import Cell, LSTMCarry, training
from rnnjax.array_typing import Array, Key, Params
from rnnjax.diagnostics import gradient_norms, memory_horizon
from rnnjax.initializers import Chrono, GlorotUniform, Identity, Orthogonal

T_MAX = 200
FACTOR = 1e-3  # Where a gradient counts as gone.
REFERENCE_LAG = 100
NAMED_LAGS = (1, 10, 50, 100, 200, 1_000, 10_000)
CURVE_POINTS = 60

INITIAL, BEFORE, AFTER = "at initialisation", "before training", "after training"


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


def _peer(cell: str, implementation: str, peer: peers.Peer) -> Subject:
    return Subject(cell, DEFAULTS, lambda n: peers.PeerCell(n, peer), implementation)


RNN, RELU, LSTM, GRU = "tanh RNN", "ReLU RNN", "LSTM", "GRU"
GLOROT, ORTHOGONAL, SCALED = "Glorot", "orthogonal", "0.9 × orthogonal"
IDENTITY, CHRONO, DEFAULTS = "identity", f"chrono {T_MAX}", "as it comes"
BIAS_0, BIAS_1, BIAS_3 = "forget bias 0", "forget bias 1", "forget bias 3"
UPDATE_0 = "update bias 0"

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
)
PEERS = (
    _peer(LSTM, "flax", peers.FLAX_LSTM),
    _peer(LSTM, "haiku", peers.HAIKU_LSTM),
    _peer(LSTM, "equinox", peers.EQUINOX_LSTM),
    _peer(GRU, "flax", peers.FLAX_GRU),
    _peer(GRU, "haiku", peers.HAIKU_GRU),
    _peer(GRU, "equinox", peers.EQUINOX_GRU),
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


def measure(quick: bool) -> list[Row]:
    """Measure every subject at initialisation, and some before and after training."""
    plan = QUICK if quick else FULL
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

ADDING_TIME, ADDING_BATCH, ADDING_ROWS, TEST_ROWS = 100, 32, 16, 1_000
GUESS_MSE = 1 / 6  # The variance of the sum of two numbers from U[0, 1].
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


# --- summing up --------------------------------------------------------------------------------


def summarise(rows: list[Row]) -> str:
    """Say what is left after 100 steps, what the peers' defaults do, and what training changes."""
    rows = [row for row in rows if not row["skipped"]]
    sentences = (_initial_sentence, _default_sentence, _lesson, _long_sentence, _trained_sentence)
    return " ".join(text for text in (sentence(rows) for sentence in sentences) if text)


def _initial_sentence(rows: list[Row]) -> str:
    ours = _initial(rows, "rnnjax")
    gates = {row["strategy"]: left(row) for row in ours if row["cell"] == LSTM}
    plain = {_name(row): left(row) for row in ours if row["cell"] != LSTM}
    return (
        f"At initialisation, what is left of a gradient {_lag(ours)} steps back (median over "
        f"{ours[0]['seeds']} seeds): in c of an LSTM {_listed(gates)}; in h {_listed(plain)}."
    )


def _default_sentence(rows: list[Row]) -> str:
    """List the cells as they come."""
    kinds = []
    for cell in OUR_DEFAULTS:
        here = filter(_is_default, _of(_initial(rows), cell))
        kinds.append(f"{cell} {_listed({row['implementation']: left(row) for row in here})}")
    return f"As they come from each library: {'; '.join(kinds)}."


def _lesson(rows: list[Row]) -> str:
    """Say what a forget bias is worth, and which cells are worse than a tanh RNN as they come."""
    ours = {row["strategy"]: _horizon(row) for row in _of(_initial(rows, "rnnjax"), LSTM)}
    text = (
        f"In an LSTM 1/{1 / FACTOR:,.0f} is left after {ours[BIAS_0]} steps with a forget bias of "
        f"0, {ours[BIAS_1]} with 1 and {ours[CHRONO]} with {CHRONO}"
    )
    worse = [f"the {cell} of {_and(names)}" for cell, names in _worse(rows).items()]
    if not worse:
        return f"{text}."
    return (
        f"{text}. As they come, {_and(worse)} start with less left than a tanh RNN: set their "
        "forget or update bias by hand."
    )


def _worse(rows: list[Row]) -> dict[str, list[str]]:
    """Return by cell the libraries whose default leaves less than a tanh RNN with Glorot."""
    plain = next(row for row in _initial(rows, "rnnjax") if _name(row) == f"{RNN}, {GLOROT}")
    found = {}
    for row in filter(_is_default, _initial(rows)):
        if _log10(row) < _log10(plain):
            found.setdefault(row["cell"], []).append(row["implementation"])
    return found


def _is_default(row: Row) -> bool:
    return row["strategy"] in (DEFAULTS, OUR_DEFAULTS.get(row["cell"]))


def _long_sentence(rows: list[Row]) -> str:
    """Say what is left at the longest lag."""
    ours = _initial(rows, "rnnjax")
    longest = ours[0]["lags"][-1]
    kept = {_name(row): left(row, longest) for row in ours if row["horizon_steps"] is None}
    if not kept:
        return f"Within {longest:,} steps every cell comes to less than {FACTOR:g}."
    return f"Within {longest:,} steps all but these come to less than {FACTOR:g}: {_listed(kept)}."


def _trained_sentence(rows: list[Row]) -> str:
    """Say what training on the adding problem does to the gradient."""
    after = [row for row in rows if row["stage"] == AFTER]
    if not after:
        return ""
    before = {_name(row): left(row) for row in rows if row["stage"] == BEFORE}
    names = [f"{_name(row)}; MSE {wording.short(row['mse'])}" for row in after]
    changes = [f"from {before[_name(row)]} to {left(row)}" for row in after]
    return (
        f"{after[0]['training_steps']:,} steps of training on the adding problem, T={ADDING_TIME}, "
        f"where guessing has an MSE of {GUESS_MSE:.3f}, change what is left {_lag(after)} steps "
        f"back {_listed(dict(zip(names, changes, strict=True)))}."
    )


OUR_DEFAULTS = {LSTM: BIAS_1, GRU: UPDATE_0}


def left(row: Row, lag: int = REFERENCE_LAG) -> str:
    """Write what is left of the gradient at a lag, by default 100 or the longest."""
    return power(_log10(row, lag))


def power(log10: float) -> str:
    """Write a number of which the logarithm is known; below 10^−300 there is no float.

    Example:
        >>> power(-1.0), power(-17.46), power(float("-inf"))
        ('0.1', '10^−17.5', '0')
    """
    if log10 == -math.inf:
        return "0"
    return wording.short(10**log10) if -3.5 < log10 < 3 else f"10^{_signed(log10)}"


def _signed(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def _log10(row: Row, lag: int = REFERENCE_LAG) -> float:
    """Return log10 of the median ratio at a lag, or at the longest where that is shorter."""
    place = row["lags"].index(min(lag, row["lags"][-1]))
    return float(_numbers(row, "median")[place])


def _numbers(row: Row, name: str) -> np.ndarray:
    values = row[f"log10_ratio_{name}"]
    return np.array([-math.inf if value is None else value for value in values])


def _horizon(row: Row) -> str:
    steps = row["horizon_steps"]
    return f"over {row['lags'][-1]:,}" if steps is None else f"{steps:,.0f}"


def _lag(rows: list[Row]) -> int:
    return min(REFERENCE_LAG, rows[0]["lags"][-1])


def _listed(texts: dict[str, str]) -> str:
    return ", ".join(f"{text} ({name})" for name, text in texts.items())


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _name(row: Row) -> str:
    return f"{row['cell']}, {row['strategy']}"


def _initial(rows: list[Row], implementation: str | None = None) -> list[Row]:
    rows = [row for row in rows if row["stage"] == INITIAL]
    return [row for row in rows if implementation in (None, row["implementation"])]


def _of(rows: list[Row], cell: str) -> list[Row]:
    return [row for row in rows if row["cell"] == cell]


# --- tables ------------------------------------------------------------------------------------


TABLE_LAGS = (100, 1_000, 10_000)


def tabulate(rows: list[Row]) -> list[Table]:
    """Return one table at initialisation and one around training."""
    return [_initial_table(_initial(rows)), _trained_table(rows)]


def _initial_table(rows: list[Row]) -> Table:
    lags = [lag for lag in TABLE_LAGS if lag < rows[0]["T"]]
    header = ("library", "cell", *(f"{lag:,}" for lag in lags), f"to {FACTOR:g}")
    body = [(row["implementation"], _name(row), *_entries(row, lags), _steps(row)) for row in rows]
    caption = (
        "log10 of ‖λ_{{T−k}}‖ / ‖λ_T‖ at lags k, and the steps to {factor:g}, medians; "
        "x ~ N(0, 1), B={B}, D={D}, N={N}"
    )
    return Table(caption.format(factor=FACTOR, **rows[0]), header, body, names=2)


def _trained_table(rows: list[Row]) -> Table:
    after = {_name(row): row for row in rows if row["stage"] == AFTER}
    before = {_name(row): row for row in rows if row["stage"] == BEFORE}
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
    return [_signed(_log10(row, lag)).replace("inf", "∞") for lag in lags]


def _steps(row: Row) -> str:
    if row["skipped"]:
        return "—"
    return "∞" if row["horizon_steps"] is None else f"{row['horizon_steps']:,.0f}"


# --- picture -----------------------------------------------------------------------------------

FLOOR, CEILING = -20.0, 3.0
MARK_EVERY = 7

LINES = {
    (RNN, GLOROT): Line(pictures.BLACK, "o"),
    (RNN, ORTHOGONAL): Line(pictures.BLACK, "s", style="--"),
    (RNN, SCALED): Line(pictures.BLACK, "D", style="-."),
    (RELU, GLOROT): Line(pictures.ORANGE, "v"),
    (RELU, IDENTITY): Line(pictures.ORANGE, "^", style="--"),
    (LSTM, BIAS_0): Line(pictures.SKY, "o", 1.8),
    (LSTM, BIAS_1): Line(pictures.BLUE, "s", 1.8),
    (LSTM, BIAS_3): Line(pictures.BLUE, "D", 1.8, "--"),
    (LSTM, CHRONO): Line(pictures.VERMILION, "X", 1.8),
    (GRU, UPDATE_0): Line(pictures.GREEN, "P"),
    (GRU, CHRONO): Line(pictures.GREEN, "*", style="--"),
}
LIBRARIES = {
    "rnnjax": (pictures.BLUE, "s"),
    "flax": (pictures.ORANGE, "o"),
    "haiku": (pictures.GREEN, "D"),
    "equinox": (pictures.VERMILION, "^"),
}


class Drawn(NamedTuple):
    """A row as a line with its label."""

    row: Row
    line: Line
    label: str


def draw(results: Results) -> Figure:
    """Draw our cells at initialisation, the libraries' defaults, and cells around training."""
    rows = [row for row in results.rows if not row["skipped"]]
    figure = Figure(figsize=(11, 10), dpi=150, layout="constrained")
    panels = figure.subplot_mosaic([["ours", "ours"], ["defaults", "trained"]])
    _draw_ours(panels["ours"], _initial(rows, "rnnjax"))
    _draw_defaults(panels["defaults"], _initial(rows))
    _draw_trained(panels["trained"], rows)
    sizes = "N={N}, D={D}, x ~ N(0, 1)".format(**rows[0])
    figure.suptitle(f"What is left of a gradient k steps back; {sizes}", fontsize=11)
    return figure


def _draw_ours(axes: Axes, rows: list[Row]) -> None:
    _frame(axes, rows, "at initialisation")
    for row in rows:
        _draw_theory(axes, row)
    _draw_lines(
        axes,
        [
            Drawn(row, LINES[row["cell"], row["strategy"]], _name(row) + _beyond(row))
            for row in rows
        ],
    )
    grey: dict[str, Any] = {"color": "0.4"}
    handles = [
        Line2D([], [], marker="o", markersize=4, **grey),
        Patch(alpha=0.25, linewidth=0, **grey),
        Line2D([], [], linestyle=":", **grey),
    ]
    labels = (
        "median over seeds and rows",
        "quartiles",
        "theory: $σ(b_f)^k$, an LSTM's path from c to c alone;\n"
        "$σ_{max}(W)^k$, a bound for a tanh RNN",
    )
    axes.legend(handles, labels, loc="lower left", fontsize=8, frameon=False)


def _beyond(row: Row) -> str:
    """Say where a line goes that leaves the axes above."""
    end = _numbers(row, "median")[-1]
    return f"\n↑ to {power(end)}" if end > CEILING else ""


def _draw_defaults(axes: Axes, rows: list[Row]) -> None:
    shown = list(filter(_is_default, rows))
    _frame(axes, shown, "as they come from each library")
    drawn = []
    for row in shown:
        color, marker = LIBRARIES[row["implementation"]]
        style = "-" if row["cell"] == LSTM else "--"
        label = f"{row['implementation']} {row['cell']}"
        drawn.append(Drawn(row, Line(color, marker, style=style), label))
    _draw_lines(axes, drawn)


def _draw_trained(axes: Axes, rows: list[Row]) -> None:
    after = [row for row in rows if row["stage"] == AFTER]
    steps = f"{after[0]['training_steps']:,} steps of " if after else ""
    title = f"on the adding problem,\nafter {steps}training (dotted: before)"
    _frame(axes, after, title)
    for row in rows:
        if row["stage"] == BEFORE:
            line = LINES[row["cell"], row["strategy"]]
            axes.plot(row["lags"], _drawable(row, "median"), color=line.color, linestyle=":")
    _draw_lines(
        axes,
        [
            Drawn(row, LINES[row["cell"], row["strategy"]], f"{_name(row)}\nMSE {row['mse']:.2g}")
            for row in after
        ],
    )


def _frame(axes: Axes, rows: list[Row], title: str) -> None:
    """Set limits and ticks; lags stand above, because lines leave below and are labelled there."""
    longest = _longest(rows)
    axes.set_xscale("log")
    axes.set_xlim(1, longest)
    axes.set_ylim(FLOOR, CEILING)
    decades = [10**k for k in range(1 + int(math.log10(longest)))]
    axes.set_xticks(decades, [f"{lag:,}" for lag in decades])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("lag k (steps)", fontsize=9)
    axes.set_ylabel(r"$\log_{10}\ \|λ_{T-k}\|\,/\,\|λ_T\|$", fontsize=10)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _longest(rows: list[Row]) -> int:
    """Return the longest lag, or the power of ten by which every line has left below."""
    longest = max((row["lags"][-1] for row in rows), default=REFERENCE_LAG)
    if any(_drawable(row, "median")[-1] >= FLOOR for row in rows):
        return longest
    last = max((_exit(row) for row in rows), default=longest)
    return min(longest, 10 ** math.ceil(math.log10(last)))


def _draw_theory(axes: Axes, row: Row) -> None:
    """Draw what theory says where that is a decay, and write its factor where the line leaves."""
    rate = row["theory_log10_per_step"]
    if rate is None or rate > -1e-3:
        return
    color = LINES[row["cell"], row["strategy"]].color
    lags = np.array(row["lags"])
    axes.plot(lags, rate * lags, color=color, linestyle=":", linewidth=1.2)
    end = FLOOR / rate
    if end < 0.8 * lags[-1]:
        axes.text(1.02 * end, FLOOR + 0.4, f"${10**rate:.2g}^k$", color=color, fontsize=8)


def _draw_lines(axes: Axes, drawn: list[Drawn]) -> None:
    """Draw medians with their quartiles, and each label where its line leaves the axes."""
    for number, (row, line, _) in enumerate(drawn):
        lower, median, upper = (_drawable(row, name) for name in ("lower", "median", "upper"))
        axes.fill_between(row["lags"], lower, upper, color=line.color, alpha=0.15, linewidth=0)
        axes.plot(
            row["lags"],
            median,
            color=line.color,
            marker=line.marker,
            markersize=4,
            markevery=(number % MARK_EVERY, MARK_EVERY),
            linewidth=line.width,
            linestyle=line.style,
        )
    below = [one for one in drawn if _drawable(one.row, "median")[-1] < FLOOR]
    _label_below(axes, below)
    _label_right(axes, [one for one in drawn if one not in below])


def _drawable(row: Row, name: str) -> np.ndarray:
    """Return the numbers as matplotlib can draw them: far below the axes where they are −inf."""
    return np.maximum(_numbers(row, name), -1e6)


def _label_right(axes: Axes, drawn: list[Drawn]) -> None:
    ends = [min(_drawable(one.row, "median")[-1], CEILING) for one in drawn]
    places = [(end - FLOOR) / (CEILING - FLOOR) for end in ends]
    lines = 1 + max((one.label.count("\n") for one in drawn), default=0)
    gap = 0.15 * lines / _inches(axes)[1]
    for one, end, place in zip(drawn, ends, spread(places, gap), strict=True):
        at, text_at = (one.row["lags"][-1], end), (1.03, place)
        _label(axes, one, at, text_at, (0.0, 0.5), va="center", ha="left")


def _label_below(axes: Axes, drawn: list[Drawn]) -> None:
    exits = [_exit(one.row) for one in drawn]
    longest = math.log(axes.get_xlim()[1])
    places = [math.log(lag) / longest for lag in exits]
    gap = 0.2 / _inches(axes)[0]
    for one, lag, place in zip(drawn, exits, spread(places, gap), strict=True):
        turned: dict[str, Any] = {"rotation": -50, "rotation_mode": "anchor"}
        at, text_at = (lag, FLOOR), (place, -0.06)
        flat = one._replace(label=one.label.replace("\n", ", "))
        _label(axes, flat, at, text_at, (0.0, 1.0), va="center", ha="left", **turned)


def _label(axes: Axes, one: Drawn, at: tuple, text_at: tuple, corner: tuple, **text: Any) -> None:
    """Write a label outside of the axes, with a thin stroke from the end of its line."""
    stroke = {"arrowstyle": "-", "color": one.line.color, "linewidth": 0.6, "shrinkB": 0}
    axes.annotate(
        one.label,
        at,
        text_at,
        xycoords="data",
        textcoords="axes fraction",
        color=one.line.color,
        fontsize=7.5,
        annotation_clip=False,
        arrowprops={**stroke, "relpos": corner},
        **text,
    )


def _exit(row: Row) -> float:
    """Return the lag at which the median leaves the axes."""
    median = _drawable(row, "median")
    after = int(np.argmax(median < FLOOR))
    if after == 0:
        return row["lags"][0]
    pair = slice(after - 1, after + 1)
    return float(np.interp(-FLOOR, -median[pair], row["lags"][pair]))


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart, to at least a gap, and as little as can be.

    Example:
        >>> [round(place, 2) for place in spread([0.5, 0.0, 0.5], 0.2)]
        [0.4, 0.0, 0.6]
    """
    if not places:
        return []
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = isotonic_regression(np.array(places)[order] - steps).x + steps
    return moved[np.argsort(order)].tolist()


def _inches(axes: Axes) -> np.ndarray:
    """Return about how wide and high the axes will be; labels outside will make them smaller."""
    return 0.85 * np.asarray(axes.bbox.size) / axes.figure.dpi


OPTIONAL = {"dm-haiku": "haiku", "equinox": "equinox"}
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy"),
    *(package for package, name in OPTIONAL.items() if is_installed(name)),
)

BENCHMARK = Benchmark(measure, summarise, tabulate, draw, PACKAGES)
