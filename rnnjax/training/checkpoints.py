"""Checkpoints: whole states in folders that say by themselves what they are.

FOLDER/00001200/arrays/         every leaf by its path in the state, written by Orbax
FOLDER/00001200/state.json      shapes and dtypes, the config, where the run stands
FOLDER/00001200/manifest.json   the SHA-256 of each file, checked before anything is read
"""

import dataclasses
import json
import re
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rnnjax.array_typing import Key, PyTree
from rnnjax.training import config as configs
from rnnjax.training import storage
from rnnjax.training.state import TrainState
from rnnjax.training.storage import DamagedError

ARRAYS, STATE = "arrays", "state.json"


class MismatchError(ValueError):
    """A checkpoint of another model, config or data: the fields that differ."""


class SaveError(OSError):
    """A step that could not be saved: step, folder and what the system said."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its states, and how many.

    Attributes:
        folder: of this run alone; a run that finds its own steps there goes on from the newest.
        every: steps between two saves; the last step is saved in any case.
        keep: how many of the newest steps are kept, each with the best one that it knows.
        config: what makes the model: cell, strategy, vocabulary, sizes. It is compared on
            resuming and handed back by ``load``; see ``rnnjax.training.config.encode`` for what it
            may hold.
    """

    folder: Path | str
    every: int = 500
    keep: int = 3
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Saved:
    """A verified checkpoint.

    Attributes:
        step: the step after which it was saved.
        progress: where the run stood: ``data``, ``seconds``, ``best`` and more.
        arrays: every leaf by its path in the state, as ``"params/rnn/w_h"``.
    """

    step: int
    progress: dict[str, Any]
    arrays: dict[str, np.ndarray]
    _config: dict[str, Any]
    _leaves: dict[str, dict[str, Any]]
    _structure: Any

    @property
    def config(self) -> dict[str, Any]:
        """What ``Checkpoints.config`` was.

        Raises:
            ValueError: it names a class of a module that is not imported.
        """
        return configs.decode(self._config["config"])

    @property
    def params(self) -> PyTree:
        """The params, where they are nested dicts, lists and tuples; else use ``like``.

        Raises:
            MismatchError: they are of another kind.
        """
        return self._rebuild(self._structure["params"])

    @property
    def average(self) -> PyTree:
        """The averaged params, None where there are none."""
        return self._rebuild(self._structure["average"])

    def like(self, template: PyTree) -> PyTree:
        """Return the state with the structure of ``template``, arrays or their shapes.

        Raises:
            MismatchError: a leaf is missing, or has another shape or dtype.
        """
        flat, structure = _flatten(template)
        here = {name: _describe(leaf) for name, leaf in flat.items()}
        found = list(configs.differences(self._leaves, here, "state"))
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise MismatchError(f"the checkpoint is of another model: {found[0]}{more}.")
        return jax.tree.unflatten(structure, [self._leaf(name) for name in flat])

    def require_key(self, key: Key) -> None:
        """Check that the run drew its noise from this key, which stays the same from step to step.

        Raises:
            MismatchError: it did not.
        """
        if not np.array_equal(_copy_to_host(key), self.arrays["key"]):
            raise MismatchError(
                "the checkpoint is of a run with another key. Give the same, or begin a new run in "
                "another folder."
            )

    def require(self, config: dict[str, Any]) -> None:
        """Check that this is a checkpoint of a run with the same encoded config and options.

        Raises:
            MismatchError: it is not; the message names the fields that differ.
        """
        parts = sorted(self._config.keys() | config.keys())
        pairs = ((self._config.get(part), config.get(part), part) for part in parts)
        found = [line for pair in pairs for line in configs.differences(*pair)]
        if found:
            raise MismatchError(
                f"the checkpoint is of another run: {'; '.join(found[:3])}. Give these as they "
                "were, or begin a new run in another folder."
            )

    def _leaf(self, name: str) -> Any:
        key = self._leaves[name].get("key")
        array = self.arrays[name]
        return array if key is None else jax.random.wrap_key_data(jnp.asarray(array), impl=key)

    def _rebuild(self, structure: Any) -> Any:
        match structure:
            case None:
                return None
            case str(name):
                return self._leaf(name)
            case {"dict": entries}:
                return {name: self._rebuild(entry) for name, entry in entries.items()}
            case {"list": entries}:
                return [self._rebuild(entry) for entry in entries]
            case {"tuple": entries}:
                return tuple(self._rebuild(entry) for entry in entries)
        raise MismatchError(
            f"the params are a {structure['other']}, which cannot be made from the folder alone: "
            "pass a state of that kind to like(…)."
        )


