"""Gates as arrays of their own.

On a CPU, XLA vectorises elementwise code that reads whole arrays, but not code that cuts gates
(…, N) out of one array (T, …, G·N) of all steps, which takes several times as long. So what a loop
reads of all steps is kept apart by gates: a gate that is cut out of the joined array is then the
array that it was joined from, and neither the joining nor the cutting is left in the program.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Params, PyTree
from rnnjax.cell import Cell
from rnnjax.recurrence import Recurrence, row_of


class Separate(NamedTuple):
    """The gates of an array, each (…, N)."""

    parts: tuple[Array, ...]


def separate(tree: PyTree, count: int) -> PyTree:
    """Cut every leaf (…, count·N) into ``count`` arrays; others stay as they are.

    Example:
        >>> import jax.numpy as jnp
        >>> [part.shape for part in separate(jnp.zeros((2, 12)), 4).parts]
        [(2, 3), (2, 3), (2, 3), (2, 3)]
    """

    def cut(leaf: Array) -> Array | Separate:
        if count == 1 or leaf.ndim < 2 or leaf.shape[-1] % count:
            return leaf
        return Separate(tuple(jnp.split(leaf, count, axis=-1)))

    return jax.tree.map(cut, tree)


def join(tree: PyTree) -> PyTree:
    """Undo ``separate``.

    Example:
        >>> import jax.numpy as jnp
        >>> join(separate(jnp.arange(6).reshape(1, 6), 3)).tolist()
        [[0, 1, 2, 3, 4, 5]]
    """

    def joined(node: PyTree) -> PyTree:
        return jnp.concatenate(node.parts, axis=-1) if isinstance(node, Separate) else node

    return jax.tree.map(joined, tree, is_leaf=lambda node: isinstance(node, Separate))


def recurrent_shapes(cell: Cell, row_params: Params, x: PyTree) -> tuple[PyTree, PyTree]:
    """Return the shapes of one row's hidden vector h and recurrent product r, of a gated cell."""
    gated = cell.gated()
    assert gated is not None, "a plain cell has no recurrent product apart"

    def parts(params: Params, x: PyTree) -> tuple[PyTree, PyTree]:
        h = gated.hidden(cell.initial_carry(params))
        return h, gated.mix(params, h, cell.encode(params, x))

    return jax.eval_shape(parts, row_params, x)


def count_gates(recurrence: Recurrence) -> int:
    """Return how many gates the recurrent product r (…, G·N) of a hidden vector h (…, N) has.

    1 for a plain cell, and where h and r are not one array each, the one as wide as gates of the
    other.
    """
    if recurrence.cell.gated() is None:
        return 1
    row = recurrence.row_params(), row_of(recurrence.inputs.x, 2)
    match [jax.tree.leaves(part) for part in recurrent_shapes(recurrence.cell, *row)]:
        case [[h], [r]] if r.shape[-1] % h.shape[-1] == 0:
            return r.shape[-1] // h.shape[-1]
    return 1
