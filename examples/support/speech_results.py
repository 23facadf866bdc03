"""What a run of the speech example leaves: lines to read, scores, a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from examples.support import machine, speech_figures, speech_scores
from examples.support.listener import Trained
from examples.support.speech_folds import Fold
from examples.support.spoken_digits import Utterance
from examples.support.utterances import Hearing
from rnnjax import training

FILES = SCORES, PICTURE = ("scores.json", "picture.png")
BASELINE = "logistic_regression"
TYPICAL = 5  # digits of the string that is drawn
LABELS = {
    "digit_error_rate": "digit error rate",
    "character_error_rate": "character error rate",
    "accuracy": "right",
}


class Result(NamedTuple):
    """What became of one fold."""

    trained: Trained
    scores: dict[str, Any]


def result_of(
    fold: Fold, trained: Trained, fitted: training.Fitted, hearing: Hearing, width: int
) -> Result:
    """Score a network on what it has not learnt from."""
    if trained.single:
        scores = speech_scores.score_digits(trained, fold.scored, hearing)
    else:
        scores = speech_scores.score_strings(trained, fold.scored, hearing, width)
    last = fitted.records[-1]
    learnt = {
        "training_clips": len(fold.train),
        "training_seconds": last["seconds"],
        "compilation_seconds": sum(fitted.compilations.values()),
        "best_step": last["step"] if fitted.best is None else fitted.best.step,
        **{name: last[name] for name in last if name.startswith("validation_")},
        "too_short": float(np.mean([r.get("too_short", 0.0) for r in fitted.records])),
    }
    return Result(trained, {"fold": fold.name, **scores, **learnt})


def say(result: Result) -> None:
    """Print what became of a fold."""
    scores = result.scores
    print(f"{scores['fold']}, {scores['training_seconds']:.0f} s of training:")
    if result.trained.single:
        low, high = scores["interval"]
        print(f"  {_words('accuracy', scores['accuracy'])} (95 %: {low:.1%}–{high:.1%})")
    for name, row in scores["decoded"].items() if "decoded" in scores else ():
        print(f"  {name:12} " + ", ".join(_words(measure, row[measure]) for measure in row))


def keep(
    out: Path, folds: Sequence[Fold], results: Sequence[Result], options: dict[str, Any]
) -> None:
    """Compare with the baseline; write the scores and the picture."""
    scores: dict[str, Any] = {"folds": [result.scores for result in results]}
    if results[0].trained.single:
        scores |= _compared(folds, results, options["normalise"] == "speaker")
    scores |= {
        "options": options,
        "device": machine.device(),
        "versions": machine.versions("jax", "optax", "rnnjax", "jiwer", "scikit-learn"),
    }
    text = json.dumps(scores, indent=2, ensure_ascii=False, default=str)
    (out / SCORES).write_text(text + "\n", "utf-8")
    if results[0].trained.single:
        figure = speech_figures.bars(scores["folds"])
    else:
        figure = speech_figures.spikes(results[0].trained, _shown(folds[0]), options["beam"])
    figure.savefig(out / PICTURE, dpi=150)
    print(f"See {out / PICTURE}.")


def _compared(
    folds: Sequence[Fold], results: Sequence[Result], by_speaker: bool
) -> dict[str, float]:
    """Put the baseline beside each fold, and the means."""
    levels = {BASELINE: speech_scores.baseline(folds)}
    if by_speaker:
        levels[f"{BASELINE}_by_speaker"] = speech_scores.baseline(folds, by_speaker=True)
    for name, each in levels.items():
        for result, level in zip(results, each, strict=True):
            result.scores[name] = level
    for name in ("accuracy", *levels):
        each = [result.scores[name] for result in results]
        print(f"{name.replace('_', ' '):32} {', '.join(f'{level:.1%}' for level in each)}")
    means = {n: float(np.mean([r.scores[n] for r in results])) for n in ("accuracy", *levels)}
    print("mean: " + ", ".join(f"{name.replace('_', ' ')} {m:.1%}" for name, m in means.items()))
    return means


def _shown(fold: Fold) -> Utterance:
    """The first string that is neither short nor long."""
    return min(fold.scored, key=lambda utterance: abs(len(utterance.digits) - TYPICAL))


def _words(measure: str, value: float) -> str:
    return f"{LABELS[measure]} {value:.2%}"
