"""The five shapes of a recurrent network, each on a small task that needs it.

One cell, h' = step(h, x), is run in five ways (the picture is that of A. Karpathy, "The
Unreasonable Effectiveness of Recurrent Neural Networks", 2015):

    one to one             x → h → y                       a network with one hidden layer
    one to many            x → h → y_1 → h → y_2 → …       each y_t goes back in, until y_t is "."
    many to one            x_1 … x_T → h → y
    many to many, aligned  x_1 → y_1, …, x_T → y_T
    encoder–decoder        x_1 … x_T → h → y_1 → h → …     many to one, then one to many

Of all questions that a task has, a fifth is held out, chosen at random. An answer counts when all
of it is right. Beside each shape trains a control: the same questions and updates without what
makes the shape, so that a bound or a symmetry keeps it from the answers. (The other way round
nothing is bounded: a larger shape can imitate a smaller one.)
"""

import csv
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from examples.support import puzzles
from examples.support.cli import a_seed, blame, run
from examples.support.folders import check_replaceable
from examples.support.puzzles import Puzzle, Questions
from examples.support.unrolled import Panel, draw

NOTES = """Bars: held-out questions answered
without a mistake, by the shape and by a
control that lacks what makes the shape.

Black marks: chance, the most that the
control can expect.

Dashed: what was written goes back in."""
TABLE, PICTURE = "shapes.csv", "shapes.png"


@dataclass(frozen=True)
class Options:
    """The five shapes of a recurrent network, each on a small task that needs it."""

    out: Path = Path("runs/shapes")
    """Folder for the picture and the table."""
    quick: bool = False
    """A smaller network, fewer updates and no controls, to see that everything works."""
    seed: int = 0
    """Chooses the held-out questions, the first parameters and the batches."""


class Budget(NamedTuple):
    """What a training may cost, and must reach."""

    size: int  # of the state
    updates: int
    controls: bool
    goal: float  # the share of held-out questions


FULL = Budget(64, 1000, True, 0.99)
QUICK = Budget(32, 300, False, 0.9)


# The shapes. Each returns the states (U, B, N) from which U symbols of the answers are read.


def one_to_one(cell, params, questions, write):
    """The state after one step."""
    h, _ = rnnjax.step(cell, params["read"], questions.xs[0])
    return h[None]


def one_to_many(cell, params, questions, write):
    """One step, then one for each symbol that is written."""
    h, _ = rnnjax.step(cell, params["read"], questions.xs[0])
    return write(cell, params, h)


def many_to_one(cell, params, questions, write):
    """The last state; past a question's length the carry passes on."""
    h, _ = rnnjax.scan(cell, params["read"], questions.xs, lengths=questions.lengths)
    return h[None]


def aligned(cell, params, questions, write):
    """The state after every step."""
    _, hs = rnnjax.scan(cell, params["read"], questions.xs, lengths=questions.lengths)
    return hs


def encoder_decoder(cell, params, questions, write):
    """The whole question is read before the first symbol is written."""
    h, _ = rnnjax.scan(cell, params["read"], questions.xs, lengths=questions.lengths)
    return write(cell, params, h)


# Two ways to write: in training the right symbols are fed in, afterwards those just written.


def dictate(cell, params, h, ys):
    """Symbol 1 is read from h, every other from the state after the right one before it."""
    _, hs = rnnjax.scan(cell, params["write"], one_hot(params, ys[:-1]), h)
    return jnp.concatenate([h[None], hs])


def speak(cell, params, h, steps):
    """The likeliest symbol goes back in."""

    def say(h, _):
        y = jnp.argmax(logits_of(params, h), axis=-1)
        after, _ = rnnjax.step(cell, params["write"], one_hot(params, y), h)
        return after, h

    return jax.lax.scan(say, h, length=steps)[1]


def logits_of(params, hs):
    """A linear head."""
    return hs @ params["w"]


def one_hot(params, ys):
    """Symbols as inputs; the padding, −1, becomes zeros."""
    return jax.nn.one_hot(ys, params["w"].shape[1])


