"""Where a translator looked, and how good it is beside others."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from examples.support.translation_scores import LONGER, OURS, systems

Alignment = tuple[list[str], list[str], Any]
"""Symbols of a source (S), of its translation (T), and the weights (T, S)."""

INK, OURS_COLOUR, OTHERS_COLOUR, HUMAN = "#333333", "#0072b2", "#b9b9b9", "#d55e00"


def draw(scores: dict[str, Any], alignment: Alignment | None) -> Figure:
    """Where the decoder looked, and how good it is beside the others."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    if alignment is None:
        right = figure.subplots()
    else:
        left, right = figure.subplots(1, 2)
        draw_alignment(left, alignment)
    if LONGER in scores["test"]:
        draw_digits(right, scores["test"])
    else:
        draw_bars(right, scores["test"])
    return figure


def draw_alignment(ax: Axes, alignment: Alignment) -> None:
    """A row for each symbol that was written: the darker, the more it was read from there."""
    source, target, weights = alignment
    image = ax.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(source)), source, rotation=45 if len(source) > 8 else 0)
    ax.set_yticks(range(len(target)), target)
    ax.xaxis.set_label_position("top")
    ax.xaxis.tick_top()
    ax.set(xlabel="read", ylabel="written")
    ax.tick_params(length=0)
    assert ax.figure is not None
    ax.figure.colorbar(image, ax=ax, label="attention weight", shrink=0.8)


def draw_bars(ax: Axes, test: dict[str, Any]) -> None:
    """BLEU with its intervals; people as a line."""
    found = systems(test)
    person = found.pop("human", None)
    for k, (name, scores) in enumerate(found.items()):
        bleu = scores["BLEU"]
        # The interval is about the mean of the resamples, which on few sentences is elsewhere.
        ends = (bleu["score"] - bleu["low"], bleu["high"] - bleu["score"])
        reach = [[max(0.0, end)] for end in ends]
        colour = OURS_COLOUR if name.startswith(OURS) else OTHERS_COLOUR
        ax.barh(k, bleu["score"], color=colour, xerr=reach, ecolor=INK, capsize=3, height=0.6)
        ax.text(bleu["high"] + 0.6, k, f"{bleu['score']:.1f}", va="center")
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    if person is not None:
        level = person["BLEU"]["score"]
        ax.axvline(level, color=HUMAN, linestyle="--")
        label = f"a person against\nanother: {level:.1f} "
        ax.text(level - 0.5, len(found) - 0.6, label, color=HUMAN, ha="right", va="bottom")
    ax.set(xlabel="BLEU on the test, with 95 % intervals", xlim=(0, None))
    ax.margins(x=0.12)
    ax.spines[["top", "right"]].set_visible(False)


def draw_digits(ax: Axes, test: dict[str, Any]) -> None:
    """The share of numbers that are right by how many digits they have."""
    learnt, longer = test[OURS], test[LONGER]
    shares = learnt["exact_by_digits"] | longer["exact_by_digits"]
    counts = learnt["numbers_by_digits"] | longer["numbers_by_digits"]
    colours = [OURS_COLOUR if n in learnt["exact_by_digits"] else HUMAN for n in shares]
    bars = ax.bar(range(len(shares)), list(shares.values()), color=colours, width=0.6)
    ax.bar_label(bars, [f"{share:.1%}\nof {counts[n]:,}" for n, share in shares.items()], padding=3)
    ax.set_xticks(range(len(shares)), list(shares))
    ax.set(xlabel="digits; none that was learnt has seven", ylabel="numbers that are right")
    ax.set_ylim(0, 1.18)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.spines[["top", "right"]].set_visible(False)
