"""The linear recurrence h_t = a_t ⊙ h_{t−1} + b_t, solved in parallel over time.

It is a bidiagonal system of equations, h_t − a_t ⊙ h_{t−1} = b_t, and differentiated as one: the
tangent of its solution solves the same system with the right-hand side δb_t + δa_t ⊙ h_{t−1}, and
the transposed system is a recurrence from the last step to the first. So either derivative costs
one more solution and keeps nothing but a and h.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Bool, PyTree
from rnnjax.placement import vary, varying_axes


def linear_recurrence(
    a: Array, b: Array, cut: Bool[Array, "T ..."] | None = None, *, block: int | None = None
) -> Array:
    """Return every h_t = a_t ⊙ h_{t−1} + b_t with h_{−1} = 0; where cut_t, h_t = b_t.

    A cut is a selection, so that neither NaN nor Inf of h_{t−1} crosses it.

    Args:
        a: (T, …), real or complex.
        b: (T, …), as a.
        cut: (T, …), of the leading axes of a; None: no cuts.
        block: as in ``Associative``.

    Example:
        >>> import jax.numpy as jnp
        >>> a, b = jnp.full((4,), 0.5), jnp.ones((4,))
        >>> linear_recurrence(a, b).tolist()
        [1.0, 1.5, 1.75, 1.875]
        >>> linear_recurrence(a, b, jnp.array([False, False, True, False])).tolist()
        [1.0, 1.5, 1.0, 1.5]
    """
    cut = as_cut(cut, a.ndim)

    def system(h: Array) -> Array:
        return h - a * unless(cut, shift(h))

    def solve(_: Callable, b: Array) -> Array:
        return _solve(Affine(a, b, cut), block)

    def transpose_solve(_: Callable, b: Array) -> Array:
        # h_t = b_t + a_{t+1} ⊙ h_{t+1}
        later = shift(a[::-1]), None if cut is None else shift(cut[::-1])
        return _solve(Affine(later[0], b[::-1], later[1]), block)[::-1]

    return jax.lax.custom_linear_solve(system, b, solve, transpose_solve)


def as_cut(cut: Array | None, ndim: int) -> Array | None:
    """Return flags of the leading axes with as many axes as what they cut."""
    return None if cut is None else jax.lax.expand_dims(cut, range(cut.ndim, ndim))


def unless(cut: Array | None, h: Array) -> Array:
    """Return h, and zero where it is cut off."""
    return h if cut is None else jnp.where(cut, jnp.zeros((), h.dtype), h)


def shift(tree: PyTree) -> PyTree:
    """Return what stands one place earlier on the first axis; zero in the first place."""
    return jax.tree.map(lambda a: jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]]), tree)


class Affine(NamedTuple):
    """h → a ⊙ h + b, and with a cut anywhere h → b."""

    a: Array
    b: Array
    cut: Array | None

    def then(self, later: "Affine") -> "Affine":
        """Return the map that takes this one and then the later one."""
        a = later.a * unless(later.cut, self.a)
        cut = None if later.cut is None or self.cut is None else self.cut | later.cut
        return Affine(a, later.apply(self.b), cut)

    def apply(self, h: Array) -> Array:
        """Return a ⊙ h + b, and b where h is cut off."""
        return self.a * unless(self.cut, h) + self.b


def _solve(steps: Affine, block: int | None) -> Array:
    """Return the b of all prefixes."""
    if block is not None:
        return _solve_blocks(steps, block)
    return jax.lax.associative_scan(Affine.then, steps).b


def _solve_blocks(steps: Affine, size: int) -> Array:
    """Sum up each block step by step, the blocks associatively, and run each from its start."""
    blocks = split(steps, size)
    start = shift(_solve(sum_up(blocks), None))
    return join_blocks(run_blocks(blocks, start), steps.b.shape[0])


def split(steps: Affine, size: int) -> Affine:
    """Cut steps into blocks (size, ⌈T / size⌉, …), the last filled up with steps that do nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> blocks = split(Affine(jnp.full((3,), 0.5), jnp.arange(1.0, 4.0), None), 2)
        >>> blocks.a.tolist(), blocks.b.tolist()
        ([[0.5, 0.5], [0.5, 1.0]], [[1.0, 3.0], [2.0, 0.0]])
    """

    def fill(a: Array, value: float) -> Array:
        # Made of a, so that it is sharded as a is.
        one = jnp.full_like(a[:1], value)
        more = jnp.broadcast_to(one, (-a.shape[0] % size, *a.shape[1:]))
        return split_blocks(jnp.concatenate([a, more]), size)

    cut = None if steps.cut is None else fill(steps.cut, False)
    return Affine(fill(steps.a, 1), fill(steps.b, 0), cut)


def sum_up(blocks: Affine) -> Affine:
    """Return what all steps (size, T / size, …) of each block come to (T / size, …)."""
    first = jax.tree.map(lambda a: a[0], blocks)
    cut = None if first.cut is None else jnp.zeros_like(first.cut)
    nothing = Affine(jnp.ones_like(first.a), jnp.zeros_like(first.b), cut)
    nothing = vary(nothing, varying_axes(blocks))
    whole, _ = jax.lax.scan(lambda e, step: (e.then(step), None), nothing, blocks)
    return whole


def run_blocks(blocks: Affine, start: Array) -> Array:
    """Return every h of each block (size, T / size, …), from what it starts with."""

    def body(h: Array, step: Affine) -> tuple[Array, Array]:
        h = step.apply(h)
        return h, h

    _, hs = jax.lax.scan(body, start, blocks)
    return hs


def split_blocks(a: Array, size: int) -> Array:
    """Cut T into blocks: (T, …) → (size, ⌈T / size⌉, …).

    The last step fills up the last block: what is run after all T is dropped, and is finite.

    Example:
        >>> import jax.numpy as jnp
        >>> split_blocks(jnp.arange(1, 6), 2).tolist()
        [[1, 3, 5], [2, 4, 5]]
    """
    count = -(-a.shape[0] // size)
    more = jnp.broadcast_to(a[-1:], (count * size - a.shape[0], *a.shape[1:]))
    filled = jnp.concatenate([a, more])
    return filled.reshape(count, size, *a.shape[1:]).swapaxes(0, 1)


def join_blocks(a: Array, time: int) -> Array:
    """Undo ``split_blocks``.

    Example:
        >>> import jax.numpy as jnp
        >>> join_blocks(split_blocks(jnp.arange(1, 6), 2), 5).tolist()
        [1, 2, 3, 4, 5]
    """
    joined = a.swapaxes(0, 1)
    return joined.reshape(joined.shape[0] * joined.shape[1], *a.shape[2:])[:time]
