"""Result files: what was measured, on which device, with which versions, from which commit."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

Row = dict[str, Any]

ROW_KEYS = ("cell", "implementation", "strategy", "T", "B", "D", "N", "pass")
ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Results:
    """One result file.

    A row names its ``ROW_KEYS`` and has its figures beside them, with units in their names. What
    was not measured stands there too, its figures None and the reason in ``skipped``.

    Attributes:
        benchmark: the benchmark's name.
        device: platform and processor.
        cpus: processors that the process may use.
        versions: of Python and of the packages that matter, by name.
        commit: of the measured code, with ``-dirty`` where it was changed since; None outside of a
            checkout.
        date: when it was measured, in UTC.
        summary: what the rows show, in words.
        rows: one a program.
    """

    benchmark: str
    device: str
    cpus: int
    versions: dict[str, str]
    commit: str | None
    date: str
    summary: str
    rows: list[Row]

    def save(self, folder: Path) -> Path:
        """Write ``folder/<benchmark>.json`` and return its path.

        Raises:
            ValueError: when a row lacks one of its names.
        """
        for i, row in enumerate(self.rows):
            _check_keys(f"Results: rows[{i}]", row, ROW_KEYS, "Name it where the row is measured.")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.benchmark}.json"
        path.write_text(_dumps(dataclasses.asdict(self)), encoding="utf-8")
        return path


def load(path: Path) -> Results:
    """Read a result file back.

    Raises:
        ValueError: when the file is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"load: {path} must be JSON; {error}. Run its benchmark again.") from error
    keys = [field.name for field in dataclasses.fields(Results)]
    _check_keys(f"load: {path}", content, keys, "Run its benchmark again.")
    return Results(**{key: content[key] for key in keys})


def record(benchmark: str, packages: Sequence[str], summary: str, rows: list[Row]) -> Results:
    """Return the results of a benchmark that was run here and now."""
    return Results(
        benchmark=benchmark,
        device=device(),
        cpus=cpus(),
        versions=versions(packages),
        commit=commit(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        summary=summary,
        rows=rows,
    )


def device() -> str:
    """Return platform and processor, such as ``cpu: AMD EPYC, 2 cores``."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"cpu: {_processor()}, {cpus()} cores"
    return f"{first.platform}: {first.device_kind}"


def slug(name: str) -> str:
    """Return a name fit for a folder.

    Example:
        >>> slug("cpu: AMD EPYC, 2 cores")
        'cpu-amd-epyc-2-cores'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cpus() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Only Linux can say.
        return os.cpu_count() or 1


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python, rnnjax and those packages that are installed."""
    found = {name: _version(name) for name in ("rnnjax", *packages)}
    named = {name: version for name, version in found.items() if version}
    return {"python": platform.python_version(), **named}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit(root: Path = ROOT) -> str | None:
    """Return the measured code's commit, ``-dirty`` where changed since; None without git."""
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return None
    # Results of another benchmark, written a moment ago, change nothing that is measured.
    measured = ("rnnjax", "benchmarks", "pyproject.toml", ":(exclude)benchmarks/results")
    return f"{head}-dirty" if _git(root, "status", "--porcelain", "--", *measured) else head


def _git(root: Path, *args: str) -> str | None:
    command = ["git", "--no-optional-locks", *args]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        info = ""
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()


def _check_keys(owner: str, content: dict, keys: Sequence[str], mend: str) -> None:
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(
            f"{owner} must have {', '.join(keys)}; it lacks {', '.join(missing)}. {mend}"
        )


def _dumps(content: dict) -> str:
    """Write one row a line, so that a change of results can be read as a diff."""
    rows = [json.dumps(row, allow_nan=False, ensure_ascii=False) for row in content["rows"]]
    head = json.dumps({**content, "rows": []}, indent=2, allow_nan=False, ensure_ascii=False)
    body = ",\n    ".join(rows)
    return head.removesuffix("[]\n}") + f"[\n    {body}\n  ]\n}}\n"
