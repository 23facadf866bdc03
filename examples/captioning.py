"""Captions for pictures: a small CNN looks, a GRU says what there is, word after word.

    loss = −Σ_t log p(y_t | y_1 … y_{t−1}, picture)

The model, and four ways for the words to know of the picture, are in support/captioner.py
(``--inject``; Vinyals et al., "Show and Tell", 2015; Xu et al., "Show, Attend and Tell", 2015).
Captions are written by beam search. What it learns from (support/albums.py):

    scikit-learn  sheets of 64 × 64 pixels with two or three handwritten digits at random places, "a
                  three left of a seven" or "số ba ở bên trái số bảy". The test has pictures of
                  digits, and for one half of it ordered pairs of digits, that were never learnt
    digits        the same with 10,000 MNIST digits, out of the folder RNNJAX_DATA
    stamps        the 785 stamps of Tux Paint with a sentence each, likewise. There are too few to
                  learn much: half of the captions of the test have a word that is in no other
    FOLDER        pictures of your own, with captions.tsv (support/captioned_folder.py)

With ``--features FILE.npz`` a folder's pictures are seen by a network of your own, whose outputs,
vectors or maps, the file holds: of VGG16 those before its last two layers are the classic choice.

Beside each result stand what is said most often, what is said of the nearest picture, and, for
digits, what one says who is shown each digit by itself. Validation chooses the params, the test is
scored once.

    python -m examples.captioning                           seven minutes on one core
    python -m examples.captioning --language vi --inject first
    python -m examples.captioning --data stamps
    python -m examples.captioning --resume                  go on with a run that was stopped
    python -m examples.captioning --load runs/captioning runs/captioning/examples/*.png
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import arg

from examples.support import (
    albums,
    caption_results,
    captioned_folder,
    captioner,
    describing,
    handwritten,
    images,
)
from examples.support.albums import Lesson
from examples.support.caption_results import FILES
from examples.support.caption_scores import quick_scores
from examples.support.captioner import Captioner, Inject, Model, Slots
from examples.support.cli import (
    OptionError,
    a_seed,
    at_least_one,
    below_one,
    blame,
    one_by_one,
    parse,
    positive,
    run,
    within,
)
from examples.support.describing import Beam, Trained
from examples.support.folders import set_aside
from examples.support.lines import Lines
from examples.support.scenes import RELATIONS
from examples.support.subwords import Subwords, byte_pairs, words_and_digits
from rnnjax import training

PASSING = ("out", "load", "resume")  # not what a run is made of
RUN, TASK = "run", "captioning"
DIGITS = get_args(handwritten.Data)


@dataclass(frozen=True)
class Options:
    """Train a network that says what it sees, or --load one and show it pictures."""

    data: str = "scikit-learn"
    """scikit-learn, digits, stamps, or a folder of pictures with captions.tsv. The last two bring
    other defaults."""
    language: str = "en"
    """Of the captions: en or vi; in a folder a column of captions.tsv."""
    inject: Inject | Literal["slots"] = "attention"
    """How the words know of the picture: attention to its parts; as what is read first; as the
    first state; or slots, each word by itself, without recurrence."""
    features: Path | None = None
    """Of a folder's pictures, by a network of your own: names (n,) and features, (n, D) or
    (n, H, W, C), as numpy.savez writes them."""
    size: int = 128
    """Hidden units."""
    embedding: int = 64
    """Features of a symbol."""
    widths: tuple[int, ...] = (24, 48, 96, 96)
    """Channels of the convolutions, the first three with strides of 2."""
    subwords: int = 800
    """Symbols of a folder's captions, by byte-pair encoding; of scenes, words."""
    dropout: float = 0.1
    """Share of the features of the picture's parts, and before the head, that are dropped."""
    batch: int = 64
    """Pictures in a batch."""
    steps: int = 2400
    """Steps of the optimiser."""
    learning_rate: float = 3e-3
    """The highest learning rate of AdamW, after the warm-up; it falls to zero along a cosine."""
    weight_decay: float = 0.01
    """Of AdamW."""
    average: float = 0.99
    """Decay of the moving average of the params, which is what is scored and kept."""
    validations: int = 12
    """How often a run is validated and saved."""
    beam: int = 3
    """Hypotheses side by side; 1 is greedy."""
    length_penalty: float = 0.6
    """Of the beam: above 0 it prefers longer captions, 0 ranks by the probability alone."""
    quick: bool = False
    """A small model and few steps, for seconds; other options still count."""
    resume: bool = False
    """Go on with the run in --out, with the options that it was begun with."""
    load: tuple[Path, ...] = ()
    """The folder of a run, then pictures to say something of; names, with --features."""
    seed: int = 0
    """Of the initial weights and of what is learnt from; what is scored stays the same."""
    out: Annotated[Path, arg(aliases=["--save"])] = Path("runs/captioning")
    """Folder of the run: model, scores, picture. An earlier one is kept beside as .before."""


