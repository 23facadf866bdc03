"""One run of training: what it does at each step, what it measures, what it keeps."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.array_typing import PyTree
from rnnjax.training import signals
from rnnjax.training.checkpoints import MismatchError, Saved, Saver
from rnnjax.training.compiled import as_floats
from rnnjax.training.data import BatchIterator
from rnnjax.training.log import Meter, Record, Writer
from rnnjax.training.state import Metrics, TrainState


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


class Intervals(NamedTuple):
    """Steps between two records, and between two checkpoints."""

    log: int
    save: int


class Judge:
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


class Run:
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
        judge: Judge,
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
