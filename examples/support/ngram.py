"""Interpolated modified Kneser-Ney: the n-gram baseline for character language models.

With g = u w a k-gram (context u, symbol w) and u' the context without its leftmost symbol,

    p_k(w | u) = (c(u w) - D(c(u w))) / c(u)  +  gamma(u) p_{k-1}(w | u'),
    gamma(u)   = sum_w D(c(u w)) / c(u),        c(u) = sum_w c(u w),
    p_0(w)     = 1 / V,

where c is the number of occurrences at the highest order and the number of distinct left
contexts below it, and D takes three values an order (D1, D2, D3+), estimated from the counts of
counts n_r, the number of k-grams with c = r:

    Y = n_1 / (n_1 + 2 n_2),        D_r = r - (r + 1) Y n_{r+1} / n_r,        r = 1, 2, 3.

A context that was never continued in training has c(u) = 0, and p_k(w | u) = p_{k-1}(w | u').

Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling",
TR-10-98, Harvard University, 1998, section 3. What differs: the unigrams interpolate with the
uniform distribution, so no symbol has probability 0; the beginning of the training text counts
as one more left context; and a D_r whose counts of counts say nothing (n_r = 0, or an estimate
outside (0, r)) is r / 2, as in KenLM's `--discount_fallback`. That is the rule rather than the
exception for the few unigrams of an alphabet.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Level(NamedTuple):
    """One order k of the model: G distinct k-grams over C distinct contexts.

    A k-gram is known by its rank among the sorted keys (rank of its context) V + symbol, so that
    any V and any order fit in 64 bits. Rank -1 stands for "not seen": it picks the last entry.
    """

    keys: NDArray[np.int64]  # (G + 1,) ascending; the last is larger than any key
    kept: NDArray[np.float64]  # (G + 1,) (c(u w) - D) / c(u); the last is 0
    gamma: NDArray[np.float64]  # (C + 1,) weight of the order below; the last is 1

    def rank(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rank of each key among this level's k-grams, -1 where it was not seen."""
        at = np.searchsorted(self.keys, keys)
        return np.where(self.keys[at] == keys, at, -1)


@dataclass(frozen=True)
class NGram:
    """A fitted model: `levels[k - 1]` is the order k."""

    vocabulary_size: int
    levels: tuple[Level, ...]

    def log_probabilities(self, tokens: ArrayLike, history: ArrayLike = ()) -> NDArray[np.float64]:
        """Natural log of p(token_i | up to order - 1 tokens before it), (n,).

        The first tokens see a shorter context, unless `history` gives what came before them.

        Args:
            tokens: (n,) integers in [0, V).
            history: (m,) integers in [0, V), oldest first; used as context only.

        Raises:
            ValueError: tokens or history are not one row of integers in [0, V).

        Example:
            >>> model = KneserNey(order=2, vocabulary_size=3).fit([0, 1, 0, 1, 0, 2])
            >>> p = np.exp(model.log_probabilities([0], history=[1]))[0]
            >>> round(float(p), 4)  # 1/2 + 1/2 (1/4 + 1/2 1/3) = 17/24
            0.7083
        """
        before = _checked("history", history, self.vocabulary_size)
        after = _checked("tokens", tokens, self.vocabulary_size)
        text = np.concatenate([before, after])
        return np.log(self._probabilities(text)[len(before) :])

    def _probabilities(self, text: NDArray[np.int64]) -> NDArray[np.float64]:
        p = np.full(len(text), 1 / self.vocabulary_size)
        context = np.zeros(len(text), np.int64)  # every token has the empty context
        for level in self.levels:
            # A context of rank -1 makes a negative key, which no level holds.
            gram = level.rank(context * self.vocabulary_size + text)
            p = level.kept[gram] + level.gamma[context] * p
            context = np.concatenate([[-1], gram[:-1]])[: len(text)]
        return p


