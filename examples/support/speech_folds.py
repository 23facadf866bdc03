"""What is learnt from, what validates, and what is scored once: clips that have none in common.

    strings             numbers 10–49, 5–9, 0–4; 500 strings to be scored on, 200 to validate
    digit, official     the same numbers, each clip by itself
    digit, speaker      six folds: all clips of five speakers, those of the sixth to be scored on;
                        nothing validates, because all else has been learnt from

For tuning what validates is scored; with speakers, another fold's speaker is left out as well.
"""

from collections.abc import Callable, Sequence
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
    rest: list[Clip]  # neither learnt from nor scored, by networks; the baseline learns from them


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
    return [by_number(clips, task == "digit", tuning, quick)]


def by_number(clips: Sequence[Clip], single: bool, tuning: bool, quick: bool) -> Fold:
    """Divide the clips by their numbers."""
    parts = {name: select(clips, numbers) for name, numbers in PARTS.items()}
    scored = "validation" if tuning else "test"
    if single:
        utterances = {name: singles(part) for name, part in parts.items()}
        validation, test = utterances["validation"], utterances[scored]
    else:
        few, many = (QUICKLY, QUICKLY) if quick else (VALIDATING, SCORED)
        validation = strings(parts["validation"], few, seed=1)
        test = validation if tuning else strings(parts["test"], many, seed=2)
    name = "official" if single else "strings"
    rest = [] if tuning else parts["validation"]
    return Fold(name, parts["train"], validation, parts[scored], test, rest)


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
    return Fold(speaker, select(clips, speakers=heard), [], test, singles(test), [])
