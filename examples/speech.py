"""Speech recognition: from sound to symbols, without being told when each was said.

A network reads log-mel frames x_1 … x_T and scores symbols, one of them the blank, at each:

    z_t = h_t W + b,    h = two layers of LSTM over x, each in both directions

It is trained by connectionist temporal classification (Graves et al. 2006): p(y | x) is the sum
over all paths, one symbol a frame, that become y when repeats are merged and blanks removed, so
that nobody has to say where in the sound a symbol lies. The symbols are digits, or the letters of
their names (``--task letters``): one, two and eight are spelled in ways that have to be learnt from
sound and order alone.

The sound is the Free Spoken Digit Dataset: strings of 3–7 clips of one speaker with silence of up
to 200 ms between them; the clips to train on, to validate and to test on are different ones. The
test, 500 strings, is scored once, as the likeliest path and with a beam. ``--task digit`` learns
from strings of 1–3 and hears single clips, each of which is the likeliest of ten strings of one
digit. With ``--split speaker`` six networks, each with one speaker left out of training, learn from
single clips and score digits by the mean over their frames. Logistic regression stands beside both.

    python -m examples.speech --download                get the clips, once
    python -m examples.speech                           digits, eight minutes on one core
    python -m examples.speech --task letters
    python -m examples.speech --task digit --split speaker
    python -m examples.speech --directions forward --save runs/stream
    python -m examples.speech --load runs/stream FILE.wav …
    python -m examples.speech --resume                  go on with a run that was stopped
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import optax
import tyro

from examples.support import recogniser, speech_results, spoken_digits, transcription
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
from examples.support.hearing import Directions, Variation
from examples.support.lines import Lines
from examples.support.listener import Trained
from examples.support.recogniser import Masks, Per, Recogniser
from examples.support.speech_folds import Fold, folds_of, voices_of
from examples.support.spelling import Spelling
from examples.support.spoken_digits import DIGITS, Clip, Planner
from examples.support.transcription import RUN
from examples.support.utterances import SHORTEST, Fresh, Hearing, fixed, most_labels
from rnnjax import training

PASSING = ("out", "resume", "load", "download", "piece")  # not the run's
POINTS = 8  # how often a run is validated and saved
ONE_SHAPE = 512  # frames that all batches of a quick run are padded to, so that little is compiled


@dataclass(frozen=True)
class Options:
    """Train a recogniser of spoken digits, or let a trained one listen (--load)."""

    task: Literal["digits", "letters", "digit"] = "digits"
    """Strings of digits; the same, spelled letter by letter; or single digits."""
    split: Literal["official", "speaker"] = "official"
    """Of single digits: the official test, or each speaker in turn left out of training."""
    normalise: Literal["utterance", "speaker"] = "utterance"
    """What is taken off the frames: their mean, or that of all clips of their speaker, in units of
    its spread; the voice is told from the clips alone, without what is said in them."""
    strings: tuple[int, int] = DIGITS
    """Clips of a string that is learnt from, at least and at most; those scored stay the same."""
    per: Per = "frame"
    """Whether symbols are scored at each frame, for CTC, or digits once an utterance, by the mean
    over its frames, which is learnt from single clips."""
    directions: Directions = "both"
    """In which the layers read; a network that reads forward can listen to a stream."""
    size: int = 128
    """Hidden units of a layer and direction."""
    layers: int = 2
    """LSTMs on top of each other."""
    join: int = 3
    """Frames of 10 ms that are joined into one."""
    dropout: float = 0.2
    """Share of hidden units that the layer above does not see."""
    time_mask: int = 20
    """Frames that each of two masks over time covers at most (SpecAugment); 0: none."""
    band_mask: int = 6
    """Bands of 40 that each of two masks over frequency covers at most; 0: none."""
    speed: float = 0.1
    """Each utterance is learnt from so much faster or slower at most, a share in steps of 0.05."""
    warp: float = 0.05
    """Its bands are so much wider or narrower at most, a share in steps of 0.05."""
    noise: float = 0.01
    """White noise in it is so strong at most, a share of the loudest sample."""
    batch: int = 32
    """Utterances in a batch."""
    steps: int = 2000
    """Steps of the optimiser; of each fold, where there are several."""
    learning_rate: float = 3e-3
    """The highest learning rate of AdamW, after the warm-up; it falls to zero along a cosine."""
    weight_decay: float = 0.01
    """Of AdamW."""
    average: float = 0.99
    """Decay of the moving average of the params, which is what is scored and kept."""
    beam: int = 16
    """Prefixes that the beam keeps side by side; 0: none, when listening."""
    tuning: bool = False
    """Score other clips than the test, to choose options on: those that validate; where speakers
    are left out, a second one, whom the network has not heard either."""
    quick: bool = False
    """A small model and few strings, for seconds; other options still count."""
    resume: bool = False
    """Go on with the run in --out, with the options that it was begun with."""
    load: tuple[Path, ...] = ()
    """The folder of a run, then wav files to write down."""
    piece: float = 0.1
    """Seconds of sound that a network which reads forward is handed at a time."""
    download: bool = False
    """Get the clips into the cache, checked."""
    seed: int = 0
    """Of the initial weights and of what is learnt from; what is scored stays the same."""
    out: Annotated[Path, tyro.conf.arg(aliases=["--save"])] = Path("runs/speech")
    """Folder of the run: model, scores, picture. An earlier one is kept beside as .before."""

    @property
    def single(self) -> bool:
        """Whether what is scored is one digit each."""
        return self.task == "digit"

    @property
    def spelling(self) -> Spelling:
        """How digits are written."""
        return Spelling(by_letter=self.task == "letters")

    @property
    def hearing(self) -> Hearing:
        """What becomes of an utterance on its way into a batch."""
        most = most_labels(self.spelling, max(DIGITS[1], self.strings[1]))
        shortest = ONE_SHAPE if self.quick else SHORTEST
        return Hearing(self.spelling, self.directions, most, shortest)

    @property
    def model(self) -> Recogniser:
        """What is trained."""
        outputs = self.spelling.size if self.per == "frame" else 10
        sizes = (self.size, self.layers, self.directions, self.join, self.dropout)
        return Recogniser(outputs, *sizes, self.per)


QUICK = Options(size=24, batch=8, steps=240, learning_rate=0.01, dropout=0.0, speed=0.0, warp=0.0)
DEFAULTS = {
    "letters": Options(task="letters", join=2, steps=1500),
    "official": Options(
        task="digit",
        normalise="speaker",
        strings=(1, 3),
        join=2,
        steps=1200,
        dropout=0.3,
        time_mask=12,
    ),
    "speaker": Options(
        task="digit",
        split="speaker",
        normalise="speaker",
        strings=(1, 1),
        per="utterance",
        join=2,
        batch=64,
        steps=400,
        learning_rate=2e-3,
        dropout=0.4,
        time_mask=12,
        speed=0.15,
        warp=0.1,
        noise=0.03,
    ),
}


# --- training ---


@functools.cache
def optimiser(rate: float, decay: float, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping, a warm-up and a cosine that ends at nothing.

    The same object for the same arguments, which compiles once for all folds; so is the loss.
    """
    warmup = min(50, 1 + steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)
    adamw = optax.adamw(schedule, b2=0.98, weight_decay=decay)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


