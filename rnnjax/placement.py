"""Where arrays lie on a mesh: what a loop makes or is given has to lie as its inputs do."""

from typing import Any

import jax

from rnnjax.array_typing import Array, PyTree


def varying_axes(tree: PyTree) -> frozenset:
    """Return the mesh axes of ``jax.shard_map`` over which any of these arrays varies."""
    return frozenset().union(*(jax.typeof(leaf).mat.varying for leaf in jax.tree.leaves(tree)))


def vary(tree: PyTree, axes: frozenset) -> PyTree:
    """Let all arrays vary over these mesh axes.

    A loop needs one type for its carry; and weights that vary before the loop have their gradients
    summed after it, so that no collective stands inside.
    """

    def cast(leaf: Array) -> Array:
        missing = tuple(sorted(axes - jax.typeof(leaf).mat.varying))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def shard_batch(tree: PyTree, axis: int, mesh_axis: Any) -> PyTree:
    """Shard the batch axis as that of the inputs is, over a mesh axis of explicit sharding, if any.

    What is made inside, or by ``with_keys``, is replicated, and the rows of one step must agree.
    """

    def shard(leaf: Array) -> Array:
        spec = list(jax.typeof(leaf).sharding.spec)
        if spec[axis] == mesh_axis:
            return leaf
        spec[axis] = mesh_axis
        return jax.sharding.reshard(leaf, jax.sharding.PartitionSpec(*spec))

    return tree if mesh_axis is None else jax.tree.map(shard, tree)
