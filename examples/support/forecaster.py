"""A recurrent network that forecasts by drawing what may come next, step after step.

    x_t      what is known of y_t, seen from the season before it
    h_t      = GRU(x_t, h_{t−1}); a gap is no step, the carry passes on
    y_{t+1}  = y_t + s (μ_t + σ_t ε),    (μ_t, σ_t, ν_t) = head(h_t),    ε from Student's t with ν_t

(After Salinas et al., "DeepAR", 2020; that the head says by how much a series changes, so that a
trend goes on beyond what was seen, is ours, as it is ARIMA's.) What is drawn is read as the next
input. Many rows drawn so, side by side, are the distribution of what is to come: their median is
the forecast, their middle four fifths the 80 % interval. Several networks, which differ in their
first weights and in the noise that they learnt with, draw an equal share each.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import t as student

import rnnjax
from rnnjax.initializers import GlorotUniform

Scale = Literal["plain", "sqrt", "log"]
HEAVIEST = 2.1  # degrees of freedom: above 2 there is a variance


@dataclasses.dataclass(frozen=True)
class Units:
    """What inputs are divided by, so that they are about 1: measured where it is learnt from."""

    change: float  # from a step to the next
    swing: float  # about the mean of the season before
    drift: float  # from season to season
    level: float
    middle: float  # what is taken off the level


@dataclasses.dataclass(frozen=True)
class Forecaster:
    """What a forecaster is made of.

    Attributes:
        season: m, steps that it looks back at once.
        units: of its inputs.
        scale: what values are brought to: themselves, √y or log y.
        level: whether it sees the level itself, for series that have no trend.
        size: hidden units of a network.
        members: how many networks.
    """

    season: int
    units: Units
    scale: Scale = "plain"
    level: bool = False
    size: int = 32
    members: int = 5

    @property
    def cell(self) -> rnnjax.GRU:
        """Of each network."""
        return rnnjax.GRU(self.size)

    @property
    def features(self) -> int:
        """Numbers in x_t."""
        return 4 if self.level else 3


class Batch(NamedTuple):
    """Stretches of a series side by side."""

    xs: Any  # (T, B, F), float32
    seen: Any  # (T, B), bool; False at gaps
    targets: Any  # (T, B), float32, changes to the next step in units
    counted: Any  # (T, B), bool; where there is such a target


# --- what is known at a step ---


def to_scale(scale: Scale, values: Any) -> Any:
    """Bring NumPy values to a scale."""
    return {"plain": np.asarray, "sqrt": np.sqrt, "log": np.log}[scale](values)


def from_scale(scale: Scale, values: Any) -> Any:
    """Bring them back; what fell below 0 under a root is 0."""
    undo = {"plain": np.asarray, "sqrt": lambda z: np.maximum(z, 0) ** 2, "log": np.exp}
    return undo[scale](values)


def filled(values: np.ndarray) -> np.ndarray:
    """Put the last number that was measured into gaps.

    Example:
        >>> filled(np.array([1.0, np.nan, np.nan, 4.0])).tolist()
        [1.0, 1.0, 1.0, 4.0]
    """
    last = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return values[last]


def units_of(values: np.ndarray, season: int) -> Units:
    """Measure scaled values (n,) without gaps."""
    pasts = windows(values, season)
    return Units(
        change=_spread(np.diff(values)),
        swing=_spread(pasts[:, -1] - pasts[:, 1:].mean(1)),
        drift=_spread(pasts[:, -1] - pasts[:, 0]),
        level=_spread(values),
        middle=float(values.mean()),
    )


def _spread(values: np.ndarray) -> float:
    return float(values.std()) or 1.0  # what never changes is 0 in any unit


def windows(values: np.ndarray, season: int) -> np.ndarray:
    """The pasts (n − m, m + 1) of the values m … n − 1, each with the value itself at its end."""
    return np.lib.stride_tricks.sliding_window_view(values, season + 1)


def inputs(model: Forecaster, pasts: Any) -> jax.Array:
    """X (…, F) of pasts (…, m + 1) on the scale, their ends the present.

    The change that came last, the swing about the mean of a season, the change since a season ago,
    and the level where it is seen.
    """
    pasts, units = jnp.asarray(pasts), model.units
    now = pasts[..., -1]
    seen = [
        (now - pasts[..., -2]) / units.change,
        (now - pasts[..., 1:].mean(-1)) / units.swing,
        (now - pasts[..., 0]) / units.drift,
    ]
    if model.level:
        seen.append((now - units.middle) / units.level)
    return jnp.stack(seen, axis=-1)


# --- the network ---


class Change(NamedTuple):
    """The distribution of a change, in units: Student's t, each of its three (…)."""

    middle: jax.Array
    spread: jax.Array
    freedom: jax.Array


