"""Files of time series in the format of the UCR and UEA archives, ``.ts``.

A header of lines ``@name value``, then ``@data`` and one case a line: its channels with colons
between them, each with commas between its values, and the class behind the last colon:

    @dimensions 2
    @classLabel true a b
    @data
    0.5,0.7,0.1:1.5,1.2,0.9:a

Cases may be of different lengths; the channels of a case may not. Time stamps and missing values
are refused (Bagnall et al., "The UEA multivariate time series classification archive", 2018).
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NAMES = {"problemname", "timestamps", "missing", "univariate", "dimensions", "equallength"}
NAMES |= {"serieslength", "classlabel", "targetlabel", "data"}


class Cases(NamedTuple):
    """What a file holds."""

    series: list[NDArray[np.float32]]  # each (T, D)
    labels: NDArray[np.int32]  # (n,), places in ``classes``
    classes: tuple[str, ...]


def read(path: Path) -> Cases:
    """Read a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not as above; names the file, the line, and what is wrong there.
    """
    header: dict[str, list[str]] = {}
    series, labels = [], []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            if "data" not in header:
                name, *words = line.split()
                header[_checked(name, words, header)] = words
                continue
            channels, label = _case(line, header)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}.") from error
        series.append(channels)
        labels.append(header["classlabel"][1:].index(label))
    if not series:
        missing = "a case" if "data" in header else "@data"
        raise ValueError(f"{path}: expected {missing}; the file ends without one.")
    return Cases(series, np.array(labels, np.int32), tuple(header["classlabel"][1:]))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8; byte {error.start} is not.") from error


def _checked(name: str, words: list[str], header: dict[str, list[str]]) -> str:
    """The name of a line of the header, in small letters."""
    key = name.removeprefix("@").lower()
    if not name.startswith("@") or key not in NAMES:
        raise ValueError(f"expected a line of the header such as @dimensions 12; got {name[:40]!r}")
    if key in ("timestamps", "missing") and words != ["false"]:
        raise ValueError(f"expected {name} false, nothing else is read; got {' '.join(words)!r}")
    if key == "targetlabel":
        raise ValueError("expected classes (@classLabel); got numbers (@targetLabel)")
    if key == "dimensions" and not (len(words) == 1 and words[0].isdecimal() and int(words[0])):
        raise ValueError(f"expected a number of channels from 1 up; got {' '.join(words)!r}")
    if key == "classlabel" and (words[:1] != ["true"] or len(words) < 3):
        raise ValueError(f"expected {name} true and two classes or more; got {' '.join(words)!r}")
    if key == "data" and "classlabel" not in header:
        raise ValueError("expected @classLabel true and the classes before @data")
    return key


def _case(line: str, header: dict[str, list[str]]) -> tuple[NDArray[np.float32], str]:
    """The series (T, D) and the class of one line."""
    *texts, label = line.strip().split(":")
    channels = [_values(text, place) for place, text in enumerate(texts, 1)]
    expected = int(header.get("dimensions", ["1"])[0])
    if len(channels) != expected:
        raise ValueError(f"expected {expected} channels and a class; got {len(channels)} channels")
    lengths = sorted({len(channel) for channel in channels})
    if len(lengths) > 1:
        raise ValueError(f"expected channels of one length; got {lengths[0]} and {lengths[-1]}")
    fixed = header.get("serieslength")
    if header.get("equallength") == ["true"] and fixed and str(lengths[0]) != fixed[0]:
        raise ValueError(f"expected {fixed[0]} values (@seriesLength); got {lengths[0]}")
    classes = header["classlabel"][1:]
    if label.strip() not in classes:
        raise ValueError(f"expected one of the classes {' '.join(classes)}; got {label[:40]!r}")
    return np.array(channels, np.float32).T, label.strip()


def _values(text: str, place: int) -> list[float]:
    """The values of a channel."""
    values = []
    for word in text.split(","):
        try:
            values.append(float(word))
        except ValueError:
            problem = "a missing value" if word.strip() == "?" else repr(word[:40])
            raise ValueError(f"expected numbers; channel {place} has {problem}") from None
        if not math.isfinite(values[-1]):
            raise ValueError(f"expected finite numbers; channel {place} has {word.strip()}")
    return values
