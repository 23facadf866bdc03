"""A recurrent language model, by the character or by the word, trained on real text.

With symbols x_1, x_2, …, embeddings e(x), a cell and a linear head,

    h_t = cell(h_{t−1}, e(x_t)),    p(x_{t+1} | x_1 … x_t) = softmax(h_t W + b),

trained by truncated backpropagation through time: the text is cut into B contiguous rows, each
step of the optimiser reads the next T symbols of every row, and the carry passes on from chunk to
chunk while the gradient does not (Mikolov et al., "Recurrent neural network based language model",
Interspeech 2010). By the word, symbols are one-hot vectors over a dictionary, their product with
the embedding is a row of it, and W may be the embedding once more (Press and Wolf, "Using the
Output Embedding to Improve Language Models", 2017). The score is bits per character or perplexity
per word, beside Kneser-Ney n-grams on the same symbols.

    python -m examples.language_model                             two minutes, nothing to download
    python -m examples.language_model --data tinyshakespeare      ten minutes
    python -m examples.language_model --data wikitext2 --unit word
    python -m examples.language_model --data FILE --minutes 10
    python -m examples.language_model --resume                    go on with a run that was stopped
    python -m examples.language_model --generate --prompt "def "
"""

import csv
import functools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

import rnnjax
from examples.support import datasets, machine, texts
from examples.support.cli import OptionError, at_least_one, below_one, blame, parse, positive, run
from examples.support.figures import learning_curve
from examples.support.folders import set_aside
from examples.support.lines import Lines
from examples.support.texts import Text, Unit
from rnnjax import decoding, training

CELLS = {
    "elman": rnnjax.Elman,
    "lstm": rnnjax.LSTM,
    "gru": rnnjax.GRU,
    "gru-reset-before": rnnjax.GRUResetBefore,
}
STRATEGIES = {
    "auto": rnnjax.Auto(),
    "sequential": rnnjax.Sequential(),
    "unrolled": rnnjax.Unrolled(),
    "chunked": rnnjax.Chunked(),
    "fused": rnnjax.Fused(),
}
PASSING = ("out", "quick", "resume", "generate", "prompt", "length", "temperature")  # not the run's
POINTS = 8  # how often a run is validated and saved
SPAN = 256  # symbols of a row that one call of the scoring reads
RUN, SCORES, CURVE, PICTURE = "run", "scores.json", "loss.csv", "loss.png"


@dataclass(frozen=True)
class Options:
    """Train a language model, or --generate text with a trained one."""

    data: str | None = None
    """A UTF-8 text file, or tinyshakespeare, viwiki or wikitext2; without it, the source files of
    Python's standard library. A name brings other defaults, and 10 minutes."""
    unit: Unit = "character"
    """What a symbol is."""
    characters: int = 6_000_000
    """How much of a text without a name to use at most."""
    cell: Literal["elman", "lstm", "gru", "gru-reset-before"] = "lstm"
    """The recurrent cell."""
    layers: int = 1
    """Cells on top of each other."""
    embedding: int = 64
    """Features of a symbol."""
    hidden: int = 256
    """Hidden units of a layer."""
    tied: bool = False
    """The head's matrix is the embedding."""
    dropout: float = 0.0
    """Share of a row's hidden units that the head does not see, the same ones all along a chunk."""
    embedding_dropout: float = 0.0
    """Share of a row's input features that are dropped, likewise."""
    recurrent_dropout: float = 0.0
    """Share of a row's hidden units that the next step does not see, likewise."""
    drop_connect: float = 0.0
    """Share of the recurrent kernels' entries that are dropped, the same ones all along a chunk."""
    average: float | None = None
    """Decay of an exponential moving average of the parameters, which is then what is kept."""
    batch: int = 32
    """Rows of text read side by side."""
    chunk: int = 32
    """Steps that a gradient goes back in time."""
    learning_rate: float = 6e-3
    """The highest learning rate, after the warm-up."""
    weight_decay: float = 0.01
    """Of AdamW."""
    strategy: Literal["auto", "sequential", "unrolled", "chunked", "fused"] = "auto"
    """How the recurrence is run; the answer is the same."""
    steps: int | None = None
    """Steps of the optimiser, instead of --minutes."""
    minutes: float | None = None
    """Minutes of training; 2 where neither is given, 10 for a text with a name by the character."""
    deterministic: bool = False
    """A run that is stopped and resumed ends with the bits of one that is not; slower on a CPU."""
    quick: bool = False
    """A small model, little text, a few seconds; other options still count."""
    resume: bool = False
    """Go on with the run in --out, with the options that it was begun with."""
    generate: bool = False
    """Write text with the model in --out instead of training one."""
    prompt: str = ""
    """What a sample goes on from; without it, the beginning of a file."""
    length: int = 400
    """Symbols to sample."""
    temperature: float = 1.0
    """Below 1 a sample is less varied, above 1 more."""
    seed: int = 0
    """Of the initial weights, the dropout and the sample."""
    out: Path = Path("runs/language_model")
    """Folder of the run: model, scores, loss curve. An earlier one is kept beside as .before."""


