"""Figures of the diagnostics: Axes in, Axes out; in colours and strokes that survive grey print.

Matplotlib is imported when a figure is drawn: ``pip install "rnnjax[examples]"``.
"""

from typing import Any

import numpy as np

from rnnjax.array_typing import Array
from rnnjax.diagnostics.gates import GateSaturation
from rnnjax.diagnostics.gradients import GradientNorms
from rnnjax.diagnostics.horizon import MemoryHorizon
from rnnjax.diagnostics.lyapunov import LyapunovExponents

BLUE, VERMILION, BLACK, GREY = "#0072B2", "#D55E00", "black", "0.5"
"""Of the palette of Okabe & Ito (2008), which colour-blind readers can tell apart."""

STROKES = ("-", "--", "-.", ":")


def plot_gradient_norms(norms: GradientNorms | Array, ax: Any = None) -> Any:
    """Draw log10 ‖∂L/∂h‖ against the lag: the median over rows, and the range of all of them.

    Args:
        norms: what ``gradient_norms`` returned, or logarithms (T, B).
        ax: the matplotlib Axes to draw in; None: those of a new figure.

    Returns:
        The Axes.

    Raises:
        ImportError: without matplotlib.
        ValueError: logarithms of another rank.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.diagnostics import gradient_norms, plot_gradient_norms
        >>> cell = rnnjax.Elman(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> norms = gradient_norms(cell, params, jnp.ones((20, 2, 3)))
        >>> plot_gradient_norms(norms).get_xlabel()
        'lag (steps before the last)'
    """
    ax = _axes(ax)
    logs = norms.whole if isinstance(norms, GradientNorms) else norms
    logs = _of_rank("plot_gradient_norms", "norms", logs, 2)[::-1] / np.log(10)
    _median_and_range(ax, np.arange(len(logs)), logs, BLUE, "gradient")
    ax.set_xlim(0, max(len(logs) - 1, 1))  # A gap at the end shows only as an empty axis.
    ax.set_xlabel("lag (steps before the last)")
    ax.set_ylabel("log10 of the gradient's norm")
    _legend(ax, "exactly zero", logs)
    return ax


def plot_growth_rates(growth: Array, ax: Any = None) -> Any:
    """Draw the growth of each direction against time, the median over rows.

    Args:
        growth: what ``growth_rates`` returned, (T, B, k).
        ax: the matplotlib Axes to draw in; None: those of a new figure.

    Returns:
        The Axes.

    Raises:
        ImportError: without matplotlib.
        ValueError: growth of another rank.

    Example:
        >>> import numpy as np
        >>> from rnnjax.diagnostics import plot_growth_rates
        >>> ax = plot_growth_rates(np.cumsum(np.ones((20, 2, 3)), axis=0))
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['direction 1', 'direction 2', 'direction 3']
    """
    ax = _axes(ax)
    logs = _of_rank("plot_growth_rates", "growth", growth, 3)
    steps = np.arange(1, len(logs) + 1)
    for k in range(logs.shape[-1]):
        shade, stroke = str(0.7 * k / logs.shape[-1]), STROKES[k % len(STROKES)]
        drawn = _gaps(np.median(logs[..., k], axis=1))
        ax.plot(steps, drawn, stroke, color=BLUE if k == 0 else shade, label=f"direction {k + 1}")
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.set_xlabel("step")
    ax.set_ylabel("growth (nats)")
    _legend(ax, "nothing left after a reset", logs)
    return ax


def plot_lyapunov_exponents(found: LyapunovExponents, ax: Any = None) -> Any:
    """Draw the pooled exponents in order, with two standard errors.

    Args:
        found: what ``lyapunov_exponents`` returned.
        ax: the matplotlib Axes to draw in; None: those of a new figure.

    Returns:
        The Axes.

    Raises:
        ImportError: without matplotlib.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.diagnostics import lyapunov_exponents, plot_lyapunov_exponents
        >>> cell = rnnjax.Elman(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> found = lyapunov_exponents(cell, params, jnp.ones((20, 2, 3)), k=3)
        >>> plot_lyapunov_exponents(found).get_ylabel()
        'Lyapunov exponent (nats a step)'
    """
    ax = _axes(ax)
    order = np.arange(1, len(found.exponents) + 1)
    errors = 2 * np.nan_to_num(found.errors)
    ax.errorbar(order, _gaps(found.exponents), errors, fmt="o", color=BLUE, label="± 2 errors")
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.set_xlabel("number")
    ax.set_ylabel("Lyapunov exponent (nats a step)")
    ax.set_title(f"gradients fall by 1/e in {found.horizon:.3g} steps", fontsize="medium")
    _legend(ax, "−inf", found.exponents)
    return ax


