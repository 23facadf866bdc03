"""A kernel on a batch that is sharded: every device runs its own rows."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from rnnjax.array_typing import Array

Axes = Sequence[int | None]


def needs_devices(primitive: Any) -> bool:
    """Have a primitive lowered with the devices at hand, as ``custom_partitioning`` asks.

    JAX has no public name for this; it marks its own primitives so. False: another JAX does not.
    """
    try:
        from jax._src import dispatch

        dispatch.prim_requires_devices_during_lowering.add(primitive)
    except (ImportError, AttributeError):
        return False
    return True


def partitioned(function: Callable, operands: Axes, results: Axes) -> Callable:
    """Return the function as XLA may partition it under an automatically sharded ``jax.jit``.

    Args:
        function: of arrays, to a list of arrays.
        operands: of each operand the batch axis; None: all rows share it.
        results: of each result; None: a sum over all rows.
    """
    whole = custom_partitioning(lambda *arrays: tuple(function(*arrays)))

    def rows_of(shapes: Any) -> Any:
        """Return the mesh axes of the batch: those of the first operand that has one."""
        sharded = (s.sharding.spec for s in shapes)
        specs = [(s, k) for s, k in zip(sharded, operands, strict=True) if k is not None]
        return next((s[k] for s, k in specs if k < len(s) and s[k] is not None), None)

    def place(mesh: Any, rows: Any, axes: Axes) -> tuple[NamedSharding, ...]:
        specs = [PartitionSpec(*[None] * (k or 0), None if k is None else rows) for k in axes]
        return tuple(NamedSharding(mesh, spec) for spec in specs)

    def partition(mesh: Any, shapes: Any, result: Any) -> tuple:
        del result
        rows = rows_of(shapes)

        def of_rows(*arrays: Array) -> tuple[Array, ...]:
            out = function(*arrays)
            if rows is None:
                return tuple(out)
            pairs = zip(out, results, strict=True)
            return tuple(jax.lax.psum(a, rows) if k is None else a for a, k in pairs)

        return mesh, of_rows, place(mesh, rows, results), place(mesh, rows, operands)

    def infer(mesh: Any, shapes: Any, result: Any) -> tuple[NamedSharding, ...]:
        del result
        return place(mesh, rows_of(shapes), results)

    def rule(mesh: Any, operand_types: Any, result_types: Any) -> str:
        del mesh
        sides = (operands, operand_types), (results, result_types)
        factors = [_factors(axes, types, side) for side, (axes, types) in enumerate(sides)]
        return " -> ".join(", ".join(each) for each in factors)

    whole.def_partition(partition, infer, sharding_rule=rule)
    return whole


def _factors(axes: Axes, types: Any, side: int) -> list[str]:
    """Write each array's axes for Shardy: b is the batch, all others are axes of their own."""
    return [
        " ".join("b" if k == axis else f"o{side}{n}{k}" for k in range(each.rank)) or "..."
        for n, (axis, each) in enumerate(zip(axes, types, strict=True))
    ]