QUICK = Options(characters=300_000, hidden=96, batch=16, chunk=32)
CHARACTERS = Options(
    embedding=128,
    hidden=512,
    dropout=0.4,
    average=0.99,
    batch=64,
    chunk=128,
    learning_rate=3e-3,
)
WORDS = Options(
    embedding=256,
    hidden=320,
    tied=True,
    dropout=0.6,
    embedding_dropout=0.4,
    average=0.99,
    learning_rate=4e-3,
    weight_decay=0.2,
)
WORD_STEPS = 1400  # of a small text and a large dictionary: then it overfits
DEFAULTS = {
    **dict.fromkeys(("tinyshakespeare", "tinyshakespeare-tuning", "viwiki"), CHARACTERS),
    **dict.fromkeys(("wikitext2", "wikitext2-tuning"), WORDS),
}


class LanguageModel(nn.Module):
    """Embedding, recurrence, head: from symbols to the logits of the next one."""

    cell: rnnjax.Cell
    strategy: rnnjax.Strategy
    size: int  # of the vocabulary, V
    embedding: int
    tied: bool
    dropout: float
    embedding_dropout: float
    drop_connect: float

    def setup(self) -> None:
        """Make the layers and bind the cell's parameters."""
        # Of unit variance: with Linen's 1 / √D the cell reads little of its input at first. An
        # embedding that is the head, too, has to begin as a head does.
        spread = self.embedding**-0.5 if self.tied else 1.0
        self.embed = nn.Embed(
            self.size, self.embedding, embedding_init=nn.initializers.normal(spread)
        )
        self.head = nn.Dense(self.embedding if self.tied else self.size)
        # One mask for all of a row's steps, as in Gal and Ghahramani (2016).
        self.drop_input = nn.Dropout(self.embedding_dropout, broadcast_dims=(0,))
        self.drop_output = nn.Dropout(self.dropout, broadcast_dims=(0,))
        # Bound here, because Linen freezes a dict that becomes an attribute.
        params = self.param("rnn", self.cell.init, self.embedding)
        self.scan = functools.partial(self.read, params)
        self.step = functools.partial(rnnjax.step, self.cell, params)

    def __call__(
        self, carry: Any, tokens: jax.Array, resets: jax.Array, noise: bool
    ) -> tuple[Any, jax.Array]:
        """Read tokens (T, B): the carry after them, and logits (T, B, V)."""
        xs = self.drop_input(self.embed(tokens), deterministic=not noise)
        carry, ys = self.scan(xs, carry, resets, noise)
        return carry, self.logits(self.drop_output(ys, deterministic=not noise))

    def read(
        self, params: Any, xs: jax.Array, carry: Any, resets: jax.Array, noise: bool
    ) -> tuple[Any, jax.Array]:
        """Run the recurrence, with noise on hidden units and recurrent kernels where asked for."""
        context = None
        if noise:
            k_units, k_kernels = jax.random.split(self.make_rng("dropout"))
            context = rnnjax.sequence_noise(k_units, self.cell, params, xs.shape[1])
            params = rnnjax.drop_connect(k_kernels, params, self.drop_connect)
        options = {"resets": resets, "context": context, "strategy": self.strategy}
        return rnnjax.scan(self.cell, params, xs, carry, **options)

    def read_one(self, carry: Any, token: jax.Array, reset: jax.Array) -> tuple[Any, jax.Array]:
        """Read one token (B,): the carry after it, and logits (B, V)."""
        carry, y = self.step(self.embed(token), carry, reset=reset)
        return carry, self.logits(y)

    def logits(self, y: jax.Array) -> jax.Array:
        """Score every symbol."""
        return self.embed.attend(self.head(y)) if self.tied else self.head(y)


