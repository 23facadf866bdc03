"""The first example of every introduction: a recurrent network learns to write "hello".

The vocabulary is h, e, l, o; x_t is the one-hot letter t of "hell", and the target is the next one.
In the row form x W of the library (introductions write the transposed W x):

    h_t = tanh(x_t W_xh + h_{t−1} W_hh + b),  h_0 = 0       the cell, rnnjax.Elman(4)
    p_t = softmax(h_t W_hy)                                 the head, outside the cell
    loss = −1/4 Σ_t log p_t[target_t]                       nats a character

The first l is followed by l and the second by o. A model without memory sees the same input both
times, so its best is 1/2 for each: a loss of (2 ln 2) / 4. To go below it, h must tell them apart.

Source: A. Karpathy, "The Unreasonable Effectiveness of Recurrent Neural Networks", 2015. What
differs: four hidden units and no bias in the head.
"""

import csv
import functools
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import rnnjax

WORD = "hello"
VOCABULARY = "helo"
MEMORYLESS = 2 * math.log(2) / 4  # nats a character
LOSS = 0.01  # what the training must reach


@dataclass(frozen=True)
class Options:
    """A recurrent network learns to write "hello"."""

    out: Path = Path("runs/hello")
    """Folder for the picture and the tables."""
    quick: bool = False
    """Fewer updates, to see that everything works."""
    seed: int = 0


class Run(NamedTuple):
    """What the trained network does on "hell", with V letters and N units."""

    text: str  # written greedily from the first letter
    losses: np.ndarray  # (updates,), the loss before each update and after the last one
    xs: np.ndarray  # (4, V)
    hs: np.ndarray  # (4, N)
    ps: np.ndarray  # (4, V)


def main(options: Options) -> Run:
    """Train, roll out, write the picture and the tables; exit with status 1 if it did not learn."""
    cell = rnnjax.Elman(4)
    letters = jnp.array([VOCABULARY.index(letter) for letter in WORD])
    xs = jax.nn.one_hot(letters[:-1, None], len(VOCABULARY))  # (T, B, V) = (4, 1, 4)
    k_cell, k_head = jax.random.split(jax.random.key(options.seed))
    glorot = rnnjax.initializers.GlorotUniform()
    params = {
        "cell": cell.init(k_cell, len(VOCABULARY)),
        "w_hy": glorot(k_head, (cell.size, len(VOCABULARY)), "float32"),
    }

    start = time.perf_counter()
    updates = 250 if options.quick else 500
    params, losses = jax.block_until_ready(train(cell, params, xs, letters[1:, None], updates))
    seconds = time.perf_counter() - start

    _, hs = rnnjax.scan(cell, params["cell"], xs)
    ps = jax.nn.softmax(hs @ params["w_hy"])
    arrays = (np.asarray(a) for a in (losses, xs[:, 0], hs[:, 0], ps[:, 0]))
    run = Run(write(cell, params, WORD[0], len(WORD)), *arrays)
    options.out.mkdir(parents=True, exist_ok=True)
    draw(run).savefig(options.out / "hello.png", dpi=160)
    write_tables(run, options.out)

    print(f"loss {losses[-1]:.4f} nats/char, {updates} updates, {seconds:.2f} s with compilation")
    print(f"written from {WORD[0]!r}: {run.text!r}")
    print(f"Without memory no model gets below (2 ln 2)/4 = {MEMORYLESS:.4f} nats/char:")
    print("after l comes l once and o once.")
    print(f"The states after the two l's are {apart(run):.2f} apart. See {options.out}/hello.png.")
    if losses[-1] >= LOSS or run.text != WORD:
        raise SystemExit(f"Not learnt: expected {WORD!r} and a loss below {LOSS}.")
    return run


def loss_of(params, cell, xs, targets):
    """The mean over time of the softmax cross-entropy."""
    _, hs = rnnjax.scan(cell, params["cell"], xs)
    logits = hs @ params["w_hy"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


@functools.partial(jax.jit, static_argnames="updates")
def train(cell, params, xs, targets, updates):
    """Adam in one compiled loop over the updates."""
    optimiser = optax.adam(0.03)

    def update(state, _):
        params, moments = state
        loss, gradient = jax.value_and_grad(loss_of)(params, cell, xs, targets)
        changes, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(params, changes), moments), loss

    (params, _), losses = jax.lax.scan(update, (params, optimiser.init(params)), length=updates)
    return params, jnp.append(losses, loss_of(params, cell, xs, targets))


def write(cell, params, first: str, length: int) -> str:
    """Feed the likeliest letter back in, one step at a time."""
    text, carry = first, None
    while len(text) < length:
        x = jax.nn.one_hot(jnp.array([VOCABULARY.index(text[-1])]), len(VOCABULARY))
        carry, h = rnnjax.step(cell, params["cell"], x, carry)
        text += VOCABULARY[int(jnp.argmax(h @ params["w_hy"]))]
    return text


def apart(run: Run) -> float:
    """The distance between the states after the first and the second l."""
    first, second = run.hs[[t for t, letter in enumerate(WORD[:-1]) if letter == "l"]]
    return float(np.linalg.norm(first - second))


