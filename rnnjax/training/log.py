"""Where a run writes what it measures: JSON lines, TensorBoard, or anything with three methods."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from rnnjax.training import storage

Record: TypeAlias = dict[str, float]
"""``step`` and what was measured up to it, by name."""


class Writer(Protocol):
    """Something that keeps records."""

    def start(self, step: int) -> None:
        """Forget what was written after this step: a run begins there, or goes on from there."""
        ...

    def write(self, record: Record) -> None:
        """Keep a record."""
        ...

    def sync(self) -> None:
        """Return once everything written outlasts a crash: a checkpoint is about to count."""
        ...

    def close(self) -> None:
        """Let go of files; called at the end, however it came."""
        ...


class JSONLines:
    """One JSON object a line.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp(), "log.jsonl")
        >>> log = JSONLines(file)
        >>> log.start(0)
        >>> log.write({"step": 10, "loss": 0.5})
        >>> log.close()
        >>> read_json_lines(file)
        [{'step': 10, 'loss': 0.5}]
    """

    def __init__(self, file: Path | str):
        self._path = Path(file)
        self._file: Any = None

    def start(self, step: int) -> None:
        """Cut the file back to records up to this step, and open it."""
        kept = [record for record in read_json_lines(self._path) if record["step"] <= step]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        storage.rewrite(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Append a record; it is in the file when this returns."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        storage.sync(self._path)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_json_lines(file: Path | str) -> list[Record]:
    """Read the records back; a last line that a crash has cut off is not one."""
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class TensorBoard:
    """Scalars for TensorBoard, by tensorboardX (``pip install tensorboardX``)."""

    def __init__(self, folder: Path | str):
        self._folder = str(folder)
        self._writer: Any = None

    def start(self, step: int) -> None:
        """Open a file of events; TensorBoard drops older events after this step."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard needs tensorboardX: pip install tensorboardX."
            ) from error
        self._writer = SummaryWriter(self._folder, purge_step=step + 1)

    def write(self, record: Record) -> None:
        """Write every finite number of a record but the step."""
        for name, value in record.items():
            if name != "step" and math.isfinite(value):
                self._writer.add_scalar(name, value, record["step"])

    def sync(self) -> None:
        """Hand the events to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class Meter:
    """Means over the steps since the last record, by tokens; ``json`` keeps them exactly.

    Example:
        >>> meter = Meter()
        >>> meter.add({"loss": 1.0, "tokens": 3.0})
        >>> meter.add({"loss": 5.0, "tokens": 1.0})
        >>> meter.record()
        {'loss': 2.0, 'tokens': 4.0}
    """

    def __init__(self, state: dict[str, Any] | None = None):
        self._state = _copy(EMPTY if state is None else state)

    @property
    def state(self) -> dict[str, Any]:
        """A copy of what ``Meter`` takes up again."""
        return _copy(self._state)

    @property
    def steps(self) -> int:
        """How many steps there were, skipped ones too."""
        return self._state["steps"]

    @property
    def weight(self) -> float:
        """How many tokens, or steps where none are counted, the means are over."""
        return self._state["weight"]

    def add(self, metrics: dict[str, float], last: Sequence[str] = ()) -> None:
        """Add one step; of the names in ``last`` the newest value counts and not the mean."""
        weight = metrics.get("tokens", 1.0)
        state = self._state
        state["steps"] += 1
        state["weight"] += weight
        for name, value in metrics.items():
            if name in last:
                state["last"][name] = value
            else:
                share = value if name == "tokens" else value * weight
                state["sums"][name] = state["sums"].get(name, 0.0) + share

    def skip(self) -> None:
        """Count a step that was left out."""
        self._state["steps"] += 1
        self._state["skipped"] += 1

    def record(self) -> Record:
        """Return means, the loss first, and the sums of tokens and skipped steps; begin anew."""
        sums, weight = self._state["sums"], self.weight
        tokens = {"tokens": sums.pop("tokens")} if "tokens" in sums else {}
        names = (
            sorted(sums, key="loss".__ne__) if weight else []
        )  # without a token there is no mean
        means = {name: sums[name] / weight for name in names}
        skipped = {"skipped": self._state["skipped"]} if self._state["skipped"] else {}
        record = means | self._state["last"] | tokens | skipped
        self._state = _copy(EMPTY)
        return record


EMPTY: dict[str, Any] = {"steps": 0, "skipped": 0, "weight": 0.0, "sums": {}, "last": {}}


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "sums": dict(state["sums"]), "last": dict(state["last"])}
