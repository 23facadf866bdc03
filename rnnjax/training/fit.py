"""Training that survives: the loop around ``tbptt_step``."""

import contextlib
import dataclasses
import functools
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnjax import checks
from rnnjax.array_typing import Carry, Key, PyTree
from rnnjax.training import checkpoints as storing
from rnnjax.training import config as configs
from rnnjax.training import progress as progress_bar
from rnnjax.training import signals, storage
from rnnjax.training.checkpoints import Checkpoints, MismatchError, Saved, SaveError, Saver
from rnnjax.training.compiled import (
    DataParallel,
    as_floats,
    compiled_step,
    deterministic_mode,
    spread,
)
from rnnjax.training.data import BatchIterator
from rnnjax.training.log import JSONLines, Meter, Record, Writer, read_json_lines
from rnnjax.training.state import Loss, Metrics, TrainState, initial_state
from rnnjax.training.storage import DamagedError

LOG = "log.jsonl"


class NonFiniteError(FloatingPointError):
    """A loss, gradient or parameter that is not finite; ``step`` is the number of the step."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


@dataclasses.dataclass(frozen=True)
class Validation:
    """When and how params are scored, and when that ends the run.

    Attributes:
        score: params → a number, called ``loss``, or numbers by name; ``evaluate`` gives them for a
            loss. It is handed the average where there is one.
        every: steps between two scores; the last step is scored in any case.
        patience: how many scores in a row may fail to be the best before the run ends; None: any.
        by: the name of the score that decides.
        higher_is_better: of that score.
    """

    score: Callable[[PyTree], Any]
    every: int
    patience: int | None = None
    by: str = "loss"
    higher_is_better: bool = False


class Best(NamedTuple):
    """The params that validated best: a copy on the host."""

    step: int
    score: float
    params: PyTree


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
    run = _Run(step, state, iter(data), _Judge(validation), list(writers), skip_nonfinite)
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


class Intervals(NamedTuple):
    """Steps between two records, and between two checkpoints."""

    log: int
    save: int


class _Judge:
    """Scores params, keeps the best, and says when none is likely to come any more."""

    def __init__(self, validation: Validation | None):
        self._validation = validation
        self.best: Best | None = None
        self.failed = 0  # scores in a row that were not the best

    def is_due(self, step: int, last: bool) -> bool:
        """Whether a step is to be scored."""
        return self._validation is not None and (last or step % self._validation.every == 0)

    def is_out_of_patience(self) -> bool:
        """Whether the run is to end."""
        patience = None if self._validation is None else self._validation.patience
        return patience is not None and self.failed >= patience

    def score(self, state: TrainState) -> Record:
        """Score a state's params, the average if there is one, and keep a copy of the best."""
        assert self._validation is not None
        params = state.params if state.average is None else state.average
        scores = self._validation.score(params)
        scores = scores if isinstance(scores, dict) else {"loss": scores}
        if self._validation.by not in scores:
            raise ValueError(
                f"Validation: by must name one of the scores, {sorted(scores)}; got "
                f"{self._validation.by!r}."
            )
        score = float(scores[self._validation.by])
        if self._is_better(score):
            self.best, self.failed = Best(int(state.step), score, jax.tree.map(np.array, params)), 0
        else:
            self.failed += 1
        return {f"validation_{name}": float(value) for name, value in scores.items()}

    def _is_better(self, score: float) -> bool:
        assert self._validation is not None
        if self.best is None or math.isnan(score):
            return not math.isnan(score)
        higher = self._validation.higher_is_better
        return score > self.best.score if higher else score < self.best.score


