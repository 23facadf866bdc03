"""What translates without a network: the source itself, word for word, the nearest known source."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from sklearn.feature_extraction.text import TfidfVectorizer

from examples.support.pairs import Pair

Baseline = Callable[[Sequence[Pair], Sequence[str]], list[str]]
"""(pairs to learn from, sources) → translations."""

TOKEN = r"\w+|[^\w\s]"  # a word, or a punctuation mark


def copy(train: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """The source as it is."""
    del train
    return list(sources)


def nearest(train: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """The translation of the training source that is nearest by the cosine of tf-idf vectors.

    The vectors are of lower-cased words and punctuation marks; of equally near ones the first.
    """
    vectorizer = TfidfVectorizer(token_pattern=f"(?u){TOKEN}")
    known = vectorizer.fit_transform([pair.source for pair in train])
    closest = (vectorizer.transform(sources) @ known.T).toarray().argmax(axis=1)
    return [train[i].target for i in closest]


def word_for_word(train: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """Each word by the target word of the highest Dice coefficient, in the order of the source.

    2 n(e, f) / (n(e) + n(f)), n counting the training pairs that hold a word, or both, in whatever
    case; pairs of words that met once do not count. A word for which there is none stays. The case
    is that which a word has most often inside a sentence; the first letter of all is a capital.

    Example:
        >>> word_for_word([Pair("A red cat.", "Un chat rouge."), Pair("Red!", "Rouge !")], ["Red!"])
        ['Rouge !']
    """
    alone: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    together: Counter[tuple[str, str]] = Counter()
    forms: dict[str, Counter[str]] = {}
    for pair in train:
        source, target = (words(side) for side in pair)
        for form in target[1:]:
            forms.setdefault(form.lower(), Counter())[form] += 1
        sides = [{word.lower() for word in side} for side in (source, target)]
        for count, side in zip(alone, sides, strict=True):
            count.update(side)
        together.update((e, f) for e in sides[0] for f in sides[1])
    best: dict[str, tuple[float, str]] = {}
    for (e, f), n in together.items():
        if n > 1:
            best[e] = max(best.get(e, (0.0, "")), (2 * n / (alone[0][e] + alone[1][f]), f))

    def translate(word: str) -> str:
        if word.lower() not in best:
            return word
        _, found = best[word.lower()]
        return forms[found].most_common(1)[0][0] if found in forms else found

    written = (" ".join(translate(word) for word in words(source)) for source in sources)
    return [text[:1].upper() + text[1:] for text in written]


def words(text: str) -> list[str]:
    """Words and punctuation marks."""
    return re.findall(TOKEN, text)


BASELINES: dict[str, Baseline] = {
    "copy": copy,
    "word for word": word_for_word,
    "nearest source": nearest,
}
