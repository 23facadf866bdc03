"""A cell of your own: write one step, check it, train it, and run it in every way.

A gated cell with one gate for keeping and writing (coupled, as in Greff et al. 2017) that also sees
the memory (a peephole, Gers & Schmidhuber 2000):

    (u_f, u_g, u_o) = x_t W_x + b,   (r_f, r_g, r_o) = h_{t−1} W_h
    f   = σ(u_f + r_f + p ⊙ c_{t−1})
    c_t = f ⊙ c_{t−1} + (1 − f) ⊙ tanh(u_g + r_g)
    h_t = σ(u_o + r_o) ⊙ tanh(c_t)

The task is the adding problem (Hochreiter & Schmidhuber 1997): T pairs of a number from U[0, 1] and
a mark; the answer is the sum of the two numbers that are marked, here one in each half. Whoever
remembers nothing answers 1, with the mean squared error Var(a + b) = 2/12 = 1/6.

Then the same loss and gradient are computed with every strategy: the numbers agree, the time and
the memory differ.
"""

import csv
import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import rnnjax
from rnnjax.initializers import GlorotUniform, Orthogonal, per_gate
from rnnjax.testing import check_cell


class Memory(NamedTuple):
    """The carry: c (N,) and h (N,)."""

    c: jax.Array
    h: jax.Array


@dataclass(frozen=True)
class Coupled(rnnjax.GatedCell):
    """The cell: gates in the order f, g, o; the output is h_t."""

    size: int

    def init(self, key, in_dim: int):
        """w_x (D, 3N), w_h (N, 3N), b (3N,) with 1 for f, so that a new cell keeps, and p (N,)."""
        k_x, k_h = jax.random.split(key)
        return {
            "w_x": per_gate(GlorotUniform(), k_x, (in_dim, self.size), 3, "float32"),
            "w_h": per_gate(Orthogonal(), k_h, (self.size, self.size), 3, "float32"),
            "b": jnp.repeat(jnp.array([1.0, 0.0, 0.0]), self.size),
            "p": jnp.zeros(self.size),
        }

    def initial_carry(self, params):
        """An empty memory."""
        return Memory(jnp.zeros(self.size), jnp.zeros(self.size))

    def encode(self, params, x):
        """The part that only the input decides."""
        return rnnjax.product(x, params["w_x"]) + params["b"]

    def hidden(self, carry):
        """What W_h multiplies."""
        return carry.h

    def update(self, params, carry, u, r):
        """The rest of the step."""
        f, g, o = jnp.split(u + r, 3)
        f = jax.nn.sigmoid(f + params["p"] * carry.c)
        c = f * carry.c + (1 - f) * jnp.tanh(g)
        return Memory(c, jax.nn.sigmoid(o) * jnp.tanh(c))

    def readout(self, params, carry, u):
        """What the layer above sees."""
        return carry.h


BASELINE = 1 / 6
STRATEGIES = {
    "Sequential()": rnnjax.Sequential(),
    "Sequential(unroll=4)": rnnjax.Sequential(unroll=4),
    "Sequential(hoist=True)": rnnjax.Sequential(hoist=True),
    "Unrolled()": rnnjax.Unrolled(),
    "Chunked()": rnnjax.Chunked(),
}


@dataclass(frozen=True)
class Options:
    """A cell of your own: check it, train it, run it in every way."""

    out: Path = Path("runs/own_cell")
    """Folder for the picture and the tables."""
    quick: bool = False
    """Shorter sequences, fewer updates, and no check of the contract, which takes longest."""
    seed: int = 0


class Measured(NamedTuple):
    """A strategy: how far its numbers are from those of Sequential(), and what they cost."""

    strategy: str
    loss_difference: float  # relative
    gradient_difference: float  # relative to the largest entry of each array, the worst array
    milliseconds: float  # the best of the repeats
    compile_seconds: float
    temporary_bytes: int  # of the compiled program


class Report(NamedTuple):
    """What the example found."""

    losses: np.ndarray  # (updates,), each on a batch never seen before
    error: float  # mean squared, on new sequences
    strategies: list[Measured]


def main(options: Options) -> Report:
    """Check, train, compare; write the picture and the tables."""
    cell, steps, updates = (Coupled(16), 10, 250) if options.quick else (Coupled(32), 40, 500)
    k_check, k_init, k_head, k_train, k_test = jax.random.split(jax.random.key(options.seed), 5)

    if not options.quick:
        start = time.perf_counter()
        check_cell(cell, k_check, 2)
        print(f"{cell} keeps the contract, checked in {time.perf_counter() - start:.1f} s.")

    params = {
        "cell": cell.init(k_init, 2),
        "w": GlorotUniform()(k_head, (cell.size, 1), "float32")[:, 0],
        "b": jnp.zeros(()),
    }
    start = time.perf_counter()
    keys = jax.random.split(k_train, updates)
    params, losses = jax.block_until_ready(train(cell, params, keys, steps))
    seconds = time.perf_counter() - start
    error = float(loss_of(params, cell, *adding(k_test, steps, 1000), rnnjax.Sequential()))
    print(f"Adding problem, {steps} steps: {updates} updates in {seconds:.1f} s with compilation,")
    print(f"mean squared error {error:.4f} on new sequences; always answering 1: {BASELINE:.4f}.")

    batch = adding(k_test, steps, 64)
    report = Report(np.asarray(losses), error, compare(cell, params, batch))
    Console().print(table(report.strategies))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(report).savefig(options.out / "own_cell.png", dpi=160)
    write_csv(options.out / "loss.csv", ["update", "mse"], enumerate(report.losses))
    write_csv(options.out / "strategies.csv", Measured._fields, report.strategies)
    return report


