"""Classification of series: one answer for many steps.

A GRU reads a series x_1 … x_T in both directions, and the mean of what it has found at each of its
steps is classified (support/classifier.py):

    p(class | x) = softmax(W (1/T Σ_t [→h_t; ←h_t]) + b)

What it learns from (support/labelled_series.py) are rows of scikit-learn's digits, or

    --data vowels       who says two Japanese vowels, of nine men: 12 features a step, 7–29 steps
    --data FOLDER/NAME  your own NAME_TRAIN.ts and NAME_TEST.ts, the format of the UEA archive

Several networks are trained, one a seed. Of each, the series that validate choose the epoch; it is
then trained anew for as many epochs on these as well, as the baselines are (logistic regression
and the nearest series, support/series_baselines.py). The test is scored once. Options of the vowels
were chosen by cross-validation among the series that are learnt from.

    python -m examples.classification                   two minutes on one core
    python -m examples.classification --data vowels
    python -m examples.classification --resume          go on with a run that was stopped
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from examples.support import classifier, labelled_series, series_results
from examples.support.classifier import Classifier
from examples.support.cli import (
    OptionError,
    a_seed,
    at_least_one,
    below_one,
    blame,
    parse,
    positive,
    run,
    within,
)
from examples.support.folders import set_aside
from examples.support.labelled_series import Batch, Parts, batch_of
from examples.support.series_results import FILES
from examples.support.ts_files import Cases
from rnnjax import training

PASSING = ("out", "quick", "resume")  # not what a run is made of
RUN, TASK = "run", "classification"


@dataclass(frozen=True)
class Options:
    """Classify series with a bidirectional GRU, beside what needs no network."""

    data: str = "scikit-learn"
    """scikit-learn, digits (10,000 of MNIST), vowels, or FOLDER/NAME of two .ts files. vowels and
    files bring other defaults."""
    size: int = 64
    """Hidden units of a layer and direction."""
    layers: int = 1
    """Layers on top of each other."""
    dropout: float = 0.3
    """Share of a series' features behind each layer that are dropped, the same at all steps."""
    noise: float = 0.1
    """Spread of the noise on what is learnt from, in units of the spread of a channel."""
    cut: float = 0.0
    """A series to learn from loses at most this share of its steps at each end."""
    batch: int = 32
    """Series in a batch."""
    epochs: int = 60
    """How often each series is seen; validation may choose fewer."""
    learning_rate: float = 3e-3
    """Of AdamW."""
    weight_decay: float = 0.01
    """Of AdamW."""
    average: float = 0.99
    """Decay of the moving average of the params, which is what is scored."""
    seeds: int = 5
    """Networks, from other initial weights and orders each."""
    seed: int = 0
    """The first of them."""
    tuning: bool = False
    """Leave the test alone: print what validates, to choose options on."""
    quick: bool = False
    """A small model and few epochs, for seconds; other options still count."""
    resume: bool = False
    """Go on with the run in --out, with the options that it was begun with."""
    out: Annotated[Path, tyro.conf.arg(aliases=["--save"])] = Path("runs/classification")
    """Folder of the run: models, scores, picture. An earlier one is kept beside as .before."""


VOWELS = Options(layers=2, dropout=0.5, noise=0.6, batch=24, epochs=120)
QUICK = {"size": 16, "epochs": 4, "seeds": 2, "learning_rate": 0.02, "average": 0.8}


