"""Rematerialised in chunks of time: memory O(√T) for training."""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, PyTree
from rnnjax.cell import Cell
from rnnjax.recurrence import Inputs, Recurrence, Strategy, execute
from rnnjax.strategies.sequential import Sequential


@dataclasses.dataclass(frozen=True)
class Chunked(Strategy):
    """Keep the carry at the borders of chunks and run each chunk again in the backward pass.

    Training then holds the carries at T / size borders and what one chunk of ``size`` steps saves,
    for one more forward pass in time (Chen et al. 2016). A stack runs whole inside a chunk, so the
    bound covers all its layers.

    Args:
        size: steps in a chunk; None: about √T, which makes memory O(√T).
        inside: how each chunk runs.

    Raises:
        ValueError: when ``size`` is below 1; from ``scan``, when ``inside`` cannot run the cell.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GRU(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((1000, 2, 4))
        >>> h, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Chunked())
        >>> ys.shape
        (1000, 2, 8)
    """

    size: int | None = None
    inside: Sequential = Sequential()

    layerwise: ClassVar[bool] = False

    def __post_init__(self):
        if self.size is not None:
            checks.positive_int("Chunked", "size", self.size)
        checks.instance("Chunked", "inside", self.inside, Sequential, "rnnjax.Sequential()")

    def refusal(self, cell: Cell) -> str | None:
        """Refuse a cell that cannot be run inside."""
        cells = cell.layers()
        if cells is None:
            return self.inside.refusal(cell)
        return next(filter(None, map(self.refusal, cells)), None)

    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Scan over chunks; a shorter last chunk, if any, runs as a scan over one chunk."""
        size = min(self.size or chunk_size(recurrence.time), recurrence.time)
        border = recurrence.time // size * size
        parts = [(0, border, size), (border, recurrence.time, recurrence.time - border)]
        carry, ys = recurrence.carry, {}
        for start, stop, length in reversed(parts) if recurrence.reverse else parts:
            if start < stop:
                inputs = jax.tree.map(lambda a, s=slice(start, stop): a[s], recurrence.inputs)
                part = recurrence.replace(carry=carry, inputs=inputs)
                carry, ys[start] = _run_chunks(part, length, self.inside)
        return carry, jax.tree.map(lambda *y: jnp.concatenate(y), *(ys[k] for k in sorted(ys)))


def chunk_size(time: int) -> int:
    """Return a size near √T: the first divisor of T from √T to 2√T, else ⌈√T⌉.

    With a divisor the inputs are chunked in place, and the loop is compiled once.

    Example:
        >>> chunk_size(100), chunk_size(1000), chunk_size(101)
        (10, 40, 11)
    """
    root = math.isqrt(time - 1) + 1
    return next((size for size in range(root, 2 * root + 1) if time % size == 0), root)


def _run_chunks(recurrence: Recurrence, size: int, inside: Sequential) -> tuple[Carry, PyTree]:
    """Run T / size chunks, each forgotten in the forward pass and run again in the backward one."""

    def split(a: Array) -> Array:
        return a.reshape(a.shape[0] // size, size, *a.shape[1:])

    # Inside a scan nothing can be merged across the checkpoint: the barrier that prevents it
    # elsewhere would only cost time.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def chunk(carry: Carry, inputs: Inputs) -> tuple[Carry, PyTree]:
        return execute(inside, recurrence.replace(carry=carry, inputs=inputs))

    carry, ys = jax.lax.scan(
        chunk,
        recurrence.carry,
        jax.tree.map(split, recurrence.inputs),
        reverse=recurrence.reverse,
    )
    return carry, jax.tree.map(lambda y: y.reshape(recurrence.time, *y.shape[2:]), ys)