FOLDERS = Options(
    widths=(32, 64, 96, 128),
    dropout=0.5,
    steps=700,
    learning_rate=1e-3,
    weight_decay=0.1,
)
QUICK = {"size": 48, "embedding": 32, "widths": (8, 16, 24), "batch": 32, "steps": 60}
QUICK |= {"validations": 2, "average": 0.9}


class Task(NamedTuple):
    """What is learnt, by what."""

    lesson: Lesson
    subwords: Subwords
    model: Model


class Fresh(training.Source):
    """Batches of pictures that are never the same, each drawn from the seed and its number."""

    def __init__(self, task: Task, options: Options):
        self._task, self._options = task, options

    def __len__(self) -> int:
        return 2**31 - 1  # no run gets to the end of the first epoch

    def batch(self, epoch: int, number: int) -> captioner.Batch:
        """Draw one batch."""
        generator = np.random.default_rng((self._options.seed, epoch, number))
        return batch_of(self._task, self._task.lesson.draw(generator, self._options.batch))

    def fingerprint(self) -> str:
        """Return what is drawn."""
        options = self._options
        return f"{self._task.lesson.name}, {options.batch} a batch, seed {options.seed}"


def batch_of(task: Task, album: albums.Album) -> captioner.Batch:
    """Put pictures and their captions side by side."""
    longest = task.model.longest
    return describing.batch_of(task.subwords, longest, album.pictures, album.captions)


def prepare(lesson: Lesson, options: Options, subwords: Subwords | None = None) -> Task:
    """Make the dictionary and the model."""
    captions = lesson.known.captions
    if subwords is None:
        few = options.data in DIGITS
        subwords = words_and_digits(captions) if few else byte_pairs(captions, options.subwords)
    every = [*captions, *lesson.validation.captions]
    longest = max(len(subwords.encode(caption)) for caption in every)
    return Task(lesson, subwords, build(options, len(subwords), longest))


def build(options: Options, vocabulary: int, longest: int) -> Model:
    """Make the model that the options name."""
    sizes = (options.widths, longest, options.dropout)
    if options.inject == "slots":
        return Slots(vocabulary, options.size, *sizes)
    return Captioner(options.inject, vocabulary, options.size, options.embedding, *sizes)


def train(task: Task, options: Options) -> training.Fitted:
    """Train the model; a run that finds its own checkpoints goes on from them."""
    # Linen makes modules hashable, which their annotations do not say.
    loss = captioner.objective(task.model)  # pyright: ignore[reportArgumentType]
    every = max(1, options.steps // options.validations)
    config = {
        "task": TASK,
        "options": lasting(options),
        "subwords": task.subwords,
        "longest": task.model.longest,
        "shape": task.lesson.known.pictures.shape[1:],
    }
    by = "exact" if options.data in DIGITS else "chrF"
    score = functools.partial(validate, task, loss)
    return training.fit(
        loss,
        captioner.initial_params(task.model, task.lesson.known.pictures[:1], options.seed),
        captioner.optimiser(options.learning_rate, options.weight_decay, options.steps),
        Fresh(task, options),
        steps=options.steps,
        key=jax.random.key(options.seed),
        average=options.average,
        validation=training.Validation(score, every, by=by, higher_is_better=True),
        checkpoints=training.Checkpoints(options.out / RUN, every=every, keep=1, config=config),
        writers=[Lines(options.steps, words_of)],
    )


def validate(task: Task, loss: training.Loss, params: Any) -> dict[str, float]:
    """Nats a symbol, and how good greedy captions are."""
    album = task.lesson.validation
    nats = training.evaluate(loss, params, [batch_of(task, album)])["loss"]
    said = describing.describe(Trained(task.model, params, task.subwords), album.pictures)
    return {"loss": nats, **quick_scores(said, album.captions)}


def words_of(record: training.Record) -> str:
    """What a line of progress says."""
    return f"{record['loss']:.3f} nats a symbol  {record['tokens_per_second']:,.0f} symbols/s"


def lasting(options: Options) -> dict[str, Any]:
    """The options that make a run what it is."""
    every = asdict(options)
    kept = {name: value for name, value in every.items() if name not in PASSING}
    return kept | {"features": options.features and str(options.features)}


# --- runs ---


def read(options: Options) -> Lesson:
    """Read what is learnt.

    Raises:
        OptionError: the name is not known, or a file of it cannot be read; names it.
    """
    with blame("--data" if options.features is None else "--data, --features"):
        return albums.read(options.data, options.language, options.features, options.quick)


def begin(options: Options) -> None:
    """Train a new model."""
    lesson = read(options)
    with blame("--out"):
        set_aside(options.out, (RUN, *FILES))
    train_and_report(prepare(lesson, options), options)


def resume(options: Options) -> None:
    """Go on with a run that was stopped, as it was begun."""
    config = load(options.out, "--out").config
    begun = replace(begun_with(config), out=options.out)
    train_and_report(prepare(read(begun), begun, config["subwords"]), begun)


def train_and_report(task: Task, options: Options) -> None:
    """Train a model, score it once beside the baselines, keep scores and picture."""
    lesson = task.lesson
    print(f"{lesson.name}, {len(task.subwords):,} symbols, {options.steps:,} steps")
    fitted = train(task, options)
    assert fitted.best is not None
    params = jax.tree.map(jnp.asarray, fitted.best.params)
    trained = Trained(task.model, params, task.subwords)
    outcome = caption_results.Outcome(
        lesson=lesson,
        fitted=fitted,
        options=lasting(options),
        beam=Beam(options.beam, options.length_penalty),
        describe=functools.partial(describing.describe, trained),
        look=functools.partial(describing.looked, trained),
    )
    scores = caption_results.score(outcome)
    caption_results.keep(options.out, outcome, scores)
    caption_results.say(scores)
    print(f"kept in {options.out}")


# --- showing it pictures ---


def load(folder: Path, option: str) -> training.Saved:
    """Read back a run.

    Raises:
        OptionError: there is none in the folder, it cannot be read, or it is one of another task.
    """
    try:
        saved = training.load(folder / RUN, best=True)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{option}: expected a run; {folder} has none that can be read ({error}) Train one "
            f"first: python -m examples.captioning --out {folder}"
        ) from error
    with blame(option):
        config = saved.config
    if config.get("task") != TASK:
        raise OptionError(f"{option}: expected a run of captioning; {folder} is of another task.")
    return saved


