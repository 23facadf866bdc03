"""What is learnt from, what validates, and what is scored once: clips that have none in common.

    strings             numbers 10–49, 5–9, 0–4; 500 strings to be scored on, 200 to validate
    digit, official     numbers 5–49, each clip by itself; 0–4 to be scored on
    digit, speaker      six folds: all clips of five speakers, those of the sixth to be scored on

Single digits have nothing that validates: all that is not scored is learnt from. For tuning, the
numbers 5–9 are scored and 0–4 are not touched; with speakers, another one is left out as well.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples.support.hearing import Voice, log_power, voice_of
from examples.support.spoken_digits import PARTS, SPEAKERS, Clip, Utterance, select, strings
from examples.support.utterances import singles

SCORED, VALIDATING, QUICKLY = 500, 200, 20  # strings


class Fold(NamedTuple):
    """One division of the clips."""

    name: str
    train: list[Clip]
    validation: list[Utterance]  # may be empty
    test: list[Clip]
    scored: list[Utterance]


def frames_of(clip: Clip) -> NDArray[np.floating]:
    """The log power of a clip, as networks hear it."""
    return log_power(clip.samples)


def voices_of(
    fold: Fold, frames: Callable[[Clip], NDArray[np.floating]] = frames_of
) -> dict[str, Voice]:
    """What the speakers of a fold sound like, told from the clips that are learnt from.

    Of one who was left out, from the clips that are scored: without what is said in them.
    """
    known = {clip.speaker for clip in fold.train}
    clips = [*fold.train, *(clip for clip in fold.test if clip.speaker not in known)]
    by_speaker = {clip.speaker: select(clips, speakers=[clip.speaker]) for clip in clips}
    return {
        speaker: voice_of(frames(clip) for clip in theirs) for speaker, theirs in by_speaker.items()
    }


def folds_of(clips: Sequence[Clip], task: str, split: str, tuning: bool, quick: bool) -> list[Fold]:
    """Divide the clips as the task asks for."""
    if task == "digit" and split == "speaker":
        left_out = SPEAKERS[:2] if quick else SPEAKERS
        return [without(clips, speaker, tuning) for speaker in left_out]
    parts = {name: select(clips, numbers) for name, numbers in PARTS.items()}
    return [official(parts, tuning) if task == "digit" else joined(parts, tuning, quick)]


def joined(parts: Mapping[str, list[Clip]], tuning: bool, quick: bool) -> Fold:
    """Make strings of each part."""
    few, many = (QUICKLY, QUICKLY) if quick else (VALIDATING, SCORED)
    validation = strings(parts["validation"], few, seed=1)
    if tuning:
        return Fold("strings", parts["train"], validation, parts["validation"], validation)
    test = strings(parts["test"], many, seed=2)
    return Fold("strings", parts["train"], validation, parts["test"], test)


def official(parts: Mapping[str, list[Clip]], tuning: bool) -> Fold:
    """Leave out the official test, and for tuning the part before it, which is scored instead."""
    learnt, scored = parts["train"], parts["validation"]
    if not tuning:
        learnt, scored = [*learnt, *scored], parts["test"]
    return Fold("official", learnt, [], scored, singles(scored))


def without(clips: Sequence[Clip], speaker: str, tuning: bool) -> Fold:
    """Leave out a speaker; for tuning the next one, too, who is scored in place of the first.

    Example:
        >>> len(without([], "theo", True).train)
        0
    """
    heard = [name for name in SPEAKERS if name != speaker]
    if tuning:
        speaker = heard.pop(SPEAKERS.index(speaker) % len(heard))
    test = select(clips, speakers=[speaker])
    return Fold(speaker, select(clips, speakers=heard), [], test, singles(test))