# The controls: a cell that forgets, or no hidden layer; `aligned` serves as the third.


@dataclass(frozen=True)
class Forgetful(rnnjax.Wrapper):
    """Every step begins with the initial carry, so a scan is one to one at each step."""

    def step(self, params, carry, u):
        """The step of the cell inside from the beginning."""
        return self.cell.step(params, self.initial_carry(params), u)

    def gated(self):
        """No parts to hand on: nothing depends on the carry."""
        return None


def forgetting(shape):
    """The same shape, its arrows from state to state cut."""
    return lambda cell, *rest: shape(Forgetful(cell), *rest)


def no_hidden_layer(cell, params, questions, write):
    """The numbers themselves, so that the head draws a line through 0."""
    return questions.xs[:1]


# The tasks: what is asked of which shape, and why the control cannot know.


@dataclass(frozen=True)
class Task:
    """A shape and what it is good for."""

    name: str
    puzzle: Puzzle
    shape: Callable
    control: Callable
    without: str  # what the control lacks
    chance: float  # the most that the control can expect


TASKS = (
    # A line through 0 has (−a, −b) on the other side than (a, b), which has the same answer.
    Task("one to one", puzzles.SIGNS, one_to_one, no_hidden_layer, "hidden layer", 1 / 2),
    # A letter follows from the one before, so each of 7 letters begins one numeral of 3999.
    Task(
        "one to many",
        puzzles.ROMAN,
        one_to_many,
        forgetting(one_to_many),
        "memory (one to one each step)",
        7 / 3999,
    ),
    # It reads the "." at the end alone, and so has one answer for all.
    Task(
        "many to one",
        puzzles.MAJORITY,
        many_to_one,
        forgetting(many_to_one),
        "memory (one to one, last step)",
        1 / 2,
    ),
    # Of 5 letters out of 4 one comes twice; it would get the same tag both times.
    Task(
        "many to many, aligned",
        puzzles.NEW_OR_OLD,
        aligned,
        forgetting(aligned),
        "memory (one to one each step)",
        0.0,
    ),
    # The last of 4 letters is to be written first, when one letter is read.
    Task(
        "encoder–decoder",
        puzzles.REVERSE,
        encoder_decoder,
        aligned,
        "reading first (aligned)",
        1 / 4,
    ),
)


# Training and answering are the same for all.


def take(questions, ys, chosen):
    """Some of the B."""
    return Questions(questions.xs[:, chosen], questions.lengths[chosen]), ys[:, chosen]


def init(shape, cell, key, features: int, symbols: int):
    """Parameters to read, to write (where a shape does), and of the head."""
    k_read, k_write, k_head = jax.random.split(key, 3)
    size = features if shape is no_hidden_layer else cell.size
    return {
        "read": cell.init(k_read, features),
        "write": cell.init(k_write, symbols),
        "w": rnnjax.initializers.GlorotUniform()(k_head, (size, symbols), "float32"),
    }


def loss_of(params, shape, cell, questions, ys):
    """Nats a symbol."""
    hs = shape(cell, params, questions, functools.partial(dictate, ys=ys))
    nats = optax.softmax_cross_entropy_with_integer_labels(logits_of(params, hs), ys.clip(0))
    return jnp.mean(nats, where=ys >= 0)


@functools.partial(jax.jit, static_argnames="shape")
def train(shape, cell, params, questions, ys, batches):
    """Adam in one compiled loop over batches (updates, B) of indices."""
    # Flattened, the moments of all parameters are one array: less to compile, which takes longest.
    optimiser = optax.flatten(optax.adam(optax.cosine_decay_schedule(0.01, len(batches))))

    def update(state, batch):
        params, moments = state
        gradient = jax.grad(loss_of)(params, shape, cell, *take(questions, ys, batch))
        changes, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(params, changes), moments), None

    return jax.lax.scan(update, (params, optimiser.init(params)), batches)[0][0]