class Snapshot(NamedTuple):
    """A state on the host: arrays that nothing else can change, and how they make the state."""

    step: int
    arrays: dict[str, np.ndarray]
    leaves: dict[str, dict[str, Any]]
    structure: dict[str, Any]


def snapshot(state: TrainState) -> Snapshot:
    """Copy a state to the host."""
    flat, _ = _flatten(state)
    return Snapshot(
        int(state.step),
        {name: _copy_to_host(leaf) for name, leaf in flat.items()},
        {name: _describe(leaf) for name, leaf in flat.items()},
        {name: _structure(getattr(state, name), name) for name in ("params", "average")},
    )


def save(folder: Path | str, shot: Snapshot, config: dict, progress: dict) -> None:
    """Save a state, so that after this call it outlasts a crash of the machine.

    Args:
        folder: of the run.
        shot: the state.
        config: encoded by ``rnnjax.training.config.encode``.
        progress: what ``json`` can write.

    Raises:
        OSError, ValueError: the disk is full or the folder cannot be written; what was saved
            before is as it was.
    """
    description = {
        "step": shot.step,
        "config": config,
        "progress": progress,
        "leaves": shot.leaves,
        "structure": shot.structure,
    }
    with storage.committing(_step_folder(Path(folder), shot.step)) as aside:
        (aside / STATE).write_text(json.dumps(description), "utf-8")
        # Orbax refuses arrays without entries; their shapes are all there is to keep.
        filled = {name: array for name, array in shot.arrays.items() if array.size}
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((aside / ARRAYS).resolve(), filled)


def load(folder: Path | str, step: int | None = None, *, best: bool = False) -> Saved:
    """Read a checkpoint back, verified: the newest good one, or the one asked for.

    Args:
        folder: of the run.
        step: which; None: the newest. A damaged one is named in a warning and passed over.
        best: of those, the one that validated best.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: the step asked for, or every step, is damaged.

    Example:
        >>> load("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: no checkpoint in no/such/folder.
    """
    folder = Path(folder)
    saved = _newest(folder) if step is None else _read(_step_folder(folder, step))
    if best and saved.progress.get("best"):
        return _read(_step_folder(folder, saved.progress["best"]["step"]))
    return saved


def saved_steps(folder: Path | str) -> list[int]:
    """The steps saved in a folder, good or damaged, ascending."""
    named = [path for path in Path(folder).glob("[0-9]*") if path.name.isdecimal()]
    return sorted(
        int(p.name) for p in named if p.is_dir() and p == _step_folder(p.parent, int(p.name))
    )


def prune(folder: Path, newest: int, keep: int) -> None:
    """Remove all but the last steps up to ``newest`` and the best ones that they know."""
    upto = [step for step in saved_steps(folder) if step <= newest]
    kept = set(upto[-keep:])
    for step in upto[-keep:]:
        kept |= _best_of(folder, step)
    for step in set(upto) - kept:
        storage.remove(_step_folder(folder, step))


