"""The Free Spoken Digit Dataset: 3,000 clips of six speakers, and strings of digits joined of them.

Each clip is one digit, 8,000 samples a second, cut closely; each of the 60 pairs of digit and
speaker has the numbers 0 … 49. The official test has the numbers 0–4; 5–9 validate here, and 10–49
are for training. A string is 3–7 clips of one speaker, of one part, with silence between them:

    samples = clip, gap, clip, gap, … clip,    each gap uniform in 0 … 200 ms

so that nobody knows where a digit begins. What strings there are follows from a seed.

Jackson, Z., et al., "Free Spoken Digit Dataset", v1.0.10,
https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0.
"""

import hashlib
import os
import tarfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch
from numpy.typing import NDArray

from examples.support import sound
from examples.support.datasets import ROOT

RATE = 8_000  # samples a second
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
PARTS = {"train": range(10, 50), "validation": range(5, 10), "test": range(5)}
DIGITS = (3, 7)  # in a string, both ends included
LONGEST_GAP = 0.2  # seconds

FOLDER = "speech"
COMMIT = "d6938f9bf1545aa66d8489fc9f1385a7abd64282"  # v1.0.10
ADDRESS = f"https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/tar.gz/{COMMIT}"
SHA256 = "1801eae019c063377d98f831d3f93574f259475df7332bb0e3d1b080fb5e6959"
"""Of the clips: ``LC_ALL=C ls *.wav | xargs sha256sum | sha256sum``."""


class Clip(NamedTuple):
    """One digit, said once."""

    digit: int
    speaker: str
    number: int  # in 0 … 49
    samples: NDArray[np.float32]  # (n,)


class Utterance(NamedTuple):
    """What was said, by whom, and how it sounds."""

    digits: tuple[int, ...]
    speaker: str
    samples: NDArray[np.float32]  # (n,)
    spans: tuple[tuple[int, int], ...]  # the samples [start, end) of each digit


class Plan(NamedTuple):
    """A string before it is joined: its clips, and the samples of silence between them."""

    clips: tuple[Clip, ...]
    gaps: tuple[int, ...]

    def __len__(self) -> int:
        return sum(len(clip.samples) for clip in self.clips) + sum(self.gaps)


# --- the clips ---


def read() -> list[Clip]:
    """Read all clips, from the folder of the data or from an earlier download, by name.

    Raises:
        FileNotFoundError: they are in neither; says how to get them.
        ValueError: there are some, but not these.
    """
    folder = _locate()
    paths = sorted(folder.glob("*.wav"))
    found = digest({path.name: path.read_bytes() for path in paths})
    if found != SHA256:
        raise ValueError(
            f"{folder}: expected 3,000 clips with the sha256 {SHA256} in all; found {len(paths)} "
            f"with {found}. This is another version, whose scores could not be compared. {MEND}"
        )
    return [_read_clip(path) for path in paths]


def digest(contents: Mapping[str, bytes]) -> str:
    """The sha256 of what ``sha256sum`` says of files, contents by name, in the order of names.

    Example:
        >>> digest({"b": b"2", "a": b"1"})[:8]
        '68c2919f'
    """
    each = ((hashlib.sha256(contents[name]).hexdigest(), name) for name in sorted(contents))
    return hashlib.sha256("".join(f"{sha}  {name}\n" for sha, name in each).encode()).hexdigest()


def download() -> Path:
    """Get the clips into the cache, checked, and return their folder.

    Raises:
        FileNotFoundError: the address cannot be reached.
        ValueError: what is there is not what is expected.
    """
    cache = _cache()
    try:
        # The archive has no checksum that lasts: it is packed anew; its contents have one.
        archive = pooch.retrieve(ADDRESS, None, "spoken-digits.tar.gz", cache.parent)
    except OSError as error:  # what requests raises is one, too
        raise FileNotFoundError(
            f"the download from {ADDRESS} failed ({type(error).__name__}). Set {ROOT} to a folder "
            f"whose folder {FOLDER} holds the recordings of that archive."
        ) from error
    unpack(Path(archive), cache)
    return cache


