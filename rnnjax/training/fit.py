"""Training that survives: the loop around ``tbptt_step``."""

import contextlib
import dataclasses
import functools
import math
import time
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
from rnnjax.training.checkpoints import Checkpoints, MismatchError, Saver
from rnnjax.training.compiled import DataParallel, compiled_step, spread
from rnnjax.training.data import BatchIterator
from rnnjax.training.log import JSONLines, Meter, Record, Writer, read_json_lines
from rnnjax.training.state import Loss, Metrics, TrainState, initial_state

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
        score: params → a number, or numbers by name of which the first decides what is best;
            ``evaluate`` gives them for a loss. It is handed the average where there is one.
        every: steps between two scores; the last step is scored in any case.
        patience: how many scores in a row may fail to be the best before the run ends; None: any.
        higher_is_better: of the score that decides.
    """

    score: Callable[[PyTree], Any]
    every: int
    patience: int | None = None
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
        params: what to begin with: any pytree of arrays, ``nnx.split(model)[1]`` too.
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
        MismatchError: the folder holds a run of another model, config or data.
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
    _check(loss, optimiser, steps, average, validation, checkpoints, log_every)
    iterator = iter(data)
    state = initial_state(params, optimiser, key, carry=carry, average=average is not None)
    step = functools.partial(
        compiled_step,
        loss,
        optimiser,
        decay=average,
        parallel=parallel,
        deterministic=deterministic,
    )
    # A change in any of these would give other numbers, or another state.
    options = {"average": average, "deterministic": deterministic, "skip": skip_nonfinite}
    run = _Run(step, state, iterator, Progress(), validation, skip_nonfinite, list(writers))
    if checkpoints is not None:
        _go_on(run, checkpoints, options)
    if parallel is not None:
        run.state = spread(run.state, parallel)
    with contextlib.ExitStack() as stack:
        for writer in run.writers:
            stack.callback(writer.close)
            writer.start(run.progress.step)
        if run.saver is not None:
            stack.callback(run.saver.close)
        asked = stack.enter_context(signals.kept()) if run.saver else signals.Asked()
        done = run.progress.step
        report = stack.enter_context(progress_bar.bar(steps, done, shown=progress))
        every = checkpoints.every if checkpoints is not None else steps
        run.train(steps, log_every, every, asked, report)
    return Fitted(run.state, run.best, run.records, run.compilations, run.resumed_from)


@dataclasses.dataclass
class Progress:
    """Where a run stands, beside its state; what ``json`` writes into a checkpoint."""

    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, float] | None = None
    failed: int = 0  # scores in a row that were not the best
    data: Any = None


class _Run:
    """One run: its state, and what it does at each step."""

    def __init__(
        self,
        step: Callable,
        state: TrainState,
        iterator: Iterator[PyTree],
        progress: Progress,
        validation: Validation | None,
        skip: bool,
        writers: list[Writer],
    ):
        self.step, self.state, self.iterator = step, state, iterator
        self.progress, self.validation, self.skip = progress, validation, skip
        self.writers = writers
        self.saver: Saver | None = None
        self.saved: int | None = None
        self.best: Best | None = None
        self.records: list[Record] = []
        self.compilations: dict[str, float] = {}
        self.resumed_from: int | None = None
        self.meter = Meter()
        self.pending: list[Metrics] = []
        self.since = 0.0

    def train(
        self,
        steps: int,
        log_every: int,
        save_every: int,
        asked: signals.Asked,
        report: Callable[[int, str], None],
    ) -> None:
        """Run to the last step, to the end of the data or of patience, or until a signal."""
        self.since = time.perf_counter()
        while self.progress.step < steps and not self._impatient():
            batch = next(self.iterator, None)
            if batch is None:
                break
            self._advance(batch)
            step, last = self.progress.step, self.progress.step == steps
            validate = self.validation is not None and (last or step % self.validation.every == 0)
            if validate or last or step % log_every == 0:
                record = self._record(validate)
                report(step, _words(record))
            if last or step % save_every == 0 or asked.signal or self._is_best(step):
                self._save()
            if asked.signal:
                self._end(asked.signal)
        self._save()
        if self.saver is not None:
            self.saver.wait()

    def _advance(self, batch: PyTree) -> None:
        shapes = _shapes(batch)
        new = shapes not in self.compilations
        begin = time.perf_counter()
        self.state, metrics = self.step(self.state, batch)
        self.pending.append(metrics)
        self.progress.step += 1
        if new:
            jax.block_until_ready(metrics)
            self.compilations[shapes] = time.perf_counter() - begin
            self.since += self.compilations[shapes]

    def _settle(self) -> None:
        """Fetch what the steps since the last time have measured.

        Raises:
            NonFiniteError: one of them was not finite.
        """
        fetched = jax.device_get(self.pending)
        metrics = [{name: float(value) for name, value in one.items()} for one in fetched]
        now = time.perf_counter()
        self.progress.seconds += now - self.since
        self.since = now
        first = self.progress.step - len(self.pending) + 1
        self.pending = []
        for step, one in enumerate(metrics, first):
            if not one["finite"] and not self.skip:
                raise NonFiniteError(_not_finite(step, one, self.saver, self.saved), step)
            self.meter.add(one)

    def _record(self, validate: bool) -> Record:
        before = self.records[-1]["seconds"] if self.records else 0.0
        self._settle()
        record = {"step": self.progress.step, **self.meter.record()}
        seconds = self.progress.seconds
        unit, count = ("tokens", record["tokens"]) if "tokens" in record else ("steps", None)
        if count is None:
            count = record["step"] - (self.records[-1]["step"] if self.records else 0)
        record |= {"seconds": seconds, f"{unit}_per_second": count / max(seconds - before, 1e-9)}
        if validate:
            record |= self._validate()
        self.records.append(record)
        for writer in self.writers:
            writer.write(record)
        return record

    def _validate(self) -> Record:
        """Score the params, and keep them where they are the best."""
        assert self.validation is not None
        params = self.state.params if self.state.average is None else self.state.average
        scores = self.validation.score(params)
        if not isinstance(scores, dict):
            scores = {"loss": scores}
        scores = {f"validation_{name}": float(score) for name, score in scores.items()}
        score = next(iter(scores.values()))
        if self._is_better(score):
            self.progress.best = {"step": self.progress.step, "score": score}
            self.progress.failed = 0
            self.best = Best(self.progress.step, score, jax.tree.map(np.array, params))
        else:
            self.progress.failed += 1
        self.since = time.perf_counter()
        return scores

    def _is_better(self, score: float) -> bool:
        assert self.validation is not None
        best = self.progress.best
        if best is None or math.isnan(score):
            return not math.isnan(score)
        higher = self.validation.higher_is_better
        return score > best["score"] if higher else score < best["score"]

    def _is_best(self, step: int) -> bool:
        return self.progress.best is not None and self.progress.best["step"] == step

    def _impatient(self) -> bool:
        patience = None if self.validation is None else self.validation.patience
        return patience is not None and self.progress.failed >= patience

    def _save(self) -> None:
        if self.saver is None or self.saved == self.progress.step:
            return
        self._settle()
        assert isinstance(self.iterator, BatchIterator)
        for writer in self.writers:
            writer.sync()
        self.progress.sums, self.progress.last = self.meter.sums, self.meter.last
        self.progress.data = self.iterator.get_state()
        self.saver.save(self.state, dataclasses.asdict(self.progress))
        self.saved = self.progress.step
        self.since = time.perf_counter()

    def _end(self, asked: Any) -> None:
        if self.saver is not None:
            self.saver.wait()
        raise signals.Preempted(asked, self.progress.step)


def _go_on(run: _Run, checkpoints: Checkpoints, options: dict) -> None:
    """Prepare the folder, and take up the run that it holds, if any."""
    if not isinstance(run.iterator, BatchIterator):
        raise TypeError(
            "fit: data must have iterators with get_state and set_state to be resumed exactly; got "
            f"{type(run.iterator).__name__}. Use a source of rnnjax.training, Grain, or no "
            "checkpoints."
        )
    folder = Path(checkpoints.folder)
    folder.mkdir(parents=True, exist_ok=True)
    storage.remove_asides(folder)
    config = {"config": configs.encode(checkpoints.config), "fit": options}
    run.saver = Saver(checkpoints, config)
    run.writers.insert(0, JSONLines(folder / LOG))
    if not storing.steps(folder):
        return
    saved = storing.load(folder)
    saved.require(config)
    run.state = jax.tree.map(_on_device, saved.like(run.state))
    run.progress = Progress(**saved.progress)
    try:
        run.iterator.set_state(run.progress.data)
    except ValueError as error:
        raise MismatchError(f"fit: {folder} holds a run on other data: {error}") from error
    run.meter = Meter(run.progress.sums, run.progress.last)
    run.saved = run.resumed_from = saved.step
    run.records = [r for r in read_json_lines(folder / LOG) if r["step"] <= saved.step]
    if run.progress.best is not None:
        best = storing.load(folder, int(run.progress.best["step"])).like(run.state)
        params = best.params if best.average is None else best.average
        run.best = Best(int(run.progress.best["step"]), run.progress.best["score"], params)


def _on_device(leaf: Any) -> jax.Array:
    # A copy: its memory will be given away, and a numpy array may be looked at by others.
    return jnp.array(leaf, copy=True)


def _shapes(batch: PyTree) -> str:
    return str(jax.tree.map(np.shape, batch))


def _words(record: Record) -> str:
    speed = next(name for name in record if name.endswith("_per_second"))
    shown = [f"loss {record['loss']:.4g}"] if "loss" in record else []
    shown += [f"{name} {record[name]:.4g}" for name in record if name.startswith("validation_")]
    return "  ".join([*shown, f"{record[speed]:,.0f} {speed.removesuffix('_per_second')}/s"])


def _not_finite(step: int, metrics: dict, saver: Saver | None, saved: int | None) -> str:
    values = ", ".join(
        f"{name} {metrics[name]:.4g}" for name in ("loss", "gradient_norm", "parameter_norm")
    )
    kept = "" if saver is None or saved is None else f" The checkpoint of step {saved} is good."
    return (
        f"fit: step {step} was not finite ({values}).{kept} Lower the learning rate, clip "
        "gradients (optax.clip_by_global_norm), look at the batch, or pass skip_nonfinite=True."
    )


def _check(
    loss: Any,
    optimiser: Any,
    steps: Any,
    average: Any,
    validation: Any,
    checkpoints: Any,
    log_every: Any,
) -> None:
    checks.function("fit", "loss", loss)
    checks.instance("fit", "optimiser", optimiser, optax.GradientTransformation, "optax.adam(1e-3)")
    checks.positive_int("fit", "steps", steps)
    checks.positive_int("fit", "log_every", log_every)
    if average is not None and not 0 < average < 1:
        raise ValueError(f"fit: average must be a decay in (0, 1), as 0.999; got {average}.")
    if validation is not None:
        checks.positive_int("Validation", "every", validation.every)
        if validation.patience is not None:
            checks.positive_int("Validation", "patience", validation.patience)
    if checkpoints is not None:
        checks.positive_int("Checkpoints", "every", checkpoints.every)
        checks.positive_int("Checkpoints", "keep", checkpoints.keep)