def write_tables(run: Run, out: Path) -> None:
    """steps.csv, one row a time step, and loss.csv, one row an update."""
    header = ["step", "input", "target"]
    header += [f"h_{k + 1}" for k in range(run.hs.shape[1])] + [f"p_{v}" for v in VOCABULARY]
    steps = zip(WORD[:-1], WORD[1:], run.hs, run.ps, strict=True)
    rows = ([t, letter, target, *h, *p] for t, (letter, target, h, p) in enumerate(steps, 1))
    write_csv(out / "steps.csv", header, rows)
    write_csv(out / "loss.csv", ["updates", "nats_per_char"], enumerate(run.losses))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable]) -> None:
    """A header, then the rows."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


# The picture: time to the right; a vector is a column of cells of height 1, its first entry on top.

WIDTH, PITCH = 2.2, 7.0  # of a column, and from one column to the next
INPUT, STATE, OUTPUT = 0, 6, 12  # the feet of the three rows of columns
LEGENDS = {
    INPUT: "input $x_t$,\none-hot",
    STATE: "state $h_t$ =\n$\\tanh(x_t W_{xh}$\n$+\\; h_{t-1} W_{hh} + b)$",
    OUTPUT: "output $p_t$ =\n$\\mathrm{softmax}(h_t W_{hy})$\n\nthick frame:\nthe target",
}


def draw(run: Run) -> Figure:
    """The unrolled network, with the numbers that it computes."""
    figure = Figure(figsize=(12.8, 8.3))
    ax = figure.add_axes((0, 0, 1, 1), aspect="equal", xlim=(-7.6, 24.6), ylim=(-3, 17.9))
    ax.axis("off")
    for y, words in LEGENDS.items():
        ax.text(-7.2, y + 2, words, va="center", fontsize=14, linespacing=1.4)
    for t in range(len(WORD) - 1):
        draw_step(ax, run, t)
    first, left = WORD.index("l"), PITCH * WORD.index("l") + WIDTH
    states = f"different states,\n‖$h_{first + 1} - h_{first + 2}$‖ = {apart(run):.2f}"
    draw_arrow(
        ax, (left, STATE + 2.3), (left + PITCH - WIDTH, STATE + 2.3), states, "<|-|>", "#a01020"
    )
    draw_arrow(ax, (left, INPUT + 1.5), (left + 4, INPUT + 1.5), "same input", "<|-|>", "#a01020")
    return figure


def draw_step(ax: Axes, run: Run, t: int) -> None:
    """The columns of step t, and the arrows that lead to them."""
    x, middle, whole = PITCH * t, PITCH * t + WIDTH / 2, np.ones(4)
    greys, diverging = colormaps["Greys"], colormaps["PuOr"]
    draw_column(ax, x, INPUT, run.xs[t], "{:.0f}", greys(0.8 * run.xs[t]), whole)
    draw_column(ax, x, STATE, run.hs[t], "{:+.2f}", diverging(0.5 + 0.38 * run.hs[t]), whole)
    draw_column(ax, x, OUTPUT, run.ps[t], "{:.2f}", ["#7cc4ee"] * 4, run.ps[t])
    target = OUTPUT + 3 - VOCABULARY.index(WORD[t + 1])
    ax.add_patch(Rectangle((x, target), WIDTH, 1, fill=False, linewidth=3.5, zorder=3))
    for row, letter in enumerate(VOCABULARY):
        for y in (INPUT, OUTPUT):
            ax.text(x - 0.5, y + 3.5 - row, letter, ha="center", va="center", fontsize=14)
    for y, letter in [(INPUT - 1, WORD[t]), (OUTPUT + 4.9, WORD[t + 1])]:
        ax.text(middle, y, letter, ha="center", va="center", fontsize=20, weight="bold")
    ax.text(middle, INPUT - 2.2, f"$t = {t + 1}$", ha="center", va="center", fontsize=14)
    draw_arrow(ax, (middle, INPUT + 4), (middle, STATE), "$W_{xh}$")
    draw_arrow(ax, (middle, STATE + 4), (middle, OUTPUT), "$W_{hy}$")
    start, words = (x - PITCH + WIDTH, "$W_{hh}$") if t else (x - 2.4, "$h_0 = 0$")
    draw_arrow(ax, (start, STATE + 0.9), (x, STATE + 0.9), words)


def draw_column(ax: Axes, x: float, y: float, values, form: str, faces, fills) -> None:
    """One cell a value, with the value in it, a fraction of it filled with its face."""
    for row, (value, face, fill) in enumerate(zip(values, faces, fills, strict=True)):
        foot = y + len(values) - 1 - row
        ink = "white" if np.dot(to_rgb(face), (0.3, 0.6, 0.1)) < 0.48 else "black"
        text = form.format(value).replace("-", "−")
        ax.add_patch(Rectangle((x, foot), WIDTH * fill, 1, facecolor=face))
        ax.add_patch(Rectangle((x, foot), WIDTH, 1, fill=False, edgecolor="0.2"))
        ax.text(x + WIDTH / 2, foot + 0.46, text, ha="center", va="center", color=ink, fontsize=13)


def draw_arrow(ax: Axes, start, end, words: str, style: str = "-|>", color: str = "0.2") -> None:
    """With words above a horizontal one, beside a vertical one."""
    looks = {"arrowstyle": style, "color": color, "linewidth": 1.6, "shrinkA": 1, "shrinkB": 1}
    ax.annotate("", end, start, arrowprops=looks)
    (x, y), upright = np.mean([start, end], axis=0), start[0] == end[0]
    if upright:
        ax.text(x + 0.3, y, words, ha="left", va="center", fontsize=14)
    else:
        ax.text(x, y + 0.25, words, ha="center", va="bottom", fontsize=14)


if __name__ == "__main__":
    main(tyro.cli(Options))
