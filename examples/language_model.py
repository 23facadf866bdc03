"""A recurrent character language model, trained on real text from one command.

With symbols x_1, x_2, …, embeddings e(x), a cell and a linear head,

    h_t = cell(h_{t−1}, e(x_t)),    p(x_{t+1} | x_1 … x_t) = softmax(h_t W + b),

trained by truncated backpropagation through time: the text is cut into B contiguous rows, each
step of the optimiser reads the next T symbols of every row, and the carry passes on from chunk to
chunk while the gradient does not (Mikolov et al., "Recurrent neural network based language model",
Interspeech 2010). The score is bits per character, beside Kneser-Ney n-grams on the same symbols.

    python -m examples.language_model                             two minutes, nothing to download
    python -m examples.language_model --data FILE --minutes 10
    python -m examples.language_model --generate --prompt "def "
"""

import csv
import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

import rnnjax
from examples.support import characters
from examples.support.characters import Text, baselines, verdict
from examples.support.cli import OptionError, at_least_one, blame, positive, run
from examples.support.corpus import BOUNDARY, Streams, Vocabulary
from examples.support.figures import learning_curve
from examples.support.folders import check_replaceable, replacing
from examples.support.progress import progress

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
}
EMBEDDING = 64
VALIDATION_POINTS = 8
SPAN = 256  # symbols of a row that one call of the validation reads
BLOCK = 16  # symbols that one call of the sampling writes
CHECKPOINT, CONFIG, CURVE, PICTURE = "checkpoint", "config.json", "loss.csv", "loss.png"


@dataclass(frozen=True)
class Options:
    """Train a character language model, or --generate text with a trained one."""

    data: Path | None = None
    """A UTF-8 text file; without it, the source files of Python's standard library."""
    characters: int = 6_000_000
    """How much of the text to use at most."""
    cell: Literal["elman", "lstm", "gru", "gru-reset-before"] = "lstm"
    """The recurrent cell."""
    layers: int = 1
    """Cells on top of each other."""
    hidden: int = 256
    """Hidden units of a layer."""
    batch: int = 32
    """Rows of text read side by side."""
    chunk: int = 32
    """Steps that a gradient goes back in time."""
    learning_rate: float = 6e-3
    """The highest learning rate, after the warm-up."""
    strategy: Literal["auto", "sequential", "unrolled", "chunked"] = "auto"
    """How the recurrence is run; the answer is the same."""
    steps: int | None = None
    """Steps of the optimiser, instead of --minutes."""
    minutes: float | None = None
    """Minutes of training; 2 where neither is given."""
    quick: bool = False
    """A small model, little text, a few seconds; other options still count."""
    generate: bool = False
    """Write text with the model in --out instead of training one."""
    prompt: str = ""
    """What a sample goes on from; without it, the beginning of a file."""
    length: int = 400
    """Characters to sample."""
    temperature: float = 1.0
    """Below 1 a sample is less varied, above 1 more."""
    seed: int = 0
    """Of the initial weights and of the sample."""
    out: Path = Path("runs/language_model")
    """Folder of the trained model, its scores and its loss curve; an earlier run is replaced."""


QUICK = Options(characters=300_000, hidden=96, batch=16, chunk=32)


class CharacterModel(nn.Module):
    """Embedding, recurrence, head: from symbols to the logits of the next one."""

    cell: rnnjax.Cell
    vocabulary_size: int
    strategy: rnnjax.Strategy

    def setup(self) -> None:
        """Make the layers and bind the cell's parameters."""
        # Of unit variance: with Linen's 1 / √D the cell reads little of its input at first.
        unit = nn.initializers.normal(1.0)
        self.embed = nn.Embed(self.vocabulary_size, EMBEDDING, embedding_init=unit)
        self.head = nn.Dense(self.vocabulary_size)
        # Bound here, because Linen freezes a dict that becomes an attribute.
        params = self.param("rnn", self.cell.init, EMBEDDING)
        self.scan = functools.partial(rnnjax.scan, self.cell, params, strategy=self.strategy)
        self.step = functools.partial(rnnjax.step, self.cell, params)

    def __call__(self, carry: Any, tokens: jax.Array, resets: jax.Array) -> tuple[Any, jax.Array]:
        """Read tokens (T, B): the carry after them, and logits (T, B, V)."""
        carry, ys = self.scan(self.embed(tokens), carry, resets=resets)
        return carry, self.head(ys)

    def read_one(self, carry: Any, token: jax.Array, reset: jax.Array) -> tuple[Any, jax.Array]:
        """Read one token (B,): the carry after it, and logits (B, V)."""
        carry, y = self.step(self.embed(token), carry, reset=reset)
        return carry, self.head(y)