def build(options: Options, size: int) -> LanguageModel:
    """Make the model that the options name."""
    cells = tuple(_layer(options, k) for k in range(options.layers))
    return LanguageModel(
        cells[0] if options.layers == 1 else rnnjax.Stack(cells),
        STRATEGIES[options.strategy],
        size,
        options.embedding,
        options.tied,
        options.dropout,
        options.embedding_dropout,
        options.drop_connect,
    )


def _layer(options: Options, k: int) -> rnnjax.Cell:
    cell = CELLS[options.cell](options.hidden)
    if not options.recurrent_dropout:
        return cell
    return rnnjax.VariationalDropout(cell, 0.0, options.recurrent_dropout, name=f"dropout_{k}")


@functools.partial(jax.jit, static_argnames="model")
def initial_params(model: LanguageModel, seed: int) -> Any:
    """Draw the parameters."""
    tokens = jnp.zeros((1, 1), int)
    return model.init(jax.random.key(seed), None, tokens, tokens == 0, noise=False)


def initial_carry(model: LanguageModel, params: Any, batch: int) -> Any:
    """Return the initial carry of every row."""
    return rnnjax.initial_carry(model.cell, params["params"]["rnn"], batch)


def apply(model: LanguageModel, params: Any, *inputs: Any, **options: Any) -> Any:
    """Call the model; Linen's own annotation would hide the type of the result."""
    return model.apply(params, *inputs, **options)


def loss(model: LanguageModel, params: Any, carry: Any, chunk: training.Chunk, key: Any) -> Any:
    """Mean nats of the targets that are not −1, the carry to pass on, and how many they are."""
    noise = key is not None
    rngs = {"dropout": key} if noise else None
    carry, logits = apply(model, params, carry, chunk.inputs, chunk.resets, noise, rngs=rngs)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, chunk.targets)
    scored = chunk.targets >= 0
    count = scored.sum()
    total = jnp.sum(nats, where=scored)
    return total / jnp.maximum(count, 1).astype(total.dtype), (carry, {"tokens": count})


# --- training ---


def optimiser(options: Options, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping, a warm-up and a cosine that ends at nothing after so many steps."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, warmup_steps=min(50, 1 + steps // 20), decay_steps=steps
    )
    adamw = optax.adamw(rate, b2=0.98, weight_decay=options.weight_decay)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


class Task(NamedTuple):
    """A model, its loss, and the rows that it learns from."""

    model: LanguageModel
    loss: training.Loss
    rows: training.TokenStreams
    params: Any
    carry: Any


def prepare(text: Text, options: Options) -> Task:
    """Make what is trained."""
    model = build(options, len(text.vocabulary))
    rows = training.TokenStreams(
        text.train.tokens, starts=text.train.starts, batch_size=options.batch, chunk=options.chunk
    )
    params = initial_params(model, options.seed)
    carry = initial_carry(model, params, options.batch)
    return Task(model, functools.partial(loss, model), rows, params, carry)


