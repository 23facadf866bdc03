"""Scenes of two or three handwritten digits on a sheet, and what is said about them.

The digits lie at random places, nowhere on each other, and plainly side by side or one above the
other: along one direction each is at least ``GAP`` pixels on from the one before, and they spread
over ``GAP`` pixels more in it than across. So every scene has one caption, in that order:

    a three left of a seven                số ba ở bên trái số bảy
    a one above a one above a five         số một ở phía trên số một ở phía trên số năm

Of the 100 ordered pairs of digits (a, b), a somewhere before b, those with (3a + b) mod 10 in
{0, 1} are kept for the test, with 2 for validation; each of the two lists has every digit equally
often in both places. A scene to learn from has none of them.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.support.handwritten import Handwritten
from examples.support.images import SIDE, strong
from examples.support.numerals import spell

Language = Literal["en", "vi"]
Pairs = Literal["train", "validation", "test"]

GAP = 8  # pixels
SIZES = (16, 20)  # of a digit, the smallest and the largest, pixels
PROPOSALS = 64  # places that are drawn at once, of which the first that will do is taken
ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RELATIONS = {"en": (" left of ", " above "), "vi": (" ở bên trái ", " ở phía trên ")}


class Scene(NamedTuple):
    """Digits on a sheet, in the order of its caption."""

    canvas: NDArray[np.uint8]  # (64, 64, 1), 0 paper, 255 ink
    digits: tuple[int, ...]
    downwards: bool  # or rightwards
    rows: tuple[int, ...]  # of the digits among the pictures that they are from

    def caption(self, language: Language) -> str:
        """What is said about it."""
        return caption(self.digits, self.downwards, language)


def caption(digits: Sequence[int], downwards: bool, language: Language) -> str:
    """Say where digits stand.

    Example:
        >>> caption([3, 7], False, "en"), caption([1, 1, 5], True, "vi")
        ('a three left of a seven', 'số một ở phía trên số một ở phía trên số năm')
    """
    named = (f"a {ENGLISH[d]}" if language == "en" else f"số {spell(d)}" for d in digits)
    said = RELATIONS[language][downwards].join(named)
    return said.replace("a eight", "an eight")


def kept_for(first: int, second: int) -> Pairs:
    """The part that an ordered pair is kept for.

    Example:
        >>> [sum(kept_for(a, b) == part for a in range(10) for b in range(10))
        ...  for part in ("train", "validation", "test")]
        [70, 10, 20]
    """
    place = (3 * first + second) % 10
    return "test" if place < 2 else "validation" if place == 2 else "train"


class Painter:
    """Draws scenes.

    Args:
        hand: the digits that it writes with.
        pairs: ``"train"``: no scene has a pair that is kept; else each has one that is kept for
            this part, and none that is kept for another.
        turn: degrees that a digit is turned by at most, to learn from more than there are.

    Example:
        >>> hand = Handwritten(np.ones((10, 8, 8)), np.arange(10, dtype=np.int32))
        >>> scene = Painter(hand, "test").draw(np.random.default_rng(0))
        >>> scene.canvas.shape, scene.caption("en")
        ((64, 64, 1), 'a six left of a five left of a two')
    """

    def __init__(self, hand: Handwritten, pairs: Pairs, turn: float = 0.0):
        self._turn, self._pairs = turn, pairs
        self._images = [Image.fromarray(_cropped(picture)) for picture in hand.pictures]
        self._of_digit = [np.flatnonzero(hand.digits == digit) for digit in range(10)]

    def draw(self, generator: np.random.Generator) -> Scene:
        """Draw one scene, of two or of three digits."""
        digits = self._digits(generator, int(generator.integers(2, 4)))
        rows = tuple(int(generator.choice(self._of_digit[digit])) for digit in digits)
        sizes = generator.integers(SIZES[0], SIZES[1] + 1, len(digits))
        downwards, corners = places(generator, sizes)
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        for row, size, (top, left) in zip(rows, sizes.tolist(), corners.tolist(), strict=True):
            turn = generator.uniform(-self._turn, self._turn)
            canvas[top : top + size, left : left + size] = written(self._images[row], size, turn)
        return Scene(strong(canvas)[..., None], digits, downwards, rows)

    def draw_many(self, count: int, seed: int) -> list[Scene]:
        """Draw scenes, the same ones for the same seed."""
        generator = np.random.default_rng(seed)
        return [self.draw(generator) for _ in range(count)]

    def _digits(self, generator: np.random.Generator, count: int) -> tuple[int, ...]:
        while True:
            digits = tuple(generator.integers(0, 10, count).tolist())
            parts = {kept_for(*pair) for pair in itertools.combinations(digits, 2)}
            if self._pairs in parts and parts <= {"train", self._pairs}:
                return digits


def places(generator: np.random.Generator, sizes: NDArray) -> tuple[bool, NDArray]:
    """Draw a direction, and the upper left corners (n, 2) of digits of these sizes along it."""
    downwards = bool(generator.integers(2))
    along, across = (0, 1) if downwards else (1, 0)
    apart = (sizes[:, None] + sizes) / 2
    first, second = np.triu_indices(len(sizes), 1)
    while True:
        corners = generator.integers(0, SIDE + 1 - sizes[:, None], (PROPOSALS, len(sizes), 2))
        centres = corners + sizes[:, None] / 2
        distances = np.abs(centres[:, first] - centres[:, second]).max(-1)
        spread = np.ptp(centres, axis=1)
        good = (distances >= apart[first, second]).all(1)
        good &= (np.diff(centres[..., along], axis=1) >= GAP).all(1)
        good &= spread[:, along] >= spread[:, across] + GAP
        if good.any():
            return downwards, corners[good.argmax()]


def written(image: Image.Image, size: int, turn: float) -> NDArray[np.uint8]:
    """A digit (size, size), turned by so many degrees."""
    scale, angle = image.width / size, np.deg2rad(turn)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    middle, half = image.width / 2, size / 2
    at_zero = middle - half * (cos + sin), middle - half * (cos - sin)
    affine = (cos, sin, at_zero[0], -sin, cos, at_zero[1])
    kind, filtered = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.asarray(image.transform((size, size), kind, affine, filtered))


def _cropped(picture: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A picture (side, side) in 0 … 255, as the smallest square around its ink."""
    rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
    ink = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    square = np.zeros((max(ink.shape),) * 2, np.uint8)
    top, left = (len(square) - ink.shape[0]) // 2, (len(square) - ink.shape[1]) // 2
    square[top : top + ink.shape[0], left : left + ink.shape[1]] = np.rint(255 * ink)
    return square
