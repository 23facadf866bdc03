"""Machine translation by an encoder–decoder with attention, small enough to be checked.

The model is in support/translator.py: both directions of a GRU or LSTM read the source, a decoder
attends to what they found, and is trained to put the right symbol after the right ones before it,

    loss = −Σ_t Σ_v q(v | y_t) log p(v | y_1 … y_{t−1}, x),    q = (1 − ε) 1[v = y_t] + ε / V

(Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate",
2015; ε is label smoothing). It translates by beam search. What it learns from:

    numbers   0 … 999,999 into Vietnamese words, whose rules are in support/numerals.py: every
              answer can be checked, and numbers of seven digits show what was not learnt
    en-vi     2,831 pairs of short sentences, out of the folder RNNJAX_DATA
    en-fr     3,657 pairs of paragraphs of Python's documentation without markup, likewise
    FILE.tsv  pairs of your own, source, tab, target, one pair a line

Beside each result stand what copies the source, translates it word for word, or takes the
translation of the nearest known source (support/translation_baselines.py). Validation chooses the
params, the test is scored once.

    python -m examples.translation                             half a minute, nothing to download
    python -m examples.translation --attention none            the same without attention
    python -m examples.translation --data en-vi                ten minutes
    python -m examples.translation --resume                    go on with a run that was stopped
    python -m examples.translation --load runs/translation "105014" "792031"
    python -m examples.translation --load runs/translation --file lines.txt
"""

import functools
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import Positional, arg

import rnnjax
from examples.support import pairs, translating, translation_results, translator
from examples.support.cli import (
    OptionError,
    a_seed,
    at_least_one,
    below_one,
    blame,
    parse,
    positive,
    run,
)
from examples.support.folders import set_aside
from examples.support.lines import Lines
from examples.support.pairs import Corpus, Pair
from examples.support.subwords import Subwords, byte_pairs, words_and_digits
from examples.support.translating import GREEDY, Beam, Limits
from examples.support.translation_results import FILES
from examples.support.translation_scores import quick_scores
from examples.support.translator import Translator
from rnnjax import training

CELLS = {"gru": rnnjax.GRU, "lstm": rnnjax.LSTM}
PASSING = ("out", "load", "text", "file", "quick", "resume")  # not what a run is made of
SIZES = ("layers", "embedding", "subwords", "batch", "buckets")
RUN, TASK = "run", "translation"


@dataclass(frozen=True)
class Options:
    """Train a translator, or --load one to translate texts."""

    text: Positional[tuple[str, ...]] = ()
    """What to translate, with --load."""
    data: str = pairs.NUMBERS
    """numbers, en-vi, en-fr, or a file of lines "source, tab, target" named *.tsv. A name brings
    other defaults."""
    attention: Literal["additive", "general", "dot", "none"] = "additive"
    """How the decoder looks at the source; none leaves it the encoder's last state."""
    cell: Literal["gru", "lstm"] = "gru"
    """The recurrent cell of encoder and decoder."""
    hidden: int = 128
    """Hidden units of the decoder; half as many in each direction of the encoder."""
    layers: int = 1
    """Layers of the encoder."""
    embedding: int = 64
    """Features of a symbol."""
    subwords: int = 1000
    """Symbols of both languages together, by byte-pair encoding; of numbers, words and digits."""
    dropout: float = 0.0
    """Share of a sequence's features that are dropped, the same ones at all of its steps."""
    symbol_dropout: float = 0.0
    """Share of symbols that are dropped whole."""
    smoothing: float = 0.0
    """Of the labels."""
    average: float = 0.99
    """Decay of the moving average of the params, which is what is kept."""
    batch: int = 32
    """Pairs in a batch of short sources; of longer ones fewer, with as many symbols."""
    buckets: int = 4
    """Lengths that sources are padded to, each compiled once."""
    learning_rate: float = 3e-3
    """The highest learning rate, after the warm-up."""
    weight_decay: float = 0.01
    """Of AdamW."""
    epochs: int = 15
    """How often each pair is seen."""
    validations: int = 15
    """How often a run is validated and saved."""
    beam: int = 5
    """Hypotheses side by side; 1 is greedy."""
    length_penalty: float = 1.0
    """Of the beam: above 0 it prefers longer translations, 0 ranks by the probability alone."""
    block_ngrams: int | None = None
    """No so many symbols in a row come twice in what the beam writes."""
    quick: bool = False
    """A small model and few epochs, for seconds; other options still count."""
    resume: bool = False
    """Go on with the run in --out, with the options that it was begun with."""
    load: Path | None = None
    """Translate with the model of the run in this folder, instead of training one."""
    file: Path | None = None
    """With --load: translate the lines of a file."""
    seed: int = 0
    """Of the initial weights, the dropout and the order of the pairs; the split stays the same."""
    out: Annotated[Path, arg(aliases=["--save"])] = Path("runs/translation")
    """Folder of the run: model, scores, picture. An earlier one is kept beside as .before."""


