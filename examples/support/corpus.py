"""Text as integers: documents, a vocabulary of characters, one stream of all.

With the documents d_1, d_2, ... of one split and the boundary symbol 0,

    x = 0 d_1 0 d_2 ...,    starts[i] = (x_i stands before a document),

and `rnnjax.training.TokenStreams` cuts x into rows: with `starts` it resets the carry before the
boundary symbol is read, so no document sees the one before it.
"""

import os
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOUNDARY = "\0"
UNKNOWN = "\ufffd"

SKIPPED_FOLDERS = frozenset(
    [
        # Not the library itself, or not written to be read.
        *("site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"),
        # Generated: a code page is 256 near-identical lines that differ in a few characters, the
        # pydoc topics are the manual as string literals. A model spends itself on copying tables,
        # and the same rows in both halves of a split make the score look better than it is.
        *("encodings", "pydoc_data"),
    ]
)
SKIPPED_PREFIXES = (
    "html/entities.py",  # a generated table too
    "_sysconfigdata",  # the build's settings, with the paths of the machine that built it
)


class Document(NamedTuple):
    """A named text."""

    name: str
    text: str


def python_sources(max_characters: int) -> list[Document]:
    """The Python files of the running interpreter's standard library, in a fixed mixed order.

    The order is by the hash of the path inside the library, so a smaller `max_characters` gives a
    prefix of a larger one. Left out: tests, installed packages, generated tables, empty files and
    files that cannot be read or decoded. The texts depend on the Python version.

    Args:
        max_characters: whole documents are taken until the next one would pass this total.

    Raises:
        FileNotFoundError: the standard library is not a folder of .py files.
        ValueError: the first document alone is longer than max_characters.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(_library_files(root), key=_hash)
    if not names:
        raise FileNotFoundError(
            f"python_sources: expected .py files under {root} (the standard library's folder by "
            "sysconfig); found none, as in a frozen or zipped Python. Give a text of your own: "
            "pass `--data FILE`."
        )
    documents = list(_until(max_characters, _readable(root, names)))
    if not documents:
        raise ValueError(
            f"python_sources: no document fits in max_characters = {max_characters}; raise it."
        )
    return documents


def text_file(path: str | os.PathLike[str]) -> list[Document]:
    """One UTF-8 text file as a single document, line ends and all: nothing is changed.

    Raises:
        FileNotFoundError: there is nothing at path.
        IsADirectoryError: path is a folder.
        PermissionError: the file may not be read.
        ValueError: the file is empty, is not UTF-8, or holds a NUL (the boundary symbol).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"text_file: expected a text file; there is nothing at {path}.")
    if path.is_dir():
        raise IsADirectoryError(f"text_file: expected one text file; {path} is a folder.")
    try:
        text = path.read_bytes().decode("utf-8")  # bytes: no line end is translated
    except PermissionError as error:
        raise PermissionError(f"text_file: no permission to read {path}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text_file: expected UTF-8; {path} has the byte 0x{error.object[error.start]:02x} at "
            f"{error.start} ({error.reason}). Convert it: iconv -f ENCODING -t UTF-8."
        ) from error
    if not text:
        raise ValueError(f"text_file: {path} is empty; expected at least one character.")
    if BOUNDARY in text:
        raise ValueError(
            f"text_file: {path} has a NUL at character {text.index(BOUNDARY)}, which this module "
            "keeps for document boundaries; expected text, not binary data."
        )
    return [Document(path.name, text)]


