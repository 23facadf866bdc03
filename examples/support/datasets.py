"""Named texts: where their files lie or come from, and how each is split.

A file is looked for in three places, and its sha256 checked in each: in the folder that the
environment variable RNNJAX_DATA names, laid out as the paths below; in the cache of an earlier
download; at its address. The splits are those whose figures can be compared:

    tinyshakespeare         the first 1,003,854 characters to train, the rest to validate, as
                            nanoGPT and "Were RNNs All We Needed?" do; published as its test score
    tinyshakespeare-tuning  the same training part, of which the last 5 % validate: what to choose
                            hyperparameters on, so that the rest stays unseen
    viwiki                  641 articles of the Vietnamese Wikipedia in file order: 512 to train,
                            64 to validate, 65 to test
    wikitext2               words; its validation file to train and its test file to test, which is
                            not the benchmark of that name
    wikitext2-tuning        the same training file, of which the last tenth validates
"""

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import pooch

from examples.support.corpus import Document, Vocabulary
from examples.support.words import WordVocabulary, words

ROOT = "RNNJAX_DATA"

Parts = TypeVar("Parts")


class Characters(NamedTuple):
    """Documents to read by the character; no test documents where the validation ones serve."""

    train: list[Document]
    validation: list[Document]
    test: list[Document]
    vocabulary: Vocabulary


class Words(NamedTuple):
    """Words to train and to test on, each line's end among them."""

    train: list[str]
    test: list[str]
    vocabulary: WordVocabulary


@dataclass(frozen=True)
class File:
    """One file by its path under the root, its checksum and, where it has one, its address."""

    path: str
    sha256: str
    address: str | None = None

    def read(self) -> str:
        """The text, with its line ends as they are.

        Raises:
            FileNotFoundError: it is nowhere and cannot be downloaded; says what to do.
            ValueError: there is a file, but not this one: names its checksum and the expected one.
        """
        return self.locate().read_bytes().decode("utf-8")  # bytes: no line end is translated

    def locate(self) -> Path:
        """The checked file, downloaded if it must be; raises as `read`."""
        root = os.environ.get(ROOT)
        if root and (path := Path(root, self.path)).is_file():
            self._check(path)
            return path
        if self.address is None:
            raise FileNotFoundError(f"{self._missing(root)} {self._mend()}")
        return self._download(self.address, root)

    def _check(self, path: Path) -> None:
        found = pooch.file_hash(str(path), alg="sha256")
        if found != self.sha256:
            raise ValueError(
                f"{path}: expected the sha256 {self.sha256}; found {found}. This is another "
                f"version of the text, whose scores could not be compared. {self._mend()}"
            )

    def _download(self, address: str, root: str | None) -> Path:
        cached = Path(pooch.os_cache("rnnjax"), self.path)
        try:
            pooch.retrieve(address, f"sha256:{self.sha256}", cached.name, cached.parent)
        except OSError as error:  # what requests raises is one, too
            raise FileNotFoundError(
                f"{self._missing(root)} The download failed ({type(error).__name__}). "
                f"{self._mend()}"
            ) from error
        return cached

    def _missing(self, root: str | None) -> str:
        where = f"{root} ({ROOT})" if root else f"a data folder ({ROOT} is not set)"
        return f"{self.path} is not in {where}."

    def _mend(self) -> str:
        source = f", from {self.address}" if self.address else ""
        return f"Set {ROOT} to a folder that holds {self.path}{source}."


@dataclass(frozen=True)
class Dataset(Generic[Parts]):
    """A named text: its files, and what makes parts of their contents."""

    name: str
    files: tuple[File, ...]
    split: Callable[..., Parts]  # takes one text a file

    def load(self) -> Parts:
        """Read the files and split them; raises as `File.read`."""
        return self.split(*(file.read() for file in self.files))


def split_tinyshakespeare(text: str) -> Characters:
    """The usual split by position."""
    return _split_at(text, TINYSHAKESPEARE_TRAIN)