def plot_singular_values(values: np.ndarray, ax: Any = None) -> Any:
    """Draw log10 of the singular values in order, one line a row.

    Args:
        values: what ``singular_values`` returned, (B, k).
        ax: the matplotlib Axes to draw in; None: those of a new figure.

    Returns:
        The Axes.

    Raises:
        ImportError: without matplotlib.
        ValueError: values of another rank.

    Example:
        >>> import numpy as np
        >>> from rnnjax.diagnostics import plot_singular_values
        >>> len(plot_singular_values(np.log([[3.0, 2.0, 1.0]])).lines)
        1
    """
    ax = _axes(ax)
    logs = _of_rank("plot_singular_values", "values", values, 2) / np.log(10)
    order = np.arange(1, logs.shape[1] + 1)
    for b, row in enumerate(logs):
        ax.plot(order, _gaps(row), STROKES[b % len(STROKES)], color=BLUE, label=f"row {b}")
    ax.set_xlabel("number")
    ax.set_ylabel("log10 of the singular value")
    _legend(ax, "exactly zero", logs)
    return ax


def plot_gate_saturation(shares: GateSaturation, ax: Any = None) -> Any:
    """Draw for each gate the share of activations at its lower and at its upper limit.

    Args:
        shares: what ``gate_saturation`` returned.
        ax: the matplotlib Axes to draw in; None: those of a new figure.

    Returns:
        The Axes.

    Raises:
        ImportError: without matplotlib.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.diagnostics import gate_saturation, plot_gate_saturation
        >>> cell = rnnjax.GRU(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> ax = plot_gate_saturation(gate_saturation(cell, params, jnp.ones((20, 2, 3))))
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['r', 'z']
    """
    ax = _axes(ax)
    names = list(shares.low)
    places = np.arange(len(names))
    sides = ((shares.low, "lower limit", BLUE, ""), (shares.high, "upper limit", VERMILION, "//"))
    for k, (side, label, colour, hatch) in enumerate(sides):
        means = [float(np.mean(side[name])) for name in names]
        bars = {"color": colour, "edgecolor": BLACK, "hatch": hatch, "label": label}
        ax.bar(places + 0.4 * k - 0.2, means, 0.38, **bars)
    ax.set_xticks(places, names)
    ax.set_ylim(0, 1)
    ax.set_xlabel("gate")
    ax.set_ylabel("share of activations")
    ax.legend(frameon=False)
    return ax


def plot_memory_horizon(found: MemoryHorizon, ax: Any = None) -> Any:
    """Draw the share of rows whose gradient is still there against the lag, and the median lag.

    Args:
        found: what ``memory_horizon`` returned.
        ax: the matplotlib Axes to draw in; None: those of a new figure.

    Returns:
        The Axes.

    Raises:
        ImportError: without matplotlib.

    Example:
        >>> import numpy as np
        >>> from rnnjax.diagnostics import memory_horizon, plot_memory_horizon
        >>> found = memory_horizon(np.linspace(-20.0, 0.0, 41)[:, None] * np.ones((1, 3)))
        >>> plot_memory_horizon(found).get_title()
        'median 14 [14, 14] steps'
    """
    ax = _axes(ax)
    lags = np.sort(found.lags[np.isfinite(found.lags)])
    rows = found.lags.size
    left = 1 - np.arange(1, len(lags) + 1) / rows
    ax.step([0, *lags], [1, *left], where="post", color=BLUE, label=f"above {found.factor:g}")
    if np.isfinite(found.lag):
        ax.axvline(found.lag, color=VERMILION, linestyle="--", label="median")
    if np.isfinite(found.low) and np.isfinite(found.high):
        ax.axvspan(found.low, found.high, color=VERMILION, alpha=0.2, label="interval")
    if len(lags) < rows:
        ax.plot([], [], " ", label=f"{rows - len(lags)} of {rows} not fallen in the window")
    ax.set_ylim(0, 1.05)
    ax.set_xlabel("lag (steps before the last)")
    ax.set_ylabel("share of rows")
    ax.set_title(f"median {found.lag:g} [{found.low:g}, {found.high:g}] steps", fontsize="medium")
    ax.legend(frameon=False)
    return ax


def _axes(ax: Any) -> Any:
    """Return the Axes given, or those of a new figure that no window manager knows of."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'rnnjax.diagnostics: drawing needs matplotlib; write pip install "rnnjax[examples]".'
        ) from error
    return Figure(figsize=(6, 4), layout="constrained").subplots() if ax is None else ax


def _of_rank(owner: str, name: str, value: Any, rank: int) -> np.ndarray:
    value = np.asarray(value, np.float64)
    if value.ndim != rank:
        axes = "(T, B, k)" if rank == 3 else "(T, B)" if name == "norms" else "(B, k)"
        raise ValueError(f"{owner}: {name} must be {axes}; got {value.shape}.")
    return value


def _gaps(logs: np.ndarray) -> np.ndarray:
    """Replace −inf by NaN, which leaves a gap in a line."""
    return np.where(np.isneginf(logs), np.nan, logs)


def _median_and_range(ax: Any, x: np.ndarray, logs: np.ndarray, colour: str, label: str) -> None:
    median = np.quantile(logs, 0.5, axis=1, method="lower")
    ax.plot(x, _gaps(median), color=colour, label=f"{label}, median of {logs.shape[1]} rows")
    low, high = _gaps(logs.min(axis=1)), _gaps(logs.max(axis=1))
    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0, label="all rows")


def _legend(ax: Any, meaning: str, logs: np.ndarray) -> None:
    """Add the legend, which says what a gap stands for where there is one."""
    if np.isneginf(logs).any():
        ax.plot([], [], " ", label=f"gap: {meaning}")
    ax.legend(frameon=False)
