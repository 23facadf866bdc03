"""One legend for axes, used in every signature, docstring and message.

| letter | axis |
| --- | --- |
| T | time |
| B | batch |
| D | input features |
| N | hidden units |
| G | gates (blocks of N in one matrix) |
| V | vocabulary |
| L | layers |
| S | positions of a memory that attention reads |
| M | features of such a memory |
| K | features of its keys |
"""

from typing import Any, TypeAlias

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

Params: TypeAlias = dict[str, Any]
"""A cell's parameters: a dict whose leaves are arrays; ``"context"`` is reserved."""

Carry: TypeAlias = Any
"""What a cell remembers: any pytree of arrays."""

Key: TypeAlias = PRNGKeyArray
"""A key of ``jax.random``."""

InDim: TypeAlias = int | tuple[int, ...] | PyTree[jax.ShapeDtypeStruct]
"""The shape of one input x_t: D for (D,), a shape, or a pytree of ``jax.ShapeDtypeStruct``."""

__all__ = [
    "Array",
    "Bool",
    "Carry",
    "DTypeLike",
    "Float",
    "InDim",
    "Int",
    "Key",
    "PRNGKeyArray",
    "Params",
    "PyTree",
]
