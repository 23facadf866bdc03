"""How many steps back a gradient is still felt."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Array, Key
from rnnjax.diagnostics.gradients import GradientNorms


class MemoryHorizon(NamedTuple):
    """The lag at which gradients have fallen, in steps; inf where they have not within the window.

    Attributes:
        lag: the median over seeds and rows.
        low: the lower end of its bootstrap interval.
        high: the upper end.
        lags: the lag of each seed and row, (S, B).
        factor: by which they have fallen.
    """

    lag: float
    low: float
    high: float
    lags: np.ndarray
    factor: float


def memory_horizon(
    norms: GradientNorms | Array | np.ndarray,
    factor: float = 1e-3,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    key: Key | None = None,
) -> MemoryHorizon:
    """Find the lag at which the gradient has fallen by a factor, with a bootstrap interval.

    lag = min {k: ‖∂L/∂h_{T−k}‖ ≤ factor · ‖∂L/∂h_T‖}, row by row; then the median

    The interval is that of the percentiles of medians (Efron 1979), seeds drawn with replacement
    and rows within each. A row whose gradient does not fall so far within the window is censored:
    its lag is inf, which a median can bear. A reset ends a memory, so it counts as fallen; steps of
    padding count as steps.

    Args:
        norms: what ``gradient_norms`` returned, of which ``whole`` is read, or such logarithms
            (T, B), or (S, T, B) for S seeds.
        factor: by which the gradient is to fall, within 0 … 1.
        level: the level of the interval.
        resamples: bootstrap samples.
        key: for the bootstrap; None: ``jax.random.key(0)``.

    Returns:
        The lags, in steps.

    Raises:
        ValueError: norms of another rank or without a number at the last step; a factor or level
            that is not within 0 … 1.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.diagnostics import gradient_norms, memory_horizon
        >>> cell = rnnjax.Elman(8, recurrent_kernel_init=rnnjax.initializers.Orthogonal(0.9))
        >>> params = cell.init(jax.random.key(0), 3)
        >>> norms = gradient_norms(cell, params, jnp.zeros((101, 2, 3)))
        >>> found = memory_horizon(norms, factor=1e-3)
        >>> found.lag, found.low, found.high
        (66.0, 66.0, 66.0)
    """
    logs = _check_norms(norms)
    _check_share("factor", factor)
    _check_share("level", level)
    checks.positive_int("memory_horizon", "resamples", resamples)
    lags = _lags(logs, math.log(factor))
    medians = _resampled(lags, resamples, jax.random.key(0) if key is None else key)
    tail = (1 - level) / 2
    # An observed median at either end: between a number and inf there is nothing to interpolate.
    low = float(np.quantile(medians, tail, method="lower"))
    high = float(np.quantile(medians, 1 - tail, method="higher"))
    return MemoryHorizon(float(np.median(lags)), low, high, lags, factor)


def _check_norms(norms: Any) -> np.ndarray:
    """Return the logarithms (S, T, B) in float64."""
    logs = np.asarray(norms.whole if isinstance(norms, GradientNorms) else norms, np.float64)
    if logs.ndim not in (2, 3) or 0 in logs.shape:
        raise ValueError(
            f"memory_horizon: norms must be (T, B) or (S, T, B), none of them 0; got {logs.shape}. "
            f"One row: norms[:, None]."
        )
    if not np.isfinite(logs[..., -1, :]).all():
        raise ValueError(
            "memory_horizon: norms must be finite at the last step, to which the others are "
            "compared; got −inf, Inf or NaN. Pass a cotangent or a loss that depends on the carry."
        )
    return logs.reshape(-1, *logs.shape[-2:])


def _check_share(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"memory_horizon: {name} must be within 0 … 1; got {value!r}.")


def _lags(logs: np.ndarray, log_factor: float) -> np.ndarray:
    """Return the first lag (S, B) at which each has fallen; inf: not within the window."""
    fallen = (logs - logs[:, -1:] <= log_factor)[:, ::-1]
    return np.where(fallen.any(axis=1), fallen.argmax(axis=1).astype(float), np.inf)


def _resampled(lags: np.ndarray, resamples: int, key: Key) -> np.ndarray:
    """Return the median of each bootstrap sample."""
    seeds, rows = lags.shape
    k_seeds, k_rows = jax.random.split(key)
    s = jax.random.randint(k_seeds, (resamples, seeds, 1), 0, seeds)
    b = jax.random.randint(k_rows, (resamples, seeds, rows), 0, rows)
    return np.median(lags[np.asarray(s), np.asarray(b)], axis=(1, 2))
