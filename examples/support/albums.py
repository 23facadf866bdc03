"""Pictures with one caption each: drawn without end, or out of a folder with a table of captions.

scikit-learn, digits    scenes of handwritten digits (``scenes``); each one to learn from is new;
500 validate with seen pairs of digits and as many with pairs that were
kept for that; 1,000 of either kind are the test. The parts share no
picture of a digit
stamps, FOLDER          pictures and ``captions.tsv`` (``folder``): of twenty groups of pictures
two are the test and one validates; each picture to learn from is moved,
and may be mirrored
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from examples.support import captioned_folder, handwritten
from examples.support.handwritten import Handwritten
from examples.support.scenes import Language, Painter, Scene, caption

KNOWN, VALIDATING, SCORED = 5000, 500, 1000  # scenes
TURN = 10.0  # degrees that digits to learn from are turned by at most
MOVE = 6  # pixels that pictures to learn from are moved by at most
TOLD = "nearest digits, told their places"


class Album(NamedTuple):
    """Pictures side by side."""

    pictures: NDArray  # (n, H, W, C): uint8 pixels, or float32 features
    captions: list[str]
    names: list[str]


class Lesson(NamedTuple):
    """What is learnt from, what chooses, what is scored once."""

    draw: Callable[[np.random.Generator, int], Album]  # so many pictures to learn from
    known: Album  # such pictures, for what needs no network
    validation: Album
    tests: dict[str, Album]
    others: dict[str, dict[str, list[str]]]  # captions of each test, by who says them
    name: str  # so that a run does not go on with another one


# --- scenes of digits ---


def digits(data: handwritten.Data, language: Language, quick: bool) -> Lesson:
    """Scenes of handwritten digits.

    Raises:
        OSError, ValueError: as ``handwritten.read``.
    """
    parts = handwritten.read(data)
    shrink = 20 if quick else 1
    painter = Painter(parts.train, "train", TURN)

    def draw(generator: np.random.Generator, count: int) -> Album:
        return album([painter.draw(generator) for _ in range(count)], language)

    validating = [
        scene
        for seed, pairs in enumerate(("train", "validation"), 1)
        for scene in Painter(parts.validation, pairs).draw_many(VALIDATING // shrink, seed)
    ]
    tests = {
        "seen pairs": Painter(parts.test, "train").draw_many(SCORED // shrink, 3),
        "held-out pairs": Painter(parts.test, "test").draw_many(SCORED // shrink, 4),
    }
    return Lesson(
        draw,
        known=draw(np.random.default_rng(0), KNOWN // shrink),
        validation=album(validating, language),
        tests={name: album(scenes, language) for name, scenes in tests.items()},
        others={TOLD: told(parts, tests, language)},
        name=f"scenes of {data} in {language}",
    )


def album(scenes: Sequence[Scene], language: Language) -> Album:
    """Put scenes side by side."""
    captions = [scene.caption(language) for scene in scenes]
    return Album(np.stack([scene.canvas for scene in scenes]), captions, [""] * len(scenes))


def told(
    parts: handwritten.Split, tests: dict[str, list[Scene]], language: Language
) -> dict[str, list[str]]:
    """What is said by one who is shown each digit by itself, and knows how they stand.

    A digit is what the nearest one of those to learn from is, pixel by pixel.
    """
    model = KNeighborsClassifier(1).fit(_flat(parts.train), parts.train.digits)
    found = model.predict(_flat(parts.test))
    return {
        name: [caption(found[list(s.rows)].tolist(), s.downwards, language) for s in scenes]
        for name, scenes in tests.items()
    }


def _flat(part: Handwritten) -> NDArray:
    return part.pictures.reshape(len(part.pictures), -1)


# --- a folder of pictures ---


def folder(data: str, language: str, features: Path | None) -> Lesson:
    """Pictures of a folder, or features of them.

    Raises:
        OSError, ValueError: as ``captioned_folder.read``.
    """
    path = captioned_folder.stamps() if data == "stamps" else Path(data)
    parts = captioned_folder.read(path, language, features)
    albums = {part: Album(*rows) for part, rows in parts.items()}
    train = albums["train"]

    def draw(generator: np.random.Generator, count: int) -> Album:
        chosen = generator.integers(len(train.captions), size=count)
        pictures = train.pictures[chosen]
        if features is None:
            pictures = moved(pictures, generator)
        return Album(
            pictures, [train.captions[k] for k in chosen], [train.names[k] for k in chosen]
        )

    tests = {"held-out pictures": albums["test"]}
    seen = f", seen as {features}" if features else ""
    name = f"{len(train.captions)} pictures of {data} in {language}{seen}"
    return Lesson(draw, train, albums["validation"], tests, {}, name)


def moved(pictures: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Move each picture (n, H, W, C) by some pixels, white coming in, and mirror half of them."""
    n, height, width, _ = pictures.shape
    margin = ((0, 0), (MOVE, MOVE), (MOVE, MOVE), (0, 0))
    padded = np.pad(pictures, margin, constant_values=255)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, right = generator.integers(0, 2 * MOVE + 1, (2, n))
    found = np.moveaxis(windows[np.arange(n), down, right], 1, -1)  # the channels come first there
    mirrored = generator.integers(2, size=n).astype(bool)
    found[mirrored] = found[mirrored, :, ::-1]
    return found


def read(data: str, language: str, features: Path | None = None, quick: bool = False) -> Lesson:
    """Read what is learnt; raises as the two above."""
    if data in get_args(handwritten.Data):
        return digits(data, language, quick)  # pyright: ignore[reportArgumentType]
    return folder(data, language, features)
