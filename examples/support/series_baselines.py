"""What classifies series without a recurrent network: over a fixed number of frames.

A series of any length becomes 15 frames at equal distances, between its own ones by interpolation;
where all have one length, its own ones. Those, side by side and each of mean 0 and spread 1, are
what logistic regression and the nearest neighbour see. They learn from what validates, too; the
strength of the regression is chosen as a network's epoch is, before.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from examples.support.labelled_series import Parts
from examples.support.ts_files import Cases

FRAMES = 15
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
REGRESSION, NEAREST = "logistic regression", "nearest series"


def resampled(series: Sequence[NDArray], frames: int) -> NDArray[np.floating]:
    """So many frames of each series (T, D) at equal distances, side by side: (n, frames · D).

    Example:
        >>> resampled([np.array([[0.0], [2.0]]), np.array([[5.0]])], 3).tolist()
        [[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]
    """
    return np.stack([_frames_of(x, np.linspace(0, len(x) - 1, frames)) for x in series])


def _frames_of(x: NDArray, at: NDArray) -> NDArray[np.floating]:
    return np.stack([np.interp(at, np.arange(len(x)), channel) for channel in x.T], 1).ravel()


def heard(cases: Cases, steps: int | None) -> list[NDArray]:
    """The first steps of each series."""
    return [x[:steps] for x in cases.series]


class Baselines:
    """Both of them, for the parts of one task.

    Args:
        parts: to learn from and to choose on.
    """

    def __init__(self, parts: Parts):
        self._parts = parts
        lengths = {len(x) for part in parts for x in part.series}
        self._frames = lengths.pop() if len(lengths) == 1 else FRAMES
        train, validation = (self._table(part) for part in parts[:2])
        fitted = {c: _regression(c, *train).score(*validation) for c in STRENGTHS}
        self.strength = max(fitted, key=fitted.__getitem__)

    def scores(self) -> dict[str, float]:
        """The share of the test that each gets right."""
        learnt, test = self._table(self._parts.learnt), self._table(self._parts.test)
        nearest = make_pipeline(StandardScaler(), KNeighborsClassifier(1)).fit(*learnt)
        regression = _regression(self.strength, *learnt)
        return {
            REGRESSION: float(regression.score(*test)),
            NEAREST: float(nearest.score(*test)),
            "most frequent class": _majority(self._parts),
        }

    def by_steps(self, most: int) -> list[float]:
        """The same of a regression for each number of steps heard, 1 … most, of each series."""
        return [
            float(
                _regression(self.strength, *self._table(self._parts.learnt, steps)).score(
                    *self._table(self._parts.test, steps)
                )
            )
            for steps in range(1, most + 1)
        ]

    def _table(self, cases: Cases, steps: int | None = None) -> tuple[NDArray, NDArray]:
        return resampled(heard(cases, steps), self._frames), cases.labels


def _regression(strength: float, frames: NDArray, labels: NDArray) -> Pipeline:
    with threadpool_limits(1):  # the products are small: more threads would wait for each other
        model = LogisticRegression(C=strength, max_iter=2000)
        return make_pipeline(StandardScaler(), model).fit(frames, labels)


def _majority(parts: Parts) -> float:
    most = np.bincount(parts.learnt.labels).argmax()
    return float(np.mean(parts.test.labels == most))
