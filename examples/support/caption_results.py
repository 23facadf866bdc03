"""What a captioner leaves: scores beside baselines, ten captions that nobody picked, a picture."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
from numpy.typing import NDArray
from PIL import Image
from sacrebleu.metrics.chrf import CHRF

from examples.support import caption_figures, caption_scores, machine
from examples.support.albums import Album, Lesson
from examples.support.caption_scores import scores_of
from examples.support.describing import GREEDY, Beam
from examples.support.markdown import table
from rnnjax import training

FILES = SCORES, PICTURE, TABLES, EXAMPLES = ("scores.json", "captions.png", "tables.md", "examples")
OURS, OURS_GREEDY = "this model", "this model, greedy"
PACKAGES = ("jax", "flax", "optax", "rnnjax", "pillow", "sacrebleu", "scikit-learn", "tokenizers")
UNPICKED, KEPT = 10, 3


@dataclass(frozen=True)
class Outcome:
    """A trained captioner.

    Attributes:
        lesson: what it has learnt from and is tested on.
        fitted: what training left.
        options: the run's.
        beam: how it writes.
        describe: (pictures, beam) → captions.
        look: (picture, caption) → its symbols and where it looked for each, or None.
    """

    lesson: Lesson
    fitted: training.Fitted
    options: dict[str, Any]
    beam: Beam
    describe: Callable[[NDArray, Beam], list[str]]
    look: Callable[[NDArray, str], tuple[list[str], NDArray] | None]


def score(outcome: Outcome) -> dict[str, Any]:
    """Score each test once, by beam search and greedily, beside what needs no network."""
    fitted, lesson = outcome.fitted, outcome.lesson
    assert fitted.best is not None
    best = next(r for r in fitted.records if r["step"] == fitted.best.step)
    validated = {n: best[n] for n in best if n.startswith("validation_")}
    tests = {name: score_test(outcome, name, album) for name, album in lesson.tests.items()}
    return {
        "data": lesson.name,
        "pictures": {name: len(album.captions) for name, album in lesson.tests.items()},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(fitted.state.params)),
        "training_seconds": fitted.records[-1]["seconds"],
        "compilation_seconds": sum(fitted.compilations.values()),
        "best_step": fitted.best.step,
        **validated,
        "tests": {name: found["scores"] for name, found in tests.items()},
        "outputs": {name: found["outputs"] for name, found in tests.items()},
        "options": outcome.options,
        "device": machine.device(),
        "versions": machine.versions(*PACKAGES),
    }


def score_test(outcome: Outcome, name: str, test: Album) -> dict[str, Any]:
    """Score one test: what each says, and ten captions."""
    known = outcome.lesson.known
    systems = {
        OURS: outcome.describe(test.pictures, outcome.beam),
        OURS_GREEDY: outcome.describe(test.pictures, GREEDY),
        **caption_scores.baselines(known, test.pictures),
        **{other: said[name] for other, said in outcome.lesson.others.items()},
    }
    ours = systems[OURS]
    scores: dict[str, Any] = {n: scores_of(said, test.captions) for n, said in systems.items()}
    scores["with_new_words"] = caption_scores.with_new_words(known.captions, test.captions)
    scores["copied"] = caption_scores.copied(known.captions, ours)
    outputs = [
        {
            "place": k,
            "caption": test.captions[k],
            "output": ours[k],
            "nearest_picture": systems["nearest picture"][k],
            "nearest_known_caption": nearest_caption(known.captions, ours[k]),
        }
        for k in unpicked(test)
    ]
    return {"scores": scores, "outputs": outputs}


def nearest_caption(known: Sequence[str], said: str) -> str:
    """The known caption that is nearest by chrF; the same one, where it was copied."""
    metric = CHRF()
    if said in known:
        return said
    return max(sorted(set(known)), key=lambda one: metric.sentence_score(said, [one]).score)


def unpicked(test: Album) -> list[int]:
    """Ten places: those whose pictures have the lowest hashes."""
    hashes = [sha256(picture.tobytes()).hexdigest() for picture in test.pictures]
    return sorted(range(len(hashes)), key=hashes.__getitem__)[:UNPICKED]


# --- what is kept ---


def keep(out: Path, outcome: Outcome, scores: dict[str, Any]) -> None:
    """Write the scores, the tables, the picture, and a few pictures to try the model on."""
    text = json.dumps(scores, indent=2, default=str, ensure_ascii=False)
    (out / SCORES).write_text(text + "\n", "utf-8")
    tables = [table_of_systems(scores["tests"]), *map(table_of_outputs, scores["outputs"].values())]
    (out / TABLES).write_text("\n".join(tables), "utf-8")
    drawn = outcome.lesson.tests
    if next(iter(drawn.values())).pictures.shape[-1] not in (1, 3):
        return  # features of another network cannot be shown
    caption_figures.draw(drawn, scores["outputs"], outcome.look).savefig(out / PICTURE, dpi=150)
    (out / EXAMPLES).mkdir(exist_ok=True)
    for name, album in drawn.items():
        for k in unpicked(album)[:KEPT]:
            image = Image.fromarray(caption_figures.shown(album.pictures[k]))
            image.save(out / EXAMPLES / f"{name.replace(' ', '-')}-{k}.png")


def table_of_systems(tests: dict[str, dict[str, Any]]) -> str:
    """The exact captions and chrF of all who say something, in Markdown.

    Example:
        >>> scores = {"exact": 0.5, "low": 0.1, "high": 0.9, "chrF": 61.25}
        >>> print(table_of_systems({"seen": {"this model": scores, "copied": 0.3}}), end="")
        |  | seen: exact | chrF |
        | --- | --- | --- |
        | this model | 50.0 % [10.0, 90.0] | 61.2 |
    """
    heads = [cell for name in tests for cell in (f"{name}: exact", "chrF")]
    first = next(iter(tests.values()))
    rows = [
        [system, *(cell for test in tests.values() for cell in _cells(test[system]))]
        for system, found in first.items()
        if isinstance(found, dict)
    ]
    return table([["", *heads], *rows])


def _cells(found: dict[str, float]) -> list[str]:
    return [words_of(found), f"{found['chrF']:.1f}"]


def words_of(found: dict[str, float]) -> str:
    """The share of exact captions and its interval.

    Example:
        >>> words_of({"exact": 0.5, "low": 0.1, "high": 0.9})
        '50.0 % [10.0, 90.0]'
    """
    exact, low, high = (100 * found[name] for name in ("exact", "low", "high"))
    return f"{exact:.1f} % [{low:.1f}, {high:.1f}]"


def table_of_outputs(outputs: Sequence[dict[str, Any]]) -> str:
    """Ten captions in Markdown."""
    names = ("caption", "output", "nearest_picture", "nearest_known_caption")
    heads = ["caption", "this model says", "of the nearest picture", "nearest known caption"]
    return table([heads, *([output[name] for name in names] for output in outputs)])


def say(scores: dict[str, Any]) -> None:
    """Print how the model did, beside the others."""
    for name, test in scores["tests"].items():
        print(f"{name}, {scores['pictures'][name]:,} pictures, exact captions and chrF:")
        for system, found in test.items():
            if isinstance(found, dict):
                print(f"  {system:36} {found['exact']:6.1%}  {found['chrF']:5.1f}")
        print(f"  {test['with_new_words']:.1%} of the captions have a word that was never learnt;")
        print(f"  {test['copied']:.1%} of what the model says is a caption among those learnt")