def build(options: Options, vocabulary_size: int) -> CharacterModel:
    """Make the model that the options name."""
    cell = CELLS[options.cell](options.hidden)
    whole = cell if options.layers == 1 else rnnjax.Stack((cell,) * options.layers)
    return CharacterModel(whole, vocabulary_size, STRATEGIES[options.strategy])


@functools.partial(jax.jit, static_argnames="model")
def initial_params(model: CharacterModel, seed: int) -> Any:
    """Draw the parameters."""
    tokens = jnp.zeros((1, 1), int)
    return model.init(jax.random.key(seed), None, tokens, tokens == 0)


def initial_carry(model: CharacterModel, params: Any, batch: int) -> Any:
    """Return the initial carry of every row."""
    carry = model.cell.initial_carry(params["params"]["rnn"])
    return jax.tree.map(lambda a: jnp.tile(a, (batch, *(1,) * a.ndim)), carry)


def apply(model: CharacterModel, params: Any, *inputs: Any, method: str = "__call__") -> Any:
    """Call the model; Linen's own annotation would hide the type of the result."""
    return model.apply(params, *inputs, method=method)


def losses(model: CharacterModel, params: Any, carry: Any, rows: Streams) -> tuple[jax.Array, Any]:
    """Return the nats of every target (T, B), and the carry to pass on."""
    carry, logits = apply(model, params, carry, rows.inputs, rows.resets)
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows.targets), carry


# --- training ---


class TrainState(NamedTuple):
    """What a step of the optimiser changes."""

    params: Any
    optimiser: Any
    carry: Any  # leading axis B
    step: jax.Array  # ()


class Point(NamedTuple):
    """A row of the loss curve."""

    step: int
    characters: int
    seconds: float  # of training alone
    training_bits: float  # per character
    validation_bits: float | None  # per character, at some of the steps


# AdamW's update is proportional to its learning rate, and so is multiplied by it in `train_step`:
# the schedule needs the number of steps, which is known only after the step was compiled and timed.
OPTIMISER = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.98, weight_decay=0.01)
)
# A share of the highest learning rate, by thousandths of the run.
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=20, decay_steps=1000)


def initial_state(model: CharacterModel, batch: int, seed: int) -> TrainState:
    """Return the state before the first step."""
    params = initial_params(model, seed)
    carry = initial_carry(model, params, batch)
    return TrainState(params, OPTIMISER.init(params), carry, jnp.zeros((), int))


@functools.partial(jax.jit, static_argnames=("model", "chunk"), donate_argnames="state")
def train_step(
    model: CharacterModel, state: TrainState, rows: Streams, chunk: int, peak: float, steps: int
) -> tuple[TrainState, jax.Array]:
    """Take one of `steps` steps, on the next chunk of the rows: the state after it, and the loss.

    All rows stand on the device and are cut here, so that a step copies nothing to it. No gradient
    enters the carry, because it is an argument.
    """
    start = state.step % (rows.inputs.shape[0] // chunk) * chunk
    part = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, chunk), rows)

    def mean_loss(params: Any) -> tuple[jax.Array, Any]:
        nats, carry = losses(model, params, state.carry, part)
        return nats.mean(), carry

    (loss, carry), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    updates, optimiser = OPTIMISER.update(gradient, state.optimiser, state.params)
    rate = peak * SCHEDULE(1000 * (state.step + 1) / steps)
    params = optax.apply_updates(state.params, optax.tree.scale(rate, updates))
    return TrainState(params, optimiser, carry, state.step + 1), loss


def steps_in_time(model: CharacterModel, rows: Streams, options: Options) -> int:
    """Time a few steps once they are compiled; return how many fill the minutes."""
    state = initial_state(model, options.batch, options.seed)
    seconds = []
    for _ in range(12):
        begin = time.perf_counter()
        state, loss = train_step(model, state, rows, options.chunk, options.learning_rate, 1000)
        loss.block_until_ready()
        seconds.append(time.perf_counter() - begin)
    minutes = options.minutes or (0.04 if options.quick else 2.0)
    return max(1, round(60 * minutes / statistics.median(seconds[2:])))


