"""One step of training as a pure function, and the state that it changes."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from rnnjax.array_typing import Array, Carry, Int, Key, PyTree

Metrics: TypeAlias = dict[str, Array]
"""Scalars by name. ``tokens`` is the number of targets that the loss is a mean over: losses and
other metrics are averaged by it, and the speed is given in it."""

Loss: TypeAlias = Callable[[PyTree, Carry, PyTree, Key | None], tuple[Array, tuple[Carry, Metrics]]]
"""``loss(params, carry, batch, key) → (value, (carry, metrics))``; no key: evaluation, no noise."""

TAKEN = ("loss", "gradient_norm", "parameter_norm", "finite")


class TrainState(NamedTuple):
    """All that a step of the optimiser reads and changes.

    Attributes:
        step: () int32, steps taken.
        params: what the loss is differentiated in: any pytree, the state of an NNX model too.
        optimiser: the state of the Optax optimiser.
        carry: what passes on from batch to batch, leading axis B; None where each begins anew.
        key: the key from which each step folds its own.
        average: exponential moving average of params, or None.
    """

    step: Int[Array, ""]
    params: PyTree
    optimiser: optax.OptState
    carry: Carry
    key: Key
    average: PyTree


def initial_state(
    params: PyTree,
    optimiser: optax.GradientTransformation,
    key: Key,
    *,
    carry: Carry = None,
    average: bool = False,
) -> TrainState:
    """Return the state before the first step, with arrays of its own, so that it may be donated.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> state = initial_state({"w": jnp.ones(3)}, optax.sgd(0.1), jax.random.key(0))
        >>> int(state.step), state.average
        (0, None)
    """
    return TrainState(
        jnp.zeros((), jnp.int32),
        _copy(params),
        optimiser.init(params),
        _copy(carry),
        jnp.copy(key),
        _copy(params) if average else None,
    )


def tbptt_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    batch: PyTree,
    *,
    decay: float | None = None,
    axis: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Take one step of truncated backpropagation through time on one chunk.

        value, h_T = loss(θ, stop_gradient(h_0), chunk)
        θ ← θ + optimiser(∂ value / ∂ θ),    average ← d·average + (1 − d)·θ,

    d = min(decay, (1 + t) / (10 + t)) at step t, so that the average soon forgets the first params
    (Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent
    network trajectories", 1990, for the truncation). Nothing but ``step`` changes where the loss, a
    gradient or a parameter would not be finite; the metric ``finite`` says so.

    Args:
        loss: the loss, see ``Loss``.
        optimiser: any Optax optimiser; it is given the loss as ``value``.
        state: the state before the step.
        batch: one chunk of time.
        decay: of the average; None: there is none.
        axis: the mesh axis of ``jax.shard_map`` that rows are split over. Losses, metrics and
            gradients are averaged over it by ``tokens``, or evenly where there is no such metric,
            and each device folds its index into the key.

    Returns:
        The state after the step, and ``loss``, ``gradient_norm``, ``parameter_norm``, ``finite``
        beside the loss's own metrics.

    Raises:
        ValueError: the loss uses one of these four names, or returns a carry of another structure.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> def loss(params, carry, batch, key):
        ...     return (params - batch) ** 2, (carry, {})
        >>> optimiser = optax.sgd(0.25)
        >>> state = initial_state(jnp.array(0.0), optimiser, jax.random.key(0))
        >>> state, metrics = tbptt_step(loss, optimiser, state, jnp.array(1.0))
        >>> float(state.params), float(metrics["loss"])
        (0.5, 1.0)
    """
    value, gradient, carry, metrics = _differentiate(loss, state, batch, axis)
    update = optax.with_extra_args_support(optimiser).update
    updates, optimiser_state = update(gradient, state.optimiser, state.params, value=value)
    params = optax.apply_updates(state.params, updates)
    norms = {"gradient_norm": optax.tree.norm(gradient), "parameter_norm": optax.tree.norm(params)}
    finite = jnp.isfinite(value)
    for norm in norms.values():
        finite &= jnp.isfinite(norm)
    average = None if decay is None else _towards(state.average, params, state.step, decay)
    changed = {"params": params, "optimiser": optimiser_state, "carry": carry, "average": average}
    unchanged = {name: getattr(state, name) for name in changed}
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, unchanged)
    state = state._replace(step=state.step + 1, **kept)
    return state, {"loss": value, **norms, "finite": finite, **metrics}


def _differentiate(loss: Loss, state: TrainState, batch: PyTree, axis: str | None) -> tuple:
    """Return value, gradient, carry and metrics, the same on all devices of a mesh axis."""
    key = jax.random.fold_in(state.key, state.step)
    params, carry = state.params, jax.lax.stop_gradient(state.carry)
    if axis is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        # Each device differentiates its own copy: left alone, gradients would be summed unweighted.
        params = jax.lax.pcast(params, axis, to="varying")
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    (value, (carry, metrics)), gradient = value_and_grad(params, carry, batch, key)
    _check(state.carry, carry, metrics)
    if axis is not None:
        own = {name: metric for name, metric in metrics.items() if name != "tokens"}
        share = _share(metrics.get("tokens"), value, axis)
        value, own, gradient = jax.lax.psum(
            jax.tree.map(lambda leaf: leaf * share.astype(leaf.dtype), (value, own, gradient)), axis
        )
        metrics = own if "tokens" not in metrics else _with_total(own, metrics["tokens"], axis)
    return value, gradient, carry, metrics


def _share(tokens: Array | None, value: Array, axis: str) -> Array:
    """The weight of this device's mean in the mean over all devices."""
    count = jnp.ones_like(value) if tokens is None else jnp.asarray(tokens, value.dtype)
    return count / jax.lax.psum(count, axis)


def _with_total(metrics: Metrics, tokens: Array, axis: str) -> Metrics:
    return {**metrics, "tokens": jax.lax.psum(tokens, axis)}


def _towards(average: PyTree, params: PyTree, step: Array, decay: float) -> PyTree:
    t = step.astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda a, p: a + rate.astype(a.dtype) * (p - a), average, params)


def _check(before: Carry, after: Carry, metrics: Metrics) -> None:
    had, has = jax.tree.structure(before), jax.tree.structure(after)
    if had != has:
        raise ValueError(
            f"loss: the carry must be returned as it was given, {had}; got {has}. Begin with one: "
            "carry=rnnjax.initial_carry(cell, params, batch), or return the carry that came in."
        )
    clash = [name for name in TAKEN if name in metrics]
    if clash:
        raise ValueError(
            f"loss: metrics must leave the name {clash[0]!r} free; fit reports it itself. "
            "Rename the metric."
        )


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)
