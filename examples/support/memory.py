"""What the memory tasks share: options, named cells, endless fresh batches.

Each task asks for something that was read k steps ago. What initialisation alone does to a gradient
on its way back there,

    log10 ‖∂L/∂h_{T−k}‖ / ‖∂L/∂h_T‖,

is measured before training (memory_training.py), and drawn beside what training then reached
(memory_results.py).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from examples.support.cli import OptionError, a_seed, at_least_one, blame, parse, positive, run
from examples.support.folders import set_aside
from rnnjax import training
from rnnjax.initializers import Chrono

Name = Literal["tanh", "lstm-0", "lstm-1", "lstm-chrono", "gru"]
RUN = "run"
RESULTS = SCORES, CURVES, PICTURE = ("scores.json", "curves.csv", "curves.png")
VALIDATION, TEST = (0, 0, 1), (0, 0, 2)  # seeds that no batch has


@dataclass(frozen=True)
class Options:
    """Which cells are trained, and for how long."""

    cells: tuple[Name, ...] = ("tanh", "lstm-0", "lstm-1", "lstm-chrono", "gru")
    """Which cells to train; the number of an LSTM is the forget bias that it begins with."""
    minutes: float = 1.8
    """Minutes of training for each cell: with all five, about ten in all."""
    steps: int | None = None
    """Steps of the optimiser for each cell, instead of --minutes."""
    size: int = 64
    """Hidden units."""
    batch: int = 64
    """Sequences in a batch."""
    learning_rate: float = 3e-3
    """Of Adam, at the start; it falls to zero along a cosine."""
    tanh_search: bool = False
    """Give the tanh RNN the best of four learning rates and three recurrent kernels, chosen by
    validation after a twelfth of the steps each; then it is trained like the others."""
    quick: bool = False
    """Two small cells and short sequences, for seconds; other options still count."""
    resume: bool = False
    """Go on with the run in --out, with the options that it was begun with."""
    seed: int = 0
    """Of the initial weights and the batches; validation and test stay the same."""
    out: Path = Path("runs/memory")
    """Folder of the run. An earlier one is kept beside as .before."""


Chosen = TypeVar("Chosen", bound=Options)


class Arm(NamedTuple):
    """One that takes part: a cell and the learning rate of its training."""

    name: str
    cell: rnnjax.Cell
    learning_rate: float


def arm_of(name: str, options: Options, longest: int) -> Arm:
    """Make the cell of a name; chrono spreads its memory spans up to the longest sequence."""
    lstm = functools.partial(rnnjax.LSTM, options.size)
    cells = {
        "tanh": rnnjax.Elman(options.size),
        "lstm-0": lstm(forget_bias=0.0),
        "lstm-1": lstm(forget_bias=1.0),
        "lstm-chrono": lstm(forget_bias=Chrono(longest)),
        "gru": rnnjax.GRU(options.size),
    }
    return Arm(name, cells[name], options.learning_rate)


# --- tasks ---


class Batch(NamedTuple):
    """Sequences side by side, and what is to be answered."""

    xs: np.ndarray  # (T, B, D)
    targets: np.ndarray  # (B,), or (T, B) where every step is to be answered


class Fresh(training.Source):
    """Batches that are never seen twice, each drawn from the seed and its number alone.

    Args:
        draw: takes a generator and B, returns a batch.
        batch_size: B.
        seed: of all batches.
        what: says what is drawn, so that a run does not go on with something else.

    Example:
        >>> source = Fresh(lambda generator, size: generator.random(size), 2, seed=7, what="pairs")
        >>> bool((source.batch(0, 3) == source.batch(0, 3)).all()), len(source) > 10**9
        (True, True)
    """

    def __init__(self, draw: Callable[..., Any], batch_size: int, *, seed: int, what: str):
        self._draw, self._size, self._seed = draw, batch_size, seed
        self._what = f"{what}, {batch_size} a batch, seed {seed}"

    def __len__(self) -> int:
        return 2**31 - 1  # no run gets to the end of the first epoch

    def batch(self, epoch: int, number: int) -> Any:
        """Draw one batch."""
        del epoch
        return self._draw(np.random.default_rng((self._seed, number)), self._size)

    def fingerprint(self) -> str:
        """Return what is drawn."""
        return self._what


def held_out(draw: Callable[..., Batch], seed: Sequence[int], batches: int) -> list[Batch]:
    """Draw batches of 1,000 sequences that stay the same in every run."""
    generator = np.random.default_rng(seed)
    return [draw(generator, 1000) for _ in range(batches)]


@dataclass(frozen=True)
class Task:
    """What is learnt, and what it is compared with.

    Attributes:
        loss: ``loss(cell, params, carry, batch, key) → (value, (carry, metrics))``.
        batches: to train on.
        validation: batches that choose the params which are kept.
        test: batches that are scored once, at the end.
        outputs: of the head.
        lag: how far back the gradient has to reach.
        measure: the metric that is drawn, and that chooses.
        label: what it is called.
        baselines: its value on the test, by what gets it.
        levels: its value on the validation, likewise.
        goal: what one cell at least has to reach in a quick run.
        higher_is_better: of the measure.
        every: steps between two validations; None: a share of the run.
    """

    loss: Callable[..., Any]
    batches: training.Source
    validation: list[Batch]
    test: list[Batch]
    outputs: int
    lag: int
    measure: str
    label: str
    baselines: dict[str, float]
    levels: dict[str, float]
    goal: float
    higher_is_better: bool = False
    every: int | None = None


def answer(params: Any, hs: jax.Array) -> jax.Array:
    """Read answers (…, outputs) from hidden vectors (…, N) by a linear head."""
    answers = hs @ params["w"]
    return answers + jnp.broadcast_to(params["b"], answers.shape)


# --- the command line ---


def check(options: Options) -> None:
    """Check what all tasks share.

    Raises:
        OptionError: an option is out of range.
    """
    for name in ("steps", "size", "batch"):
        at_least_one(name, getattr(options, name))
    for name in ("minutes", "learning_rate"):
        positive(name, getattr(options, name))
    a_seed(options.seed)
    if not options.cells or len(set(options.cells)) < len(options.cells):
        given = " ".join(options.cells) or "none"
        raise OptionError(f"--cells: expected one or more different cells; got {given}.")


def open_folder(options: Options) -> None:
    """Make the folder of a new run; that of a run to go on with stays as it is.

    Raises:
        OptionError: the folder holds something else.
    """
    if not options.resume:
        with blame("--out"):
            set_aside(options.out, (RUN, *RESULTS))


def command(
    main: Callable[[Chosen], None], full: Chosen, quick: Chosen, argv: Sequence[str] | None
) -> None:
    """Run the command line of a task, with other defaults where --quick is typed."""
    run(lambda typed: main(_begun(typed)), quick if parse(full, argv).quick else full, argv)


def _begun(typed: Chosen) -> Chosen:
    """The options that a run was begun with, where --resume asks for them."""
    if not typed.resume:
        return typed
    folders = [f for f in sorted(Path(typed.out, RUN).glob("*")) if training.saved_steps(f)]
    if not folders:
        raise OptionError(
            f"--out: expected a run to go on with; {typed.out} has none. Leave out --resume to "
            "begin one."
        )
    with blame("--out"):
        options = training.load(folders[0]).config["options"]
    if options.keys() != lasting(typed).keys():
        raise OptionError(f"--out: expected a run of this task; {typed.out} is one of another.")
    return replace(typed, **options)


def lasting(options: Options) -> dict[str, Any]:
    """What a run is begun with."""
    return {k: v for k, v in asdict(options).items() if k not in ("resume", "out")}
