"""What the diagnostics share: checked arguments, a recurrence, norms as logarithms."""

from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, Int, Params, PyTree
from rnnjax.cell import Cell, feed
from rnnjax.recurrence import Inputs, Recurrence
from rnnjax.scan import Call, as_recurrence, check_arguments, valid_steps


class Arguments(NamedTuple):
    """The arguments of a run, as in ``rnnjax.scan``."""

    params: Params
    xs: PyTree
    carry: Carry | None
    mask: Any
    lengths: Any
    resets: Any
    context: dict[str, PyTree] | None


def check(owner: str, cell: Cell, arguments: Arguments) -> checks.Axes:
    """Check all arguments as ``rnnjax.scan`` does, and that there is a step; return (T, B)."""
    params, xs, carry, mask, lengths, resets, context = arguments
    call = Call(owner, ("T", "B"), "xs", "resets")
    axes = check_arguments(call, cell, params, xs, carry, mask, resets, context)
    checks.lengths(lengths, axes)
    if axes.sizes[0] == 0:
        raise ValueError(f"{owner}: xs must hold at least one step, T ≥ 1; got T = 0.")
    return axes


def recurrence_of(cell: Cell, arguments: Arguments) -> Recurrence:
    """Bring checked arguments into one form, inside ``jax.jit``."""
    params, xs, carry, mask, lengths, resets, context = arguments
    mask = valid_steps(mask, lengths, jax.tree.leaves(xs)[0].shape[0])
    inputs = Inputs(feed(cell, xs), mask, resets)
    return as_recurrence(cell, params, carry, inputs, context, leading=2)


def advance(recurrence: Recurrence, carry: Carry, inputs: Inputs) -> Carry:
    """Take one step without the readout."""
    return recurrence.advance(carry, recurrence.encode(inputs), inputs)


def one_row(recurrence: Recurrence, initial: Carry, context: Any) -> Recurrence:
    """Return the recurrence of a single row, which is a batch of one."""
    params = {name: leaf for name, leaf in recurrence.params.items() if name != "context"}
    if context is not None:
        params["context"] = with_batch(context)
    return recurrence.replace(params=params, initial=with_batch(initial), batch=1)


def with_batch(row: PyTree) -> PyTree:
    """Put a batch axis of length 1 in front of every leaf."""
    return jax.tree.map(lambda a: a[None], row)


# Non-finite carries


def still_finite(carry: Carry) -> Array:
    """Return for each row (B,) whether all entries of its carry are finite."""
    finite = [
        jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(carry)
        if inexact(leaf)
    ]
    return jnp.stack(finite).all(axis=0)


def first_failure(failed: Int[Array, " B"], step: Array, carry: Carry, time: int) -> Array:
    """Return the number of the first step (B,) with a carry that is not finite; T: none yet."""
    return jnp.where((failed == time) & ~still_finite(carry), step, failed)


def refuse_failures(owner: str, failed: Any, time: int) -> None:
    """Refuse a run whose carry became Inf or NaN; under a transformation nothing is known."""
    if isinstance(failed, jax.core.Tracer):
        return
    failed = np.asarray(failed)
    if failed.size and failed.min() < time:
        row = int(failed.argmin())
        raise ValueError(
            f"{owner}: the carry must stay finite; got Inf or NaN in row {row} after step "
            f"{failed[row]} (xs[{failed[row]}, {row}]). Look at xs and params there, or pass "
            f"xs[:{failed[row]}]."
        )


# Pytrees of which only some leaves can be differentiated


def inexact(leaf: Any) -> bool:
    """Say whether a leaf has a derivative: floating point or complex."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def inexact_leaves(tree: PyTree) -> list[Array]:
    """List the leaves that have a derivative."""
    return [leaf for leaf in jax.tree.leaves(tree) if inexact(leaf)]


def rejoin(tree: PyTree, leaves: list[Array]) -> PyTree:
    """Put leaves back in the place of ``inexact_leaves(tree)``."""
    new = iter(leaves)
    return jax.tree.map(lambda leaf: next(new) if inexact(leaf) else leaf, tree)


# Logarithms that reach beyond the range of floating-point numbers


def log_norm(leaves: list[Array]) -> Array:
    """Return log √Σ|a|² over all entries of all leaves, −inf for zero; squares cannot overflow."""
    return normalise(leaves)[1]


def normalise(leaves: list[Array]) -> tuple[list[Array], Array]:
    """Return the leaves divided by their common norm, and its logarithm; zero stays zero."""
    sizes = [jnp.abs(leaf).astype(float) for leaf in leaves]
    zero = jnp.zeros(())
    top = jnp.stack([zero, *(jnp.max(size, initial=0.0) for size in sizes)]).max()
    scale = jnp.where(top > 0, top, 1.0)
    square = sum((jnp.sum((size / scale) ** 2) for size in sizes), zero)
    root = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    units = [leaf / scale.astype(leaf.dtype) / root.astype(leaf.dtype) for leaf in leaves]
    return units, jnp.log(scale) + 0.5 * jnp.log(square)


class Total(NamedTuple):
    """A long sum with what rounding lost of it (Knuth 1969: two-sum)."""

    value: Array
    lost: Array

    @classmethod
    def zero(cls, shape: tuple[int, ...]) -> "Total":
        """Return an empty sum."""
        return cls(jnp.zeros(shape), jnp.zeros(shape))

    def add(self, term: Array) -> "Total":
        """Add a term."""
        value = self.value + term
        gained = value - self.value
        lost = (self.value - (value - gained)) + (term - gained)
        return Total(value, self.lost + lost)

    def read(self) -> Array:
        """Return the sum."""
        return self.value + self.lost


def finite_or_zero(log: Array) -> Array:
    """Replace −inf by 0, so that a sum of logarithms stays a number."""
    return jnp.where(log > -jnp.inf, log, 0.0)