def steps_of(task: Task, options: Options) -> int:
    """The steps of a run: those asked for, those of its text, or those that fill the minutes."""
    if options.steps is not None:
        return options.steps
    if options.minutes is None and options.data in datasets.BY_WORD:
        return WORD_STEPS
    return steps_in_time(task, options)


def steps_in_time(task: Task, options: Options) -> int:
    """Time a few steps once they are compiled; return how many fill the minutes."""
    adamw, data, seconds = optimiser(options, 1000), iter(task.rows), []
    averaged = options.average is not None
    key = jax.random.key(0)
    state = training.initial_state(task.params, adamw, key, carry=task.carry, average=averaged)
    for _ in range(12):
        begin = time.perf_counter()
        state, metrics = training.compiled_step(
            task.loss,
            adamw,
            state,
            next(data),
            decay=options.average,
            deterministic=options.deterministic,
        )
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begin)
    usual = 0.04 if options.quick else 10.0 if options.data in DEFAULTS else 2.0
    return max(1, round(60 * (options.minutes or usual) / statistics.median(seconds[2:])))


def train(task: Task, text: Text, options: Options, steps: int) -> training.Fitted:
    """Train the model; a run that finds its own checkpoints goes on from them."""
    every = max(1, steps // POINTS)
    validation = None
    if text.validation is not None:
        held_out = texts.rows(text.validation, SPAN)
        score = functools.partial(nats_of, task.model, task.loss, held_out)
        validation = training.Validation(score, every)
    size = options.batch * options.chunk
    print(f"training: {steps:,} steps of {size:,} {text.unit}s, {steps * size:,} in all")
    config = {
        "options": _lasting(options),
        "cell": task.model.cell,
        "strategy": task.model.strategy,
        "vocabulary": text.vocabulary,
        "steps": steps,
        "best": _has_chosen(text),
    }
    return training.fit(
        task.loss,
        task.params,
        optimiser(options, steps),
        task.rows,
        steps=steps,
        key=jax.random.key(options.seed),
        carry=task.carry,
        average=options.average,
        deterministic=options.deterministic,
        validation=validation,
        checkpoints=training.Checkpoints(options.out / RUN, every=every, keep=1, config=config),
        writers=[Lines(steps, functools.partial(words_of, text.unit))],
    )


def words_of(unit: Unit, record: training.Record) -> str:
    """What a line of progress says."""
    measured, name = texts.measure(unit, record["loss"]), texts.measure_name(unit)
    return f"{measured:.3f} {name}  {record['tokens_per_second']:,.0f} {unit}s/s"


def nats_of(model: LanguageModel, loss: training.Loss, part: training.Chunk, params: Any) -> float:
    """Nats per symbol over rows, the carry passed on."""
    carry = initial_carry(model, params, part.inputs.shape[1])
    spans = range(0, len(part.inputs), SPAN)
    parts = (jax.tree.map(lambda a, s=s: a[s : s + SPAN], part) for s in spans)
    return training.evaluate(loss, params, parts, carry)["loss"]


def _lasting(options: Options) -> dict[str, Any]:
    """The options that make a run what it is."""
    return {name: value for name, value in asdict(options).items() if name not in PASSING}


def _has_chosen(text: Text) -> bool:
    """Whether validation may choose the params, because something else is scored."""
    return text.validation is not None and text.test is not None


def finished_params(fitted: training.Fitted, text: Text) -> Any:
    """The average if there is one; the best ones where what chose them is not what is scored."""
    if fitted.best is not None and _has_chosen(text):
        return fitted.best.params
    return fitted.state.params if fitted.state.average is None else fitted.state.average


# --- samples ---


def read_token(
    model: LanguageModel, boundary: int | None, params: Any, carry: Any, token: jax.Array, _: None
) -> tuple[Any, jax.Array]:
    """The step function of ``rnnjax.decoding``; a boundary begins a new file, as in training."""
    reset = token == (-1 if boundary is None else boundary)
    return apply(model, params, carry, token, reset, method="read_one")


def write(
    model: LanguageModel, params: Any, vocabulary: Any, unit: Unit, options: Options
) -> Iterator[str]:
    """Go on from the prompt, a piece of text at a time."""
    boundary = 0 if unit == "character" else None
    step = Partial(functools.partial(read_token, model, boundary), params)
    prompt = jnp.concatenate([jnp.zeros(1, jnp.int32), vocabulary.encode(options.prompt)])
    tokens = decoding.stream(
        step,
        initial_carry(model, params, 1),
        prompt[:, None],
        jax.random.key(options.seed),
        max_length=options.length,
        temperature=options.temperature,
    )
    written, text = [], ""
    for token in tokens:
        written.append(int(token[0]))
        longer = vocabulary.decode(written)
        yield longer[len(text) :]
        text = longer


def show(prompt: str, unit: Unit, pieces: Iterator[str]) -> None:
    """Print a sample while it is written, with a line where a file ends."""
    print(prompt, end=" " if prompt and unit == "word" else "", flush=True)
    for piece in pieces:
        print(piece.replace("\0", "\n--- end of file ---\n"), end="", flush=True)
    print()


# --- runs ---


def score(task: Task, text: Text, params: Any) -> dict[str, Any]:
    """Score params and n-grams on the part that nothing was learnt from or chosen by."""
    nats = nats_of(task.model, task.loss, texts.rows(text.scored, SPAN), params)
    scores = {
        "nats": nats,
        texts.measure_name(text.unit).replace(" ", "_"): texts.measure(text.unit, nats),
        "ngram_nats": texts.ngram_nats(text),
    }
    if len(text.scored.tokens) > SPAN:
        windows = texts.windows(text.scored, SPAN)
        scores[f"nats_in_windows_of_{SPAN}"] = nats_of(task.model, task.loss, windows, params)
    return scores


def report(text: Text, scores: dict[str, Any]) -> None:
    """Say how the model did, beside the n-grams."""
    measured, name = texts.measure(text.unit, scores["nats"]), texts.measure_name(text.unit)
    print(f"{measured:.3f} {name} ({scores['nats']:.4f} nats), the carry passed on, which")
    for baseline in texts.baselines(text.unit, scores["ngram_nats"]).items():
        print(f"  {texts.verdict(measured, *baseline)}")
    cold = scores.get(f"nats_in_windows_of_{SPAN}")
    if cold is not None:
        print(f"{cold:.4f} nats where each {SPAN} symbols begin without memory")


def keep(out: Path, fitted: training.Fitted, text: Text, scores: dict[str, Any]) -> None:
    """Write the scores, and the loss curve in numbers and as a picture."""
    (out / SCORES).write_text(json.dumps(scores, indent=2, default=str) + "\n", "utf-8")
    columns = ["step", "symbols", "seconds", "training_nats", "validation_nats"]
    seen, curve = 0, []
    for record in fitted.records:
        seen += int(record.get("tokens", 0))
        row = [record["step"], seen, record["seconds"], record.get("loss")]
        curve.append([*row, record.get("validation_loss")])
    with (out / CURVE).open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *curve])
    watched = {row[1]: row[4] for row in curve if row[4] is not None}
    points, name = (watched, "validation") if watched else ({seen: scores["nats"]}, "test")
    learnt = [row for row in curve if row[3] is not None]
    learning_curve(
        out / PICTURE,
        [row[1] for row in learnt],
        [texts.measure(text.unit, row[3]) for row in learnt],
        {at: texts.measure(text.unit, nats) for at, nats in points.items()},
        texts.baselines(text.unit, scores["ngram_nats"]),
        (f"{text.unit}s seen", texts.measure_name(text.unit)),
        name,
    )