@functools.cache
def loss_of(model: Recogniser, masks: Masks) -> training.Loss:
    """The loss of a network."""
    loss = recogniser.ctc_loss if model.per == "frame" else recogniser.digit_loss
    return functools.partial(loss, model, masks)


def hearing_of(fold: Fold, options: Options) -> Hearing:
    """What becomes of an utterance of a fold, its speaker's voice taken off where asked for."""
    voices = voices_of(fold) if options.normalise == "speaker" else None
    return replace(options.hearing, voices=voices)


def source_of(fold: Fold, hearing: Hearing, options: Options) -> Fresh:
    """What is learnt from."""
    planner = Planner(fold.train, options.strings)
    variation = Variation(options.speed, options.warp, options.noise)
    return Fresh(planner, hearing, variation, options.batch, seed=options.seed, what=fold.name)


def fit(fold: Fold, hearing: Hearing, options: Options) -> training.Fitted:
    """Train on one fold; a run that finds its own checkpoints goes on from them."""
    loss = loss_of(options.model, Masks(options.time_mask, options.band_mask))
    every = -(-options.steps // POINTS)
    validation = None
    if fold.validation:
        batches = list(fixed(fold.validation, hearing))
        score = functools.partial(training.evaluate, loss, batches=batches)
        validation = training.Validation(score, every)
    config = {
        "options": lasting(options),
        "model": options.model,
        "spelling": options.spelling,
        "single": options.single,
    }
    folder = options.out / RUN / fold.name
    return training.fit(
        loss,
        recogniser.initial_params(options.model, options.seed),
        optimiser(options.learning_rate, options.weight_decay, options.steps),
        source_of(fold, hearing, options),
        steps=options.steps,
        key=jax.random.key(options.seed),
        average=options.average,
        validation=validation,
        checkpoints=training.Checkpoints(folder, every=every, keep=1, config=config),
        writers=[Lines(options.steps, words_of)],
    )


def words_of(record: training.Record) -> str:
    """What a line of progress says."""
    return f"{record['loss']:.3f} nats  {record['tokens_per_second']:,.0f} utterances/s"


def train(fold: Fold, hearing: Hearing, options: Options) -> tuple[Trained, training.Fitted]:
    """Train on one fold; what validated best is kept, or else what the end has averaged."""
    fitted = fit(fold, hearing, options)
    params = fitted.state.average if fitted.best is None else fitted.best.params
    return Trained(options.model, params, options.spelling, options.single), fitted


# --- runs ---


def lasting(options: Options) -> dict[str, Any]:
    """The options that make a run what it is."""
    return {name: value for name, value in asdict(options).items() if name not in PASSING}


def read() -> list[Clip]:
    """Read the clips.

    Raises:
        OptionError: they are not there, or others are.
    """
    with blame("RNNJAX_DATA"):
        return spoken_digits.read()


def train_and_report(clips: Sequence[Clip], options: Options) -> None:
    """Train on every fold, score it, say what came of it, and keep it."""
    folds = folds_of(clips, options.task, options.split, options.tuning, options.quick)
    results = []
    for fold in folds:
        hearing = hearing_of(fold, options)
        trained, fitted = train(fold, hearing, options)
        result = speech_results.result_of(fold, trained, fitted, hearing, options.beam)
        speech_results.say(result)
        results.append(result)
    speech_results.keep(options.out, folds, results, lasting(options))


def begin(options: Options) -> None:
    """Train anew."""
    clips = read()
    with blame("--out"):
        set_aside(options.out, (RUN, *speech_results.FILES))
    train_and_report(clips, options)


def resume(options: Options) -> None:
    """Go on with a run that was stopped, as it was begun.

    Raises:
        OptionError: there is none, or it is not one of this example.
    """
    with blame("--out"):
        begun = transcription.config_of(transcription.folders(options.out)[0])["options"]
    train_and_report(read(), replace(options, **begun))


def listen(options: Options) -> None:
    """Write down what wav files say.

    Raises:
        OptionError: there is no run, no file, or one that cannot be heard; the others are.
    """
    folder, *files = options.load
    if not files:
        raise OptionError(f"--load: expected wav files after the folder; got {folder} alone.")
    with blame("--load"):
        trained = transcription.load(folder)
    transcription.write_down(trained, files, options.piece, options.beam)


def check(options: Options) -> None:
    """Check what needs no data.

    Raises:
        OptionError: an option is out of range, or two do not go together.
    """
    for name in ("size", "layers", "join", "batch", "steps"):
        at_least_one(name, getattr(options, name))
    for name in ("learning_rate", "piece"):
        positive(name, getattr(options, name))
    for name in ("dropout", "average"):
        below_one(name, getattr(options, name))
    for name, most in (("speed", 0.5), ("warp", 0.15), ("noise", 1), ("time_mask", 100)):
        within(name, getattr(options, name), 0, most)
    within("band_mask", options.band_mask, 0, 40)
    within("beam", options.beam, 0, 1024)
    fewest, most = options.strings
    if not 1 <= fewest <= most:
        raise OptionError(f"--strings: expected 1 ≤ fewest ≤ most; got {fewest} {most}.")
    if options.per == "utterance" and not (options.single and most == 1):
        raise OptionError("--per: utterance is for --task digit --strings 1 1.")
    a_seed(options.seed)
    for name in ("split", "normalise"):
        if getattr(options, name) == "speaker" and not options.single:
            raise OptionError(f"--{name}: speaker is for --task digit; got --task {options.task}.")


def main(options: Options) -> None:
    """Train, go on training, or listen."""
    check(options)
    if options.download:
        with blame("--download"):
            print(f"3,000 clips, checked, in {spoken_digits.download()}")
        return
    if options.load:
        return listen(options)
    try:
        resume(options) if options.resume else begin(options)
    except training.Preempted as stopped:
        print(f"{stopped}; --resume --out {options.out} goes on")
        raise


def command(argv: Sequence[str] | None = None) -> None:
    """Run the command line; --quick, the task and the split change what other options are."""
    typed = parse(Options(), argv)
    name = typed.split if typed.single else typed.task
    full = DEFAULTS.get(name, Options())
    kind = {name: getattr(full, name) for name in ("normalise", "strings", "per")}
    run(main, replace(QUICK, **kind) if typed.quick else full, argv)


if __name__ == "__main__":
    command()