@functools.partial(jax.jit, static_argnames=("shape", "steps"))
def answers_of(shape, cell, params, questions, steps):
    """The symbols (U, B) that it answers when nobody helps."""
    hs = shape(cell, params, questions, functools.partial(speak, steps=steps))
    return jnp.argmax(logits_of(params, hs), axis=-1)


class Result(NamedTuple):
    """How a shape and its control did on the questions held out, and one of them."""

    shape: str
    held_out: int
    right: float
    control_without: str
    control_right: float  # NaN where it was not trained
    control_chance: float
    question: Any
    answer: str  # as the shape gave it


def learn(task: Task, shape: Callable, budget: Budget, seed: int) -> tuple[float, Any, str]:
    """Train a shape; return the share of held-out questions it answers, and one with its answer."""
    (questions, ys), symbols = task.puzzle.arrays(), task.puzzle.symbols
    training, held_out = task.puzzle.split(seed)
    batches = np.random.default_rng(seed).choice(training, (budget.updates, 64))
    cell, key = rnnjax.GRU(budget.size), jax.random.key(seed)
    params = init(shape, cell, key, questions.xs.shape[2], len(symbols))
    params = train(shape, cell, params, questions, ys, batches)

    unseen, truth = take(questions, ys, held_out)
    answers = np.where(truth < 0, -1, answers_of(shape, cell, params, unseen, len(truth)))
    right = float((answers == truth).all(axis=0).mean())
    # The one to show has about six steps.
    steps = unseen.lengths + (shape is not aligned) * ((truth >= 0).sum(axis=0) - 1)
    shown = int(np.abs(steps - 6).argmin())
    answer = "".join(symbols[y] for y in answers[:, shown] if y >= 0)
    return right, task.puzzle.questions[held_out[shown]], answer


def examine(task: Task, budget: Budget, seed: int) -> Result:
    """Train a shape and its control."""
    right, question, answer = learn(task, task.shape, budget, seed)
    control = learn(task, task.control, budget, seed)[0] if budget.controls else math.nan
    held_out = len(task.puzzle.split(seed)[1])
    return Result(task.name, held_out, right, task.without, control, task.chance, question, answer)


def panel(task: Task, result: Result) -> Panel:
    """What the picture shows of a result."""
    steps = result.question if isinstance(result.question, str) else [result.question]
    inputs = [str(step).strip("()").replace(", ", "\n").replace("-", "−") for step in steps]
    first = 0 if task.shape is aligned else len(inputs) - 1
    control = (result.control_without, result.control_right, result.control_chance)
    return Panel(task.name, task.puzzle.asks, inputs, result.answer, first, result.right, *control)


def main(options: Options) -> None:
    """Train all, print, write the picture and the table; exit with status 1 if one fails."""
    a_seed(options.seed)
    with blame("--out"):
        check_replaceable(options.out, (TABLE, PICTURE))
        options.out.mkdir(parents=True, exist_ok=True)
    budget = QUICK if options.quick else FULL
    start = time.perf_counter()
    results = [examine(task, budget, options.seed) for task in TASKS]
    seconds = time.perf_counter() - start

    panels = [panel(task, result) for task, result in zip(TASKS, results, strict=True)]
    draw(panels, NOTES).savefig(options.out / PICTURE, dpi=160)
    with (options.out / TABLE).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([Result._fields, *results])
    print(f"Held-out questions answered without a mistake, after {budget.updates} updates:")
    for r in results:
        print(f"{r.shape:22}{r.right:7.1%} of {r.held_out:5,}, {r.question} → {r.answer}")
        if budget.controls:
            control = f"{r.control_right:.1%}, chance {r.control_chance:.1%}"
            print(f"{'':22} without {r.control_without}: {control}")
    print(f"{seconds:.0f} s with compilation. See {options.out / PICTURE}.")
    if failed := [r.shape for r in results if r.right < budget.goal]:
        raise SystemExit(f"Not learnt: {', '.join(failed)}. Expected {budget.goal:.0%} right.")


def command(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    run(main, Options(), argv)


if __name__ == "__main__":
    command()