def train_and_report(text: Text, options: Options, steps: int | None = None) -> None:
    """Train a model, score it beside the baselines, keep it, and let it write."""
    print(
        f"text: {text.source}; {len(text.train.tokens):,} {text.unit}s to train on, "
        f"{len(text.scored.tokens):,} to be scored on, {len(text.vocabulary):,} symbols"
    )
    task = prepare(text, options)
    steps = steps_of(task, options) if steps is None else steps
    fitted = train(task, text, options, steps)
    params = finished_params(fitted, text)
    scores = {
        "text": text.source,
        "training_symbols": len(text.train.tokens),
        "scored_symbols": len(text.scored.tokens) - 1,
        "steps": steps,
        "training_seconds": fitted.records[-1]["seconds"],
        **score(task, text, params),
        "options": _lasting(options),
        "device": machine.device(),
        "versions": machine.versions("jax", "flax", "optax", "rnnjax"),
    }
    report(text, scores)
    keep(options.out, fitted, text, scores)
    print(f"kept in {options.out}; a sample:\n")
    show(options.prompt, text.unit, write(task.model, params, text.vocabulary, text.unit, options))


def read_text(options: Options) -> Text:
    """Read the text.

    Raises:
        OptionError: it cannot be read, is too short, or lacks a symbol of the prompt.
    """
    with blame("--data" if options.data else "--characters"):
        text = texts.read(options.data, options.unit, options.characters)
        needed = options.batch * options.chunk + 1
        if len(text.train.tokens) < needed:
            raise ValueError(
                f"expected at least {needed} {text.unit}s to train on, for --batch "
                f"{options.batch} rows of --chunk {options.chunk}; got {len(text.train.tokens)}. "
                "Give a longer text, or lower --batch or --chunk."
            )
    with blame("--prompt"):
        text.vocabulary.require(options.prompt)
    return text


