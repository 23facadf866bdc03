"""A folder of pictures with a table of captions, divided without leaks; and features of pictures.

``captions.tsv`` has a line for each picture, after one of names: its file, then a caption in each
language, nothing where there is none:

    image       en          vi
    frog-1.png  A frog.     Con ếch.

Pictures that have a caption in common, or a name but for its number (frog, frog-1), belong to one
group. Groups are divided by a hash, so that no caption of the test was learnt.

The stamps of Tux Paint (GPL-2+, tuxpaint.org) are such a folder, ``captions`` in RNNJAX_DATA: 785
pictures. Features come from a network of your own, in an ``.npz`` file with ``names``, those of the
pictures, and ``features``: (n, D) vectors or (n, H, W, C) maps.
"""

import csv
import os
import re
import unicodedata
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from examples.support import images
from examples.support.datasets import ROOT

FOLDER, TABLE = "captions", "captions.tsv"


class Rows(NamedTuple):
    """Pictures or features (n, H, W, C), with captions and names."""

    pictures: NDArray
    captions: list[str]
    names: list[str]


def stamps() -> Path:
    """The folder of the stamps.

    Raises:
        FileNotFoundError: it is not there; says what to do.
    """
    root = os.environ.get(ROOT)
    if not root or not Path(root, FOLDER, TABLE).is_file():
        where = f"{root} ({ROOT})" if root else f"a data folder ({ROOT} is not set)"
        raise FileNotFoundError(
            f"{FOLDER}/{TABLE} is not in {where}. Set {ROOT} to a folder that holds it, or name a "
            "folder of your own with pictures and captions.tsv."
        )
    return Path(root, FOLDER)


def read(folder: Path, language: str, features: Path | None) -> dict[str, Rows]:
    """Read the pictures that have a caption in a language, as train, validation and test.

    Raises:
        OSError: the table or a picture cannot be read.
        ValueError: the table has no such language, a line of it is wrong, a picture is none, or
            there are not enough of them; names the file.
    """
    captions = read_table(folder / TABLE, language)
    names = list(captions)
    if features is None:
        pictures = np.stack([images.read(folder / name, colour=True) for name in names])
    else:
        pictures = _of_names(read_features(features), names, features)
    parts = [part_of(group) for group in groups(captions)]
    found = {}
    for part in ("train", "validation", "test"):
        places = [k for k, own in enumerate(parts) if own == part]
        if not places:
            raise ValueError(
                f"{folder}: expected pictures for {part}; of {len(names)} there is none."
            )
        chosen = [names[k] for k in places]
        found[part] = Rows(pictures[places], [captions[name] for name in chosen], chosen)
    return found


def read_table(path: Path, language: str) -> dict[str, str]:
    """Captions by the file of their picture; raises as ``read``."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8; byte {error.start} is not.") from error
    lines = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(lines, [])
    if header[:1] != ["image"] or language not in header[1:]:
        raise ValueError(
            f"{path}, line 1: expected the columns image and {language}; got {' '.join(header)!r}."
        )
    found = {}
    for number, cells in enumerate(lines, 2):
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {number}: expected {len(header)} cells with tabs between them; got "
                f"{len(cells)}."
            )
        if caption := cells[header.index(language)].strip():
            found[cells[0]] = unicodedata.normalize("NFC", caption)
    if not found:
        raise ValueError(f"{path}: expected captions in the column {language}; it is empty.")
    return found


def stem(name: str) -> str:
    """The name of a picture without folder, ending and number.

    Example:
        >>> stem("animals__frog-1.png"), stem("town__fireman240a.png"), stem("math__7.png")
        ('frog', 'fireman', 'math__')
    """
    base = name.rsplit(".", 1)[0].lower()
    last = re.sub(r"[-_]?\d+[a-z]?$", "", base.rsplit("__", 1)[-1])
    return last or re.sub(r"\d+$", "", base)


def groups(captions: dict[str, str]) -> list[str]:
    """For each picture the name of its group: the least key that it is connected with.

    Example:
        >>> captions = {"frog.png": "A frog.", "frog-1.png": "A toad.", "x.png": "a toad."}
        >>> groups(captions | {"y.png": "Y"})
        ['a frog.', 'a frog.', 'a frog.', 'y']
    """
    keys = [(f"{caption.lower()}", f"{stem(name)} ") for name, caption in captions.items()]
    parent = {key: key for pair in keys for key in pair}

    def root(key: str) -> str:
        while parent[key] != key:
            key = parent[key]
        return key

    for pair in keys:
        low, high = sorted(map(root, pair))
        parent[high] = low
    return [root(key) for key, _ in keys]


def part_of(group: str) -> str:
    """The part that a group belongs to."""
    place = int(sha256(group.encode()).hexdigest()[:8], 16) % 20
    return "test" if place < 2 else "validation" if place == 2 else "train"


# --- features of another network ---


def read_features(path: Path) -> dict[str, NDArray[np.float32]]:
    """Features (H, W, C) by the name of their picture.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else; names the file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, features = (file[name] for name in ("names", "features"))
    except (KeyError, ValueError, TypeError, BadZipFile, EOFError) as error:
        raise ValueError(
            f"{path}: expected a file of numpy.savez with names and features; {error}."
        ) from error
    if names.ndim != 1 or features.ndim not in (2, 4) or len(names) != len(features):
        raise ValueError(
            f"{path}: expected names (n,) and features (n, D) or (n, H, W, C); got {names.shape} "
            f"and {features.shape}."
        )
    if not np.issubdtype(features.dtype, np.number) or not np.isfinite(features).all():
        raise ValueError(f"{path}: expected finite numbers; features has others.")
    maps = features[:, None, None] if features.ndim == 2 else features
    return dict(zip(names.astype(str).tolist(), maps.astype(np.float32), strict=True))


def _of_names(
    features: dict[str, NDArray[np.float32]], names: Sequence[str], path: Path
) -> NDArray[np.float32]:
    missing = [name for name in names if name not in features]
    if missing:
        raise ValueError(
            f"{path}: expected features of every picture; {len(missing)} of {len(names)} have "
            f"none, {missing[0]} the first."
        )
    return np.stack([features[name] for name in names])
