"""How good captions are: exact ones, chrF, new words; beside what needs no network.

chrF is that of sacrebleu. Intervals of shares that are exact are Wilson's and hold 95 % of samples
of as many pictures.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.chrf import CHRF
from scipy.stats import binomtest
from sklearn.neighbors import NearestNeighbors

from examples.support.albums import Album


def quick_scores(said: Sequence[str], captions: Sequence[str]) -> dict[str, float]:
    """The share that is exact, and chrF.

    Example:
        >>> quick_scores(["A frog.", "A cat."], ["A frog.", "A dog."])["exact"]
        0.5
    """
    exact = np.mean([one == other for one, other in zip(said, captions, strict=True)])
    return {"exact": float(exact), "chrF": CHRF().corpus_score(said, [captions]).score}


def scores_of(said: Sequence[str], captions: Sequence[str]) -> dict[str, Any]:
    """The same with the interval of the exact ones."""
    scores = quick_scores(said, captions)
    right = round(scores["exact"] * len(captions))
    interval = binomtest(right, len(captions)).proportion_ci(method="wilson")
    return {**scores, "low": float(interval.low), "high": float(interval.high)}


def most_frequent(known: Album, pictures: NDArray) -> list[str]:
    """The caption that is learnt most often, whatever the picture; of several the first."""
    return [Counter(known.captions).most_common(1)[0][0]] * len(pictures)


def nearest(known: Album, pictures: NDArray) -> list[int]:
    """For each picture the place of the known one that is nearest, pixel by pixel."""
    flat = [p.reshape(len(p), -1).astype(np.float32) for p in (known.pictures, pictures)]
    model = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(flat[0])
    return model.kneighbors(flat[1], return_distance=False)[:, 0].tolist()


def baselines(known: Album, pictures: NDArray) -> dict[str, list[str]]:
    """What is said without a network."""
    return {
        "most frequent caption": most_frequent(known, pictures),
        "nearest picture": [known.captions[k] for k in nearest(known, pictures)],
    }


def words(caption: str) -> set[str]:
    """The words of a caption, in small letters."""
    return set(re.findall(r"\w+", caption.lower()))


def with_new_words(known: Sequence[str], captions: Sequence[str]) -> float:
    """The share of captions with a word that stands in no known one.

    Example:
        >>> with_new_words(["A red frog."], ["A frog.", "A blue frog."])
        0.5
    """
    seen = set().union(*map(words, known))
    return float(np.mean([not words(caption) <= seen for caption in captions]))


def copied(known: Sequence[str], said: Sequence[str]) -> float:
    """The share of what is said that is a known caption, word for word."""
    return float(np.mean([caption in set(known) for caption in said]))
