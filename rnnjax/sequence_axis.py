"""A sequence that lies in parts along a mesh axis: which part is here, and what goes between."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from rnnjax.array_typing import Array, PyTree
from rnnjax.placement import vary


@dataclasses.dataclass(frozen=True)
class SequenceAxis:
    """The P devices along an axis of ``jax.shard_map``, in the order of travel through their parts.

    Attributes:
        name: of the mesh axis.
        reverse: the travel begins on its last device.
    """

    name: str
    reverse: bool = False

    @property
    def size(self) -> int:
        """P."""
        return jax.lax.axis_size(self.name)

    @property
    def place(self) -> Array:
        """This device's place, 0 … P − 1."""
        index = jax.lax.axis_index(self.name)
        return self.size - 1 - index if self.reverse else index

    def turned(self) -> "SequenceAxis":
        """Return the same devices in the other direction."""
        return dataclasses.replace(self, reverse=not self.reverse)

    def of_first(self, a: Array) -> Array:
        """Return a on the first device, zeros on the others."""
        return jnp.where(self.place == 0, a, jnp.zeros_like(a))

    def of_last(self, a: Array) -> Array:
        """Return what a is on the last device, on all of them."""
        chosen = jnp.where(self.place == self.size - 1, a, jnp.zeros_like(a))
        return jax.lax.psum(chosen, self.name)

    def before(self, a: Array) -> Array:
        """Return what a is on the device before, zeros on the first."""
        pairs = [(p, p + 1) for p in range(self.size - 1)]
        if self.reverse:
            pairs = [(q, p) for p, q in pairs]
        return jax.lax.ppermute(a, self.name, pairs)

    def own(self, tree: PyTree) -> PyTree:
        """Return this device's entry of what has one for each device (P, …)."""
        index = self.place
        return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, 0, False), tree)

    def gather(self, tree: PyTree) -> tuple[PyTree, PyTree]:
        """Return what the devices hold (P, B, …): once the same for all, once for each to select.

        That is one collective, and its transpose one sum, whatever the leaves of the tree (B, …):
        each row goes as one vector. Only integers, which no float holds, go by themselves.
        """
        leaves, structure = jax.tree.flatten(tree)
        for_all, for_each = list(leaves), list(leaves)
        for kind in {_kind(leaf): None for leaf in leaves}:
            places = [k for k, leaf in enumerate(leaves) if _kind(leaf) == kind]
            rows, unpack = _pack([leaves[k] for k in places])
            gathered = jax.lax.all_gather(rows, self.name, to="invarying")
            gathered = gathered[::-1] if self.reverse else gathered
            varied = vary(gathered, frozenset([self.name]))
            for k, same, own in zip(places, unpack(gathered), unpack(varied), strict=True):
                for_all[k], for_each[k] = same, own
        return structure.unflatten(for_all), structure.unflatten(for_each)


def _kind(leaf: Array) -> str:
    return leaf.dtype.name if jnp.issubdtype(leaf.dtype, jnp.integer) else "number or flag"


def _pack(leaves: list[Array]) -> tuple[Array, Callable]:
    """Write each row as one vector (B, M); return also what reads (P, B, M) back."""
    with jax.numpy_dtype_promotion("standard"):
        rows = jax.vmap(lambda row: ravel_pytree(row)[0])(leaves)
        _, unpack = ravel_pytree([jnp.zeros(leaf.shape[1:], leaf.dtype) for leaf in leaves])
    return rows, jax.vmap(jax.vmap(unpack))
