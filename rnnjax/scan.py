"""Running a cell: check, bring into one form, hand to a strategy."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Carry, Int, Key, Params, PyTree
from rnnjax.cell import Cell, Keyed, RowShapes, feed, row_shapes, with_context
from rnnjax.placement import shard_batch, vary, varying_axes
from rnnjax.recurrence import Inputs, Recurrence, Strategy, execute, row_of
from rnnjax.strategies.auto import Auto


def scan(
    cell: Cell,
    params: Params,
    xs: PyTree,
    carry: Carry | None = None,
    *,
    mask: Bool[Array, "T B"] | None = None,
    lengths: Int[Array, " B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    context: dict[str, PyTree] | None = None,
    reverse: bool = False,
    strategy: Strategy | tuple[Strategy, ...] = Auto(),
) -> tuple[Carry, PyTree]:
    """Run a cell over time: (h_0, x_1 … x_T) → (h_T, y_1 … y_T).

    Compiled inside, once for equal cells, strategies and shapes. Every strategy gives the same
    answer; without mask and resets it is that of

        u = encode(params, xs[t])
        carry = step(params, carry, u)
        ys[t] = readout(params, carry, u)

    Args:
        cell: the cell.
        params: what ``cell.init`` returned.
        xs: inputs, a pytree with leading axes (T, B); ``rnnjax.with_keys`` adds noise to them.
        carry: the carry to begin with, leading axis B; None: the cell's initial carry.
        mask: (T, B); where False no step is taken: the carry passes on, and every leaf of the
            output is zero. What stands in ``xs`` there, NaN included, reaches neither outputs nor
            gradients.
        lengths: (B,), each in 0…T; short for a mask of right padding. With ``mask``, both hold.
        resets: (T, B); True at t is a boundary between steps t − 1 and t: crossing it, in either
            direction and also at masked steps, replaces the carry by the initial carry.
        context: what the cell reads in every step, leading axis B, constant over time.
        reverse: run from the last step to the first; outputs stay in time order.
        strategy: how to run; a tuple gives each layer of a ``Stack`` its own.

    Returns:
        The carry after all T steps in the direction of travel, and the outputs (T, B, …).

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value, or a strategy that cannot run the cell.

    Example:
        Two sentences of lengths 3 and 1, padded to 3 steps:

        >>> import jax, jax.numpy as jnp, rnnjax
        >>> cell = rnnjax.LSTM(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.random.normal(jax.random.key(1), (3, 2, 4))
        >>> carry, ys = rnnjax.scan(cell, params, xs, lengths=jnp.array([3, 1]))
        >>> ys.shape, bool((ys[1:, 1] == 0).all())
        ((3, 2, 8), True)
    """
    axes = check_arguments(SCAN, cell, params, xs, carry, mask, resets, context)
    _check_strategy("scan", cell, strategy)
    names = sequence_axes(strategy)
    checks.one_sequence_axis("scan", names)
    if names[0] is not None:
        axes = checks.sharded_sequence(names[0], xs, carry, axes)
    checks.lengths(lengths, axes)
    checks.boolean("scan", "reverse", reverse)
    return _scan(cell, strategy, params, xs, carry, mask, lengths, resets, context, reverse=reverse)


def step(
    cell: Cell,
    params: Params,
    x: PyTree,
    carry: Carry | None = None,
    *,
    mask: Bool[Array, " B"] | None = None,
    reset: Bool[Array, " B"] | None = None,
    context: dict[str, PyTree] | None = None,
) -> tuple[Carry, PyTree]:
    """Take one time step for a batch: streaming, decoding, control.

    ``scan`` over T steps is ``step`` T times: the same masks, resets and numbers.

    Args:
        cell: the cell.
        params: what ``cell.init`` returned.
        x: inputs of one step, a pytree with leading axis B.
        carry: the carry before the step; None: the cell's initial carry.
        mask: (B,); where False the carry passes on and the output is zero.
        reset: (B,); where True the step begins with the initial carry.
        context: as in ``scan``.

    Returns:
        The next carry and the output (B, …).

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> cell = rnnjax.GRU(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> h, y = rnnjax.step(cell, params, jnp.ones((2, 4)))
        >>> h, y = rnnjax.step(cell, params, jnp.ones((2, 4)), h)
        >>> y.shape
        (2, 8)
    """
    check_arguments(STEP, cell, params, x, carry, mask, reset, context)
    return _step(cell, params, x, carry, mask, reset, context)


def initial_carry(
    cell: Cell, params: Params, batch: int, *, context: dict[str, PyTree] | None = None
) -> Carry:
    """Return the carry before the first step for every row: what ``carry=None`` stands for.

    For what passes a carry on from call to call, so that the first call is no program of its own.

    Args:
        cell: the cell.
        params: what ``cell.init`` returned.
        batch: B.
        context: as in ``scan``.

    Returns:
        The cell's initial carry, leading axis B.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: ``batch`` below 1, or a context that does not fit.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LSTM(8)
        >>> carry = rnnjax.initial_carry(cell, cell.init(jax.random.key(0), 4), batch=2)
        >>> carry.c.shape, carry.h.shape
        ((2, 8), (2, 8))
    """
    checks.instance("initial_carry", "cell", cell, Cell, "rnnjax.LSTM(64)")
    checks.hashable("initial_carry", cell)
    checks.params("initial_carry", cell, params)
    checks.positive_int("initial_carry", "batch", batch)
    checks.context(cell, context, checks.Axes("initial_carry", ("B",), (batch,)))
    return _initial_carry(cell, params, context, batch=batch)


def with_keys(key: Key, xs: PyTree) -> Keyed:
    """Pair inputs (T, B, …) with a key for each step and row, for cells that draw noise.

    Noise is an input, so the same keys give the same numbers in every strategy; inputs without keys
    mean evaluation.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> rnnjax.with_keys(jax.random.key(0), jnp.ones((5, 2, 4))).key.shape
        (5, 2)
    """
    leaves = jax.tree.leaves(xs)
    if not leaves or any(jnp.ndim(leaf) < 2 for leaf in leaves):
        shapes = jax.tree.map(jnp.shape, xs)
        raise ValueError(f"with_keys: xs must lead with the axes (T, B); got {shapes}.")
    return Keyed(xs, jax.random.split(key, leaves[0].shape[:2]))


def sequence_noise(key: Key, cell: Cell, params: Params, batch: int) -> dict[str, PyTree]:
    """Draw what each sequence of a batch keeps over time, to be passed as context.

    Masks of ``VariationalDropout``, one for each row: the same for every part of a sequence that is
    scanned in parts. Add entries of your own with ``noise | {"memory": memory}``; without noise, a
    run is evaluation.

    Args:
        key: of the draw; row b draws with a key split from it.
        cell: any cell; {} where none inside draws.
        params: what ``cell.init`` returned.
        batch: B.

    Returns:
        Context entries whose leaves lead with the axis (B,).

    Raises:
        TypeError: when ``key`` is not a key or ``cell`` not a cell.
        ValueError: when ``batch`` is less than 1.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.VariationalDropout(rnnjax.GRU(8), hidden_rate=0.25)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> noise = rnnjax.sequence_noise(jax.random.key(1), cell, params, batch=3)
        >>> noise["dropout"].h.shape
        (3, 8)
    """
    checks.key("sequence_noise", "key", key)
    checks.instance("sequence_noise", "cell", cell, Cell, "rnnjax.LSTM(64)")
    checks.params("sequence_noise", cell, params)
    checks.positive_int("sequence_noise", "batch", batch)
    return jax.vmap(cell.sequence_noise, (0, None))(jax.random.split(key, batch), params)


class Call(NamedTuple):
    """How a message calls the function and the arguments that scan and step name differently."""

    owner: str
    axes: tuple[str, ...]
    inputs: str
    resets: str


SCAN = Call("scan", ("T", "B"), "xs", "resets")
STEP = Call("step", ("B",), "x", "reset")


def check_arguments(
    call: Call,
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any,
    mask: Any,
    resets: Any,
    context: Any,
) -> checks.Axes:
    """Check everything that scan and step have in common; return the leading axes."""
    checks.instance(call.owner, "cell", cell, Cell, "rnnjax.LSTM(64)")
    checks.hashable(call.owner, cell)
    checks.params(call.owner, cell, params)
    bare = xs.x if isinstance(xs, Keyed) else xs
    axes = checks.inputs(call.owner, call.inputs, call.axes, cell, params, bare)
    if isinstance(xs, Keyed):
        checks.keys(call.inputs, xs.key, axes)
    checks.booleans("mask", mask, axes)
    checks.booleans(call.resets, resets, axes)
    checks.context(cell, context, axes)
    shapes = _one_row(call, cell, params, row_of(xs, len(call.axes)), context)
    checks.preserved(call.owner, cell, shapes.carry, shapes.next_carry)
    checks.carry(cell, shapes.carry, carry, axes)
    return axes


def _check_strategy(owner: str, cell: Cell, strategy: Any) -> None:
    """Refuse what is no strategy, a tuple that does not fit, and one that cannot run the cell."""
    cells = cell.layers()
    if not isinstance(strategy, tuple):
        checks.instance(owner, "strategy", strategy, Strategy, "rnnjax.Sequential()")
        if cells and strategy.layerwise:
            _check_strategy(owner, cell, (strategy,) * len(cells))
        else:
            checks.refused(owner, cell, strategy, strategy.refusal(cell))
        return
    checks.strategy_per_layer(owner, cell, cells, strategy)
    for inner, one in zip(cells or (), strategy, strict=True):
        _check_strategy(owner, inner, one)


def sequence_axes(strategy: Strategy | tuple) -> list[str | None]:
    """List the different mesh axes over which strategies take the sequence to be sharded."""
    if not isinstance(strategy, tuple):
        return [strategy.sequence_axis()]
    return list(dict.fromkeys(name for one in strategy for name in sequence_axes(one)))


def _one_row(call: Call, cell: Cell, params: Params, x: PyTree, context: Any) -> RowShapes:
    """Trace one step of one row, in ``jax.ShapeDtypeStruct``s."""
    row_params = with_context(jax.tree.map(jax.typeof, params), row_of(context, 1))
    try:
        return row_shapes(cell, row_params, feed(cell, x))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise checks.untraceable(call.owner, call.axes, cell, x, error) from error


@functools.partial(jax.jit, static_argnames="batch")
def _initial_carry(
    cell: Cell, params: Params, context: dict[str, PyTree] | None, *, batch: int
) -> Carry:
    no_inputs = Inputs(None, None, None)
    params = with_context(params, context)
    return Recurrence(cell, params, None, None, no_inputs, batch=batch).initial_rows()


@functools.partial(jax.jit, static_argnames="reverse")
def _scan(
    cell: Cell,
    strategy: Any,
    params: Params,
    xs: PyTree,
    carry: Carry | None,
    mask: Array | None,
    lengths: Array | None,
    resets: Array | None,
    context: dict[str, PyTree] | None,
    *,
    reverse: bool,
) -> tuple[Carry, PyTree]:
    time = jax.tree.leaves(xs)[0].shape[0]
    axis = sequence_axes(strategy)[0]
    part = 0 if axis is None else jnp.asarray(jax.lax.axis_index(axis), int)
    inputs = Inputs(feed(cell, xs), valid_steps(mask, lengths, time, part * time), resets)
    bordered = False
    if reverse and resets is not None:
        bordered = axis is not None and time > 0
        inputs = _with_border(inputs, resets, part) if bordered else _backwards(inputs, resets)
    recurrence = as_recurrence(cell, params, carry, inputs, context, leading=2)
    recurrence = recurrence.replace(reverse=reverse)
    if not time:
        return recurrence.carry, _no_steps(recurrence)
    carry, ys = execute(strategy, recurrence)
    return carry, jax.tree.map(lambda y: y[1:], ys) if bordered else ys


def _backwards(inputs: Inputs, resets: Array) -> Inputs:
    """Return inputs with the resets in the order of travel from the last step to the first.

    The boundary between t and t + 1 is crossed before step t is taken.
    """
    later = jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])
    return dataclasses.replace(inputs, reset=later)


def _with_border(inputs: Inputs, resets: Array, part: Array | int) -> Inputs:
    """Put a masked step before the first one of a part of a sequence, with resets for backwards.

    Backwards, this part is left through the boundary before its first step. What is reset there
    is so behind a step of this part, and goes on to the next with what the part comes to.
    """
    mask = jnp.ones_like(resets) if inputs.mask is None else inputs.mask
    no_step = jnp.zeros_like(resets[:1])
    x = jax.tree.map(lambda a: jnp.concatenate([a[:1], a]), inputs.x)
    resets = resets.at[0].set(resets[0] & (part > 0))
    return Inputs(x, jnp.concatenate([no_step, mask]), jnp.concatenate([resets, no_step]))


@jax.jit
def _step(
    cell: Cell,
    params: Params,
    x: PyTree,
    carry: Carry | None,
    mask: Array | None,
    reset: Array | None,
    context: dict[str, PyTree] | None,
) -> tuple[Carry, PyTree]:
    inputs = Inputs(feed(cell, x), mask, reset)
    recurrence = as_recurrence(cell, params, carry, inputs, context, leading=1)
    return recurrence.step(recurrence.carry, recurrence.inputs)


def valid_steps(
    mask: Array | None, lengths: Array | None, time: int, start: Array | int = 0
) -> Array | None:
    """Return the mask (T, B) that mask and lengths together stand for, None for none.

    The first of these steps is number ``start`` of those that lengths count.
    """
    if lengths is None:
        return mask
    valid = (start + jnp.arange(time))[:, None] < jnp.asarray(lengths, int)[None]
    return valid if mask is None else valid & mask


def as_recurrence(
    cell: Cell, params: Params, carry: Any, inputs: Inputs, context: Any, *, leading: int
) -> Recurrence:
    """Bring all arguments into one form; the batch is the last of the inputs' leading axes."""
    first = jax.typeof(jax.tree.leaves(inputs.x)[0])
    batch_axis, mesh_axis = leading - 1, first.sharding.spec[leading - 1]
    inputs = shard_batch(inputs, batch_axis, mesh_axis)
    carry, context = shard_batch((carry, context), 0, mesh_axis)
    arguments = (with_context(params, context), carry, inputs)
    axes = varying_axes(arguments)
    params, carry, inputs = vary(arguments, axes)
    recurrence = Recurrence(cell, params, None, carry, inputs, batch=first.shape[batch_axis])
    initial = vary(shard_batch(recurrence.initial_rows(), 0, mesh_axis), axes)
    return recurrence.replace(initial=initial, carry=initial if carry is None else carry)


def _no_steps(recurrence: Recurrence) -> PyTree:
    """Return outputs (0, B, …)."""
    params, context = dict(recurrence.params), recurrence.params.get("context")
    params.pop("context", None)
    x = row_of(recurrence.inputs.x, 2)
    y = _one_row(SCAN, recurrence.cell, params, x, context).y
    return jax.tree.map(lambda leaf: jnp.zeros((0, recurrence.batch, *leaf.shape), leaf.dtype), y)