def fit(
    parts: Parts, options: Options, seed: int, name: str, epochs: int, cases: Cases
) -> training.Fitted:
    """Train on cases; with the name "chosen" the series that validate choose the best epoch."""
    # As long as the longest of all, so that one program is compiled for both.
    longest = max(len(x) for part in parts for x in part.series)
    every = batch_of(cases, longest)
    batches = training.ArrayBatches(every, options.batch, in_axes=Batch(1, 0, 0), seed=seed)
    model = model_of(parts, options)
    loss = classifier.objective(model)
    steps = epochs * len(batches)
    score = functools.partial(
        training.evaluate, loss, batches=[batch_of(parts.validation, longest)]
    )
    chosen = name == "chosen"
    features = every.xs.shape[-1]
    config = {"task": TASK, "options": lasting(options), "model": model, "seed": seed}
    return training.fit(
        loss,
        classifier.initial_params(model, features, seed),
        classifier.optimiser(options.learning_rate, options.weight_decay),
        batches,
        steps=steps,
        key=jax.random.key(seed),
        average=options.average,
        validation=training.Validation(score, len(batches)) if chosen else None,
        checkpoints=training.Checkpoints(
            options.out / RUN / f"{seed}-{name}",
            every=max(1, epochs // 5) * len(batches),
            keep=1,
            config=config,
        ),
    )


def model_of(parts: Parts, options: Options) -> Classifier:
    """Make the model that the options name."""
    sizes = (options.size, options.layers, options.dropout, options.noise, options.cut)
    return Classifier(len(parts.train.classes), *sizes)


def train(parts: Parts, options: Options, seed: int) -> dict[str, Any]:
    """Train twice: to choose the epoch, and on all that is not the test; score the second once."""
    first = fit(parts, options, seed, "chosen", options.epochs, parts.train)
    assert first.best is not None
    best = next(r for r in first.records if r["step"] == first.best.step)
    epoch = round(first.best.step / (first.records[-1]["step"] / options.epochs))
    found = {"seed": seed, "epoch": epoch, "seconds": first.records[-1]["seconds"]}
    found |= {name: best[name] for name in best if name.startswith("validation_")}
    print(
        f"seed {seed}: {found['validation_loss']:.3f} nats, {found['validation_accuracy']:.1%} of "
        f"what validates, after epoch {epoch}",
        flush=True,
    )
    if options.tuning:
        return found
    second = fit(parts, options, seed, "all", epoch, parts.learnt)
    scores = series_results.scores_of(model_of(parts, options), second.state.average, parts)
    found["seconds"] += second.records[-1]["seconds"]
    return found | scores


def train_and_report(parts: Parts, options: Options) -> None:
    """Train all seeds, compare with the baselines, keep scores and picture."""
    sizes = ", ".join(f"{len(part.labels):,} {name}" for name, part in parts._asdict().items())
    print(f"{options.data}: {sizes} series of {len(parts.train.classes)} classes")
    seeds = range(options.seed, options.seed + options.seeds)
    found = [train(parts, options, seed) for seed in seeds]
    if options.tuning:
        return
    scores = series_results.summary(parts, found, lasting(options))
    series_results.keep(options.out, scores)
    series_results.say(scores)
    print(f"kept in {options.out}")


# --- runs ---


def lasting(options: Options) -> dict[str, Any]:
    """The options that make a run what it is."""
    return {name: value for name, value in asdict(options).items() if name not in PASSING}


def read(options: Options) -> Parts:
    """Read the series.

    Raises:
        OptionError: there are none, or a line of a file is wrong; names both.
    """
    with blame("--data"):
        parts = labelled_series.read(options.data)
    most = len(parts.train.labels)
    if options.batch > most:
        raise OptionError(f"--batch: expected at most {most}, all series; got {options.batch}.")
    return parts


def begin(options: Options) -> None:
    """Train anew."""
    parts = read(options)
    with blame("--out"):
        set_aside(options.out, (RUN, *FILES))
    train_and_report(parts, options)


def resume(options: Options) -> None:
    """Go on with a run that was stopped, as it was begun.

    Raises:
        OptionError: there is none, or it is not one of this example.
    """
    folders = sorted(Path(options.out, RUN).glob("*"))
    begun = next((folder for folder in folders if training.saved_steps(folder)), None)
    if begun is None:
        raise OptionError(f"--out: expected a run to go on with; {options.out} has none.")
    with blame("--out"):
        config = training.load(begun).config
    if config.get("task") != TASK:
        raise OptionError(f"--out: expected a run of classification; {begun} is of another task.")
    options = replace(Options(**config["options"]), out=options.out)
    train_and_report(read(options), options)


# --- the command line ---


def check(options: Options) -> None:
    """Check what needs no data.

    Raises:
        OptionError: an option is out of range.
    """
    for name in ("size", "layers", "batch", "epochs", "seeds"):
        at_least_one(name, getattr(options, name))
    positive("learning_rate", options.learning_rate)
    below_one("dropout", options.dropout)
    within("average", options.average, 0.001, 0.99999)
    within("noise", options.noise, 0, 10)
    within("cut", options.cut, 0, 0.45)
    a_seed(options.seed)


def main(options: Options) -> None:
    """Train, or go on training."""
    check(options)
    try:
        resume(options) if options.resume else begin(options)
    except training.Preempted as stopped:
        print(f"{stopped}; --resume --out {options.out} goes on")
        raise


def command(argv: Sequence[str] | None = None) -> None:
    """Run the command line; --quick and the data change what other options are by default."""
    typed = parse(Options(), argv)
    usual = Options() if typed.data in ("scikit-learn", "digits") else VOWELS
    run(main, replace(usual, **QUICK) if typed.quick else usual, argv)


if __name__ == "__main__":
    command()