def train(
    model: CharacterModel, text: Text, held_out: Streams, options: Options
) -> tuple[Any, list[Point]]:
    """Train the model: its parameters, and the loss curve."""
    rows = jax.device_put(characters.training_rows(text, options.batch))
    steps = options.steps or steps_in_time(model, rows, options)
    size = options.batch * options.chunk
    print(f"training: {steps:,} steps of {size:,} characters, {steps * size:,} in all")
    state = initial_state(model, options.batch, options.seed)
    points, seconds, validated = [], 0.0, 0
    with progress(steps) as report:
        for step in range(1, steps + 1):
            begin = time.perf_counter()
            state, loss = train_step(
                model, state, rows, options.chunk, options.learning_rate, steps
            )
            bits = float(loss) / math.log(2)
            seconds += time.perf_counter() - begin
            scored = None
            if step * VALIDATION_POINTS // steps > validated:
                validated += 1
                scored = bits_of(model, state.params, held_out)
            points.append(Point(step, step * size, seconds, bits, scored))
            recent = statistics.fmean(point.training_bits for point in points[-25:])
            report(step, f"{recent:.3f} bits/char  {step * size / seconds:,.0f} char/s")
    return state.params, points


@functools.partial(jax.jit, static_argnames="model")
def _score(
    model: CharacterModel, params: Any, carry: Any, rows: Streams
) -> tuple[jax.Array, jax.Array, Any]:
    nats, carry = losses(model, params, carry, rows)
    scored = rows.targets >= 0
    return jnp.sum(nats, where=scored), jnp.sum(scored), carry


def bits_of(model: CharacterModel, params: Any, rows: Streams) -> float:
    """Bits per character over rows whose length is a multiple of SPAN, the carry passed on."""
    carry = initial_carry(model, params, rows.inputs.shape[1])
    nats, count = 0.0, 0
    for start in range(0, len(rows.inputs), SPAN):
        part = jax.tree.map(lambda a, s=start: a[s : s + SPAN], rows)
        more, scored, carry = _score(model, params, carry, part)
        nats, count = nats + float(more), count + int(scored)
    return nats / count / math.log(2)


# --- samples ---


@functools.partial(jax.jit, static_argnames="model")
def read_prompt(model: CharacterModel, params: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
    """Read tokens (T,): the carry after them, and the logits of the next one (1, V)."""
    carry, logits = apply(model, params, None, tokens[:, None], (tokens == 0)[:, None])
    return carry, logits[-1]


@functools.partial(jax.jit, static_argnames="model")
def sample(
    model: CharacterModel,
    params: Any,
    state: tuple[Any, jax.Array],
    keys: jax.Array,
    temperature: float,
) -> tuple[tuple[Any, jax.Array], jax.Array]:
    """Draw a token with each key, and read it before the next is drawn.

    Args:
        model: the model.
        params: its parameters.
        state: the carry, and the logits of the next token (1, V).
        keys: (n,).
        temperature: what the logits are divided by.

    Returns:
        The state after the last token, and the tokens (n,).
    """

    def draw(state: tuple[Any, jax.Array], key: jax.Array) -> tuple[tuple[Any, jax.Array], Any]:
        carry, logits = state
        token = jax.random.categorical(key, logits / temperature)  # (1,)
        # A boundary symbol begins a new file, as in training.
        return apply(model, params, carry, token, token == 0, method="read_one"), token[0]

    return jax.lax.scan(draw, state, keys)


def write(
    model: CharacterModel, params: Any, vocabulary: Vocabulary, options: Options
) -> Iterator[str]:
    """Go on from the prompt, a few characters at a time."""
    state = read_prompt(model, params, vocabulary.encode(BOUNDARY + options.prompt))
    key = jax.random.key(options.seed)
    for begin in range(0, options.length, BLOCK):
        keys = jax.random.split(jax.random.fold_in(key, begin), BLOCK)
        state, tokens = sample(model, params, state, keys, options.temperature)
        yield vocabulary.decode(tokens[: options.length - begin])


def show(prompt: str, pieces: Iterator[str]) -> None:
    """Print a sample while it is written, with a line where a file ends."""
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece.replace(BOUNDARY, "\n--- end of file ---\n"), end="", flush=True)
    print()


# --- runs ---


def save(out: Path, params: Any, points: Sequence[Point], config: dict[str, Any]) -> None:
    """Write the parameters, the configuration, and the loss curve in numbers and as a picture."""
    with replacing(out) as folder:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / CHECKPOINT, params)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, default=str), "utf-8")
        with (folder / CURVE).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Point._fields, *points])
        learning_curve(
            folder / PICTURE,
            [point.characters for point in points],
            [point.training_bits for point in points],
            {p.characters: p.validation_bits for p in points if p.validation_bits is not None},
            baselines(config["ngram_bits"]),
            "characters seen",
            "bits per character",
        )