def load(out: Path) -> training.Saved:
    """Read back a run.

    Raises:
        OptionError: there is none in --out, or it cannot be read.
    """
    train_first = f"Train one first: python -m examples.language_model --out {out}"
    try:
        saved = training.load(out / RUN)
        return training.load(out / RUN, best=True) if saved.config["best"] else saved
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--out: expected a run; {out} has none that can be read ({error}) {train_first}"
        ) from error


def begin(options: Options) -> None:
    """Train a new model."""
    text = read_text(options)
    with blame("--out"):
        set_aside(options.out, (RUN, SCORES, CURVE, PICTURE))
    train_and_report(text, options)


def resume(options: Options) -> None:
    """Go on with a run that was stopped, as it was begun."""
    config = load(options.out).config
    begun = replace(Options(**config["options"]), out=options.out)
    train_and_report(read_text(begun), begun, config["steps"])


def generate(options: Options) -> None:
    """Write text with a trained model."""
    saved = load(options.out)
    begun, vocabulary = Options(**saved.config["options"]), saved.config["vocabulary"]
    with blame("--prompt"):
        vocabulary.require(options.prompt)
    model = build(begun, len(vocabulary))
    params = saved.params if saved.average is None else saved.average
    params = jax.tree.map(jnp.asarray, params)
    show(options.prompt, begun.unit, write(model, params, vocabulary, begun.unit, options))


def check(options: Options) -> None:
    """Check what needs no text.

    Raises:
        OptionError: an option is out of range, or two do not go together.
    """
    sizes = ("characters", "layers", "hidden", "embedding", "batch", "chunk", "length", "steps")
    for name in sizes:
        at_least_one(name, getattr(options, name))
    for name in ("minutes", "temperature", "learning_rate"):
        positive(name, getattr(options, name))
    for name in ("dropout", "embedding_dropout", "recurrent_dropout", "drop_connect", "average"):
        below_one(name, getattr(options, name))
    if options.steps is not None and options.minutes is not None:
        raise OptionError("--steps, --minutes: expected one of the two; got both. Drop one.")
    if options.generate and options.resume:
        raise OptionError("--generate, --resume: expected one of the two; got both. Drop one.")


def main(options: Options) -> None:
    """Train, go on training, or generate."""
    check(options)
    try:
        if options.generate:
            generate(options)
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
    run(main, QUICK if typed.quick else DEFAULTS.get(typed.data or "", Options()), argv)


if __name__ == "__main__":
    command()