SENTENCES = Options(
    cell="lstm",
    hidden=256,
    embedding=128,
    subwords=3000,
    dropout=0.4,
    symbol_dropout=0.1,
    smoothing=0.1,
    average=0.995,
    epochs=36,
)
PARAGRAPHS = replace(
    SENTENCES, hidden=192, subwords=2000, dropout=0.25, buckets=5, validations=8, epochs=24
)
DEFAULTS = {pairs.NUMBERS: Options(), "en-fr": PARAGRAPHS}  # of all others: SENTENCES
QUICK = {"hidden": 48, "embedding": 32, "batch": 64, "buckets": 1, "epochs": 4, "validations": 3}
QUICK_SENTENCES = QUICK | {"subwords": 1000, "buckets": 2, "epochs": 1}


class Task(NamedTuple):
    """What is learnt, by what."""

    corpus: Corpus
    subwords: Subwords
    model: Translator
    batches: training.Buckets
    limits: Limits


def prepare(corpus: Corpus, options: Options, subwords: Subwords) -> Task:
    """Make the batches and the model."""
    fields = encoded(subwords, corpus.train)
    shapes = boundaries([len(source) for source in fields["source"]], options.buckets)
    batches = training.Buckets(
        fields,
        boundaries=shapes,
        batch_size=[max(1, options.batch * shapes[0] // shape) for shape in shapes],
        seed=options.seed,
    )
    longest = max(len(target) for target in fields["target"])
    limits = Limits(shapes, 3 * longest // 2)
    return Task(corpus, subwords, build(options, len(subwords)), batches, limits)


def cut(corpus: Corpus, options: Options) -> Subwords:
    """Learn from the training pairs how to cut texts into symbols."""
    texts = [side for pair in corpus.train for side in pair]
    if options.data == pairs.NUMBERS:
        return words_and_digits(texts)
    return byte_pairs(texts, options.subwords)


def encoded(subwords: Subwords, part: Sequence[Pair]) -> dict[str, list[np.ndarray]]:
    """The symbols of both sides."""
    return {
        "source": [subwords.encode(pair.source) for pair in part],
        "target": [subwords.encode(pair.target) for pair in part],
    }


def boundaries(lengths: Sequence[int], count: int) -> tuple[int, ...]:
    """Lengths that hold a half, three quarters, seven eighths, … and at last all of the sequences.

    Example:
        >>> boundaries([2, 2, 3, 3, 9], 3), boundaries([7, 7, 7], 3)
        ((3, 9), (7,))
    """
    shares = [1 - 0.5**k for k in range(1, count)] + [1.0]
    return tuple(np.unique(np.quantile(lengths, shares, method="higher")).tolist())


def build(options: Options, vocabulary: int) -> Translator:
    """Make the model that the options name."""
    cell = CELLS[options.cell]
    return Translator(
        encoder=(cell(options.hidden // 2),) * options.layers,
        decoder=translator.DECODERS[options.attention](cell(options.hidden), options.hidden),
        vocabulary=vocabulary,
        embedding=options.embedding,
        dropout=options.dropout,
        symbol_dropout=options.symbol_dropout,
    )


def train(task: Task, options: Options) -> training.Fitted:
    """Train the model; a run that finds its own checkpoints goes on from them."""
    steps = options.epochs * len(task.batches)
    every = max(1, steps // options.validations)
    # Linen makes modules hashable, which their annotations do not say.
    loss = translator.objective(task.model, options.smoothing)  # pyright: ignore[reportArgumentType]
    chrf = options.data != pairs.NUMBERS  # falls less often by chance than BLEU does
    score = functools.partial(validate, task, loss)
    config = {
        "task": TASK,
        "options": _lasting(options),
        "subwords": task.subwords,
        "shapes": task.limits.shapes,
        "target": task.limits.target,
    }
    print(f"training: {steps:,} steps, {options.epochs} epochs, sources padded to", end=" ")
    print(*(f"{rows} × {length}" for length, rows in task.batches.shapes.values()), sep=", ")
    return training.fit(
        loss,
        translator.initial_params(task.model, options.seed),
        translator.optimiser(options.learning_rate, options.weight_decay, steps),
        task.batches,
        steps=steps,
        key=jax.random.key(options.seed),
        average=options.average,
        validation=training.Validation(
            score, every, by="chrF" if chrf else "loss", higher_is_better=chrf
        ),
        checkpoints=training.Checkpoints(options.out / RUN, every=every, keep=1, config=config),
        writers=[Lines(steps, words_of)],
    )


def validate(task: Task, loss: training.Loss, params: Any) -> dict[str, float]:
    """Nats a symbol, and how good greedy translations are."""
    part = task.corpus.validation
    fields = encoded(task.subwords, part)
    longest = max(len(source) for source in fields["source"])
    batches = training.Buckets(fields, boundaries=[longest], batch_size=len(part))
    questions = pairs.questions(part)
    translations = translate(task, params, [q.source for q in questions], GREEDY)
    nats = training.evaluate(loss, params, batches.once())["loss"]
    return {"loss": nats, **quick_scores(translations, questions)}


def translate(task: Task, params: Any, sources: Sequence[str], beam: Beam) -> list[str]:
    """Translate texts."""
    ids = [task.subwords.encode(source) for source in sources]
    found = translating.translate(task.model, params, ids, task.limits, beam)
    return [task.subwords.decode(translation) for translation in found]


def beam_of(options: Options) -> Beam:
    """How the options say to translate."""
    return Beam(options.beam, options.length_penalty, options.block_ngrams)


def words_of(record: training.Record) -> str:
    """What a line of progress says."""
    return f"{record['loss']:.3f} nats a symbol  {record['tokens_per_second']:,.0f} symbols/s"


def _lasting(options: Options) -> dict[str, Any]:
    """The options that make a run what it is."""
    return {name: value for name, value in asdict(options).items() if name not in PASSING}


# --- runs ---


def read(options: Options) -> Corpus:
    """Read the pairs.

    Raises:
        OptionError: the name is not known, a file cannot be read, or a line of it is no pair.
    """
    with blame("--data"):
        return pairs.read(options.data)


def begin(options: Options) -> None:
    """Train a new model."""
    corpus = read(options)
    with blame("--out"):
        set_aside(options.out, (RUN, *FILES))
    train_and_report(prepare(corpus, options, cut(corpus, options)), options)


def resume(options: Options) -> None:
    """Go on with a run that was stopped, as it was begun."""
    config = load(options.out, "--out").config
    begun = replace(Options(**config["options"]), out=options.out)
    train_and_report(prepare(read(begun), begun, config["subwords"]), begun)


def train_and_report(task: Task, options: Options) -> None:
    """Train a model, score it once beside the baselines, keep scores and picture."""
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in task.corpus._asdict().items())
    print(f"{options.data}: {sizes} pairs, {len(task.subwords):,} symbols")
    fitted = train(task, options)
    assert fitted.best is not None
    params = jax.tree.map(jnp.asarray, fitted.best.params)
    outcome = translation_results.Outcome(
        corpus=task.corpus,
        is_numbers=options.data == pairs.NUMBERS,
        fitted=fitted,
        options=_lasting(options),
        beam=beam_of(options),
        translate=functools.partial(translate, task, params),
        attend=functools.partial(attend, task, params),
    )
    scores = translation_results.score(outcome)
    translation_results.keep(options.out, outcome, scores)
    translation_results.say(scores)
    print(f"kept in {options.out}")


def attend(task: Task, params: Any, source: str, translation: str) -> Any:
    """Where a translation looked: symbols of the source, of the translation, weights (T, S)."""
    ids = [task.subwords.encode(text) for text in (source, translation)]
    padded = translating.pad([ids[0]], task.limits.shapes)
    weights = translating.attend(task.model, params, padded, ids[1][:, None])
    if weights is None:
        return None
    read, written = (task.subwords.symbols(side) for side in ids)
    return read, written, np.asarray(weights)[:, 0, : len(read)]


# --- translating ---


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
            f"first: python -m examples.translation --out {folder}"
        ) from error
    with blame(option):
        config = saved.config
    if config.get("task") != TASK:
        raise OptionError(f"{option}: expected a run of translation; {folder} is of another task.")
    return saved


def translate_texts(options: Options) -> None:
    """Print a line for each text; an empty one where it cannot be translated, and why.

    Raises:
        OptionError: there was such a text.
    """
    assert options.load is not None
    saved = load(options.load, "--load")
    config = saved.config
    subwords, limits = config["subwords"], Limits(config["shapes"], config["target"])
    with blame("--file"):
        unit, texts = texts_of(options)
    found = [checked(text, subwords, limits) for text in texts]
    wrong = [f"{unit} {n}: {e}" for n, e in enumerate(found, 1) if isinstance(e, ValueError)]
    if wrong and len(texts) == 1:
        raise OptionError(wrong[0])
    model = build(Options(**config["options"]), len(subwords))
    params = jax.tree.map(jnp.asarray, saved.average)
    good = [subwords.encode(text) for text in found if isinstance(text, str)]
    translated = iter(translating.translate(model, params, good, limits, beam_of(options)))
    for text in found:
        print(subwords.decode(next(translated)) if isinstance(text, str) else "")
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        raise OptionError(f"{len(wrong)} of {len(texts)} texts could not be translated.")


def texts_of(options: Options) -> tuple[str, list[bytes]]:
    """What to translate: its unit, and the texts as bytes, of which each may be wrong by itself.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is empty.
    """
    if options.file is None:
        return "text", [os.fsencode(text) for text in options.text]
    lines = pairs.lines_of(options.file.read_bytes())
    if not lines:
        raise ValueError(f"expected lines to translate; {options.file} is empty.")
    return "line", lines


def checked(text: bytes, subwords: Subwords, limits: Limits) -> str | ValueError:
    """A text that can be translated, or what is wrong with it."""
    try:
        decoded = pairs.decode(text).strip()
        if not decoded:
            raise ValueError("it is empty; write a sentence")
        subwords.require(decoded)
        length, most = len(subwords.encode(decoded)) - 1, limits.shapes[-1] - 1
        if length > most:
            raise ValueError(
                f"expected at most {most} symbols, the longest that the model was trained on; "
                f"got {length}. Cut it into shorter ones"
            )
    except ValueError as error:
        return error
    return decoded


# --- the command line ---


def check(options: Options) -> None:
    """Check what needs no data.

    Raises:
        OptionError: an option is out of range, or two do not go together.
    """
    for name in (*SIZES, "epochs", "validations", "beam", "block_ngrams"):
        at_least_one(name, getattr(options, name))
    positive("learning_rate", options.learning_rate)
    for name in ("dropout", "symbol_dropout", "smoothing"):
        below_one(name, getattr(options, name))
    if not 0 < options.average < 1:
        raise OptionError(f"--average: expected a number in (0, 1); got {options.average}.")
    if options.hidden < 2 or options.hidden % 2:
        raise OptionError(f"--hidden: expected an even number from 2 up; got {options.hidden}.")
    a_seed(options.seed)
    if options.load and options.resume:
        raise OptionError("--load, --resume: expected one of the two; got both. Drop one.")
    if options.load and not options.text and not options.file:
        raise OptionError('--load: expected a text, as --load DIR "text", or --file; got neither.')
    if not options.load and (options.text or options.file):
        raise OptionError("--load: expected the folder of a trained model, to translate with.")
    if options.text and options.file:
        raise OptionError("--file: expected no texts beside it; got both. Drop one.")


def main(options: Options) -> None:
    """Train, go on training, or translate."""
    check(options)
    try:
        if options.load:
            translate_texts(options)
        elif options.resume:
            resume(options)
        else:
            begin(options)
    except training.Preempted as stopped:
        print(f"{stopped}; --resume --out {options.out} goes on")
        raise


def command(argv: Sequence[str] | None = None) -> None:
    """Run the command line; --quick and named data change what the other options are by default."""
    typed = parse(Options(), argv)
    usual = DEFAULTS.get(typed.data, SENTENCES)
    quick = QUICK if typed.data == pairs.NUMBERS else QUICK_SENTENCES
    run(main, replace(usual, **quick) if typed.quick else usual, argv)


if __name__ == "__main__":
    command()