def load(options: Options) -> tuple[CharacterModel, Any, Vocabulary]:
    """Read back a trained model, its parameters and its vocabulary.

    Raises:
        OptionError: there is none in --out, or it cannot be read.
    """
    train_first = f"Train one first: python -m examples.language_model --out {options.out}"
    config_file = options.out / CONFIG
    if not config_file.is_file():
        raise OptionError(
            f"--out: expected a trained model; there is no {config_file}. {train_first}"
        )
    try:
        config = json.loads(config_file.read_text("utf-8"))
        vocabulary = Vocabulary(tuple(config["symbols"]))
        sizes = {name: config["options"][name] for name in ("cell", "hidden", "layers")}
        model = build(replace(options, **sizes), len(vocabulary))
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # wherever it was trained
        shapes = jax.eval_shape(functools.partial(initial_params, model, options.seed))
        target = jax.tree.map(lambda leaf: leaf.update(sharding=here), shapes)
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore((options.out / CHECKPOINT).resolve(), target)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise OptionError(
            f"--out: expected a trained model; {options.out} cannot be read "
            f"({type(error).__name__}: {error}). {train_first}"
        ) from error
    return model, params, vocabulary


def train_and_report(options: Options) -> None:
    """Train a model, score it beside the baselines, keep it, and let it write."""
    with blame("--out"):
        check_replaceable(options.out, (CHECKPOINT, CONFIG, CURVE, PICTURE))
    text = read_text(options)
    print(
        f"text: {text.source}; {len(text.train):,} characters to train on, "
        f"{len(text.validation):,} to validate on, {len(text.vocabulary)} symbols"
    )
    model = build(options, len(text.vocabulary))
    held_out = characters.validation_rows(text, SPAN)
    params, points = train(model, text, held_out, options)
    bits, ngrams = bits_of(model, params, held_out), characters.ngram_bits(text)
    print(f"{bits:.3f} bits per character over the whole validation text, which")
    print(*(f"  {verdict(bits, *baseline)}" for baseline in baselines(ngrams).items()), sep="\n")
    config = {
        "options": asdict(options),
        "text": text.source,
        "training_characters": len(text.train),
        "validation_characters": len(text.validation),
        "symbols": "".join(text.vocabulary.symbols),
        "steps": points[-1].step,
        "training_seconds": points[-1].seconds,
        "bits_per_character": bits,
        "ngram_bits": ngrams,
    }
    save(options.out, params, points, config)
    print(f"kept in {options.out}; a sample:\n")
    show(options.prompt, write(model, params, text.vocabulary, options))


def read_text(options: Options) -> Text:
    """Read the text.

    Raises:
        OptionError: it cannot be read, is too short, or lacks a character of the prompt.
    """
    with blame("--data" if options.data else "--characters"):
        text = characters.read(options.data, options.characters)
        needed = options.batch * options.chunk + 1
        if len(text.train) < needed:
            raise ValueError(
                f"expected at least {needed} characters to train on, for --batch {options.batch} "
                f"rows of --chunk {options.chunk}; got {len(text.train)}. Give a longer text, or "
                "lower --batch or --chunk."
            )
    with blame("--prompt"):
        text.vocabulary.require(options.prompt)
    return text


def generate(options: Options) -> None:
    """Write text with a trained model."""
    model, params, vocabulary = load(options)
    with blame("--prompt"):
        vocabulary.require(options.prompt)
    show(options.prompt, write(model, params, vocabulary, options))


def check(options: Options) -> None:
    """Check what needs no text.

    Raises:
        OptionError: an option is out of range, or two do not go together.
    """
    for name in ("characters", "layers", "hidden", "batch", "chunk", "length", "steps"):
        at_least_one(name, getattr(options, name))
    for name in ("minutes", "temperature", "learning_rate"):
        positive(name, getattr(options, name))
    if options.steps is not None and options.minutes is not None:
        raise OptionError("--steps, --minutes: expected one of the two; got both. Drop one.")


def main(options: Options) -> None:
    """Train, or generate."""
    check(options)
    if options.generate:
        generate(options)
    else:
        train_and_report(options)


def command(argv: Sequence[str] | None = None) -> None:
    """Run the command line; --quick changes what the other options are by default."""
    quick = "--quick" in (sys.argv if argv is None else argv)
    run(main, QUICK if quick else Options(), argv)


if __name__ == "__main__":
    command()