class Saver:
    """Saves in a thread of its own, one step at a time; a failure is raised by the next call.

    Attributes:
        saved: the last step that is whole on the disk, None if there is none.
        newest: the last step that was begun to be saved.
    """

    def __init__(self, checkpoints: Checkpoints, config: dict, saved: int | None = None):
        self._folder, self._keep, self._config = Path(checkpoints.folder), checkpoints.keep, config
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._pending: Future | None = None
        self.saved = self.newest = saved

    def save(self, state: TrainState, progress: dict) -> None:
        """Copy a state and begin to save it, once the save before has ended.

        Raises:
            SaveError: that one failed.
        """
        self.wait()
        # Copied here: the next step of the optimiser is given the state's own memory.
        shot = snapshot(state)
        self.newest = shot.step
        self._pending = self._thread.submit(self._save, shot, progress)

    def wait(self) -> None:
        """Wait until the last step is saved.

        Raises:
            SaveError: it could not be.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait for the thread, whatever becomes of the save."""
        self._thread.shutdown()

    def _save(self, shot: Snapshot, progress: dict) -> None:
        try:
            save(self._folder, shot, self._config, progress)
        except (OSError, ValueError) as error:
            number, reason = _cause(error)
            message = (
                f"step {shot.step} could not be saved in {self._folder}; what was saved before is "
                f"as it was. {reason}"
            )
            raise SaveError(*([message] if number is None else [number, message])) from error
        self.saved = shot.step
        prune(self._folder, shot.step, self._keep)


def _cause(error: Exception) -> tuple[int | None, str]:
    """The system's error number and what was said; TensorStore hides the number in its words."""
    words = str(error).split(" [tensorstore_spec")[0]
    if isinstance(error, OSError):
        return error.errno, words
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return (int(number[1]) if number else None), words


def _newest(folder: Path) -> Saved:
    damaged: DamagedError | None = None
    for step in reversed(saved_steps(folder)):
        try:
            saved = _read(_step_folder(folder, step))
        except DamagedError as error:
            warnings.warn(f"a damaged checkpoint is passed over: {error}", stacklevel=3)
            damaged = error
        else:
            return saved
    if damaged is not None:
        raise DamagedError(f"every checkpoint in {folder} is damaged: {damaged}") from damaged
    raise FileNotFoundError(f"no checkpoint in {folder}.")


def _read(folder: Path) -> Saved:
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint {folder.name} in {folder.parent}.")
    storage.verify(folder)
    description = json.loads((folder / STATE).read_text("utf-8"))
    leaves = description["leaves"]
    arrays = {name: _empty(leaf) for name, leaf in leaves.items() if 0 in leaf["shape"]}
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in leaves.keys() - arrays}
    with ocp.PyTreeCheckpointer() as checkpointer:
        arrays |= checkpointer.restore((folder / ARRAYS).resolve(), restore_args=as_numpy)
    return Saved(
        description["step"],
        description["progress"],
        {name: arrays[name] for name in leaves},
        description["config"],
        leaves,
        description["structure"],
    )


def _best_of(folder: Path, step: int) -> set[int]:
    try:
        description = json.loads((_step_folder(folder, step) / STATE).read_text("utf-8"))
        return {description["progress"]["best"]["step"]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()  # damaged, or nothing was validated yet


def _step_folder(folder: Path, step: int) -> Path:
    return folder / f"{step:08d}"


def _flatten(tree: PyTree) -> tuple[dict[str, Any], Any]:
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(named) < len(flat):
        raise ValueError('two leaves of the state have one path; use names without "/".')
    return named, structure


def _describe(leaf: Any) -> dict[str, Any]:
    """What has to agree on resuming: shape and dtype, and the kind of a key."""
    if _is_key(leaf):
        kinds = []  # of a shape alone, a key tells its kind only while it is traced

        def data(key: jax.Array) -> jax.Array:
            kinds.append(str(jax.random.key_impl(key)))
            return jax.random.key_data(key)

        return {**_describe(jax.eval_shape(data, leaf)), "key": kinds[0]}
    return {"shape": list(leaf.shape), "dtype": np.dtype(leaf.dtype).name}


def _copy_to_host(leaf: Any) -> np.ndarray:
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _empty(leaf: dict[str, Any]) -> np.ndarray:
    return np.zeros(leaf["shape"], leaf["dtype"])


def _structure(tree: Any, path: str) -> Any:
    """How nested dicts, lists and tuples hold the leaves, by their paths."""
    if tree is None:
        return None
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _structure(entry, f"{path}/{key}") for key, entry in tree.items()}}
    if type(tree) in (list, tuple):
        entries = [_structure(entry, f"{path}/{k}") for k, entry in enumerate(tree)]
        return {type(tree).__name__: entries}
    return path if jax.tree_util.all_leaves([tree]) else {"other": type(tree).__name__}
