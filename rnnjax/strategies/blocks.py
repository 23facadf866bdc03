"""A loop over blocks of time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Carry, PyTree

Block = Callable[[Carry, PyTree], tuple[Carry, PyTree]]
"""(carry, what the steps of a block read) → (carry, what they return)."""


def scan_blocks(
    run: Block, carry: Carry, steps: PyTree, size: int, *, reverse: bool = False
) -> tuple[Carry, PyTree]:
    """Run T steps in blocks of ``size``; a shorter last one, if any, as a loop over one block.

    As ``jax.lax.scan`` but for ``run``, which takes a block (size, …) of the steps (T, …) at once.

    Example:
        >>> import jax.numpy as jnp
        >>> carry, ys = scan_blocks(lambda c, x: (c + x.sum(), c + x), 0, jnp.arange(5), 2)
        >>> int(carry), ys.tolist()
        (10, [0, 1, 3, 4, 10])
    """
    time = jax.tree.leaves(steps)[0].shape[0]
    border = time // size * size
    parts = [(0, border, size), (border, time, time - border)]
    ys = {}
    for start, stop, length in reversed(parts) if reverse else parts:
        if start < stop:
            part = jax.tree.map(lambda a, s=slice(start, stop): a[s], steps)
            carry, ys[start] = _scan_equal(run, carry, part, length, reverse)
    return carry, jax.tree.map(lambda *y: jnp.concatenate(y), *(ys[k] for k in sorted(ys)))


def _scan_equal(
    run: Block, carry: Carry, steps: PyTree, size: int, reverse: bool
) -> tuple[Carry, PyTree]:
    def split(a: Array) -> Array:
        return a.reshape(a.shape[0] // size, size, *a.shape[1:])

    def join(a: Array) -> Array:
        return a.reshape(a.shape[0] * size, *a.shape[2:])

    carry, ys = jax.lax.scan(run, carry, jax.tree.map(split, steps), reverse=reverse)
    return carry, jax.tree.map(join, ys)
