"""Long memory: one block, six cells, two tasks, against minutes of training.

The same deep model, of blocks that differ in their cell alone (``rnnjax.linen.Block``):

    x ← x + (gelu(z W_g) ⊙ cell(causal_conv(z))) W_o,    z = Norm(x)
    x ← x + (gelu(a) ⊙ v) W_n,                           (a, v) = Norm(x) W_m

with an LSTM or a GRU, whose gates see the hidden vector, so that each step waits for the one
before; and with cells that are affine in theirs, so that they may run in parallel over time: MinGRU
and MinLSTM (Feng et al., "Were RNNs All We Needed?", 2024), LRU (Orvieto et al., "Resurrecting
Recurrent Neural Networks for Long Sequences", 2023), S5 (Smith et al., "Simplified State Space
Layers for Sequence Modeling", 2023).

    --task digits   the pictures, split and baselines of ``examples.permuted_digits --data digits``:
                    196 pixels in an order without meaning; the mean of all steps names the digit
    --task text     Tiny Shakespeare by the character, with the test and the measure of
                    ``examples.language_model``: nats, the carry passed on

Every cell has the same minutes, not the same steps: what a step costs counts. Minutes are those
that the processor spends on training, compilation included and scoring not: on one core of a busy
machine they are still those of the work; threads on several cores add up. Validation, 1,000
pictures or the last twentieth of the text to train on, is what is drawn, and it chooses the params;
the test is scored once. The play that the test begins with begins in that twentieth: a score to set
beside others' takes ``--everything``, which learns from it as well.

    python -m examples.long_memory                          six cells, a minute each
    python -m examples.long_memory --task text --cell mingru --minutes 9 --everything
    python -m examples.long_memory --task text --cell mingru --resume
    python -m examples.long_memory --draw --out examples/results/long_memory
    python -m examples.long_memory --quick                  what comes with the packages
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

import rnnjax
from examples.support import deep, long_memory_results, long_memory_tasks
from examples.support.cli import (
    OptionError,
    a_seed,
    at_least_one,
    below_one,
    blame,
    parse,
    positive,
    run,
)
from examples.support.deep import Deep
from examples.support.folders import set_aside
from examples.support.lines import Lines
from examples.support.long_memory_results import Name, Result
from examples.support.long_memory_tasks import Task
from rnnjax import training
from rnnjax.initializers import Chrono

NAMES = get_args(Name)
RUNS, RUN = "runs", "run"
# Of linear cells, what was fastest on one core of a CPU: 196 steps of 50 rows, 64 of 32.
LINEAR = {"digits": rnnjax.Sequential(hoist=True), "text": rnnjax.Associative()}
POINTS, QUICK_POINTS = 6, 3  # validations of a run
PASSING = ("out", "resume", "draw", "cell")  # not the run's


@dataclass(frozen=True)
class Options:
    """Train the same block with one cell or another."""

    task: Literal["digits", "text"] = "digits"
    """Permuted digits, or characters of Tiny Shakespeare."""
    cell: Literal["all", Name] = "all"
    """The cell of the blocks; all: one after the other."""
    minutes: float = 1.0
    """Minutes of the processor for the training of each cell."""
    steps: int | None = None
    """Steps of the optimiser for each cell, instead of --minutes."""
    features: int = 48
    """Features that pass from block to block, and units of a cell."""
    layers: int = 3
    """Blocks on top of each other."""
    dropout: float = 0.1
    """Share of what each half of a block adds that is dropped."""
    batch: int = 50
    """Pictures, or rows of text, side by side."""
    chunk: int = 64
    """Characters that a gradient goes back."""
    shift: int = 1
    """Move each picture to train on by up to so many pixels in each direction, anew each time."""
    learning_rate: float = 4e-3
    """The highest learning rate of AdamW, after the warm-up."""
    weight_decay: float = 0.05
    """Of the matrices."""
    average: float = 0.99
    """Decay of an exponential moving average of the parameters, which is what is kept."""
    everything: bool = False
    """Of a text, learn from the part that validates, too, as ``language_model`` does; then nothing
    is chosen, and the last params are tested."""
    quick: bool = False
    """Small models and data that come with the packages, for seconds; other options still count."""
    resume: bool = False
    """Go on with the runs of this task in --out, with the options that they were begun with."""
    draw: bool = False
    """Train nothing: draw what the results in --out hold, of both tasks."""
    seed: int = 0
    """Of the initial weights, the batches and the dropout."""
    out: Path = Path("runs/long_memory")
    """Folder of the results, a file a task and cell, and of the runs that they come from."""


FULL = {
    "digits": Options(),
    "text": Options(task="text", features=128, layers=4, batch=32, learning_rate=5e-3),
}
SMALL = {
    "features": 16,
    "layers": 2,
    "steps": 100,
    "learning_rate": 1e-2,
    "average": 0.9,
    "shift": 0,
}
QUICK = {task: replace(options, **SMALL) for task, options in FULL.items()}
QUICK_CHARACTERS = 100_000


class Arm(NamedTuple):
    """One that takes part: a model, its loss, and where its run stands."""

    name: Name
    model: Deep
    loss: training.Loss
    folder: Path


# --- models ---


def cell_of(name: Name, task: Task, options: Options) -> rnnjax.Cell:
    """Make the cell of a name; gates begin with memories as long as the sequence, if it ends."""
    size = options.features
    spans = None if task.length is None else Chrono(task.length)
    cells = {
        "lstm": rnnjax.LSTM(size, forget_bias=spans or 1.0),
        "gru": rnnjax.GRU(size, update_bias=spans or 0.0),
        "mingru": rnnjax.MinGRU(size, update_bias=spans or 0.0),
        "minlstm": rnnjax.MinLSTM(size, forget_bias=spans or 0.0),
        "lru": rnnjax.LRU(size, r_min=0.9, r_max=0.999, max_phase=math.pi / 10),
        "s5": rnnjax.S5(size),
    }
    return cells[name]


def arm_of(name: Name, task: Task, options: Options) -> Arm:
    """Make what is trained."""
    cell = cell_of(name, task, options)
    model: Any = Deep(  # Any: a type checker does not see that it can be hashed
        cell,
        LINEAR[options.task] if cell.affine else rnnjax.Auto(),
        options.features,
        options.layers,
        options.dropout,
        task.outputs,
        task.symbols,
    )
    folder = options.out / RUNS / f"{options.task}-{name}"
    return Arm(name, model, loss_of(task.loss, model), folder)


@functools.cache
def loss_of(loss: Callable[..., Any], model: Deep) -> training.Loss:
    """A task's loss for one model; the same object for the same model, which compiles once."""
    return functools.partial(loss, model)


