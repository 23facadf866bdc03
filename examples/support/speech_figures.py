"""Pictures of the speech example: where symbols lie in the sound, and speaker by speaker."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from examples.support.figures import FAINT, INK, POINTS, SERIES
from examples.support.hearing import HOP, log_power
from examples.support.listener import Trained, whole, write
from examples.support.spoken_digits import RATE, Utterance
from rnnjax import ctc

ROWS = (
    ("logistic_regression", "logistic regression", FAINT),
    ("logistic_regression_by_speaker", "the same, normalised by speaker", POINTS),
    ("accuracy", "LSTM", SERIES),
)  # score, label, colour


def spikes(trained: Trained, utterance: Utterance, width: int) -> Figure:
    """Draw the sound, the probabilities of its symbols, and the forced alignment between them."""
    logits = np.asarray(whole(trained, utterance.samples))
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.15, 1))
    draw_sound(above, utterance)
    draw_probabilities(below, trained, logits)
    draw_alignment(below, trained, utterance, logits)
    read = {"said": trained.spelling.text(utterance.digits)}
    read["likeliest path"] = write(trained.spelling, logits, 0)
    if width:
        read[f"beam of {width}"] = write(trained.spelling, logits, width)
    lines = "\n".join(f"{name}: {text}" for name, text in read.items())
    above.set_title(lines, loc="left", fontsize=10)
    return figure


def draw_sound(ax: Axes, utterance: Utterance) -> None:
    """Log power in mel bands over seconds, and where each clip begins and ends."""
    frames = log_power(utterance.samples)
    end = len(frames) * HOP
    ax.imshow(
        frames.T,
        origin="lower",
        aspect="auto",
        extent=(0, end, 0, frames.shape[1]),
        cmap="magma",
        vmin=float(np.quantile(frames, 0.1)),
    )
    for start, stop in utterance.spans:
        for at in (start, stop):
            ax.axvline(at / RATE, color="white", linewidth=0.7, linestyle=(0, (4, 3)))
    ax.set(xlim=(0, end), ylabel="mel band")


def draw_probabilities(ax: Axes, trained: Trained, logits: np.ndarray) -> None:
    """What the network says at each joined frame: the blank faint, each other symbol a line."""
    shares = np.asarray(jax.nn.softmax(logits))
    seconds = (np.arange(len(shares)) + 0.5) * HOP * trained.model.join
    ax.plot(seconds, shares[:, 0], color=FAINT, linewidth=1.0, linestyle=(0, (4, 2)), label="blank")
    ax.plot(seconds, shares[:, 1:], color=SERIES, linewidth=1.3)
    ax.plot([], [], color=SERIES, label="each other symbol")
    ax.set(ylim=(0, 1.42), yticks=(0, 0.5, 1), xlabel="seconds", ylabel="probability")
    ax.legend(loc="upper right", ncols=3, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def draw_alignment(ax: Axes, trained: Trained, utterance: Utterance, logits: np.ndarray) -> None:
    """The frames of each symbol on the likeliest path of what was said."""
    labels = trained.spelling.encode(utterance.digits)
    found = ctc.align(
        jnp.asarray(logits)[:, None],
        jnp.array([labels]),
        lengths=jnp.array([len(logits)]),
        label_lengths=jnp.array([len(labels)]),
    )
    hop = HOP * trained.model.join
    spans = zip(labels, np.asarray(found.starts[0]), np.asarray(found.ends[0]), strict=True)
    for label, start, end in spans:
        ax.axvspan(start * hop, end * hop, ymax=1 / 1.42, color=POINTS, alpha=0.22, linewidth=0)
        symbol = trained.spelling.symbols[label - 1].replace(" ", "␣")
        ax.text((start + end) / 2 * hop, 1.08, symbol, ha="center", color=INK)
    ax.axvspan(np.nan, np.nan, color=POINTS, alpha=0.22, label="forced alignment")
    ax.legend(loc="upper right", ncols=3, frameon=False)


def bars(folds: Sequence[dict[str, Any]]) -> Figure:
    """The share that is right, beside logistic regression, for each fold and on the mean."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    names = [fold["fold"] for fold in folds] + ["mean"] * (len(folds) > 1)
    ax, at = figure.add_subplot(), np.arange(len(names))
    rows = [row for row in ROWS if row[0] in folds[0]]
    width = 0.84 / len(rows)
    for k, (name, label, colour) in enumerate(rows):
        heights = [fold[name] for fold in folds]
        heights += [float(np.mean(heights))] * (len(names) - len(folds))
        places = at + width * (k - (len(rows) - 1) / 2)
        drawn = ax.bar(places, heights, 0.92 * width, color=colour, label=label)
        ax.bar_label(drawn, [f"{100 * height:.1f}" for height in heights], padding=2, fontsize=8)
    ax.set_xticks(at, names)
    ax.set(ylim=(0, 1.16), yticks=np.arange(0, 1.01, 0.2), ylabel="digits named right")
    ax.set_xlabel("speaker left out of training" if len(folds) > 1 else "")
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(loc="upper right", ncols=3, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
