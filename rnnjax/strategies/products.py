"""The two products of a step, x_t W_x and h_{t−1} W_h: apart, or in the form that a CPU likes.

Where update reads u + r and nothing else of both, they are one product,

    u_t + r_t = [x_t, h_{t−1}] [W_x; W_h] + b.

Elsewhere u_t is computed gate by gate: code that cuts gates out of two arrays is slower on a CPU
than code that cuts them out of one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from rnnjax.array_typing import Array, PyTree
from rnnjax.cell import product
from rnnjax.kernels.products import input_kernel, input_leaf, is_dense, recurrent_kernel
from rnnjax.recurrence import Inputs, Recurrence, row_of
from rnnjax.strategies.gates import count_gates, recurrent_shapes
from rnnjax.strategies.reads import Reads, gated_of

Products = Callable[[Inputs, PyTree], tuple[PyTree, PyTree]]
"""(what a step reads, h) → (u, r)."""


def apart(recurrence: Recurrence) -> Products:
    """Return encode and mix, as the cell has them."""
    mix = recurrence.rows(gated_of(recurrence).mix, 2)

    def multiply(inputs: Inputs, h: PyTree) -> tuple[PyTree, PyTree]:
        u = recurrence.encode(inputs)
        return u, mix(recurrence.params, h, u)

    return multiply


def merged(recurrence: Recurrence, reads: Reads) -> Products:
    """Return the products in the form that a CPU likes, or, where they are no such, apart."""
    cell, params, x = recurrence.cell, recurrence.params, row_of(recurrence.inputs.x, 2)
    if not _are_dense(recurrence):
        return apart(recurrence)
    w_x, b = input_kernel(cell, params, x, 0)
    if not reads.sum:
        return _by_gates(recurrence, w_x, b)
    w_h = recurrent_kernel(cell, params, x)
    both = jnp.concatenate([w_x, w_h])

    def row(x: Array, h: Array) -> tuple[Array, Array]:
        z = _joint(x, h, both, w_h) + b
        return jnp.zeros_like(z), z

    return lambda inputs, h: jax.vmap(row)(recurrence.valid_x(inputs), h)


def _are_dense(recurrence: Recurrence) -> bool:
    """Say whether u is x W_x + b and r is h W_h, of params that all rows share."""
    if "context" in recurrence.params or not isinstance(recurrence.inputs.x, jax.Array):
        return False
    row = recurrence.params, row_of(recurrence.inputs.x, 2)
    parts = jax.eval_shape(recurrence.cell.encode, *row), *recurrent_shapes(recurrence.cell, *row)
    arrays = all(isinstance(part, jax.ShapeDtypeStruct) for part in parts)
    known = arrays and input_leaf(recurrence.cell, *row, 0) is not None
    return known and is_dense(recurrence.cell, *row)


def _by_gates(recurrence: Recurrence, w_x: Array, b: Array) -> Products:
    mix = functools.partial(gated_of(recurrence).mix, recurrence.params)
    gates = count_gates(recurrence)
    count = gates if b.size % gates == 0 else 1
    kernels, biases = jnp.split(w_x, count, axis=-1), jnp.split(b, count)

    def row(x: Array, h: Array) -> tuple[Array, Array]:
        gates = [product(x, w) + b for w, b in zip(kernels, biases, strict=True)]
        u = jnp.concatenate(gates)
        return u, mix(h, u)

    return lambda inputs, h: jax.vmap(row)(recurrence.valid_x(inputs), h)


def _product_of_both(x: Array, h: Array, both: Array) -> Array:
    return product(jnp.concatenate([x, h], axis=-1), both)


@jax.custom_jvp
def _joint(x: Array, h: Array, both: Array, w_h: Array) -> Array:
    """Return [x, h] @ both; w_h is the part of h."""
    del w_h
    return _product_of_both(x, h, both)


def _joint_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Any]:
    """Where h alone moves, as in a loop that defers, its part of the product is enough."""
    *arguments, w_h = primals
    moving = [k for k, d in enumerate(tangents[:3]) if not isinstance(d, SymbolicZero)]
    if moving == [1]:
        return _joint(*primals), product(tangents[1], w_h)

    def of_moving(*values: Array) -> Array:
        mixed = list(arguments)
        for k, value in zip(moving, values, strict=True):
            mixed[k] = value
        return _product_of_both(*mixed)

    return jax.jvp(of_moving, [arguments[k] for k in moving], [tangents[k] for k in moving])


_joint.defjvp(_joint_jvp, symbolic_zeros=True)
