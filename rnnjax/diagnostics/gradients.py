"""How far a gradient reaches: its norm at every step, as a logarithm."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Carry, Float, Int, Key, Params, PyTree
from rnnjax.cell import Cell
from rnnjax.diagnostics import trajectory
from rnnjax.diagnostics.trajectory import Arguments, Total, inexact, inexact_leaves
from rnnjax.recurrence import Inputs, Recurrence
from rnnjax.strategies.chunked import chunk_size


class GradientNorms(NamedTuple):
    """Natural logarithms of norms, each (T, B), index t for step t; −inf stands for exactly zero.

    Attributes:
        carry: log ‖∂L/∂h_t‖ leaf by leaf, a pytree of the carry's structure; −inf for a leaf that
            has no derivative, as a counter.
        whole: log ‖∂L/∂h_t‖ over all leaves.
        params: log ‖(∂h_t/∂θ)ᵀ ∂L/∂h_t‖, what step t adds to the gradient of the params.
        xs: log ‖(∂h_t/∂x_t)ᵀ ∂L/∂h_t‖, the gradient of the input; None for inputs without one.
    """

    carry: PyTree
    whole: Float[Array, "T B"]
    params: Float[Array, "T B"]
    xs: Float[Array, "T B"] | None


def gradient_norms(
    cell: Cell,
    params: Params,
    xs: PyTree,
    carry: Carry | None = None,
    *,
    cotangent: Carry | None = None,
    loss: Callable[[Carry, PyTree], Array] | None = None,
    mask: Bool[Array, "T B"] | None = None,
    lengths: Int[Array, " B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    context: dict[str, PyTree] | None = None,
    key: Key | None = None,
) -> GradientNorms:
    """Measure how a gradient shrinks or grows on its way back through time.

    λ_T = ∂L/∂h_T,  λ_{t−1} = (∂h_t/∂h_{t−1})ᵀ λ_t;  log ‖λ_t‖ for every t, row by row

    (Hochreiter 1991; Bengio et al. 1994; Pascanu et al. 2013). λ is brought back to norm 1 after
    every step and the logarithms are added up, so ratios of e^±10,000 are as exact as those of
    e^±1. The time is linear in T; the memory holds O(√T) carries and, for each row, one gradient
    of the params. Of a leaf that is below the whole by more than the range of its dtype, −inf is
    all that is known.

    A masked step hands the gradient on as it is and adds nothing to those of params and xs: −inf
    there. If all steps are masked, ``whole`` is log ‖λ_T‖ throughout. Nothing passes a reset:
    −inf at all steps before it. A learnt initial carry counts among the params at the resets that
    bring it back, not at the start. What a ``loss`` reads of params and x_T on its way through the
    readout counts as a constant.

    Args:
        cell: the cell.
        params: what ``cell.init`` returned.
        xs: as in ``rnnjax.scan``.
        carry: the carry to begin with; None: the cell's initial carry.
        cotangent: λ_T, of the carry's structure with leading axis B.
        loss: L, from the last carry and the last output of one row (zero where masked) to a real
            scalar.
        mask: as in ``rnnjax.scan``.
        lengths: as in ``rnnjax.scan``.
        resets: as in ``rnnjax.scan``.
        context: as in ``rnnjax.scan``.
        key: for λ_T where there is neither ``cotangent`` nor ``loss``: a random direction of norm 1
            for each row; None: ``jax.random.key(0)``.

    Returns:
        The logarithms, in nats.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value; T = 0; both ``cotangent`` and ``loss``;
            a carry that becomes Inf or NaN, with the step (not under ``jax.jit``).

    Example:
        With W orthogonal times 0.9 and h = 0 the gradient falls by 0.9 a step:

        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.diagnostics import gradient_norms
        >>> cell = rnnjax.Elman(8, recurrent_kernel_init=rnnjax.initializers.Orthogonal(0.9))
        >>> params = cell.init(jax.random.key(0), 3)
        >>> norms = gradient_norms(cell, params, jnp.zeros((101, 2, 3)))
        >>> round(float(jnp.exp(norms.whole[0, 0] - norms.whole[100, 0])), 8)
        2.656e-05
    """
    arguments = Arguments(params, xs, carry, mask, lengths, resets, context)
    time = trajectory.check("gradient_norms", cell, arguments).sizes[0]
    _check_choice(cotangent, loss)
    run = _forward(cell, arguments)
    trajectory.refuse_failures("gradient_norms", run.failed, time)
    if loss is not None:
        cotangent = _cotangent_of(loss, cell, arguments, run.carry)
    elif cotangent is None:
        cotangent = _unit_cotangent(jax.random.key(0) if key is None else key, run.carry)
    else:
        _check_cotangent(cell, run.carry, cotangent)
    return _backward(cell, arguments, run.borders, inexact_leaves(cotangent))


def _check_choice(cotangent: Any, loss: Any) -> None:
    if cotangent is not None and loss is not None:
        raise ValueError(
            "gradient_norms: cotangent and loss must not both be given, each says what ∂L/∂h_T is; "
            "got both. Leave one out."
        )
    if loss is not None:
        checks.function("gradient_norms", "loss", loss)


def _check_cotangent(cell: Cell, carry: Carry, cotangent: Any) -> None:
    """Refuse a cotangent without the structure, shapes and dtypes of the last carry."""
    name = f"gradient_norms: cotangent must be like the last carry of {checks.describe(cell)}"
    want, have = jax.tree.structure(carry), jax.tree.structure(cotangent)
    if want != have:
        raise ValueError(f"{name}, of the structure {want}; got {have}.")
    flat, _ = jax.tree_util.tree_flatten_with_path(carry)
    for (path, leaf), got in zip(flat, jax.tree.leaves(cotangent), strict=True):
        wanted, found = jax.typeof(leaf), jax.typeof(got)
        if (wanted.shape, wanted.dtype) != (found.shape, found.dtype):
            leaf_name = f"cotangent{jax.tree_util.keystr(path)}"
            raise ValueError(
                f"gradient_norms: {leaf_name} must be {wanted.dtype}{list(wanted.shape)}, batch "
                f"first, as the last carry of {checks.describe(cell)}; got "
                f"{found.dtype}{list(found.shape)}."
            )


def _cotangent_of(loss: Callable, cell: Cell, arguments: Arguments, carry: Carry) -> Carry:
    """Return ∂L/∂h_T, through the last output too."""

    def total(leaves: list[Array]) -> Array:
        last = trajectory.rejoin(carry, leaves)
        return jnp.sum(jax.vmap(loss)(last, _last_output(cell, arguments, last)))

    return trajectory.rejoin(carry, jax.grad(total)(inexact_leaves(carry)))


@jax.jit
def _last_output(cell: Cell, arguments: Arguments, carry: Carry) -> PyTree:
    recurrence = trajectory.recurrence_of(cell, arguments)
    last = jax.tree.map(lambda a: a[-1], recurrence.inputs)
    return recurrence.readout(carry, recurrence.encode(last), last)


@jax.jit
def _unit_cotangent(key: Key, carry: Carry) -> Carry:
    """Draw a direction of norm 1 for each row."""
    leaves = inexact_leaves(carry)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return trajectory.rejoin(carry, jax.vmap(trajectory.normalise)(drawn)[0])


# Forwards: the carries at the borders of chunks. Backwards: chunk by chunk, step by step.


class _Run(NamedTuple):
    """The last carry, the carry before each chunk (T / size, B, …), and the first bad step (B,)."""

    carry: Carry
    borders: Carry
    failed: Int[Array, " B"]


@jax.jit
def _forward(cell: Cell, arguments: Arguments) -> _Run:
    recurrence = trajectory.recurrence_of(cell, arguments)
    time = recurrence.time
    chunks = _in_chunks(recurrence.inputs, time)

    def step(state: tuple, inputs: Inputs) -> tuple:
        carry, failed, t = state
        carry = trajectory.advance(recurrence, carry, inputs)
        return (carry, trajectory.first_failure(failed, t, carry, time), t + 1), None

    def chunk(state: tuple, inputs: Inputs) -> tuple:
        return jax.lax.scan(step, state, inputs)[0], state[0]

    start = (recurrence.carry, jnp.full((recurrence.batch,), time), jnp.zeros((), int))
    (carry, failed, _), borders = jax.lax.scan(chunk, start, chunks)
    return _Run(carry, borders, failed)


@jax.jit
def _backward(
    cell: Cell, arguments: Arguments, borders: Carry, cotangent: list[Array]
) -> GradientNorms:
    recurrence = trajectory.recurrence_of(cell, arguments)
    chunks = _in_chunks(recurrence.inputs, recurrence.time)

    def forwards(carry: Carry, inputs: Inputs) -> tuple[Carry, Carry]:
        return trajectory.advance(recurrence, carry, inputs), carry

    def backwards(state: tuple, scanned: tuple) -> tuple:
        return _pull_back(recurrence, *state, *scanned)

    def chunk(state: tuple, scanned: tuple) -> tuple:
        border, inputs = scanned
        _, carries = jax.lax.scan(forwards, border, inputs)
        return jax.lax.scan(backwards, state, (carries, inputs), reverse=True)

    direction, log = jax.vmap(trajectory.normalise)(cotangent)
    total = Total.zero(log.shape).add(trajectory.finite_or_zero(log))
    _, norms = jax.lax.scan(chunk, (direction, total), (borders, chunks), reverse=True)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: recurrence.time], norms)


def _in_chunks(inputs: Inputs, time: int) -> Inputs:
    """Cut the inputs into chunks of about √T steps: (T, …) → (T / size, size, …).

    Masked steps fill the last chunk, so that one loop runs all of them.
    """
    size = chunk_size(time)
    missing = -time % size
    if missing:
        inputs = _pad(inputs, time, missing)
    return jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), inputs)


def _pad(inputs: Inputs, time: int, missing: int) -> Inputs:
    """Add masked steps without resets."""

    def extend(a: Array) -> Array:
        return jnp.concatenate([a, jnp.broadcast_to(a[-1:], (missing, *a.shape[1:]))])

    x, mask, reset = jax.tree.map(extend, inputs.x), inputs.mask, inputs.reset
    real = (jnp.arange(time + missing) < time)[:, None]
    batch = jax.tree.leaves(x)[0].shape[1]
    mask = jnp.broadcast_to(real, (time + missing, batch)) if mask is None else extend(mask) & real
    return Inputs(x, mask, None if reset is None else extend(reset) & real)


def _pull_back(
    recurrence: Recurrence, direction: list[Array], total: Total, carry: Carry, inputs: Inputs
) -> tuple[tuple[list[Array], Total], GradientNorms]:
    """Go back over one step: from λ_t, a direction of norm 1 and its logarithm, to λ_{t−1}."""
    whole = jax.vmap(trajectory.log_norm)(direction)
    alive = whole > -jnp.inf
    log = jnp.where(alive, total.read(), -jnp.inf)
    leaves = [log + jax.vmap(trajectory.log_norm)([leaf]) for leaf in direction]
    pulled = jax.vmap(_row_pullback(recurrence))(
        recurrence.initial, recurrence.params.get("context"), direction, carry, inputs
    )
    norms = GradientNorms(
        carry=_by_leaf(carry, leaves, jnp.full_like(log, -jnp.inf)),
        whole=log,
        params=log + pulled.params,
        xs=None if pulled.xs is None else log + pulled.xs,
    )
    total = total.add(trajectory.finite_or_zero(pulled.shrinkage))
    return (pulled.direction, total), norms


def _by_leaf(carry: Carry, norms: list[Array], constant: Array) -> PyTree:
    """Give each leaf of the carry its norms, and the constant to leaves without a derivative."""
    new = iter(norms)
    return jax.tree.map(lambda leaf: next(new) if inexact(leaf) else constant, carry)


class _Pulled(NamedTuple):
    """One row, pulled back over one step."""

    direction: list[Array]
    shrinkage: Float[Array, ""]
    params: Float[Array, ""]
    xs: Float[Array, ""] | None


def _row_pullback(recurrence: Recurrence) -> Callable[..., _Pulled]:
    """Return the transposed step of one row; by row, because a batch shares the params."""

    def pullback(
        initial: Carry, context: Any, direction: list[Array], carry: Carry, inputs: Inputs
    ) -> _Pulled:
        row = trajectory.one_row(recurrence, initial, context)

        def step(carry_leaves: list, param_leaves: list, x_leaves: list) -> list[Array]:
            params = trajectory.rejoin(bare, param_leaves) | held
            x = trajectory.rejoin(inputs.x, x_leaves)
            one = trajectory.with_batch(dataclasses.replace(inputs, x=x))
            start = trajectory.with_batch(trajectory.rejoin(carry, carry_leaves))
            here = row.replace(params=params)
            here = here.replace(initial=here.initial_rows())  # A reset brings back a learnt one.
            after = trajectory.advance(here, start, one)
            return [leaf[0] for leaf in inexact_leaves(after)]

        held = {name: leaf for name, leaf in row.params.items() if name == "context"}
        bare = {name: leaf for name, leaf in row.params.items() if name != "context"}
        _, transposed = jax.vjp(step, *map(inexact_leaves, (carry, bare, inputs.x)))
        back, of_params, of_x = transposed(direction)
        unit, log = trajectory.normalise(back)
        of_x = trajectory.log_norm(of_x) if of_x else None
        return _Pulled(unit, log, trajectory.log_norm(of_params), of_x)

    return pullback