def unpack(archive: Path, folder: Path) -> None:
    """Take the clips out of an archive, which is then removed, and into a folder if they are right.

    Raises:
        ValueError: they are not those expected.
    """
    try:
        with tarfile.open(archive) as tar:
            files = [member for member in tar if member.isfile() and member.name.endswith(".wav")]
            contents = {Path(f.name).name: tar.extractfile(f).read() for f in files}  # pyright: ignore[reportOptionalMemberAccess]
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{ADDRESS}: expected an archive; got a broken one ({error}).") from error
    finally:
        archive.unlink()  # a broken one would be taken for the right one the next time
    found = digest(contents)
    if found != SHA256:
        raise ValueError(f"{ADDRESS}: expected clips with the sha256 {SHA256}; found {found}.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


MEND = (
    "Get it, 16 MB, with python -m examples.speech --download, or set RNNJAX_DATA to a folder "
    "whose folder speech holds the 3,000 wav files."
)


def _cache() -> Path:
    return Path(pooch.os_cache("rnnjax"), FOLDER)


def _locate() -> Path:
    root = os.environ.get(ROOT)
    folders = [Path(root, FOLDER)] if root else []
    for folder in [*folders, _cache()]:
        if any(folder.glob("*.wav")):
            return folder
    where = f"{root} ({ROOT})" if root else f"a data folder ({ROOT} is not set)"
    raise FileNotFoundError(f"the Free Spoken Digit Dataset is not in {where}. {MEND}")


def _read_clip(path: Path) -> Clip:
    digit, speaker, number = path.stem.split("_")
    return Clip(int(digit), speaker, int(number), sound.read_wav(path, RATE))


def select(
    clips: Sequence[Clip],
    numbers: Collection[int] = range(50),
    speakers: Collection[str] = SPEAKERS,
) -> list[Clip]:
    """The clips of these numbers and speakers.

    Example:
        >>> clips = [Clip(3, speaker, k, np.ones(8)) for speaker in SPEAKERS for k in range(50)]
        >>> {name: len(select(clips, numbers)) for name, numbers in PARTS.items()}
        {'train': 240, 'validation': 30, 'test': 30}
    """
    return [clip for clip in clips if clip.number in numbers and clip.speaker in speakers]


# --- strings of them ---


class Planner:
    """Draws strings from clips: a speaker, how many digits, which clips, how long the gaps.

    Args:
        clips: to draw from, each as often as chance has it.
        digits: how many at least and at most.

    Example:
        >>> clips = [Clip(k, "theo", 7, np.ones(100 + k, np.float32)) for k in range(10)]
        >>> plan = Planner(clips).draw(np.random.default_rng(0))
        >>> len(plan.clips), len(plan.gaps), len(plan) == len(join(plan).samples)
        (7, 6, True)
    """

    def __init__(self, clips: Sequence[Clip], digits: tuple[int, int] = DIGITS):
        self._digits = digits
        speakers = sorted({clip.speaker for clip in clips})
        self._by_speaker = [[c for c in clips if c.speaker == speaker] for speaker in speakers]

    def draw(self, generator: np.random.Generator) -> Plan:
        """Draw one."""
        clips = self._by_speaker[generator.integers(len(self._by_speaker))]
        count = int(generator.integers(self._digits[0], self._digits[1] + 1))
        chosen = tuple(clips[k] for k in generator.integers(len(clips), size=count))
        gaps = generator.integers(0, round(LONGEST_GAP * RATE) + 1, size=count - 1)
        return Plan(chosen, tuple(gaps.tolist()))


def join(plan: Plan) -> Utterance:
    """Join the clips of a string, with silence between them."""
    samples, spans, start = np.zeros(len(plan), np.float32), [], 0
    for clip, gap in zip(plan.clips, (*plan.gaps, 0), strict=True):
        end = start + len(clip.samples)
        samples[start:end] = clip.samples
        spans.append((start, end))
        start = end + gap
    digits = tuple(clip.digit for clip in plan.clips)
    return Utterance(digits, plan.clips[0].speaker, samples, tuple(spans))


def strings(clips: Sequence[Clip], count: int, seed: int) -> list[Utterance]:
    """Draw and join strings, the same ones for the same clips and seed."""
    planner, generator = Planner(clips), np.random.default_rng(seed)
    return [join(planner.draw(generator)) for _ in range(count)]
