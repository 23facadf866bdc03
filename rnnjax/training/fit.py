"""Training that survives: the loop around ``tbptt_step``."""

import contextlib
import functools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optax

from rnnjax import checks
from rnnjax.array_typing import Carry, Key, PyTree
from rnnjax.training import checkpoints as storing
from rnnjax.training import config as configs
from rnnjax.training import progress as progress_bar
from rnnjax.training import signals, storage
from rnnjax.training.checkpoints import Checkpoints, Saved, SaveError, Saver
from rnnjax.training.compiled import (
    DataParallel,
    compiled_step,
    deterministic_mode,
    spread,
)
from rnnjax.training.log import JSONLines, Record, Writer, read_json_lines
from rnnjax.training.run import Best, Intervals, Judge, Run, Validation
from rnnjax.training.state import Loss, TrainState, initial_state
from rnnjax.training.storage import DamagedError

LOG = "log.jsonl"


class Fitted(NamedTuple):
    """What ``fit`` leaves.

    Attributes:
        state: after the last step.
        best: what validated best; None without validation.
        records: what was logged, from the first step on also where the run was resumed.
        compilations: seconds that the first batch of each shape took, compilation in it.
        resumed_from: the step of the checkpoint that the run went on from, or None.
    """

    state: TrainState
    best: Best | None
    records: list[Record]
    compilations: dict[str, float]
    resumed_from: int | None


def fit(
    loss: Loss,
    params: PyTree,
    optimiser: optax.GradientTransformation,
    data: Iterable[PyTree],
    *,
    steps: int,
    key: Key,
    carry: Carry = None,
    average: float | None = None,
    validation: Validation | None = None,
    checkpoints: Checkpoints | None = None,
    writers: Sequence[Writer] = (),
    log_every: int = 10,
    skip_nonfinite: bool = False,
    parallel: DataParallel | None = None,
    deterministic: bool = False,
    progress: bool = True,
) -> Fitted:
    """Train params on batches, and let nothing be lost.

    Each step is one ``tbptt_step``. With ``checkpoints``, a run that ends for whatever reason and
    is started again with the same arguments goes on from its newest good checkpoint, and, with
    ``deterministic``, ends with the same bits as one that never stopped: params, state of the
    optimiser, keys, metrics. SIGTERM and SIGINT save and raise ``Preempted``, which exits with
    status 0.

    Args:
        loss: ``loss(params, carry, batch, key) → (value, (carry, metrics))``; see ``Loss``.
        params: what to begin with: any pytree of floating-point arrays, ``nnx.split(model,
            nnx.Param, …)[1]`` too.
        optimiser: any Optax optimiser.
        data: what yields the batches, endlessly or as many as there are; with ``checkpoints``, its
            iterators have ``get_state`` and ``set_state``, as those of
            ``rnnjax.training.data`` and of Grain do.
        steps: how many in all.
        key: of the noise; each step folds its number into it.
        carry: the carry of the first batch, leading axis B; None where each batch begins anew.
        average: decay of an exponential moving average of the params; None: there is none.
        validation: how params are scored.
        checkpoints: where states are kept; a log in JSON lines stands beside them.
        writers: more places for what is logged.
        log_every: steps between two records, which hold means over them. Results are fetched from
            the device then, so between records it never waits for Python.
        skip_nonfinite: leave out steps whose loss or gradient is not finite, instead of ending.
        parallel: how to use several devices.
        deterministic: the same bits from the same inputs on the same device, at some cost in speed:
            on a CPU one thread for each product, on a GPU no atomic sums.
        progress: draw a bar where there is a terminal.

    Returns:
        State, best params, records.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range.
        MismatchError: the folder holds a run of another model, config, key or data.
        BlockingIOError: another run is at work in the folder.
        NonFiniteError: a step was not finite; checkpoints are of steps before it.
        SaveError: a step could not be saved; raised by the next save or at the end.
        DamagedError: every checkpoint in the folder is damaged.
        Preempted: a signal asked the run to end.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from rnnjax import training
        >>> def loss(params, carry, batch, key):
        ...     return jnp.mean((params - batch) ** 2), (carry, {})
        >>> data = training.ArrayBatches(jnp.full((8, 1), 3.0), batch_size=4)
        >>> fitted = training.fit(
        ...     loss, jnp.zeros(1), optax.sgd(0.1), data, steps=50, key=jax.random.key(0))
        >>> round(float(fitted.state.params[0]), 2), fitted.records[-1]["step"]
        (3.0, 50)
    """
    _check(loss, optimiser, steps, key, average, validation, checkpoints, log_every, parallel)
    state = initial_state(params, optimiser, key, carry=carry, average=average is not None)
    step = functools.partial(
        compiled_step,
        loss,
        optimiser,
        decay=average,
        parallel=parallel,
        deterministic=deterministic,
    )
    run = Run(step, state, iter(data), Judge(validation), list(writers), skip_nonfinite)
    with contextlib.ExitStack() as stack:
        stack.enter_context(deterministic_mode(deterministic))
        asked = signals.Asked()
        if checkpoints is not None:
            # A change in any of these would give other numbers, or another state.
            options = {"average": average, "deterministic": deterministic, "skip": skip_nonfinite}
            stack.enter_context(_claimed(run, checkpoints, options))
            asked = stack.enter_context(signals.kept())
        _check_steps(steps, run)
        if parallel is not None:
            run.state = spread(run.state, parallel)
        for writer in run.writers:
            stack.callback(writer.close)
            writer.start(run.done)
        report = stack.enter_context(progress_bar.bar(steps, run.done, shown=progress))
        every = steps if checkpoints is None else checkpoints.every
        run.train(steps, Intervals(log_every, every), asked, report)
    return Fitted(run.state, run.judge.best, run.records, run.compilations, run.resumed_from)


