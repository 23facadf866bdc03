"""Microseconds a token: writing text with an LSTM, one token after the other and all in one call.

A token is drawn from the logits and read back before the next: embedding, LSTM, linear head, a
random draw. What hands over each token as it comes is called from Python once a token (or once a
block of them); what hands over all of them at the end is one compiled loop.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import rnnjax
from benchmarks import pictures, timing, wording
from benchmarks.benchmark import Benchmark, Options, Table, announced
from benchmarks.results import Results, Row
from rnnjax import decoding

VOCABULARY, EMBEDDING = 65, 64

SAMPLE, TORCH, FLAX_SCAN = "sample", "LSTMCell loop", "OptimizedLSTMCell in lax.scan"


class Case(NamedTuple):
    """One size; all arms take turns at it."""

    T: int
    B: int
    N: int

    def __str__(self):
        return f"LSTM T={self.T:,} B={self.B} N={self.N}"


class Arm(NamedTuple):
    """One way of writing T tokens.

    Attributes:
        implementation: ``rnnjax`` or the peer.
        name: how it runs.
        at_once: whether it hands over all tokens at the end, and not each as it comes.
        make: takes the case and returns a call that writes its tokens (T, B).
    """

    implementation: str
    name: str
    at_once: bool
    make: Callable[[Case], Callable[[], np.ndarray]]


class Plan(NamedTuple):
    """What is measured; the vocabulary is that of characters."""

    tokens: int
    batches: tuple[int, ...]
    hidden: tuple[int, ...]
    rounds: int

    def cases(self) -> list[Case]:
        """Return the sizes."""
        return [Case(self.tokens, B, N) for N, B in itertools.product(self.hidden, self.batches)]


FULL = Plan(tokens=256, batches=(1, 64), hidden=(256, 512), rounds=timing.ROUNDS)
QUICK = Plan(tokens=32, batches=(1, 64), hidden=(256,), rounds=3)


# --- rnnjax ------------------------------------------------------------------------------------


def _read(cell: rnnjax.Cell, params: Any, carry: Any, token: Any, context: Any) -> tuple[Any, Any]:
    """Read one token (B,) and score the next."""
    carry, h = rnnjax.step(cell, params["rnn"], params["embed"][token], carry)
    return carry, h @ params["head"] + params["bias"][None]


@functools.cache
def _params(hidden: int) -> dict[str, Any]:
    k_embed, k_rnn, k_head = jax.random.split(jax.random.key(0), 3)
    return {
        "embed": jax.random.normal(k_embed, (VOCABULARY, EMBEDDING)),
        "rnn": rnnjax.LSTM(hidden).init(k_rnn, EMBEDDING),
        "head": jax.random.normal(k_head, (hidden, VOCABULARY)) / hidden**0.5,
        "bias": jnp.zeros((VOCABULARY,)),
    }


def _carry(case: Case) -> rnnjax.LSTMCarry:
    zeros = jnp.zeros((case.B, case.N))
    return rnnjax.LSTMCarry(zeros, zeros)


def _arguments(case: Case) -> tuple:
    """Return what ``sample`` and ``stream`` take."""
    step_fn = jax.tree_util.Partial(_read, rnnjax.LSTM(case.N), _params(case.N))
    return step_fn, _carry(case), jnp.zeros((1, case.B), jnp.int32), jax.random.key(1)


def _sample(case: Case, **options: Any) -> Callable[[], np.ndarray]:
    arguments = _arguments(case)
    return lambda: np.asarray(decoding.sample(*arguments, max_length=case.T, **options).tokens)


def _stream(case: Case, block: int) -> Callable[[], np.ndarray]:
    arguments = _arguments(case)
    return lambda: np.stack(list(decoding.stream(*arguments, max_length=case.T, block=block)))


def _step_loop(case: Case) -> Callable[[], np.ndarray]:
    read = functools.partial(_read, rnnjax.LSTM(case.N), context=None)
    return _jitted_loop(read, _params(case.N), _carry(case), case)


# --- peers -------------------------------------------------------------------------------------


class FlaxModel(nn.Module):
    """Embedding, LSTM and head of Flax."""

    hidden: int

    @nn.compact
    def __call__(self, carry: Any, token: Any) -> tuple[Any, Any]:
        """Read one token (B,) and score the next."""
        x = nn.Embed(VOCABULARY, EMBEDDING)(token)
        carry, h = nn.OptimizedLSTMCell(self.hidden)(carry, x)
        return carry, nn.Dense(VOCABULARY)(h)


def _flax(case: Case) -> tuple[Callable, Any, Any]:
    """Return the step function, the params and the carry."""
    model, carry = FlaxModel(case.N), tuple(_carry(case))
    params = jax.jit(model.init)(jax.random.key(0), carry, jnp.zeros((case.B,), jnp.int32))
    return model.apply, params, carry


def _flax_loop(case: Case) -> Callable[[], np.ndarray]:
    return _jitted_loop(*_flax(case), case)


def _flax_scan(case: Case) -> Callable[[], np.ndarray]:
    read, params, carry = _flax(case)

    @jax.jit
    def write(params: Any, carry: Any, token: Any, key: Any) -> Any:
        def draw(state: Any, time: Any) -> tuple[Any, Any]:
            carry, logits = read(params, *state)
            token = jax.random.categorical(jax.random.fold_in(key, time), logits)
            return (carry, token), token

        return jax.lax.scan(draw, (carry, token), jnp.arange(case.T))[1]

    token, key = jnp.zeros((case.B,), jnp.int32), jax.random.key(1)
    return lambda: np.asarray(write(params, carry, token, key))


def _jitted_loop(read: Callable, params: Any, carry: Any, case: Case) -> Callable[[], np.ndarray]:
    """Loop in Python over a compiled step that draws as well, as one writes it by hand."""

    @jax.jit
    def draw(params: Any, carry: Any, token: Any, key: Any, time: int) -> tuple[Any, Any]:
        carry, logits = read(params, carry, token)
        return carry, jax.random.categorical(jax.random.fold_in(key, time), logits)

    start, key = jnp.zeros((case.B,), jnp.int32), jax.random.key(1)

    def write() -> np.ndarray:
        state, token, tokens = carry, start, []
        for time in range(case.T):
            state, token = draw(params, state, token, key, time)
            tokens.append(np.asarray(token))
        return np.stack(tokens)

    return write


def _torch_loop(case: Case) -> Callable[[], np.ndarray]:
    import torch  # here, so that tables can be drawn where it is not installed

    torch.manual_seed(0)
    embed = torch.nn.Embedding(VOCABULARY, EMBEDDING)
    cell, head = torch.nn.LSTMCell(EMBEDDING, case.N), torch.nn.Linear(case.N, VOCABULARY)

    @torch.inference_mode()
    def write() -> np.ndarray:
        state, tokens = (torch.zeros(case.B, case.N),) * 2, []
        token = torch.zeros(case.B, dtype=torch.long)
        for _ in range(case.T):
            state = cell(embed(token), state)
            token = torch.multinomial(torch.softmax(head(state[0]), -1), 1)[:, 0]
            tokens.append(token.numpy())
        return np.stack(tokens)

    return write


ARMS = (
    Arm("rnnjax", "step loop", False, _step_loop),
    Arm("rnnjax", "stream(block=1)", False, functools.partial(_stream, block=1)),
    Arm("rnnjax", "stream(block=16)", False, functools.partial(_stream, block=16)),
    Arm("flax", "OptimizedLSTMCell loop", False, _flax_loop),
    Arm("torch", TORCH, False, _torch_loop),
    Arm("rnnjax", SAMPLE, True, _sample),
    Arm("rnnjax", "sample(top_k, top_p)", True, functools.partial(_sample, top_k=20, top_p=0.9)),
    Arm("flax", FLAX_SCAN, True, _flax_scan),
)


# --- measuring ---------------------------------------------------------------------------------


def measure(options: Options) -> list[Row]:
    """Time every arm at every size."""
    plan = QUICK if options.quick else FULL
    return [row for case in announced(plan.cases()) for row in measure_case(case, plan.rounds)]


def measure_case(case: Case, rounds: int) -> list[Row]:
    """Time the arms in turn, in the same rounds."""
    calls = {arm.name: arm.make(case) for arm in ARMS}
    for name, call in calls.items():
        shape = call().shape
        assert shape == (case.T, case.B), (name, shape)
    times = timing.time_together(calls, rounds=rounds)
    return [_row(case, arm, times[arm.name]) for arm in ARMS]


def _row(case: Case, arm: Arm, times: timing.Timing) -> Row:
    return {
        "cell": "LSTM",
        "implementation": arm.implementation,
        "strategy": arm.name,
        "T": case.T,
        "B": case.B,
        "D": EMBEDDING,
        "N": case.N,
        "V": VOCABULARY,
        "pass": "forward",
        "at_once": arm.at_once,
        **times._asdict(),
        "microseconds_per_token": 1e3 * times.milliseconds / case.T,
        "microseconds_per_token_median": 1e3 * times.milliseconds_median / case.T,
    }


# --- summing up --------------------------------------------------------------------------------

MEDIAN = "microseconds_per_token_median"


def summarise(rows: list[Row]) -> str:
    """Compare sample and the best of each kind with the peers, by medians."""
    return " ".join(_sentence(rows, case) for case in _cases(rows))


def _sentence(rows: list[Row], case: Case) -> str:
    here = [row for row in rows if _case(row) == case]
    sampled, torch_loop, scanned = (_of(here, name)[MEDIAN] for name in (SAMPLE, TORCH, FLAX_SCAN))
    each = [row for row in here if not row["at_once"]]
    ours = min((row for row in each if row["implementation"] == "rnnjax"), key=_median)
    theirs = min((row for row in each if row["implementation"] != "rnnjax"), key=_median)
    return (
        f"B={case.B}, N={case.N}: sample writes a token for each row in {wording.short(sampled)} "
        f"µs, {wording.short(torch_loop / sampled)}× as fast as PyTorch's {TORCH} and "
        f"{wording.short(scanned / sampled)}× as fast as Flax's {FLAX_SCAN}; token by token, "
        f"{ours['strategy']} takes {wording.short(_median(ours))} µs and the fastest peer, "
        f"{theirs['implementation']}'s {theirs['strategy']}, {wording.short(_median(theirs))} µs."
    )


def _cases(rows: list[Row]) -> list[Case]:
    return list(dict.fromkeys(map(_case, rows)))


def _case(row: Row) -> Case:
    return Case(row["T"], row["B"], row["N"])


def _of(rows: list[Row], strategy: str) -> Row:
    return next(row for row in rows if row["strategy"] == strategy)


def _median(row: Row) -> float:
    return row[MEDIAN]


# --- table and picture -------------------------------------------------------------------------


def tabulate(rows: list[Row]) -> list[Table]:
    """Return one table: an arm a row, a size a column, the median with the minimum beside it."""
    cases = _cases(rows)
    header = ("tokens come", "implementation", "how", *(f"B={c.B}, N={c.N}" for c in cases))
    body = [
        (
            "at once" if arm.at_once else "one by one",
            arm.implementation,
            arm.name,
            *(_entry(_of([row for row in rows if _case(row) == case], arm.name)) for case in cases),
        )
        for arm in ARMS
    ]
    caption = "µs for a token of each row, median (minimum); LSTM, V={V}, D={D}, T={T}"
    return [Table(caption.format(**rows[0]), header, body, names=3)]


def _entry(row: Row) -> str:
    return f"{wording.entry(row, MEDIAN)} ({wording.entry(row, 'microseconds_per_token')})"


COLORS = {"rnnjax": pictures.BLUE, "flax": pictures.ORANGE, "torch": pictures.VERMILION}


def draw(results: Results) -> Figure:
    """Draw a panel a size: the median of every arm as a bar, hatched where all come at once."""
    cases = _cases(results.rows)
    size = (2.5 + 2.8 * len(cases), 1 + 0.32 * len(ARMS))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    for axes, case in zip(panels, cases, strict=True):
        for place, arm in enumerate(ARMS):
            here = [row for row in results.rows if _case(row) == case]
            value = _median(_of(here, arm.name))
            hatch = "//" if arm.at_once else None
            color = COLORS[arm.implementation]
            bar = axes.barh(place, value, color=color, edgecolor="white", hatch=hatch)
            axes.bar_label(bar, [wording.short(value)], padding=2, fontsize=7)
        axes.margins(x=0.2)
        axes.set_title(f"B={case.B}, N={case.N}", fontsize=9)
        axes.set_xlabel("µs for a token of each row", fontsize=8)
        axes.tick_params(labelsize=7)
    labels = [f"{arm.implementation}: {arm.name}" for arm in ARMS]
    panels[0].set_yticks(range(len(ARMS)), labels)
    panels[0].invert_yaxis()
    title = f"{results.device}; LSTM, V={VOCABULARY}; hatched: all tokens come at the end"
    figure.suptitle(title, fontsize=8)
    return figure


PACKAGES = ("jax", "jaxlib", "flax", "torch", "numpy")

BENCHMARK = Benchmark(measure, summarise, tabulate, draw, PACKAGES)