@functools.cache
def optimiser(rate: float, weight_decay: float, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping, a warm-up and a cosine that ends at nothing after so many steps.

    The same object for the same arguments, which compiles once.
    """
    warm_up = min(100, 1 + steps // 20)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm_up, steps)
    adamw = optax.adamw(schedule, b2=0.98, weight_decay=weight_decay, mask=_matrices)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


class Beginning(NamedTuple):
    """What a training begins with."""

    params: Any
    carry: Any
    key: jax.Array


def beginning(arm: Arm, task: Task, options: Options) -> Beginning:
    """Draw the params; where the carry passes on from batch to batch, the first one."""
    k_params, key = jax.random.split(jax.random.key(options.seed))
    batch = task.batches.batch(0, 0)
    inputs = jnp.asarray(batch[0])
    params = deep.initial_params(arm.model, k_params, inputs)
    passed_on = isinstance(task.batches, training.TokenStreams)
    carry = deep.initial_carry(arm.model, params, inputs) if passed_on else None
    return Beginning(params, carry, key)


# --- training ---


def steps_in_time(arm: Arm, task: Task, options: Options) -> int:
    """Time a few steps once they are compiled; return how many fill the processor's minutes."""
    adamw = optimiser(options.learning_rate, options.weight_decay, 1000)
    begin, data = beginning(arm, task, options), iter(task.batches)
    state = training.initial_state(begin.params, adamw, begin.key, carry=begin.carry, average=True)
    seconds = []
    for _ in range(12):
        start = time.process_time()
        state, metrics = training.compiled_step(
            arm.loss, adamw, state, next(data), decay=options.average
        )
        jax.block_until_ready(metrics)
        seconds.append(time.process_time() - start)
    return max(1, round(60 * options.minutes / statistics.median(seconds[2:])))


class Clock:
    """Scores params; says, too, how many minutes the processor spent since the last scores."""

    def __init__(self, score: Callable[[Any], dict[str, float]]):
        self._score, self._since = score, time.process_time()

    def __call__(self, params: Any) -> dict[str, float]:
        """Score params."""
        minutes = (time.process_time() - self._since) / 60
        scores = self._score(params)
        self._since = time.process_time()
        return {**scores, "minutes": minutes}


def train(arm: Arm, task: Task, options: Options, steps: int) -> training.Fitted:
    """Train one model; a run that finds its own checkpoints goes on from them."""
    begin, every = beginning(arm, task, options), _every(options, steps)
    score = Clock(functools.partial(task.score, arm.model, arm.loss, task.validation))
    by, higher = task.measure, task.higher_is_better
    config = {"options": lasting(options), "cell": arm.model.cell, "steps": steps}
    return training.fit(
        arm.loss,
        begin.params,
        optimiser(options.learning_rate, options.weight_decay, steps),
        task.batches,
        steps=steps,
        key=begin.key,
        carry=begin.carry,
        average=options.average,
        validation=training.Validation(score, every, by=by, higher_is_better=higher),
        checkpoints=training.Checkpoints(arm.folder / RUN, every=every, keep=1, config=config),
        log_every=every,
        writers=[Lines(steps, functools.partial(_words, task))],
    )


def _every(options: Options, steps: int) -> int:
    return math.ceil(steps / (QUICK_POINTS if options.quick else POINTS))


def _words(task: Task, record: training.Record) -> str:
    measured = record.get(f"validation_{task.measure}", math.nan)
    return f"training loss {record['loss']:.3f}  validation {task.measure} {measured:.4f}"


def steps_of(arm: Arm, task: Task, options: Options) -> int:
    """The steps of a run, as its checkpoint has them or as the options say."""
    if training.saved_steps(arm.folder / RUN):
        return training.load(arm.folder / RUN).config["steps"]
    return options.steps or steps_in_time(arm, task, options)


def one(name: Name, task: Task, options: Options) -> Result:
    """Train the model with one cell, and score once what validated best."""
    arm = arm_of(name, task, options)
    steps = steps_of(arm, task, options)
    print(f"{long_memory_results.LOOKS[name].label}: {steps:,} steps", flush=True)
    fitted = train(arm, task, options, steps)
    curve = long_memory_results.curve(fitted.records, task.measure)
    assert fitted.best is not None
    params = fitted.state.average if options.everything else fitted.best.params
    return Result(
        task=options.task,
        name=name,
        cell=repr(arm.model.cell),
        size=deep.size(params),
        steps=steps,
        minutes=curve[-1][0],
        best_step=steps if options.everything else fitted.best.step,
        measure=task.measure,
        higher_is_better=task.higher_is_better,
        levels=task.levels,
        baselines=task.baselines,
        test=task.score(arm.model, arm.loss, task.test, params),
        curve=[] if options.everything else curve,
        options=lasting(options),
    )


# --- runs ---


def task_of(options: Options) -> Task:
    """Read the task's data.

    Raises:
        OptionError: it cannot be read, or does not fill a batch.
    """
    if options.task == "digits":
        data = "scikit-learn" if options.quick else "digits"
        return long_memory_tasks.digits(data, options.batch, options.shift, options.seed)
    data = None if options.quick else "tinyshakespeare"
    sizes = options.batch, options.chunk
    return long_memory_tasks.text(data, QUICK_CHARACTERS, *sizes, options.everything)


def lasting(options: Options) -> dict[str, Any]:
    """What a run is begun with."""
    return {name: value for name, value in asdict(options).items() if name not in PASSING}


def names_of(options: Options) -> Sequence[Name]:
    """The cells to train."""
    return NAMES if options.cell == "all" else (options.cell,)


def begun(options: Options) -> Options:
    """The options that the runs were begun with.

    Raises:
        OptionError: there is no run to go on with.
    """
    folders = [options.out / RUNS / f"{options.task}-{name}" / RUN for name in names_of(options)]
    found = [folder for folder in folders if training.saved_steps(folder)]
    if not found:
        raise OptionError(
            f"--out: expected a run to go on with; {options.out} has none of {options.task} with "
            f"this cell. Leave out --resume to begin one."
        )
    with blame("--out"):
        return replace(options, **training.load(found[0]).config["options"])


def check(options: Options) -> None:
    """Check what needs no data.

    Raises:
        OptionError: an option is out of range.
    """
    for name in ("steps", "features", "layers", "batch", "chunk"):
        at_least_one(name, getattr(options, name))
    for name in ("minutes", "learning_rate", "average"):
        positive(name, getattr(options, name))
    for name in ("dropout", "average", "weight_decay"):
        below_one(name, getattr(options, name))
    if options.shift < 0:
        raise OptionError(f"--shift: expected 0 or more pixels; got {options.shift}.")
    a_seed(options.seed)
    if options.draw and options.resume:
        raise OptionError("--draw, --resume: expected one of the two; got both. Drop one.")


def main(options: Options) -> None:
    """Train cell by cell, or go on, or draw what there is."""
    check(options)
    if not options.draw:
        options = begun(options) if options.resume else options
        task = task_of(options)
        for name in names_of(options):
            if not options.resume:
                with blame("--out"):
                    set_aside(options.out / RUNS / f"{options.task}-{name}", (RUN,))
            result = one(name, task, options)
            long_memory_results.keep(options.out, result)
            long_memory_results.say(result)
    with blame("--out"):
        long_memory_results.draw_folder(options.out)


def command(argv: Sequence[str] | None = None) -> None:
    """Run the command line; the task and --quick change what the other options are by default."""
    typed = parse(Options(), argv)
    run(main, (QUICK if typed.quick else FULL)[typed.task], argv)


if __name__ == "__main__":
    command()
