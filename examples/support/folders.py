"""The folder of a run: a new one never costs the one before."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path


def check_replaceable(folder: Path, names: Collection[str]) -> None:
    """Check that nothing but results called `names` would be lost by replacing a folder.

    Raises:
        NotADirectoryError: there is a file at folder.
        FileExistsError: the folder holds something else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a folder; {folder} is a file. Name another.")
    strangers = sorted(set(os.listdir(folder)) - set(names))
    if strangers:
        raise FileExistsError(
            f"expected a new folder or one of an earlier run, which is replaced; {folder} also "
            f"holds {strangers[0]!r}. Name another folder, or move that away."
        )


def set_aside(folder: Path, names: Collection[str]) -> None:
    """Make a new folder; one of that name is kept as `NAME.before`, in place of an older one.

    Raises:
        OSError: what would be moved or removed holds more than results called `names`.
    """
    folder = folder.resolve()
    before = folder.with_name(f"{folder.name}.before")
    for existing in (folder, before):
        check_replaceable(existing, names)
    if folder.exists():
        if before.exists():
            shutil.rmtree(before)
        folder.rename(before)
    folder.mkdir(parents=True)
