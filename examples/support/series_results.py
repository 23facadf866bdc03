"""What the classification of series leaves: scores of all seeds beside baselines, a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score

from examples.support import classifier, machine, series_figures
from examples.support.classifier import Classifier
from examples.support.labelled_series import Batch, Parts, batch_of
from examples.support.series_baselines import Baselines

FILES = SCORES, PICTURE = ("scores.json", "classes.png")
PACKAGES = ("jax", "optax", "rnnjax", "scikit-learn")


def named(model: Classifier, params: Any, batch: Batch, steps: int | None = None) -> NDArray:
    """The class of each series, or that of its first steps."""
    lengths = batch.lengths if steps is None else np.minimum(batch.lengths, steps)
    return np.asarray(classifier.named(model, params, batch._replace(lengths=lengths)))


def scores_of(model: Classifier, params: Any, parts: Parts) -> dict[str, Any]:
    """What one network gets right of the test, of whole series and of their first steps."""
    batch = batch_of(parts.test)
    found = named(model, params, batch)
    steps = range(1, len(batch.xs) + 1)
    return {
        "accuracy": _share(found, batch.labels),
        "macro_f1": float(f1_score(batch.labels, found, average="macro")),
        "by_steps": [_share(named(model, params, batch, k), batch.labels) for k in steps],
        "confusion": confusion_matrix(
            batch.labels, found, labels=range(len(parts.test.classes))
        ).tolist(),
    }


def _share(found: NDArray, labels: NDArray) -> float:
    return float(np.mean(found == labels))


def summary(
    parts: Parts, seeds: Sequence[dict[str, Any]], options: dict[str, Any]
) -> dict[str, Any]:
    """All seeds beside the baselines."""
    baselines, count = Baselines(parts), len(parts.test.labels)
    accuracies = [seed["accuracy"] for seed in seeds]
    mean = float(np.mean(accuracies))
    interval = binomtest(round(mean * count), count).proportion_ci(method="wilson")
    longest = max(len(x) for x in parts.test.series)
    return {
        "series": {name: len(part.labels) for name, part in parts._asdict().items()},
        "classes": list(parts.test.classes),
        "accuracy": mean,
        "deviation": float(np.std(accuracies, ddof=1)) if len(seeds) > 1 else None,
        "interval": [float(interval.low), float(interval.high)],
        "macro_f1": float(np.mean([seed["macro_f1"] for seed in seeds])),
        "baselines": baselines.scores(),
        "strength": baselines.strength,
        "by_steps": np.mean([seed["by_steps"] for seed in seeds], 0).tolist(),
        "baseline_by_steps": baselines.by_steps(longest),
        "confusion": np.sum([seed["confusion"] for seed in seeds], 0).tolist(),
        "seeds": [{k: v for k, v in seed.items() if k != "confusion"} for seed in seeds],
        "options": options,
        "device": machine.device(),
        "versions": machine.versions(*PACKAGES),
    }


def keep(out: Path, scores: dict[str, Any]) -> None:
    """Write the scores and the picture."""
    text = json.dumps(scores, indent=2, default=str, ensure_ascii=False)
    (out / SCORES).write_text(text + "\n", "utf-8")
    series_figures.draw(scores).savefig(out / PICTURE, dpi=150)


def say(scores: dict[str, Any]) -> None:
    """Print how the networks did, beside the others."""
    each = ", ".join(f"{seed['accuracy']:.1%}" for seed in scores["seeds"])
    low, high = scores["interval"]
    count = scores["series"]["test"]
    print(f"{count} series of the test, right on the mean of the seeds:")
    print(f"  {'this model':22}{scores['accuracy']:7.1%}  ({each})")
    for name, share in scores["baselines"].items():
        print(f"  {name:22}{share:7.1%}")
    print(f"a mean of {count} series is uncertain: 95 % interval {low:.1%}–{high:.1%}")
