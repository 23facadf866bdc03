"""How good translations are: exact match, BLEU and chrF with intervals, against other translators.

BLEU and chrF are those of sacrebleu, over all references of a sentence. Intervals hold 95 % of
1,000 resamples of the sentences, and a system is compared with others on the same resamples: the
paired bootstrap (Koehn, "Statistical Significance Tests for Machine Translation Evaluation", 2004).
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from examples.support.numerals import spell
from examples.support.pairs import Question
from examples.support.translation_baselines import BASELINES

RESAMPLES = 1000
OURS, OURS_GREEDY, LONGER = "this model", "this model, greedy", "seven digits"


def exact(translations: Sequence[str], questions: Sequence[Question]) -> float:
    """The share of translations that are one of the references.

    Example:
        >>> questions = [Question("Hi.", ("Xin chào.", "Chào.")), Question("Run!", ("Chạy đi!",))]
        >>> exact(["Chào.", "Chạy!"], questions)
        0.5
    """
    pairs = zip(translations, questions, strict=True)
    return float(np.mean([translation in question.references for translation, question in pairs]))


def quick_scores(translations: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
    """Exact match, BLEU and chrF without intervals, to choose by.

    Example:
        >>> quick_scores(["Chào bạn."], [Question("Hi.", ("Chào bạn.",))])["chrF"]
        100.0
    """
    references = streams(questions)
    # Of one to three words there is no 4-gram, hence the effective order on small parts.
    bleu = BLEU(force=True, effective_order=True).corpus_score(translations, references)
    return {
        "exact": exact(translations, questions),
        "BLEU": bleu.score,
        "chrF": CHRF().corpus_score(translations, references).score,
    }


def compare(
    systems: Mapping[str, Sequence[str]], questions: Sequence[Question]
) -> dict[str, dict[str, Any]]:
    """Score systems, and compare the first with each of the others by a paired bootstrap.

    Args:
        systems: translations of all questions, by name.
        questions: the sources and their references.

    Returns:
        By name: ``BLEU`` and ``chrF``, each a dict of the score, the ends ``low`` and ``high`` of
        its interval and, but for the first system, ``p``: how often a difference as large as that
        to the first would come by chance; ``signatures`` says how they were computed.
    """
    metrics = {"BLEU": BLEU(force=True), "chrF": CHRF()}
    test = PairedTest(
        [(name, list(translations)) for name, translations in systems.items()],
        metrics,
        streams(questions),
        test_type="bs",
        n_samples=RESAMPLES,
    )
    signatures, table = test()
    found: dict[str, dict[str, Any]] = {name: {} for name in systems}
    columns = zip(metrics, (column for column in table if column != "System"), strict=True)
    for metric, column in columns:
        for name, result in zip(systems, table[column], strict=True):
            found[name][metric] = _interval(result)
    by_metric = zip(metrics, signatures.values(), strict=True)
    return {**found, "signatures": {metric: str(signature) for metric, signature in by_metric}}


def human(questions: Sequence[Question]) -> dict[str, Any]:
    """Score second translations as references of first ones, where there are two."""
    twice = [q for q in questions if len(q.references) > 1]
    asked = [Question(q.source, q.references[1:2]) for q in twice]
    scores = compare({"human": [q.references[0] for q in twice]}, asked)
    return {**scores["human"], "sentences": len(twice)}


def systems(test: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The systems among the scores of a test, people the last."""
    names = [OURS, OURS_GREEDY, *BASELINES, "human"]
    return {name: test[name] for name in names if test[name] is not None}


def streams(questions: Sequence[Question]) -> list[list[Any]]:
    """References as sacrebleu takes them: the first of each question, the second of each….

    Example:
        >>> streams([Question("Hi.", ("Chào.",)), Question("Run!", ("Chạy!", "Chạy đi!"))])
        [['Chào.', 'Chạy!'], [None, 'Chạy đi!']]
    """
    return [list(column) for column in zip_longest(*(q.references for q in questions))]


def numbers_right(translations: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
    """The share of numbers that are right: all, by their digits, and in their last six.

    Example:
        >>> numbers_right(["một", "không trăm linh hai"], ["1", "1000002"])["last_six_digits"]
        1.0
    """
    right = [spell(int(s)) == t for s, t in zip(sources, translations, strict=True)]
    after = [spell(int(source)).split("triệu ")[-1] for source in sources]
    ends = [f" {t}".endswith(f" {words}") for t, words in zip(translations, after, strict=True)]
    digits = [len(source) for source in sources]
    return {
        "exact": float(np.mean(right)),
        "exact_by_digits": {
            str(n): float(np.mean([r for r, d in zip(right, digits, strict=True) if d == n]))
            for n in sorted(set(digits))
        },
        "numbers_by_digits": {str(n): digits.count(n) for n in sorted(set(digits))},
        "last_six_digits": float(np.mean(ends)),
    }


def _interval(result: Any) -> dict[str, float]:
    """A result of sacrebleu as numbers."""
    low, high = result.mean - result.ci, result.mean + result.ci
    found = {"score": float(result.score), "low": float(low), "high": float(high)}
    return found if result.p_value is None else {**found, "p": float(result.p_value)}
