"""How often a recogniser is wrong: error rates by jiwer, a baseline by scikit-learn.

    error rate = (substituted + deleted + inserted) / said,    summed over all utterances

of digits, or of characters where names are spelled (spaces count). Saying nothing scores 100 %. The
baseline is logistic regression on the log-mel frames of one clip, 16 of them at equal distances
less the mean over all of them. Beside a network that hears speakers normalised it is given them so,
too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from examples.support import sound
from examples.support.hearing import Voice
from examples.support.listener import Trained, decode, digit_logits_of, logits_of
from examples.support.speech_folds import Fold, voices_of
from examples.support.spoken_digits import RATE, Clip, Utterance
from examples.support.utterances import Hearing, fixed

FRAMES = 16  # that the baseline sees
STRENGTHS = (0.001, 0.01, 0.1)  # C of the baseline; the best on what is scored is shown
Scores = dict[str, Any]
Voices = Mapping[str, Voice] | None
Table = tuple[NDArray[np.floating], list[int]]


# --- strings ---


def hear_all(trained: Trained, utterances: Sequence[Utterance], hearing: Hearing) -> list[Any]:
    """Score the symbols of all utterances: (logits (T, B, V), lengths (B,)) for each batch."""
    model = trained.model
    return [
        (logits_of(model, trained.params, batch), model.joined(batch.lengths))
        for batch in fixed(utterances, hearing)
    ]


def transcripts(heard: Sequence[Any], spelling: Any, width: int, count: int) -> list[str]:
    """Write all utterances down, by a beam so wide or, with width 0, without one."""
    rows = [row for logits, lengths in heard for row in decode(logits, lengths, width)]
    return [spelling.decode(row) for row in rows[:count]]


def error_rates(said: Sequence[str], written: Sequence[str], by_letter: bool) -> dict[str, float]:
    """The share of digits that are wrong, and of characters where names are spelled.

    Example:
        >>> error_rates(["one two", "six"], ["one to", "six"], by_letter=True)
        {'character_error_rate': 0.1, 'digit_error_rate': 0.3333333333333333}
        >>> error_rates(["1 2", "6"], ["1 2 2", ""], by_letter=False)
        {'digit_error_rate': 0.6666666666666666}
    """
    digits = {"digit_error_rate": float(jiwer.wer(list(said), list(written)))}
    if not by_letter:
        return digits
    return {"character_error_rate": float(jiwer.cer(list(said), list(written))), **digits}


def score_strings(
    trained: Trained, utterances: Sequence[Utterance], hearing: Hearing, width: int
) -> Scores:
    """Error rates of the likeliest path and of the beam."""
    said = [trained.spelling.text(utterance.digits) for utterance in utterances]
    heard = hear_all(trained, utterances, hearing)
    decoders = {"greedy": 0, f"beam of {width}": width} if width else {"greedy": 0}
    decoded = {}
    for name, beam in decoders.items():
        written = transcripts(heard, trained.spelling, beam, len(said))
        decoded[name] = error_rates(said, written, trained.spelling.by_letter)
    digits = sum(len(utterance.digits) for utterance in utterances)
    return {"strings": len(said), "digits": digits, "decoded": decoded}


# --- single digits ---


def share(right: int, count: int) -> Scores:
    """A share that is right, with the Wilson interval that holds it in 95 of 100 samples.

    Example:
        >>> share(292, 300)["interval"]
        [0.948, 0.986]
    """
    interval = binomtest(right, count).proportion_ci(method="wilson")
    bounds = [round(float(bound), 3) for bound in (interval.low, interval.high)]
    return {"accuracy": right / count, "interval": bounds}


def score_digits(trained: Trained, utterances: Sequence[Utterance], hearing: Hearing) -> Scores:
    """The share of digits that are named right."""
    batches = fixed(utterances, hearing)
    found = [digit_logits_of(trained.model, trained.params, batch).argmax(-1) for batch in batches]
    named = np.concatenate(found)[: len(utterances)]
    right = int(sum(named == [utterance.digits[0] for utterance in utterances]))
    return {"digits": len(utterances), **share(right, len(utterances))}


def fixed_frames(clip: Clip, voices: Voices = None) -> NDArray[np.floating]:
    """Log-mel frames of a clip, less its level or its speaker's voice, at 16 equal distances."""
    frames = sound.log_mel(clip.samples, RATE)
    frames = voices[clip.speaker].remove(frames) if voices else frames - frames.mean()
    at = np.linspace(0, len(frames) - 1, FRAMES)
    every = np.arange(len(frames))
    return np.stack([np.interp(at, every, band) for band in frames.T], 1).ravel()


def baseline(folds: Sequence[Fold], *, by_speaker: bool = False) -> list[float]:
    """What logistic regression gets right in each fold, at its best strength."""
    tables = [_tables(fold, voices_of(fold, _log_mel) if by_speaker else None) for fold in folds]
    found = [[_fitted(train, c).score(*test) for train, test in tables] for c in STRENGTHS]
    return max(found, key=np.mean)


def _log_mel(clip: Clip) -> NDArray[np.floating]:
    return sound.log_mel(clip.samples, RATE)


def _tables(fold: Fold, voices: Voices) -> tuple[Table, Table]:
    return _table(fold.train, voices), _table(fold.test, voices)


def _table(clips: Sequence[Clip], voices: Voices) -> Table:
    return np.stack([fixed_frames(clip, voices) for clip in clips]), [c.digit for c in clips]


def _fitted(table: Table, strength: float) -> Pipeline:
    with threadpool_limits(1):  # the products are small: more threads would wait for each other
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
        return model.fit(*table)