class _Run:
    """One run: its state, what it has measured, and what it does at each step.

    Attributes:
        state: after the last step.
        done: how many steps were taken.
        seconds: that training took, without compilation, validation and saving.
        meter: of the steps since the last record.
        judge: of the params.
        records: all of them.
        saver: None where nothing is saved.
    """

    def __init__(
        self,
        step: Callable,
        state: TrainState,
        batches: Iterator[PyTree],
        judge: _Judge,
        writers: list[Writer],
        skip: bool,
    ):
        self._step, self._batches, self._skip = step, batches, skip
        self.state, self.judge, self.writers = state, judge, writers
        self.done, self.seconds, self.meter = 0, 0.0, Meter()
        self.records: list[Record] = []
        self.compilations: dict[str, float] = {}
        self.saver: Saver | None = None
        self.resumed_from: int | None = None
        self._pending: list[Metrics] = []  # on the device, of steps that nobody has looked at
        self._since = 0.0  # when the seconds were last counted

    def train(
        self,
        steps: int,
        every: Intervals,
        asked: signals.Asked,
        report: Callable[[int, str], None],
    ) -> None:
        """Run to the last step, to the end of the data or of patience, or until a signal."""
        self._since = time.perf_counter()
        while self.done < steps and not self.judge.is_out_of_patience():
            batch = next(self._batches, END)
            if batch is END:
                break
            self._advance(batch)
            last = self.done == steps
            if last or self.done % every.log == 0 or self.judge.is_due(self.done, last):
                report(self.done, _words(self._record(last)))
            if last or self.done % every.save == 0 or asked.signal or self._is_best():
                self._save()
            if asked.signal:
                break
        if self._is_unrecorded() and not asked.signal:  # the data have ended
            report(self.done, _words(self._record(last=True)))
        self._save()
        if self.saver is not None:
            self.saver.wait()
        if asked.signal:
            raise signals.Preempted(asked.signal, self.done)

    def progress(self) -> dict[str, Any]:
        """Return where the run stands, beside its state, as ``json`` writes it."""
        best, batches = self.judge.best, self._batches
        assert isinstance(batches, BatchIterator)
        return {
            "seconds": self.seconds,
            "meter": self.meter.state,
            "best": None if best is None else {"step": best.step, "score": best.score},
            "failed": self.judge.failed,
            "data": batches.get_state(),
        }

    def go_on(self, saved: Saved, log: list[Record]) -> None:
        """Take up a saved run.

        Raises:
            MismatchError: it is of another model, key or data.
        """
        assert isinstance(self._batches, BatchIterator)
        saved.require_key(self.state.key)
        self.state = jax.tree.map(_on_device, saved.like(self.state))
        try:
            self._batches.set_state(saved.progress["data"])
        except (ValueError, TypeError, LookupError) as error:
            raise MismatchError(f"the checkpoint is of a run on other data: {error}") from error
        self.done = self.resumed_from = saved.step
        self.seconds, self.meter = saved.progress["seconds"], Meter(saved.progress["meter"])
        self.judge.failed = saved.progress["failed"]
        self.records = [record for record in log if record["step"] <= saved.step]

    def check_resumable(self) -> None:
        """Refuse data whose position cannot be saved.

        Raises:
            TypeError: it has none, or one that ``json`` cannot write.
        """
        mend = "Use a source of rnnjax.training, a Grain dataset, or no checkpoints."
        if not isinstance(self._batches, BatchIterator):
            raise TypeError(
                "fit: data must have iterators with get_state and set_state to be resumed exactly; "
                f"got {type(self._batches).__name__}. {mend}"
            )
        try:
            json.dumps(self._batches.get_state())
        except TypeError as error:
            raise TypeError(
                f"fit: data must have iterators whose get_state returns what json can write: "
                f"{error}. {mend}"
            ) from error

    def _advance(self, batch: PyTree) -> None:
        """Take a step, and leave what it measures on the device."""
        shapes = str(jax.tree.map(np.shape, batch))
        begin = time.perf_counter()
        self.state, metrics = self._step(self.state, batch)
        self._pending.append(metrics)
        self.done += 1
        if shapes not in self.compilations:
            jax.block_until_ready(metrics)
            self.compilations[shapes] = time.perf_counter() - begin
            self._since += self.compilations[shapes]

    def _settle(self) -> None:
        """Fetch what the steps since the last time have measured.

        Raises:
            NonFiniteError: one of them was not finite.
        """
        measured = [as_floats(metrics) for metrics in self._pending]
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        first, self._pending = self.done - len(measured) + 1, []
        for step, metrics in enumerate(measured, first):
            if metrics.pop("finite"):
                self.meter.add(metrics, last=["parameter_norm"])
            elif self._skip:
                self.meter.skip()
            else:
                raise NonFiniteError(_not_finite(step, metrics), step)

    def _record(self, last: bool) -> Record:
        """Write down the means since the last record, and the scores where they are due."""
        self._settle()
        steps = self.meter.steps
        record = {"step": self.done, **self.meter.record(), "seconds": self.seconds}
        seconds = self.seconds - (self.records[-1]["seconds"] if self.records else 0.0)
        unit, count = ("tokens", record["tokens"]) if "tokens" in record else ("steps", steps)
        record[f"{unit}_per_second"] = count / max(seconds, 1e-9)
        if self.judge.is_due(self.done, last):
            record |= self.judge.score(self.state)
            self._since = time.perf_counter()
        self.records.append(record)
        for writer in self.writers:
            writer.write(record)
        return record

    def _is_unrecorded(self) -> bool:
        return self.done > (self.records[-1]["step"] if self.records else 0)

    def _is_best(self) -> bool:
        return self.judge.best is not None and self.judge.best.step == self.done

    def _save(self) -> None:
        """Begin to save, unless this step is saved already."""
        if self.saver is None or self.saver.newest == self.done:
            return
        self._settle()
        for writer in self.writers:
            writer.sync()
        self.saver.save(self.state, self.progress())
        self._since = time.perf_counter()


END = object()  # of the data


@contextlib.contextmanager
def _claimed(run: _Run, checkpoints: Checkpoints, options: dict) -> Iterator[None]:
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


def _on_device(leaf: Any) -> jax.Array:
    # A copy: its memory will be given away, and a numpy array may be looked at by others.
    return jnp.array(leaf, copy=True)


def _words(record: Record) -> str:
    speed = next(name for name in record if name.endswith("_per_second"))
    shown = [f"loss {record['loss']:.4g}"] if "loss" in record else []
    shown += [f"{name} {record[name]:.4g}" for name in record if name.startswith("validation_")]
    return "  ".join([*shown, f"{record[speed]:,.0f} {speed.removesuffix('_per_second')}/s"])


def _not_finite(step: int, metrics: dict) -> str:
    names = ("loss", "gradient_norm", "parameter_norm")
    values = ", ".join(f"{name} {metrics[name]:.4g}" for name in names)
    return (
        f"fit: step {step} was not finite ({values}). Lower the learning rate, clip gradients "
        "(optax.clip_by_global_norm), look at the batch, or pass skip_nonfinite=True."
    )


def _check_steps(steps: int, run: _Run) -> None:
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
