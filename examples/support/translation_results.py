"""What a translator leaves: scores beside baselines, a picture, ten outputs that nobody picked."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax

from examples.support import machine, pairs
from examples.support.markdown import table
from examples.support.pairs import Corpus, Question
from examples.support.translating import GREEDY, Beam
from examples.support.translation_baselines import BASELINES
from examples.support.translation_figures import Alignment, draw
from examples.support.translation_scores import (
    LONGER,
    OURS,
    OURS_GREEDY,
    compare,
    exact,
    human,
    numbers_right,
    systems,
)
from rnnjax import training

FILES = SCORES, PICTURE, TABLES = ("scores.json", "translation.png", "tables.md")
SEVEN_DIGITS = (1_000_000, 9_999_999)  # one more than any number that was learnt has
PACKAGES = ("jax", "flax", "optax", "rnnjax", "sacrebleu", "scikit-learn", "tokenizers")


@dataclass(frozen=True)
class Outcome:
    """A trained translator.

    Attributes:
        corpus: what it has learnt from and is tested on.
        is_numbers: whether it spells numbers.
        fitted: what training left.
        options: the run's.
        beam: how it translates.
        translate: (sources, beam) → translations.
        attend: (source, translation) → the alignment, None without attention.
    """

    corpus: Corpus
    is_numbers: bool
    fitted: training.Fitted
    options: dict[str, Any]
    beam: Beam
    translate: Callable[[Sequence[str], Beam], list[str]]
    attend: Callable[[str, str], Alignment | None]


def score(outcome: Outcome) -> dict[str, Any]:
    """Score the test once, by beam search and greedily, beside what needs no network."""
    questions = pairs.questions(outcome.corpus.test)
    sources = [question.source for question in questions]
    by_beam = outcome.translate(sources, outcome.beam)
    greedy = outcome.translate(sources, GREEDY)
    scores = score_numbers if outcome.is_numbers else score_sentences
    fitted, params = outcome.fitted, jax.tree.leaves(outcome.fitted.state.params)
    assert fitted.best is not None
    return {
        "data": outcome.options["data"],
        "pairs": {name: len(part) for name, part in outcome.corpus._asdict().items()},
        "parameters": sum(leaf.size for leaf in params),
        "training_seconds": fitted.records[-1]["seconds"],
        "compilation_seconds": sum(fitted.compilations.values()),
        "compiled_shapes": len(fitted.compilations),
        "best_step": fitted.best.step,
        "validation": validation_of(fitted),
        "test": scores(outcome, questions, by_beam, greedy),
        "outputs": unpicked(questions, by_beam),
        "options": outcome.options,
        "device": machine.device(),
        "versions": machine.versions(*PACKAGES),
    }


def score_numbers(
    outcome: Outcome, questions: Sequence[Question], by_beam: list[str], greedy: list[str]
) -> dict[str, Any]:
    """The share of numbers that are right, and of those with seven digits."""
    sources = [question.source for question in questions]
    longer = [pair.source for pair in pairs.numbers(*SEVEN_DIGITS, sizes=(0, 0, 1000)).test]
    translations = outcome.translate(longer, outcome.beam)
    return {
        OURS: numbers_right(by_beam, sources),
        OURS_GREEDY: numbers_right(greedy, sources),
        LONGER: numbers_right(translations, longer),
        "seven_digit_outputs": dict(zip(longer[:3], translations[:3], strict=True)),
    }


def score_sentences(
    outcome: Outcome, questions: Sequence[Question], by_beam: list[str], greedy: list[str]
) -> dict[str, Any]:
    """BLEU and chrF with intervals, against what translates without a network, and people.

    The baselines learn from the validation pairs, too.
    """
    known = [*outcome.corpus.train, *outcome.corpus.validation]
    sources = [question.source for question in questions]
    others = {name: baseline(known, sources) for name, baseline in BASELINES.items()}
    everything = pairs.questions([*known, *outcome.corpus.test])
    twice = any(len(question.references) > 1 for question in everything)
    return {
        **compare({OURS: by_beam, OURS_GREEDY: greedy, **others}, questions),
        "human": human(everything) if twice else None,
        "exact": exact(by_beam, questions),
        "sentences": len(questions),
    }


def validation_of(fitted: training.Fitted) -> dict[str, float]:
    """The scores of the params that are kept."""
    assert fitted.best is not None
    best = next(record for record in fitted.records if record["step"] == fitted.best.step)
    name = "validation_"
    return {n.removeprefix(name): value for n, value in best.items() if n.startswith(name)}


def unpicked(questions: Sequence[Question], translations: Sequence[str]) -> list[dict[str, Any]]:
    """Ten outputs: those whose sources have the lowest hashes."""
    asked = zip(questions, translations, strict=True)
    order = sorted(asked, key=lambda pair: sha256(pair[0].source.encode()).hexdigest())
    return [
        {"source": q.source, "references": list(q.references), "output": translation}
        for q, translation in order[:10]
    ]


# --- what is kept ---


def keep(folder: Path, outcome: Outcome, scores: dict[str, Any]) -> None:
    """Write the scores, the outputs and the picture."""
    text = json.dumps(scores, indent=2, default=str, ensure_ascii=False)
    (folder / SCORES).write_text(text + "\n", "utf-8")
    tables = [] if outcome.is_numbers else [table_of_systems(scores["test"])]
    tables.append(table_of_outputs(scores["outputs"]))
    (folder / TABLES).write_text("\n".join(tables), "utf-8")
    first = scores["outputs"][0]
    alignment = outcome.attend(first["source"], first["output"])
    draw(scores, alignment).savefig(folder / PICTURE, dpi=150)


def table_of_outputs(outputs: Sequence[dict[str, Any]]) -> str:
    """The ten outputs in Markdown.

    Example:
        >>> outputs = [{"source": "1", "references": ["một"], "output": "hai"}]
        >>> print(table_of_outputs(outputs), end="")
        | source | reference | output |
        | --- | --- | --- |
        | 1 | một | hai |
    """
    rows = [[o["source"], " / ".join(o["references"]), o["output"]] for o in outputs]
    return table([["source", "reference", "output"], *rows])


def table_of_systems(test: dict[str, Any]) -> str:
    """BLEU and chrF of all systems in Markdown, with p of the difference in BLEU to the first."""
    rows = [
        [
            name,
            words_of(found["BLEU"]),
            words_of(found["chrF"]),
            f"{found['BLEU']['p']:.3f}" if "p" in found["BLEU"] else "",
        ]
        for name, found in systems(test).items()
    ]
    return table([["", "BLEU", "chrF", "p"], *rows])


def say(scores: dict[str, Any]) -> None:
    """Print how the model did, beside the others."""
    test = scores["test"]
    if LONGER in test:
        for name in (OURS, OURS_GREEDY, LONGER):
            print(f"{name:20} {test[name]['exact']:7.2%} right", end="")
            print(f", {test[name]['last_six_digits']:.2%} from the last six digits on")
        return
    for name, found in systems(test).items():
        measured = (f"{m} {words_of(found[m])}" for m in ("BLEU", "chrF"))
        print(f"{name:20} {'   '.join(measured)}")
    for signature in test["signatures"].values():
        print(signature)


def words_of(found: dict[str, float]) -> str:
    """A score and its interval.

    Example:
        >>> words_of({"score": 12.34, "low": 10.0, "high": 14.0, "p": 0.001})
        '12.3 [10.0, 14.0]'
    """
    return f"{found['score']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
