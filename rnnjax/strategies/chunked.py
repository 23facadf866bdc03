"""Rematerialised in chunks of time: memory O(√T) for training."""

import dataclasses
import functools
import math
from typing import ClassVar

import jax

from rnnjax import checks
from rnnjax.array_typing import Carry, PyTree
from rnnjax.cell import Cell
from rnnjax.recurrence import Inputs, Recurrence, Strategy, execute
from rnnjax.strategies.blocks import scan_blocks
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
        """Scan over chunks, each forgotten when it is done and run again in the backward pass."""

        # Inside a scan nothing can be merged across the checkpoint: the barrier that prevents it
        # elsewhere would only cost time.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def chunk(carry: Carry, inputs: Inputs) -> tuple[Carry, PyTree]:
            return execute(self.inside, recurrence.replace(carry=carry, inputs=inputs))

        size = min(self.size or chunk_size(recurrence.time), recurrence.time)
        return scan_blocks(
            chunk, recurrence.carry, recurrence.inputs, size, reverse=recurrence.reverse
        )


def chunk_size(time: int) -> int:
    """Return a size near √T: the first divisor of T from √T to 2√T, else ⌈√T⌉.

    With a divisor the inputs are chunked in place, and the loop is compiled once.

    Example:
        >>> chunk_size(100), chunk_size(1000), chunk_size(101)
        (10, 40, 11)
    """
    root = math.isqrt(time - 1) + 1
    return next((size for size in range(root, 2 * root + 1) if time % size == 0), root)