@contextlib.contextmanager
def _claimed(run: Run, checkpoints: Checkpoints, options: dict) -> Iterator[None]:
    """Give a run its folder, and what the folder holds of it; at the end all is saved or told."""
    folder = Path(checkpoints.folder)
    config = {"config": configs.encode(checkpoints.config), "fit": options}
    run.check_resumable()
    storage.make(folder)
    with storage.locked(folder):
        storage.remove_asides(folder)
        run.writers.insert(0, JSONLines(folder / LOG))
        if storing.saved_steps(folder):
            saved = storing.load(folder)
            saved.require(config)
            run.go_on(saved, read_json_lines(folder / LOG))
            run.judge.best = _best(folder, saved, run.state)
        run.saver = Saver(checkpoints, config, run.resumed_from)
        try:
            yield
        except BaseException as error:
            _tell(error, run.saver)
            raise
        finally:
            run.saver.close()


def _best(folder: Path, saved: Saved, state: TrainState) -> Best | None:
    """Read the best params that a saved run knew; without them, the next ones are the best."""
    best = saved.progress["best"]
    if best is None:
        return None
    try:
        found = storing.load(folder, best["step"]).like(state)
    except (FileNotFoundError, DamagedError) as error:
        warnings.warn(f"the best params are lost, the run goes on: {error}", stacklevel=5)
        return None
    params = found.params if found.average is None else found.average
    return Best(best["step"], best["score"], params)


def _tell(error: BaseException, saver: Saver) -> None:
    """Say in an error that ends a run what became of the last save."""
    try:
        saver.wait()
    except SaveError as failure:
        error.add_note(str(failure))
    if saver.saved is not None:
        error.add_note(f"The checkpoint of step {saver.saved} is good.")


def _check_steps(steps: int, run: Run) -> None:
    if steps < run.done:
        raise ValueError(
            f"fit: steps must be at least {run.done}, the step of the newest checkpoint; got "
            f"{steps}. Ask for more, or begin a new run in another folder."
        )


def _check(
    loss: Any,
    optimiser: Any,
    steps: Any,
    key: Any,
    average: Any,
    validation: Any,
    checkpoints: Any,
    log_every: Any,
    parallel: Any,
) -> None:
    checks.function("fit", "loss", loss)
    if not isinstance(optimiser, optax.GradientTransformation):
        raise TypeError(
            f"fit: optimiser must be a GradientTransformation such as optax.adam(1e-3); got "
            f"{optimiser!r}. Of optax.MultiSteps: .gradient_transformation()."
        )
    checks.positive_int("fit", "steps", steps)
    checks.positive_int("fit", "log_every", log_every)
    checks.key("fit", "key", key)
    if average is not None and not 0 < average < 1:
        raise ValueError(f"fit: average must be a decay in (0, 1), as 0.999; got {average}.")
    if validation is not None:
        checks.instance("fit", "validation", validation, Validation, "Validation(score, every=100)")
        checks.function("Validation", "score", validation.score)
        checks.positive_int("Validation", "every", validation.every)
        if validation.patience is not None:
            checks.positive_int("Validation", "patience", validation.patience)
    if checkpoints is not None:
        checks.instance("fit", "checkpoints", checkpoints, Checkpoints, 'Checkpoints("runs/1")')
        checks.positive_int("Checkpoints", "every", checkpoints.every)
        checks.positive_int("Checkpoints", "keep", checkpoints.keep)
    if parallel is not None:
        checks.instance("fit", "parallel", parallel, DataParallel, "DataParallel(mesh)")
