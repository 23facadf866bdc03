"""How the memory tasks train one cell after the other, each for the same time."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from examples.support.memory import RUN, Arm, Options, Task, arm_of, lasting
from rnnjax import training
from rnnjax.diagnostics import gradient_norms
from rnnjax.initializers import GlorotUniform, Identity, Orthogonal

POINTS, QUICK_POINTS = 40, 5  # validations of a cell, where the task does not say how often
RATES = (1e-4, 1e-3, 3e-3, 1e-2)
KERNELS = {"Glorot": GlorotUniform(), "orthogonal": Orthogonal(), "identity": Identity()}


class Result(NamedTuple):
    """What became of one cell."""

    name: str
    cell: str
    learning_rate: float
    log10_gradient_left: float  # before training, at the lag of the task
    steps: int
    seconds: float
    best_step: int  # of the params that validated best, which are tested
    test: dict[str, float]
    records: list[training.Record]


@functools.cache
def adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam behind a clip of the gradient's norm at 1, its rate falling to zero along a cosine.

    The same object for the same arguments, which compiles once.
    """
    rate = optax.cosine_decay_schedule(learning_rate, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


@functools.cache
def loss_of(task: Callable[..., Any], cell: rnnjax.Cell) -> training.Loss:
    """A task's loss for one cell; the same object for the same cell, which compiles once."""
    return functools.partial(task, cell)


def initial_params(task: Task, arm: Arm, options: Options) -> dict[str, Any]:
    """Draw the params of a cell and of its head."""
    features = task.test[0].xs.shape[-1]
    return _draw(arm.cell, jax.random.key(options.seed), (features, options.size, task.outputs))


@functools.partial(jax.jit, static_argnames="sizes")
def _draw(cell: rnnjax.Cell, key: jax.Array, sizes: tuple[int, int, int]) -> dict[str, Any]:
    k_cell, k_head = jax.random.split(key)
    features, hidden, outputs = sizes
    return {
        "cell": cell.init(k_cell, features),
        "w": GlorotUniform()(k_head, (hidden, outputs), "float32"),
        "b": jnp.zeros(outputs),
    }


def gradient_left(task: Task, arm: Arm, options: Options) -> float:
    """Measure log10 of the share of a gradient that is left at the lag, the median of 16 rows."""
    params = initial_params(task, arm, options)["cell"]
    norms = gradient_norms(arm.cell, params, jnp.asarray(task.validation[0].xs[:, :16])).whole
    nats = np.asarray(norms[-1 - task.lag] - norms[-1], float)  # (16,)
    return float(np.median(nats)) / math.log(10)


def steps_in_time(task: Task, arm: Arm, options: Options) -> int:
    """Time a few steps once they are compiled; return how many fill the minutes."""
    optimiser, batches, seconds = adam(arm.learning_rate, 22), iter(task.batches), []
    params = initial_params(task, arm, options)
    state = training.initial_state(params, optimiser, jax.random.key(options.seed))
    for _ in range(22):
        begin = time.perf_counter()
        state, metrics = training.compiled_step(
            loss_of(task.loss, arm.cell), optimiser, state, next(batches)
        )
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begin)
    return max(1, round(60 * options.minutes / statistics.median(seconds[2:])))


def fit(
    task: Task, arm: Arm, options: Options, steps: int, every: int, folder: Path | None = None
) -> training.Fitted:
    """Train one cell; in a folder it goes on from its own checkpoints."""
    loss = loss_of(task.loss, arm.cell)
    score = functools.partial(training.evaluate, loss, batches=task.validation)
    checkpoints = None
    if folder is not None:
        config = {"options": lasting(options), "arm": tuple(arm), "steps": steps}
        checkpoints = training.Checkpoints(folder, every=every, keep=1, config=config)
    return training.fit(
        loss,
        initial_params(task, arm, options),
        adam(arm.learning_rate, steps),
        task.batches,
        steps=steps,
        key=jax.random.key(options.seed),
        validation=training.Validation(
            score, every, by=task.measure, higher_is_better=task.higher_is_better
        ),
        checkpoints=checkpoints,
        log_every=every,
    )


def search(task: Task, options: Options, steps: int) -> Arm:
    """Choose a tanh RNN by validation loss; the search costs as many steps as a training."""
    share = max(1, steps // (len(KERNELS) * len(RATES)))
    found = []
    for name, kernel in KERNELS.items():
        for rate in RATES:
            arm = Arm("tanh", rnnjax.Elman(options.size, recurrent_kernel_init=kernel), rate)
            loss = fit(task, arm, options, share, share).records[-1]["validation_loss"]
            found.append((loss, name, arm))
    loss, name, arm = min(found, key=lambda entry: entry[0])
    print(f"tanh RNN: of {len(found)} after {share:,} steps each, the best validation loss,")
    print(f"  {loss:.4f}, has the {name} kernel with the learning rate {arm.learning_rate:g}")
    return arm


def prepare(task: Task, name: str, options: Options, folder: Path) -> tuple[Arm, int]:
    """The cell of a name and its steps, as a checkpoint has them or as the options say."""
    if training.saved_steps(folder):
        config = training.load(folder).config
        return Arm(*config["arm"]), config["steps"]
    arm = arm_of(name, options, len(task.test[0].xs))
    steps = options.steps or steps_in_time(task, arm, options)
    if name == "tanh" and options.tanh_search:
        return search(task, options, steps), steps
    return arm, steps


def compare(task: Task, options: Options) -> Iterator[Result]:
    """Train cell by cell, test each once with the params that validated best."""
    for name in options.cells:
        folder = options.out / RUN / name
        arm, steps = prepare(task, name, options, folder)
        left = gradient_left(task, arm, options)
        points = QUICK_POINTS if options.quick else POINTS
        every = task.every or math.ceil(steps / points)
        fitted = fit(task, arm, options, steps, every, folder)
        best, last = fitted.best, fitted.records[-1]
        params = fitted.state.params if best is None else best.params
        yield Result(
            name,
            repr(arm.cell),
            arm.learning_rate,
            left,
            steps,
            last["seconds"],
            steps if best is None else best.step,
            training.evaluate(loss_of(task.loss, arm.cell), params, task.test),
            fitted.records,
        )
