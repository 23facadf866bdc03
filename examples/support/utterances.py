"""Batches of utterances: fresh ones to learn from, and fixed ones to be scored on.

Each batch to learn from is drawn from the seed and its number alone, so that a run goes on exactly.
Utterances of about the same length stand together, padded to one of few lengths, because each shape
is compiled.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from examples.support.hearing import (
    Directions,
    Variation,
    Voice,
    log_power,
    without_mean,
)
from examples.support.recogniser import Batch, batch_of
from examples.support.spelling import Spelling
from examples.support.spoken_digits import DIGITS, Clip, Plan, Planner, Utterance, join
from rnnjax import training

GROUP = 8  # batches that are drawn together, and sorted by length
SHORTEST, GROWTH = 32, 3 / 2  # frames that the shortest batches are padded to, and how that grows


def padded(frames: int, shortest: int = SHORTEST) -> int:
    """How many frames so many are padded to.

    Example:
        >>> [padded(frames) for frames in (5, 32, 33, 250)]
        [32, 32, 48, 365]
    """
    size = shortest
    while size < frames:
        size = math.ceil(size * GROWTH)
    return size


@dataclass(frozen=True)
class Hearing:
    """What becomes of an utterance on its way into a batch.

    Attributes:
        spelling: what labels are.
        directions: in which the network reads.
        most: labels that a row of a batch has room for.
        shortest: frames that even the shortest batch is padded to.
        voices: what each speaker sounds like; None: the mean of each utterance is taken off.
    """

    spelling: Spelling
    directions: Directions
    most: int
    shortest: int = SHORTEST
    voices: Mapping[str, Voice] | None = field(default=None, repr=False)

    def batch(self, utterances: Sequence[Utterance], frames: Sequence[np.ndarray]) -> Batch:
        """Put utterances, of which these are the frames, side by side."""
        labels = [self.spelling.encode(utterance.digits) for utterance in utterances]
        pairs = zip(utterances, frames, strict=True)
        centred = [self._centred(utterance.speaker, row) for utterance, row in pairs]
        time = padded(max(map(len, frames)), self.shortest)
        return batch_of(centred, labels, time, self.most)

    def _centred(self, speaker: str, frames: np.ndarray) -> np.ndarray:
        if self.voices is None:
            return without_mean(frames, self.directions)
        return self.voices[speaker].remove(frames)


def most_labels(spelling: Spelling, digits: int = DIGITS[1]) -> int:
    """How many labels a string of so many digits may have.

    Example:
        >>> most_labels(Spelling(by_letter=False)), most_labels(Spelling(by_letter=True))
        (7, 41)
    """
    return max(len(spelling.encode([digit] * digits)) for digit in range(10))


class Fresh(training.Source):
    """Batches of strings that are never the same.

    Args:
        planner: draws what is said.
        hearing: makes batches of it.
        variation: how each utterance is changed.
        batch_size: B.
        seed: of all batches.
        what: names the clips, so that a run does not go on with others.
    """

    def __init__(
        self,
        planner: Planner,
        hearing: Hearing,
        variation: Variation,
        batch_size: int,
        *,
        seed: int,
        what: str,
    ):
        self._planner, self._hearing, self._variation = planner, hearing, variation
        self._size, self._seed = batch_size, seed
        self._what = f"{what}, {hearing}, {variation}, {batch_size} a batch, seed {seed}"

    def __len__(self) -> int:
        return 2**31 - 1  # no run gets to the end of the first epoch

    def batch(self, epoch: int, number: int) -> Batch:
        """Draw one batch."""
        del epoch
        utterances = [join(plan) for plan in self.plans(number)]
        generator = np.random.default_rng((self._seed, 1, number))
        heard = [self._variation.hear(one.samples, generator) for one in utterances]
        return self._hearing.batch(utterances, heard)

    def plans(self, number: int) -> list[Plan]:
        """What a batch says: of so many utterances, sorted by length, one share."""
        group, place = divmod(number, GROUP)
        generator = np.random.default_rng((self._seed, 0, group))
        drawn = [self._planner.draw(generator) for _ in range(GROUP * self._size)]
        drawn.sort(key=len)
        share = generator.permutation(GROUP)[place]
        return drawn[share * self._size : (share + 1) * self._size]

    def fingerprint(self) -> str:
        """Return what is drawn."""
        return self._what


def fixed(utterances: Sequence[Utterance], hearing: Hearing, size: int = 50) -> Iterator[Batch]:
    """Yield utterances in their order, as they are; the last batch is filled up with empty rows."""
    for start in range(0, len(utterances), size):
        part = utterances[start : start + size]
        yield fill(hearing.batch(part, [log_power(one.samples) for one in part]), size)


def fill(batch: Batch, size: int) -> Batch:
    """Add rows without frames or labels until there are so many."""
    missing = size - len(batch.lengths)
    return Batch(
        np.pad(batch.xs, ((0, 0), (0, missing), (0, 0))),
        np.pad(batch.lengths, (0, missing)),
        np.pad(batch.labels, ((0, missing), (0, 0))),
        np.pad(batch.label_lengths, (0, missing)),
    )


def singles(clips: Sequence[Clip]) -> list[Utterance]:
    """Each clip as an utterance."""
    return [join(Plan((clip,), ())) for clip in clips]
