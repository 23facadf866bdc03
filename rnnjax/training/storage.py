"""Folders that are whole or not there: synced before they are named, checked before they are read.

A folder is written aside under a name that begins with a dot, every file in it is hashed, files and
folders are synced, and one rename makes it count. What a crash leaves is either the old state of
affairs or the new one, and a folder aside, which the next start removes.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from hashlib import file_digest, sha256
from pathlib import Path

MANIFEST = "manifest.json"
ASIDE = ".aside-"


class DamagedError(ValueError):
    """A folder that is not what was written: the file, and what is wrong with it."""


@contextlib.contextmanager
def committing(folder: Path) -> Iterator[Path]:
    """Yield a new folder to write to, which at the end becomes ``folder``, for good.

    A folder that has that name already, a damaged one, is removed for it. Where the body raises,
    nothing is changed and the new folder is removed.

    Raises:
        OSError: it cannot be written, synced or renamed.
    """
    aside = folder.parent / f"{ASIDE}{folder.name}"
    make(folder.parent)
    _remove(aside)
    aside.mkdir()
    try:
        yield aside
        _write_manifest(aside, folder.name)
        _sync_tree(aside)
        remove(folder)
        aside.rename(folder)
        sync(folder.parent)
    except BaseException:
        _remove(aside)
        raise


def make(folder: Path) -> None:
    """Make a folder and those around it, so that they too outlast a crash."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to one process; a process that dies lets go of it.

    Raises:
        BlockingIOError: another one has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(
            error.errno, f"another run is at work in {folder}. Wait for it, or name another folder."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # file systems that cannot lock
            raise


def verify(folder: Path) -> None:
    """Check that a folder holds exactly the files that were written, byte for byte.

    Raises:
        DamagedError: a file is missing, strange, or has other bytes.
    """
    files = _read_manifest(folder)
    found = {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST}
    for name in sorted(files.keys() ^ found):
        raise DamagedError(f"{folder / name} is {'missing' if name in files else 'not its own'}")
    for name, expected in files.items():
        if _digest(folder / name) != expected:
            raise DamagedError(f"{folder / name} is not what was written: its SHA-256 differs")


def remove_asides(folder: Path) -> None:
    """Remove what a crash has left."""
    for aside in folder.glob(f"{ASIDE}*"):
        _remove(aside)


def remove(folder: Path) -> None:
    """Remove a folder, if it is there: whole, or at least from under its name."""
    if folder.exists():
        gone = folder.parent / f"{ASIDE}gone-{folder.name}"
        _remove(gone)
        folder.rename(gone)
        _remove(gone)


def rewrite(file: Path, text: str) -> None:
    """Replace a file's text, whole or not at all."""
    aside = file.with_name(f"{ASIDE}{file.name}")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for here, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(here, name))
        sync(Path(here))


def _write_manifest(folder: Path, name: str) -> None:
    files = {path.relative_to(folder).as_posix(): _digest(path) for path in _files(folder)}
    (folder / MANIFEST).write_bytes(_manifest(name, files))


def _manifest(name: str, files: dict[str, str]) -> bytes:
    """The folder's name, its files' hashes, and a hash of these: the bytes of the manifest."""
    content = {"folder": name, "files": dict(sorted(files.items()))}
    own = sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": own}, indent=1).encode()


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        read = (folder / MANIFEST).read_bytes()
        content = json.loads(read)
        files = content["files"]
        whole = read == _manifest(content["folder"], files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if not whole:
        raise DamagedError(f"{folder / MANIFEST} is not what was written")
    if content["folder"] != folder.name:
        raise DamagedError(f"{folder} was written as {content['folder']}")
    return files


def _files(folder: Path) -> Iterator[Path]:
    return (Path(here, name) for here, _, names in os.walk(folder) for name in names)


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"{file} cannot be read: {error}") from error