def begun_with(config: dict[str, Any]) -> Options:
    """The options of a run."""
    found = Options(**config["options"])
    return replace(
        found, features=found.features and Path(found.features), widths=tuple(found.widths)
    )


def describe_pictures(options: Options) -> None:
    """Print a line for each picture; a bad one is named on stderr, and the others are done.

    Raises:
        OptionError: there is no run, no picture, or there was a bad one.
    """
    folder, *files = options.load
    if not files:
        raise OptionError(f"--load: expected pictures after the folder; got {folder} alone.")
    saved = load(folder, "--load")
    config = saved.config
    model = build(begun_with(config), len(config["subwords"]), config["longest"])
    trained = Trained(model, jax.tree.map(jnp.asarray, saved.average), config["subwords"])
    see, beam = seeing(config, options), Beam(options.beam, options.length_penalty)

    def say(file: Path) -> str:
        return describing.describe(trained, see(file)[None], beam, batch=1)[0]

    one_by_one(files, say)


def seeing(config: dict[str, Any], options: Options):
    """What makes of a picture's name what a model has learnt from: pixels, or its features."""
    shape, by_features = tuple(config["shape"]), config["options"]["features"] is not None
    if by_features != (options.features is not None):
        expected = "needs --features FILE.npz" if by_features else "sees pictures, not --features"
        raise OptionError(f"--load: the network in {options.load[0]} {expected}.")
    if options.features is None:
        return functools.partial(images.read, colour=shape[-1] == 3)
    with blame("--features"):
        features = captioned_folder.read_features(options.features)

    def see(name: Path) -> np.ndarray:
        found = features.get(str(name))
        if found is None or found.shape != shape:
            problem = "has none of it" if found is None else f"has {found.shape}"
            raise ValueError(f"{name}: expected features {shape}; {options.features} {problem}.")
        return found

    return see


# --- the command line ---


def check(options: Options) -> None:
    """Check what needs no data.

    Raises:
        OptionError: an option is out of range, or two do not go together.
    """
    for name in ("size", "embedding", "subwords", "batch", "steps", "validations", "beam"):
        at_least_one(name, getattr(options, name))
    positive("learning_rate", options.learning_rate)
    below_one("dropout", options.dropout)
    within("average", options.average, 0.001, 0.99999)
    within("length_penalty", options.length_penalty, 0, 10)
    a_seed(options.seed)
    if not options.widths or min(options.widths) < 1:
        raise OptionError("--widths: expected one number of channels or more, each from 1 up.")
    if options.load and options.resume:
        raise OptionError("--load, --resume: expected one of the two; got both. Drop one.")
    if options.data in DIGITS and not options.load:
        if options.features is not None:
            raise OptionError("--features: expected --data stamps or a folder; scenes have none.")
        if options.language not in RELATIONS:
            raise OptionError(f"--language: expected en or vi; got {options.language}.")


def main(options: Options) -> None:
    """Train, go on training, or say what is in pictures."""
    check(options)
    try:
        if options.load:
            describe_pictures(options)
        elif options.resume:
            resume(options)
        else:
            begin(options)
    except training.Preempted as stopped:
        print(f"{stopped}; --resume --out {options.out} goes on")
        raise


def command(argv: Sequence[str] | None = None) -> None:
    """Run the command line; --quick and a folder change what the other options are by default."""
    typed = parse(Options(), argv)
    usual = Options() if typed.data in DIGITS else replace(FOLDERS, data=typed.data)
    run(main, replace(usual, **QUICK) if typed.quick else usual, argv)


if __name__ == "__main__":
    command()