def split(
    documents: Sequence[Document], validation_share: float
) -> tuple[list[Document], list[Document]]:
    """Training and validation documents: by document, or by position when there is only one.

    Among several, the validation_share (at least one, and not all) whose names hash highest are
    the validation documents, so that the choice depends on names and not on the order. A single
    document gives its last validation_share.

    Raises:
        ValueError: validation_share is outside (0, 1), or a side would be empty.

    Example:
        >>> train, validation = split([Document("poem", "roses are red")], 0.25)
        >>> train[0].text, validation[0].text
        ('roses are', ' red')
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"split: validation_share must lie in (0, 1); got {validation_share}.")
    if len(documents) == 1:
        return _split_text(documents[0], validation_share)
    if not documents:
        raise ValueError("split: expected at least one document; got none.")
    count = min(max(1, round(validation_share * len(documents))), len(documents) - 1)
    by_hash = sorted(range(len(documents)), key=lambda i: _hash("split:" + documents[i].name))
    held_out = frozenset(by_hash[-count:])
    train = [d for i, d in enumerate(documents) if i not in held_out]
    return train, [d for i, d in enumerate(documents) if i in held_out]


@dataclass(frozen=True)
class Vocabulary:
    r"""Characters and their ids: 0 is the document boundary "\0", 1 is U+FFFD, the unknown one.

    Raises:
        ValueError: the symbols do not begin so, or are not distinct single characters.

    Example:
        >>> vocabulary = Vocabulary.of([Document("a", "banana")], min_count=2)
        >>> vocabulary.symbols
        ('\x00', '\ufffd', 'a', 'n')
        >>> vocabulary.decode(vocabulary.encode("nab"))
        'na\ufffd'
    """

    symbols: tuple[str, ...]

    def __post_init__(self):
        if self.symbols[:2] != (BOUNDARY, UNKNOWN):
            raise ValueError(
                f"Vocabulary: symbols must begin with {BOUNDARY!r} (boundary) and {UNKNOWN!r} "
                f"(unknown); got {self.symbols[:2]!r}."
            )
        if len(set(self.symbols)) < len(self.symbols) or any(len(s) != 1 for s in self.symbols):
            raise ValueError("Vocabulary: symbols must be distinct single characters.")

    @classmethod
    def of(cls, documents: Iterable[Document], min_count: int = 1) -> "Vocabulary":
        """The characters seen at least min_count times in the documents given: the training ones.

        Rarer ones become the unknown symbol, which so has something to be learnt from.
        """
        counts = Counter()
        for document in documents:
            counts.update(document.text)
        kept = {c for c, n in counts.items() if n >= min_count} - {BOUNDARY, UNKNOWN}
        return cls((BOUNDARY, UNKNOWN, *sorted(kept)))

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> NDArray[np.int32]:
        """The id of each character, (len(text),); of U+FFFD for one outside the vocabulary."""
        points, known = _code_points(text), _code_points("".join(self.symbols))
        order = np.argsort(known)
        at = order[np.searchsorted(known, points, sorter=order).clip(max=len(known) - 1)]
        unknown = self.symbols.index(UNKNOWN)
        return np.where(known[at] == points, at, unknown).astype(np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids (n,).

        Raises:
            ValueError: an id is outside [0, V).
        """
        points = _code_points("".join(self.symbols))[checked_ids(ids, len(self))]
        return points.tobytes().decode("utf-32-le", "surrogatepass")

    def require(self, text: str) -> None:
        """Check that a text, a prompt say, has no character outside the vocabulary.

        Raises:
            ValueError: it has one; the message names it, its position and the symbols there are.
        """
        for position, character in enumerate(text):
            if character not in self.symbols:
                raise ValueError(
                    f"expected characters of the vocabulary; got {character!r} "
                    f"(U+{ord(character):04X}) at position {position}. Replace it by one of the "
                    f"{len(self)} symbols: {_shortened(self.symbols[2:])}."
                )


def checked_ids(ids: ArrayLike, size: int) -> NDArray[np.int64]:
    """The ids of symbols as an array.

    Raises:
        ValueError: one is outside [0, size).
    """
    ids = np.asarray(ids, np.int64)
    if ids.size and not 0 <= ids.min() <= ids.max() < size:
        raise ValueError(
            f"decode: ids must lie in [0, {size}); got values from {ids.min()} to {ids.max()}."
        )
    return ids


def pack(
    documents: Iterable[Document], vocabulary: Vocabulary
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """One stream of all documents, each after the boundary symbol 0.

    Returns:
        tokens (n,) int32, and starts (n,) bool: True at the boundary symbol before a document.

    Example:
        >>> documents = [Document("a", "ab"), Document("b", "b")]
        >>> tokens, starts = pack(documents, Vocabulary.of(documents))
        >>> tokens.tolist(), starts.astype(int).tolist()
        ([0, 2, 3, 0, 3], [1, 0, 0, 1, 0])
    """
    texts = [BOUNDARY + document.text for document in documents]
    ends = np.cumsum([0, *map(len, texts)])
    starts = np.zeros(ends[-1], np.bool_)
    starts[ends[:-1]] = True
    return vocabulary.encode("".join(texts)), starts


def _hash(name: str) -> bytes:
    return sha256(name.encode("utf-8", "surrogatepass")).digest()


def _library_files(root: Path) -> Iterator[str]:
    """POSIX paths under root of the .py files to read; nothing where root is not a folder."""
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS]  # os.walk prunes in place
        names = ((Path(folder) / f).relative_to(root).as_posix() for f in files)
        yield from (n for n in names if n.endswith(".py") and not n.startswith(SKIPPED_PREFIXES))


def _readable(root: Path, names: Iterable[str]) -> Iterator[Document]:
    for name in names:
        try:
            with tokenize.open(root / name) as file:  # heeds a coding line, UTF-8 without one
                text = file.read()
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        if text and BOUNDARY not in text:
            yield Document(name, text)


def _until(max_characters: int, documents: Iterable[Document]) -> Iterator[Document]:
    total = 0
    for document in documents:
        total += len(document.text)
        if total > max_characters:
            return
        yield document


def _split_text(
    document: Document, validation_share: float
) -> tuple[list[Document], list[Document]]:
    name, text = document
    cut = int(len(text) * (1 - validation_share))
    if not 0 < cut < len(text):
        raise ValueError(
            f"split: {len(text)} characters are too few for validation_share = "
            f"{validation_share}: one side would be empty."
        )
    return [Document(name, text[:cut])], [Document(name, text[cut:])]


def _code_points(text: str) -> NDArray[np.uint32]:
    # surrogatepass: a command line can hold a lone surrogate, which is then simply unknown.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _shortened(symbols: Sequence[str], limit: int = 60) -> str:
    shown = repr("".join(symbols[:limit]))
    return shown if len(symbols) <= limit else f"{shown} and {len(symbols) - limit} more"
