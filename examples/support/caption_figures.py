"""Pictures with what is said of them, and where the network looked for each word."""

import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from examples.support.albums import Album
from examples.support.figures import INK, POINTS, SERIES

Look = Callable[[NDArray, str], tuple[list[str], NDArray] | None]
ACROSS, DOWN = 6, 2
WORDS = 12  # maps in a row


def draw(tests: dict[str, Album], outputs: dict[str, list[dict[str, Any]]], look: Look) -> Figure:
    """Draw twelve pictures with captions; below, where the network looked in one of them."""
    chosen = _chosen(tests, outputs)
    _, album, output = max(chosen, key=lambda one: len(one[2]["output"].split()))
    maps = look(album.pictures[output["place"]], output["output"])
    figure = Figure(figsize=(13, 7.7 if maps else 6.2), layout="constrained")
    if maps is None:
        above: Figure | SubFigure = figure
    else:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(5.8, 1.9)).ravel()
        draw_maps(below, album.pictures[output["place"]], *maps)
    axes = above.subplots(DOWN, ACROSS, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, (name, album, output) in zip(axes, chosen, strict=False):
        place = output["place"]
        draw_captioned(ax, album.pictures[place], album.names[place], output)
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel(name, fontsize=10, color=INK)
    return figure


def _chosen(
    tests: dict[str, Album], outputs: dict[str, list[dict[str, Any]]]
) -> list[tuple[str, Album, dict[str, Any]]]:
    """The first of each test, as many of each, with its name."""
    each = ACROSS * DOWN // len(tests)
    return [(name, tests[name], output) for name in tests for output in outputs[name][:each]]


def shown(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (64, 64, C) as it looks: ink is dark."""
    return 255 - picture[..., 0] if picture.shape[-1] == 1 else picture


def draw_captioned(ax: Axes, picture: NDArray[np.uint8], name: str, output: dict[str, Any]) -> None:
    """A picture under what is said of it; below, its caption where that is another."""
    _show(ax, picture)
    ax.set_axis_on()
    right = output["output"] == output["caption"]
    said = textwrap.fill(textwrap.shorten(output["output"], 78, placeholder=" …"), 27)
    ax.set_title(said, fontsize=9.5, color=SERIES if right else POINTS)
    below = [] if right else [output["caption"]]
    if name:  # a picture of a folder, few of which are learnt from: was it copied?
        below.append(f"learnt: {output['nearest_known_caption']}")
    lines = (textwrap.shorten(text, 78, placeholder=" …") for text in below)
    ax.set_xlabel("\n".join(textwrap.fill(line, 27) for line in lines), fontsize=9, color=INK)


def draw_maps(
    figure: SubFigure, picture: NDArray[np.uint8], symbols: list[str], maps: NDArray
) -> None:
    """A picture for each symbol of its caption, red where it was looked at."""
    count = min(len(symbols), WORDS)
    axes = figure.subplots(1, count, squeeze=False)[0]
    side = len(picture)
    for ax, symbol, weights in zip(axes, symbols[:count], maps[:count], strict=True):
        _show(ax, picture)
        ax.set_axis_on()
        extent = (-0.5, side - 0.5, side - 0.5, -0.5)
        # The darkest is what was looked at most; where all is light, nothing stood out.
        limits = {"vmin": 0, "vmax": max(float(weights.max()), 4 / weights.size)}
        ax.imshow(weights, cmap="Reds", alpha=0.55, extent=extent, **limits)
        ax.set_title(symbol.replace("▁", ""), fontsize=10, color=INK)
    figure.suptitle("where it looked for each word", fontsize=11, color=INK)


def _show(ax: Axes, picture: NDArray[np.uint8]) -> None:
    ax.imshow(shown(picture), cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