def adding(key, steps: int, batch: int):
    """Inputs (T, B, 2), a number and a mark a step, and the sums (B,) of the marked numbers."""
    k_numbers, k_first, k_second = jax.random.split(key, 3)
    numbers = jax.random.uniform(k_numbers, (steps, batch))
    first = jax.random.randint(k_first, (batch,), 0, steps // 2)
    second = jax.random.randint(k_second, (batch,), steps // 2, steps)
    marks = jax.nn.one_hot(first, steps, axis=0) + jax.nn.one_hot(second, steps, axis=0)
    return jnp.stack([numbers, marks], axis=-1), (numbers * marks).sum(axis=0)


def loss_of(params, cell, xs, sums, strategy):
    """The mean squared error of a linear head on the last output."""
    _, hs = rnnjax.scan(cell, params["cell"], xs, strategy=strategy)
    return jnp.mean((hs[-1] @ params["w"] + params["b"] - sums) ** 2)


@functools.partial(jax.jit, static_argnames="steps")
def train(cell, params, keys, steps):
    """Adam in one compiled loop, 64 new sequences an update."""
    optimiser = optax.adam(0.01)

    def update(state, key):
        params, moments = state
        batch = adding(key, steps, 64)
        loss, gradient = jax.value_and_grad(loss_of)(params, cell, *batch, rnnjax.Sequential())
        changes, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(params, changes), moments), loss

    (params, _), losses = jax.lax.scan(update, (params, optimiser.init(params)), keys)
    return params, losses


def compare(cell, params, batch, repeats: int = 20) -> list[Measured]:
    """Loss and gradient with each strategy; the first is the reference."""
    rows, reference = [], None
    for name, strategy in STRATEGIES.items():
        function = jax.jit(jax.value_and_grad(loss_of))
        arguments = (params, cell, *batch, strategy)
        start = time.perf_counter()
        compiled = function.lower(*arguments).compile()
        compile_seconds = time.perf_counter() - start
        result = jax.block_until_ready(compiled(*arguments))
        reference = reference or result
        loss, gradient = (relative_difference(a, b) for a, b in zip(result, reference, strict=True))
        milliseconds = 1e3 * min(seconds_of(compiled, arguments) for _ in range(repeats))
        memory = compiled.memory_analysis().temp_size_in_bytes  # pyright: ignore[reportOptionalMemberAccess]
        rows.append(Measured(name, loss, gradient, milliseconds, compile_seconds, memory))
    return rows


def seconds_of(function, arguments) -> float:
    """The time of one call, waiting for its numbers."""
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def relative_difference(tree, reference) -> float:
    """The largest |a − b| / max |b| over the arrays of a tree."""
    ratios = jax.tree.map(lambda a, b: jnp.abs(a - b).max() / jnp.abs(b).max(), tree, reference)
    return float(max(jax.tree.leaves(ratios)))


def table(rows: list[Measured]) -> Table:
    """One row a strategy."""
    view = Table(title="Loss and gradient, against Sequential()")
    for header in ("strategy", "Δ\nloss", "Δ\ngradient", "\nms", "compile\ns", "temp.\nKiB"):
        view.add_column(header, justify="left" if header == "strategy" else "right")
    for row in rows:
        differences = f"{row.loss_difference:.1e}", f"{row.gradient_difference:.1e}"
        cost = f"{row.milliseconds:.2f}", f"{row.compile_seconds:.2f}"
        view.add_row(row.strategy, *differences, *cost, f"{row.temporary_bytes / 1024:,.0f}")
    return view


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable]) -> None:
    """A header, then the rows."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def draw(report: Report) -> Figure:
    """The training curve beside the baseline; time and memory by strategy."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    curve, milliseconds, memory = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    curve.semilogy(report.losses, color="#0072b2", linewidth=1)
    curve.axhline(BASELINE, color="black", linestyle="--")
    curve.text(len(report.losses), BASELINE * 1.15, "always answering 1: 1/6", ha="right")
    curve.set(xlabel="updates", ylabel="mean squared error", title="Adding problem")
    rows = report.strategies
    bars(milliseconds, rows, [row.milliseconds for row in rows], "{:.2f}")
    milliseconds.set(title="Loss and gradient", xlabel="milliseconds")
    bars(memory, rows, [row.temporary_bytes / 1024 for row in rows], "{:,.0f}")
    memory.set(title="Temporary memory", xlabel="KiB", yticklabels=[])
    for ax in (curve, milliseconds, memory):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def bars(ax: Axes, rows: list[Measured], values: list[float], form: str) -> None:
    """A bar a strategy, from the top down, its value at its end."""
    drawn = ax.barh([row.strategy for row in rows], values, color="#0072b2", height=0.6)
    ax.bar_label(drawn, [form.format(value) for value in values], padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.2)


if __name__ == "__main__":
    main(tyro.cli(Options))
