"""How fast neighbouring carries part: growth along a trajectory and Lyapunov exponents."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Carry, Float, Int, Key, Params, PyTree
from rnnjax.cell import Cell
from rnnjax.diagnostics import trajectory
from rnnjax.diagnostics.trajectory import Arguments, Total, inexact_leaves
from rnnjax.recurrence import Inputs, Recurrence

LARGEST_RATIO = 1e12
"""Of the first to the last singular value; float64 leaves the last one four digits."""


def growth_rates(
    cell: Cell,
    params: Params,
    xs: PyTree,
    carry: Carry | None = None,
    *,
    k: int = 1,
    mask: Bool[Array, "T B"] | None = None,
    lengths: Int[Array, " B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    context: dict[str, PyTree] | None = None,
    key: Key | None = None,
) -> Float[Array, "T B k"]:
    """Measure how much small differences of the carry have grown, in k directions.

    Q_t R_t = (∂h_t/∂h_{t−1}) Q_{t−1};  growth[t, :, i] = Σ_{s ≤ t} log |(R_s)_ii|

    (Benettin et al. 1980; Engelken et al. 2023 for recurrent networks). The first i columns span
    the volume that grows fastest, so that growth[…, 0] / t tends to the largest Lyapunov exponent.
    Only k directions are pushed forward, and the Jacobian of a step is never built. A carry is
    taken as the vector of all its floating-point entries, of complex ones real and imaginary part.
    A masked step adds nothing. After a reset nothing is left of a difference: −inf from there on.

    Args:
        cell: the cell.
        params: what ``cell.init`` returned.
        xs: as in ``rnnjax.scan``.
        carry: the carry to begin with; None: the cell's initial carry.
        k: the number of directions, at most the number of entries of one row's carry.
        mask: as in ``rnnjax.scan``.
        lengths: as in ``rnnjax.scan``.
        resets: as in ``rnnjax.scan``.
        context: as in ``rnnjax.scan``.
        key: for the directions at the start; None: ``jax.random.key(0)``.

    Returns:
        The growth after each step, in nats, (T, B, k).

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value; T = 0; a k above the size of the carry;
            a carry that becomes Inf or NaN, with the step (not under ``jax.jit``).

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.diagnostics import growth_rates
        >>> cell = rnnjax.Elman(8, recurrent_kernel_init=rnnjax.initializers.Orthogonal(0.9))
        >>> params = cell.init(jax.random.key(0), 3)
        >>> growth = growth_rates(cell, params, jnp.zeros((100, 2, 3)), k=3)
        >>> growth.shape, round(float(jnp.exp(growth[-1, 0, 0] / 100)), 4)
        ((100, 2, 3), 0.9)
    """
    arguments = Arguments(params, xs, carry, mask, lengths, resets, context)
    time, _ = trajectory.check("growth_rates", cell, arguments).sizes
    _check_k("growth_rates", cell, arguments, k)
    key = jax.random.key(0) if key is None else key
    growth, failed = _growth(cell, arguments, key, k=k)
    trajectory.refuse_failures("growth_rates", failed, time)
    return growth


class LyapunovExponents(NamedTuple):
    """Growth per step taken, largest first, with standard errors; NumPy arrays, in nats a step.

    Attributes:
        rows: the exponents of each row, (B, k); NaN for a row without a step.
        row_errors: their standard errors from block means over time, (B, k).
        exponents: pooled over rows, (k,).
        errors: their standard errors, (k,).
        horizon: −1 / λ_1, the steps after which a gradient has fallen by 1 / e; inf for λ_1 ≥ 0.
    """

    rows: np.ndarray
    row_errors: np.ndarray
    exponents: np.ndarray
    errors: np.ndarray
    horizon: float


def lyapunov_exponents(
    cell: Cell,
    params: Params,
    xs: PyTree,
    carry: Carry | None = None,
    *,
    k: int = 1,
    discard: int = 0,
    blocks: int = 10,
    mask: Bool[Array, "T B"] | None = None,
    lengths: Int[Array, " B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    context: dict[str, PyTree] | None = None,
    key: Key | None = None,
) -> LyapunovExponents:
    """Estimate the k largest Lyapunov exponents: λ_i = growth of direction i per step.

    λ_i = Σ_t log |(R_t)_ii| / number of steps taken, over t ≥ ``discard``, with R of
    ``growth_rates`` (Benettin et al. 1980; Engelken et al. 2023). The standard error is that of a
    ratio of block sums: it knows of fluctuations that are shorter than a block, and not of the
    transient, in which the directions turn; that is what ``discard`` is for. A reset makes the
    exponents −inf.

    Args:
        cell: the cell.
        params: what ``cell.init`` returned.
        xs: as in ``rnnjax.scan``.
        carry: the carry to begin with; None: the cell's initial carry.
        k: the number of exponents, at most the number of entries of one row's carry.
        discard: steps at the start that are left out.
        blocks: blocks of time for the standard error, at least 2.
        mask: as in ``rnnjax.scan``; masked steps are not counted.
        lengths: as in ``rnnjax.scan``.
        resets: as in ``rnnjax.scan``.
        context: as in ``rnnjax.scan``.
        key: for the directions at the start; None: ``jax.random.key(0)``.

    Returns:
        The exponents. The blocks are summed in NumPy, so this is no function to compile.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: as ``growth_rates``; or when fewer than ``blocks`` steps are left.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.diagnostics import lyapunov_exponents
        >>> cell = rnnjax.Elman(8, recurrent_kernel_init=rnnjax.initializers.Orthogonal(0.9))
        >>> params = cell.init(jax.random.key(0), 3)
        >>> found = lyapunov_exponents(cell, params, jnp.zeros((100, 2, 3)), k=2)
        >>> found.exponents.round(4).tolist(), round(found.horizon, 2)
        ([-0.1054, -0.1054], 9.49)
    """
    owner = "lyapunov_exponents"
    arguments = Arguments(params, xs, carry, mask, lengths, resets, context)
    time, _ = trajectory.check(owner, cell, arguments).sizes
    _check_k(owner, cell, arguments, k)
    _check_blocks(time, discard, blocks)
    growth, failed = _growth(cell, arguments, jax.random.key(0) if key is None else key, k=k)
    trajectory.refuse_failures(owner, failed, time)
    steps = _steps_taken(arguments, growth.shape[:2])
    return _estimate(np.asarray(growth, np.float64), steps, discard, blocks)


def _check_blocks(time: int, discard: int, blocks: int) -> None:
    checks.positive_int("lyapunov_exponents", "blocks", blocks)
    if isinstance(discard, bool) or not isinstance(discard, int) or discard < 0:
        raise ValueError(
            f"lyapunov_exponents: discard must be a number of steps of at least 0; got {discard!r}."
        )
    if blocks < 2 or time - discard < blocks:
        raise ValueError(
            f"lyapunov_exponents: blocks must be within 2…T − discard = {time - discard}, so that "
            f"each has a step; got {blocks}. Pass a longer xs, or a smaller discard or blocks."
        )


def _steps_taken(arguments: Arguments, shape: tuple[int, int]) -> np.ndarray:
    """Return the number of steps taken after each step, (T, B)."""
    taken = np.ones(shape, bool) if arguments.mask is None else np.asarray(arguments.mask)
    if arguments.lengths is not None:
        taken = taken & (np.arange(shape[0])[:, None] < np.asarray(arguments.lengths))
    return taken.cumsum(axis=0)


def _estimate(
    growth: np.ndarray, steps: np.ndarray, discard: int, blocks: int
) -> LyapunovExponents:
    time = growth.shape[0]
    borders = np.linspace(discard, time, blocks + 1).astype(int)
    growth = np.concatenate([np.zeros_like(growth[:1]), growth])[borders]
    steps = np.concatenate([np.zeros_like(steps[:1]), steps])[borders][..., None]
    # After a reset −inf − (−inf): a block of nothing, in a sum that is −inf already.
    with np.errstate(invalid="ignore"):
        growth = np.nan_to_num(np.diff(growth, axis=0), nan=0.0, neginf=-np.inf)
    steps = np.diff(steps, axis=0)
    rows, row_errors = _ratio(growth, steps)
    exponents, errors = _ratio(growth.sum(axis=1), steps.sum(axis=1))
    horizon = float("inf") if not exponents[0] < 0 else float(-1 / exponents[0])
    return LyapunovExponents(rows, row_errors, exponents, errors, horizon)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ sums / Σ counts over the blocks in front, and its standard error."""
    blocks = sums.shape[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = sums.sum(axis=0) / counts.sum(axis=0)
        square = ((sums - ratio * counts) ** 2).sum(axis=0) * blocks / (blocks - 1)
        return ratio, np.sqrt(square) / counts.sum(axis=0)


def singular_values(
    cell: Cell,
    params: Params,
    xs: PyTree,
    carry: Carry | None = None,
    *,
    k: int | None = None,
    mask: Bool[Array, "T B"] | None = None,
    lengths: Int[Array, " B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    context: dict[str, PyTree] | None = None,
) -> np.ndarray:
    """Return the singular values of ∂h_T/∂h_0, as natural logarithms.

    Of the product of all Jacobians in float64, whatever the dtype of the arguments, brought back
    to size 1 after every step, so that only the ratio of its singular values is bounded. Where the
    largest is 1e12 times the smallest asked for, float64 holds nothing of the latter: refused.
    This builds the N × N product for every row; ``growth_rates`` does not, and has no bound.

    Args:
        cell: the cell.
        params: what ``cell.init`` returned.
        xs: as in ``rnnjax.scan``.
        carry: the carry to begin with; None: the cell's initial carry.
        k: how many, from the largest down; None: all.
        mask: as in ``rnnjax.scan``.
        lengths: as in ``rnnjax.scan``.
        resets: as in ``rnnjax.scan``.
        context: as in ``rnnjax.scan``.

    Returns:
        The logarithms, largest first, a NumPy array (B, k).

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value; T = 0; a k above the size of the carry;
            a ratio above 1e12; a carry that becomes Inf or NaN, with the step.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.diagnostics import singular_values
        >>> cell = rnnjax.Elman(4, recurrent_kernel_init=rnnjax.initializers.Orthogonal(0.9))
        >>> params = cell.init(jax.random.key(0), 3)
        >>> singular_values(cell, params, jnp.zeros((10, 1, 3)), k=2).round(3).tolist()
        [[-1.054, -1.054]]
    """
    owner = "singular_values"
    arguments = Arguments(params, xs, carry, mask, lengths, resets, context)
    time, _ = trajectory.check(owner, cell, arguments).sizes
    size = carry_size(cell, arguments)
    if k is not None:
        _check_k(owner, cell, arguments, k)
    with jax.enable_x64(True):
        product, log, failed = jax.tree.map(np.asarray, _product(cell, _in_float64(arguments)))
    trajectory.refuse_failures(owner, failed, time)
    values = np.linalg.svd(product, compute_uv=False)[:, : k or size]
    _check_ratio(values)
    return np.log(values) + log[:, None]


def _check_ratio(values: np.ndarray) -> None:
    ratios = np.divide(
        values[:, 0], values[:, -1], out=np.full(len(values), np.inf), where=values[:, -1] > 0
    )
    if ratios.size and ratios.max() > LARGEST_RATIO:
        row, k = int(ratios.argmax()), values.shape[1]
        held = int((values[row] * LARGEST_RATIO >= values[row, 0]).sum()) if values[row, 0] else 0
        raise ValueError(
            f"singular_values: the ratio of the largest to number {k} must be at most "
            f"{LARGEST_RATIO:.0e} in float64; got {ratios[row]:.1e} in row {row}. Pass k={held} or "
            f"fewer, a shorter xs, or use growth_rates, which has no bound."
        )


def _in_float64(arguments: Arguments) -> Arguments:
    def widen(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return leaf.astype("complex128")
        return leaf.astype("float64") if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(widen, arguments)


# Columns of tangents, pushed forward


def carry_size(cell: Cell, arguments: Arguments) -> int:
    """Return the number of real numbers in one row's carry that have a derivative."""

    def count(arguments: Arguments) -> Array:
        return jax.vmap(_flatten)(trajectory.recurrence_of(cell, arguments).carry)

    return jax.eval_shape(count, arguments).shape[1]


def _check_k(owner: str, cell: Cell, arguments: Arguments, k: Any) -> None:
    checks.positive_int(owner, "k", k)
    size = carry_size(cell, arguments)
    if k > size:
        raise ValueError(
            f"{owner}: k must be at most {size}, the number of entries in the carry of "
            f"{checks.describe(cell)}; got {k}."
        )


@functools.partial(jax.jit, static_argnames="k")
def _growth(cell: Cell, arguments: Arguments, key: Key, *, k: int) -> tuple[Array, Array]:
    """Return the growth (T, B, k) and the first bad step (B,)."""
    recurrence = trajectory.recurrence_of(cell, arguments)
    size = jax.vmap(_flatten)(recurrence.carry).shape[1]
    drawn = jax.random.normal(key, (recurrence.batch, size, k))

    def orthogonalise(pushed: Array) -> tuple[Array, Array]:
        q, r = jnp.linalg.qr(pushed)
        return q, jnp.log(jnp.abs(jnp.diagonal(r, axis1=1, axis2=2)))

    shape = (recurrence.batch, k)
    state, growth = _push(recurrence, jnp.linalg.qr(drawn)[0], shape, orthogonalise)
    return growth, state.failed


@jax.jit
def _product(cell: Cell, arguments: Arguments) -> tuple[Array, Array, Array]:
    """Return ∂h_T/∂h_0 (B, N, N) at size 1, the logarithm of its size (B,), the first bad step."""
    recurrence = trajectory.recurrence_of(cell, arguments)
    size = jax.vmap(_flatten)(recurrence.carry).shape[1]
    identity = jnp.broadcast_to(jnp.eye(size), (recurrence.batch, size, size))

    def shrink(pushed: Array) -> tuple[Array, Array]:
        (unit,), log = jax.vmap(trajectory.normalise)([pushed])
        return unit, log

    state, _ = _push(recurrence, identity, (recurrence.batch,), shrink)
    return state.columns, state.total.read(), state.failed


class _State(NamedTuple):
    """Carry and columns after t steps, the logarithms so far, whether each is more than −inf."""

    carry: Carry
    columns: Float[Array, "B N k"]
    total: Total
    alive: Bool[Array, "..."]
    failed: Int[Array, " B"]
    t: Int[Array, ""]


def _push(
    recurrence: Recurrence,
    columns: Array,
    shape: tuple[int, ...],
    reduce: Callable[[Array], tuple[Array, Array]],
) -> tuple[_State, Array]:
    """Push columns through all steps; return the last state and the growth (T, *shape).

    After every step ``reduce`` maps them to columns of size 1 and the logarithms taken out.
    """
    time, batch = recurrence.time, recurrence.batch

    def step(state: _State, inputs: Inputs) -> tuple[_State, Array]:
        columns, log = reduce(_push_once(recurrence, state.columns, state.carry, inputs))
        columns, log = _unless_idle(inputs, (state.columns, jnp.zeros_like(log)), (columns, log))
        carry = trajectory.advance(recurrence, state.carry, inputs)
        alive = state.alive & (log > -jnp.inf)
        total = state.total.add(trajectory.finite_or_zero(log))
        failed = trajectory.first_failure(state.failed, state.t, carry, time)
        after = _State(carry, columns, total, alive, failed, state.t + 1)
        return after, jnp.where(alive, total.read(), -jnp.inf)

    alive, failed = jnp.ones(shape, bool), jnp.full((batch,), time)
    start = _State(
        recurrence.carry, columns, Total.zero(shape), alive, failed, jnp.zeros((), failed.dtype)
    )
    return jax.lax.scan(step, start, recurrence.inputs)


def _unless_idle(inputs: Inputs, idle: PyTree, busy: PyTree) -> PyTree:
    """Take rows of ``idle`` where a masked step hands the carry on; rounding would add up there."""
    if inputs.mask is None:
        return busy
    chosen = ~inputs.mask if inputs.reset is None else ~inputs.mask & ~inputs.reset

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(jax.lax.expand_dims(chosen, range(1, a.ndim)), a, b)

    return jax.tree.map(pick, idle, busy)


def _push_once(recurrence: Recurrence, columns: Array, carry: Carry, inputs: Inputs) -> Array:
    """Push columns (B, N, k) over one step, row by row."""

    def row(initial: Carry, context: Any, columns: Array, carry: Carry, inputs: Inputs) -> Array:
        one = trajectory.one_row(recurrence, initial, context)

        def step(flat: Array) -> Array:
            start = trajectory.with_batch(_unflatten(carry, flat))
            after = trajectory.advance(one, start, trajectory.with_batch(inputs))
            return _flatten(jax.tree.map(lambda a: a[0], after))

        _, tangent = jax.linearize(step, _flatten(carry))
        return jax.vmap(tangent, in_axes=1, out_axes=1)(columns)

    context = recurrence.params.get("context")
    return jax.vmap(row)(recurrence.initial, context, columns, carry, inputs)


def _flatten(carry: Carry) -> Array:
    """Join all entries of one row's carry that have a derivative into one real vector (N,)."""
    parts = []
    for leaf in inexact_leaves(carry):
        both = (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
        parts += [part.ravel().astype(float) for part in both]
    return jnp.concatenate(parts)


def _unflatten(carry: Carry, flat: Array) -> Carry:
    """Put the vector (N,) back in the form of a carry."""
    leaves, start = [], 0

    def take(leaf: Array) -> Array:
        nonlocal start
        start += leaf.size
        return flat[start - leaf.size : start].reshape(leaf.shape)

    for leaf in inexact_leaves(carry):
        real = take(leaf)
        value = jax.lax.complex(real, take(leaf)) if jnp.iscomplexobj(leaf) else real
        leaves.append(value.astype(leaf.dtype))
    return trajectory.rejoin(carry, leaves)