@functools.partial(jax.jit, static_argnums=0)
def initial_params(model: Forecaster, seed: int) -> dict[str, Any]:
    """Draw the params of all members, which lead with the axis (members,)."""

    def draw(key: jax.Array) -> dict[str, Any]:
        k_rnn, k_head = jax.random.split(key)
        head = GlorotUniform()(k_head, (model.size, 3), "float32")
        rnn = model.cell.init(k_rnn, model.features)
        return {"rnn": rnn, "head": {"w": head, "b": jnp.zeros(3)}}

    return jax.vmap(draw)(jax.random.split(jax.random.key(seed), model.members))


def changes(params: Any, hs: jax.Array) -> Change:
    """Read the distributions of the next changes from hidden vectors (…, N)."""
    products = hs @ params["head"]["w"]
    read = products + jnp.broadcast_to(params["head"]["b"], products.shape)
    positive = jax.nn.softplus(read[..., 1:])
    return Change(read[..., 0], positive[..., 0] + 1e-3, positive[..., 1] * 5 + HEAVIEST)


def loss(
    model: Forecaster, noise: float, warm_up: int, params: Any, carry: Any, batch: Batch, key: Any
) -> tuple[jax.Array, Any]:
    """Mean nats of the changes after a warm-up; with a key, inputs are noisy."""
    xs = jnp.asarray(batch.xs)
    counted = jnp.asarray(batch.counted).at[:warm_up].set(False)

    def nats(params: Any, key: Any) -> jax.Array:
        noisy = xs if key is None else xs + noise * jax.random.normal(key, xs.shape)
        _, hs = rnnjax.scan(model.cell, params["rnn"], noisy, mask=jnp.asarray(batch.seen))
        found = changes(params, hs)
        log_p = student.logpdf(batch.targets, found.freedom, found.middle, found.spread)
        return -jnp.mean(log_p, where=counted)

    keys = None if key is None else jax.random.split(key, model.members)
    each = jax.vmap(nats, in_axes=(0, None if key is None else 0))(params, keys)
    return each.mean(), (carry, {"tokens": counted.sum()})


@functools.cache
def loss_of(model: Forecaster, noise: float, warm_up: int) -> functools.partial:
    """The loss of a forecaster; the same object for the same one, which compiles once."""
    return functools.partial(loss, model, noise, warm_up)


# --- what may come ---


@functools.partial(jax.jit, static_argnames=("model", "horizon", "samples"))
def trajectories(
    model: Forecaster,
    params: Any,
    known: Batch,
    pasts: jax.Array,
    key: jax.Array,
    *,
    horizon: int,
    samples: int,
) -> jax.Array:
    """Draw what may come, on the scale: (horizon, B, members · samples).

    Args:
        model: what it is made of.
        params: of all members.
        known: stretches (T, B) that end at the B origins.
        pasts: the season before each origin and the origin itself, (B, m + 1).
        key: of the draw.
        horizon: steps.
        samples: of each member.
    """

    def of_one(params: Any, key: jax.Array) -> jax.Array:
        carry, hs = rnnjax.scan(model.cell, params["rnn"], known.xs, mask=known.seen)
        rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, samples, axis=0), (carry, hs[-1], pasts))
        step = functools.partial(_draw, model, params)
        _, drawn = jax.lax.scan(step, rows, jax.random.split(key, horizon))
        return drawn.reshape(horizon, -1, samples)

    drawn = jax.vmap(of_one)(params, jax.random.split(key, model.members))  # (K, H, B, S)
    return jnp.moveaxis(drawn, 0, 2).reshape(horizon, len(pasts), -1)


def _draw(model: Forecaster, params: Any, rows: Any, key: jax.Array) -> tuple[Any, jax.Array]:
    """Draw the next value of every row, and read it."""
    carry, h, pasts = rows
    found = changes(params, h)
    drawn = found.middle + found.spread * jax.random.t(key, found.freedom)
    values = pasts[:, -1] + model.units.change * drawn
    if model.scale == "sqrt":
        values = jnp.maximum(values, 0.0)
    pasts = jnp.concatenate([pasts[:, 1:], values[:, None]], axis=1)
    carry, h = rnnjax.step(model.cell, params["rnn"], inputs(model, pasts), carry)
    return (carry, h, pasts), values
