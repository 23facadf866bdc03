"""Rows of pytrees whose leaves lead with the batch axis."""

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Bool, Int, PyTree


def select_rows(chosen: Bool[Array, " B"], a: PyTree, b: PyTree) -> PyTree:
    """Take rows of a where chosen, else of b; by selection, so that no NaN crosses it."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(jax.lax.expand_dims(chosen, range(1, a.ndim)), a, b)

    return jax.tree.map(pick, a, b)


def take_rows(tree: PyTree, rows: Int[Array, " K"]) -> PyTree:
    """Return the rows of these numbers (K, …), in this order; a row may come more than once."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], tree)