@dataclass(frozen=True)
class KneserNey:
    """Interpolated modified Kneser-Ney of one order; the equations are in the module docstring.

    Order 1 is the unigram baseline: relative frequencies, discounted and interpolated with the
    uniform distribution (maximum likelihood gives a symbol it has not seen an infinite loss).

    Raises:
        ValueError: order or vocabulary_size is below 1.
    """

    order: int
    vocabulary_size: int

    def __post_init__(self):
        for name in ("order", "vocabulary_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"KneserNey: {name} must be at least 1; got {value}.")

    def fit(self, tokens: ArrayLike) -> NGram:
        """Count the n-grams of one training text.

        Args:
            tokens: (n,) integers in [0, V), n >= 1.

        Raises:
            ValueError: tokens are empty, or not one row of integers in [0, V).
        """
        text = _checked("tokens", tokens, self.vocabulary_size)
        if not len(text):
            raise ValueError("KneserNey.fit: expected at least 1 token; got none.")
        keys, grams = _ranked_grams(text, self.order, self.vocabulary_size)
        counts = [*map(_left_contexts, grams[1:-1], grams[2:]), np.bincount(grams[-1])]
        contexts = [1, *map(len, keys)]
        levels = [
            _level(k, c, n, self.vocabulary_size)
            for k, c, n in zip(keys, counts, contexts[:-1], strict=True)
        ]
        return NGram(self.vocabulary_size, tuple(levels))


def cross_entropy(train: ArrayLike, test: ArrayLike, order: int, vocabulary_size: int) -> float:
    """Mean of -log p(token | tokens before it) over `test`, in nats a token.

    Raises:
        ValueError: test is empty, or as `KneserNey`, `KneserNey.fit` and `log_probabilities`.

    Example:
        >>> round(cross_entropy([0, 1, 2] * 50, [0, 1, 2] * 5, order=3, vocabulary_size=3), 3)
        0.096
    """
    scores = KneserNey(order, vocabulary_size).fit(train).log_probabilities(test)
    if not len(scores):
        raise ValueError("cross_entropy: expected at least 1 token in test; got none.")
    return -float(np.mean(scores))


def _checked(name: str, tokens: ArrayLike, vocabulary_size: int) -> NDArray[np.int64]:
    array = np.asarray(tokens)
    if array.ndim == 1 and not array.size:
        return np.zeros(0, np.int64)  # an empty list reads as float64
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be (n,) integers; got shape {array.shape}, dtype {array.dtype}."
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocabulary_size:
        raise ValueError(
            f"{name} must lie in [0, vocabulary_size) = [0, {vocabulary_size}); got values from "
            f"{low} to {high}. Encode them with the vocabulary whose size was given."
        )
    return array.astype(np.int64)


def _ranked_grams(
    text: NDArray[np.int64], order: int, vocabulary_size: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Sorted distinct keys of the orders 1..order, and the rank of each window of 0..order.

    Entry j of `grams[k]` (n - k + 1,) is the rank of text[j : j + k].
    """
    keys, grams = [], [np.zeros(len(text) + 1, np.int64)]
    for k in range(1, order + 1):
        key = grams[-1][:-1] * vocabulary_size + text[k - 1 :]
        distinct, rank = np.unique(key, return_inverse=True)
        keys.append(distinct)
        grams.append(rank)
    return keys, grams


def _left_contexts(grams: NDArray[np.int64], longer: NDArray[np.int64]) -> NDArray[np.int64]:
    """N_{1+}(. g): how many distinct symbols stand before each k-gram g, from the (k+1)-grams."""
    suffix = np.zeros(longer.max(initial=-1) + 1, np.int64)
    suffix[longer] = grams[1:]  # occurrences of one (k+1)-gram all write the same suffix
    counts = np.bincount(suffix, minlength=grams.max(initial=-1) + 1)
    counts[grams[:1]] += 1  # the beginning of the text stands before its first k-gram
    return counts


def _discounts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """D_0 = 0, D_1, D_2, D_{3+}, (4,)."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)
    r = np.arange(1, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = n[1] / (n[1] + 2 * n[2])
        d = r - (r + 1) * y * n[2:5] / n[1:4]
    return np.concatenate([[0.0], np.where((d > 0) & (d < r), d, r / 2)])


def _level(
    keys: NDArray[np.int64], counts: NDArray[np.int64], contexts: int, vocabulary_size: int
) -> Level:
    discount = _discounts(counts)[np.minimum(counts, 3)]
    context = keys // vocabulary_size
    total = np.bincount(context, counts, contexts)  # (C,)
    spared = np.bincount(context, discount, contexts)
    gamma = np.divide(spared, total, out=np.ones(contexts), where=total > 0)
    kept = (counts - discount) / total[context]
    return Level(
        np.append(keys, np.iinfo(np.int64).max), np.append(kept, 0.0), np.append(gamma, 1.0)
    )
