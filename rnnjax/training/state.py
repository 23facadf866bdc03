"""One step of training as a pure function, and the state that it changes."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from rnnjax.array_typing import Array, Carry, Int, Key, PyTree
from rnnjax.cell import carry_dtype

Metrics: TypeAlias = dict[str, Array]
"""Scalars by name. ``tokens`` is the number of targets that the loss is a mean over: losses and
other metrics are averaged by it, and the speed is given in it."""

Loss: TypeAlias = Callable[[PyTree, Carry, PyTree, Key | None], tuple[Array, tuple[Carry, Metrics]]]
"""``loss(params, carry, batch, key) → (value, (carry, metrics))``; no key: evaluation, no noise."""

TAKEN = ("loss", "gradient_norm", "parameter_norm", "finite", "step", "skipped", "seconds")


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
        _copy(optimiser.init(params)),  # some optimisers keep the params that they began with
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
        TypeError: params that are not floating point, or a loss that does not return
            ``(value, (carry, metrics))``.
        ValueError: a value or metric that is no scalar, a metric of a name that is taken, a carry
            of another structure, or ``decay`` without an average in the state.

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
    _check_state(state, decay)
    value, gradient, carry, metrics = _differentiate(loss, state, batch, axis)
    update = optax.with_extra_args_support(optimiser).update
    updates, optimiser_state = update(gradient, state.optimiser, state.params, value=value)
    params = optax.apply_updates(state.params, updates)
    finite = jnp.isfinite(value) & _all_finite((gradient, params))
    average = None if decay is None else _towards(state.average, params, state.step, decay)
    changed = {"params": params, "optimiser": optimiser_state, "carry": carry, "average": average}
    unchanged = {name: getattr(state, name) for name in changed}
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, unchanged)
    state = state._replace(step=state.step + 1, **kept)
    norms = {"gradient_norm": _norm(gradient), "parameter_norm": _norm(params)}
    return state, {"loss": value, **norms, "finite": finite, **metrics}


def call(
    loss: Loss, params: PyTree, carry: Carry, batch: PyTree, key: Key | None
) -> tuple[Array, tuple[Carry, Metrics]]:
    """Call a loss, and check while it is traced that it returns what it has to.

    Raises:
        TypeError: it returns anything but ``(value, (carry, metrics))``.
        ValueError: its value or a metric is no scalar, a metric has a name that is taken, or the
            carry has another structure than the one that it was given.
    """
    match loss(params, carry, batch, key):
        case (value, (after, dict(metrics))):
            pass
        case other:
            raise TypeError(
                "loss: it must return (value, (carry, metrics)), metrics a dict; got "
                f"{jax.tree.structure(other)}. Without either: value, (carry, {{}})."
            )
    for name, scalar in {"value": value, **metrics}.items():
        if jnp.shape(scalar):
            raise ValueError(
                f"loss: {name} must be a scalar; got {jnp.shape(scalar)}. Take a mean."
            )
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise TypeError(f"loss: value must be floating point; got {jnp.result_type(value)}.")
    clash = [name for name in metrics if _is_taken(name)]
    if clash:
        raise ValueError(
            f"loss: metrics must leave the name {clash[0]!r} free; fit reports it itself. "
            "Rename the metric."
        )
    had, has = jax.tree.structure(carry), jax.tree.structure(after)
    if had != has:
        raise ValueError(
            f"loss: the carry must be returned as it was given, {had}; got {has}. Begin with one: "
            "carry=rnnjax.initial_carry(cell, params, batch), or return the carry that came in."
        )
    return value, (after, metrics)


def _is_taken(name: str) -> bool:
    return name in TAKEN or name.startswith("validation_") or name.endswith("_per_second")


def _differentiate(loss: Loss, state: TrainState, batch: PyTree, axis: str | None) -> tuple:
    """Return value, gradient, carry and metrics, the same on all devices of a mesh axis."""
    key = jax.random.fold_in(state.key, state.step)
    params, carry = state.params, jax.lax.stop_gradient(state.carry)
    if axis is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        # Each device differentiates its own copy: left alone, gradients would be summed unweighted.
        params = jax.lax.pcast(params, axis, to="varying")
    value_and_grad = jax.value_and_grad(call, argnums=1, has_aux=True)
    (value, (carry, metrics)), gradient = value_and_grad(loss, params, carry, batch, key)
    if axis is not None:
        value, gradient, metrics = _mean_over_devices(value, gradient, metrics, axis)
    # Optax descends along the conjugate of what JAX calls the gradient in a complex parameter.
    return value, jax.tree.map(jnp.conj, gradient), carry, metrics


def _mean_over_devices(value: Array, gradient: PyTree, metrics: Metrics, axis: str) -> tuple:
    """Average over a mesh axis by tokens, or evenly where they are not counted."""
    own = {name: _as_float32(metric) for name, metric in metrics.items() if name != "tokens"}
    count = _as_float32(metrics.get("tokens", 1))
    total = jax.lax.psum(count, axis)
    share = count / jnp.maximum(total, 1)

    def mean(leaf: Array) -> Array:
        # Selected, because a mean over no token is NaN on the device that has none.
        return jax.lax.psum(jnp.where(share > 0, leaf * share.astype(leaf.dtype), 0), axis)

    value, gradient, own = jax.tree.map(mean, (value, gradient, own))
    return value, gradient, own if "tokens" not in metrics else {**own, "tokens": total}


def _as_float32(value: Any) -> Array:
    return jnp.asarray(value).astype(jnp.float32)


def _all_finite(tree: PyTree) -> Array:
    finite = jnp.array(True)
    for leaf in jax.tree.leaves(tree):
        finite &= jnp.isfinite(leaf).all()
    return finite


def _norm(tree: PyTree) -> Array:
    """The Euclidean norm over all leaves, in at least float32."""
    return optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(carry_dtype(leaf.dtype)), tree))


def _towards(average: PyTree, params: PyTree, step: Array, decay: float) -> PyTree:
    t = step.astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda a, p: a + rate.astype(a.dtype) * (p - a), average, params)


def _check_state(state: TrainState, decay: float | None) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.params)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} must be floating point to be trained; got "
                f"{leaf.dtype}. Of an NNX model: nnx.split(model, nnx.Param, …)."
            )
    if (decay is None) != (state.average is None):
        raise ValueError(
            f"decay must be given with a state that has an average, and only then; got "
            f"decay={decay} and {'no' if state.average is None else 'an'} average. Make the state "
            "with initial_state(…, average=True)."
        )


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)