def split_tinyshakespeare_for_tuning(text: str) -> Characters:
    """The last 5 % of the training characters validate; what follows them is left out."""
    return _split_at(text[:TINYSHAKESPEARE_TRAIN], TINYSHAKESPEARE_TRAIN * 95 // 100)


def split_viwiki(text: str) -> Characters:
    r"""Articles are joined by a bare "\n\n", and the lines inside one end in "\r\n".

    So they come apart before the line ends become "\n". Characters seen fewer than 20 times in
    training are unknown: 195 symbols remain. The texts are in NFC, so that a letter with its
    diacritics is one character however it was typed.

    Example:
        >>> parts = split_viwiki("\n\n".join(f"a{i}\r\nb" for i in range(641)) + "\n")
        >>> len(parts.train), len(parts.validation), len(parts.test)
        (512, 64, 65)
        >>> parts.test[-1]
        Document(name='viwiki-640', text='a640\nb')
    """
    articles = text.removesuffix("\n").split("\n\n")
    texts = [unicodedata.normalize("NFC", a.replace("\r\n", "\n")) for a in articles]
    documents = [Document(f"viwiki-{i}", text) for i, text in enumerate(texts)]
    train, validation, test = documents[:512], documents[512:576], documents[576:]
    return Characters(train, validation, test, Vocabulary.of(train, min_count=20))


def split_wikitext2(valid: str, test: str) -> Words:
    r"""The file to train on, the file to test on; the vocabulary is that of the first.

    Example:
        >>> parts = split_wikitext2("an <unk> bird\n", "a bird\n")
        >>> parts.vocabulary.encode(parts.test).tolist() # <unk> bird <eos>
        [1, 3, 0]
    """
    train = words(valid)
    return Words(train, words(test), WordVocabulary.of(train))


def split_wikitext2_for_tuning(valid: str, test: str) -> Words:
    """The last tenth of the lines to train on is what to choose hyperparameters on."""
    del test
    lines = valid.splitlines(keepends=True)
    cut = len(lines) * 9 // 10
    return split_wikitext2("".join(lines[:cut]), "".join(lines[cut:]))


def _split_at(text: str, cut: int) -> Characters:
    train = [Document("tinyshakespeare", text[:cut])]
    validation = [Document("tinyshakespeare", text[cut:])]
    return Characters(train, validation, [], Vocabulary.of(train))


TINYSHAKESPEARE_TRAIN = 1_003_854  # characters

# Addresses name a commit, so that the file behind them does not change.
CHAR_RNN = "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data"
PYTORCH_EXAMPLES = "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data"

TINYSHAKESPEARE = Dataset(
    "tinyshakespeare",
    (
        File(
            "text/tinyshakespeare.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            f"{CHAR_RNN}/tinyshakespeare/input.txt",
        ),
    ),
    split_tinyshakespeare,
)
TINYSHAKESPEARE_TUNING = replace(
    TINYSHAKESPEARE, name="tinyshakespeare-tuning", split=split_tinyshakespeare_for_tuning
)
VIWIKI = Dataset(
    "viwiki",
    (
        File(
            "text/viwiki-sample.txt",
            "e13bb8249f2bd0bed538ad25b7287827634706ddffa4b5455a0c320e2687f82b",
        ),
    ),
    split_viwiki,
)
WIKITEXT2 = Dataset(
    "wikitext2",
    (
        File(
            "text/wikitext2-valid.txt",
            "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            f"{PYTORCH_EXAMPLES}/wikitext-2/valid.txt",
        ),
        File(
            "text/wikitext2-test.txt",
            "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            f"{PYTORCH_EXAMPLES}/wikitext-2/test.txt",
        ),
    ),
    split_wikitext2,
)
WIKITEXT2_TUNING = replace(WIKITEXT2, name="wikitext2-tuning", split=split_wikitext2_for_tuning)

BY_CHARACTER = {d.name: d for d in (TINYSHAKESPEARE, TINYSHAKESPEARE_TUNING, VIWIKI)}
BY_WORD = {d.name: d for d in (WIKITEXT2, WIKITEXT2_TUNING)}
