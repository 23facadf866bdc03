"""How much of the time gates are stuck at their limits."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Carry, Int, Params, PyTree
from rnnjax.cell import Cell
from rnnjax.diagnostics import trajectory
from rnnjax.diagnostics.trajectory import Arguments
from rnnjax.recurrence import Inputs, Recurrence

SIGMOID, TANH = (0.0, 1.0), (-1.0, 1.0)


class GateSaturation(NamedTuple):
    """Shares of activations, dicts from a gate's name to an array of the gate's shape (N,).

    Attributes:
        low: within the margin of the lower limit, of the steps taken in all rows.
        high: within the margin of the upper limit.
        limits: the lower and the upper limit, an array (2,) for each gate.
    """

    low: dict[str, Array]
    high: dict[str, Array]
    limits: dict[str, Array]


def gate_saturation(
    cell: Cell,
    params: Params,
    xs: PyTree,
    carry: Carry | None = None,
    *,
    margin: float = 0.05,
    limits: dict[str, tuple[float, float]] | None = None,
    mask: Bool[Array, "T B"] | None = None,
    lengths: Int[Array, " B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    context: dict[str, PyTree] | None = None,
) -> GateSaturation:
    """Count how often each unit of each gate is within a margin of its limits.

    low = #{(t, b): |a_tb − lower| ≤ margin} / #{(t, b)},  high alike, over the steps taken

    A saturated gate hands on hardly any gradient to what drives it (Hochreiter 1991), and a forget
    gate at its upper limit is memory (Karpathy et al. 2015 draw the two shares of every unit).
    Activations are those of ``cell.gates``. A gate that is negative anywhere is taken to lie
    within −1 … 1, as tanh does, any other within 0 … 1, as a sigmoid does; ``limits`` says
    otherwise.

    Args:
        cell: a cell that defines ``gates``.
        params: what ``cell.init`` returned.
        xs: as in ``rnnjax.scan``.
        carry: the carry to begin with; None: the cell's initial carry.
        margin: how near counts as saturated.
        limits: the lower and the upper limit of gates, by name.
        mask: as in ``rnnjax.scan``; masked steps are not counted.
        lengths: as in ``rnnjax.scan``.
        resets: as in ``rnnjax.scan``.
        context: as in ``rnnjax.scan``.

    Returns:
        The shares, unit by unit; NaN where all steps are masked.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value; T = 0; a cell without gates; limits of
            a gate that the cell does not have.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> from rnnjax.diagnostics import gate_saturation
        >>> cell = rnnjax.LSTM(8, forget_bias=6.0)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> shares = gate_saturation(cell, params, jnp.zeros((50, 2, 4)))
        >>> sorted(shares.high), float(shares.high["f"].mean()), float(shares.high["i"].mean())
        (['f', 'i', 'o'], 1.0, 0.0)
    """
    owner = "gate_saturation"
    arguments = Arguments(params, xs, carry, mask, lengths, resets, context)
    time, _ = trajectory.check(owner, cell, arguments).sizes
    names = sorted(jax.eval_shape(functools.partial(_first_gates, cell), arguments))
    _check_gates(cell, names, limits, margin)
    candidates = dict.fromkeys(names, (SIGMOID, TANH))
    candidates |= {name: (pair, pair) for name, pair in (limits or {}).items()}
    candidates = {name: jnp.asarray(pairs, float) for name, pairs in candidates.items()}
    shares, failed = _count(cell, arguments, candidates, jnp.asarray(margin, float))
    trajectory.refuse_failures(owner, failed, time)
    return shares


def _check_gates(cell: Cell, names: list[str], limits: Any, margin: Any) -> None:
    if not names:
        layers = "; none of its layers has any" if cell.layers() else ""
        raise ValueError(
            f"gate_saturation: cell must define gates; {checks.describe(cell)}.gates returned "
            f"{{}}{layers}. Override Cell.gates, or pass a gated cell such as rnnjax.LSTM(64)."
        )
    unknown = sorted(set(limits or {}) - set(names))
    if unknown:
        raise ValueError(
            f"gate_saturation: limits must be for gates of {checks.describe(cell)}, {names}; got "
            f"{unknown[0]!r}."
        )
    if not isinstance(margin, int | float) or not 0 < margin < 0.5:
        raise ValueError(f"gate_saturation: margin must be within 0 … 0.5; got {margin!r}.")


def _gates(recurrence: Recurrence, carry: Carry, inputs: Inputs) -> dict[str, Array]:
    """Return the gates of one step for every row, (B, N) each, the reset honoured."""

    def row(initial: Carry, context: Any, carry: Carry, u: PyTree, reset: Any) -> dict[str, Array]:
        params = {name: leaf for name, leaf in recurrence.params.items() if name != "context"}
        params |= {} if context is None else {"context": context}
        if reset is not None:
            carry = jax.tree.map(lambda a, b: jnp.where(reset, a, b), initial, carry)
        return recurrence.cell.gates(params, carry, u)

    context, u = recurrence.params.get("context"), recurrence.encode(inputs)
    return jax.vmap(row)(recurrence.initial, context, carry, u, inputs.reset)


def _first_gates(cell: Cell, arguments: Arguments) -> dict[str, Array]:
    recurrence = trajectory.recurrence_of(cell, arguments)
    first = jax.tree.map(lambda a: a[0], recurrence.inputs)
    return _gates(recurrence, recurrence.carry, first)


class _Counts(NamedTuple):
    """For one gate: counts at the limits of both candidates (2, N), and the least activation."""

    low: Array
    high: Array
    least: Array


@jax.jit
def _count(
    cell: Cell, arguments: Arguments, candidates: dict[str, Array], margin: Array
) -> tuple[GateSaturation, Array]:
    recurrence = trajectory.recurrence_of(cell, arguments)
    time, batch = recurrence.time, recurrence.batch

    def step(state: tuple, inputs: Inputs) -> tuple[tuple, None]:
        carry, counts, taken, failed, t = state
        mask = jnp.ones((batch,), bool) if inputs.mask is None else inputs.mask
        gates = _gates(recurrence, carry, inputs)
        counts = {
            name: _add(counts[name], gates[name], candidates[name], mask, margin) for name in gates
        }
        carry = trajectory.advance(recurrence, carry, inputs)
        failed = trajectory.first_failure(failed, t, carry, time)
        return (carry, counts, taken + mask.sum(), failed, t + 1), None

    shapes = jax.eval_shape(functools.partial(_first_gates, cell), arguments)
    counts = {name: _no_counts(gate.shape[1:]) for name, gate in shapes.items()}
    zero = jnp.zeros((), int)
    start = (recurrence.carry, counts, zero, jnp.full((batch,), time), zero)
    (_, counts, taken, failed, _), _ = jax.lax.scan(step, start, recurrence.inputs)
    return _shares(counts, candidates, taken), failed


def _no_counts(shape: tuple[int, ...]) -> _Counts:
    zero = jnp.zeros((2, *shape), int)
    return _Counts(zero, zero, jnp.full((), jnp.inf))


def _add(counts: _Counts, gate: Array, limits: Array, mask: Array, margin: Array) -> _Counts:
    """Count one step of one gate (B, N)."""
    gate = gate.astype(float)
    keep = jax.lax.expand_dims(mask, range(1, gate.ndim))

    def near(limit: Array) -> Array:
        return jnp.sum(keep & (jnp.abs(gate - limit) <= margin), axis=0)

    low, high = jax.vmap(near)(limits[:, 0]), jax.vmap(near)(limits[:, 1])
    least = jnp.min(jnp.where(keep, gate, jnp.inf), initial=jnp.inf)
    return _Counts(counts.low + low, counts.high + high, jnp.minimum(counts.least, least))


def _shares(
    counts: dict[str, _Counts], candidates: dict[str, Array], taken: Array
) -> GateSaturation:
    chosen = {name: (count.least < 0).astype(int) for name, count in counts.items()}

    def share(name: str, count: Array) -> Array:
        return count[chosen[name]].astype(float) / taken.astype(float)

    return GateSaturation(
        low={name: share(name, count.low) for name, count in counts.items()},
        high={name: share(name, count.high) for name, count in counts.items()},
        limits={name: candidates[name][chosen[name]] for name in counts},
    )
