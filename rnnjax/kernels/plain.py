"""The loop of a kernel as JAX alone would run it: what the kernel is held against.

It also runs on other platforms, in exported programs and in higher derivatives.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array
from rnnjax.cell import Cell
from rnnjax.kernels.trace import Description, Reads
from rnnjax.recurrence import select_rows


class Arrays(NamedTuple):
    """What the loop reads, as leaves of JAX; None and () where there is none."""

    x: Array | None  # (T, B, D)
    w_x: Array | None  # (D, G·N)
    b: Array | None  # (G·N,)
    w_h: Array  # (N, G·N)
    vectors: tuple[Array, ...]  # the leaves of params that update reads
    carry: tuple[Array, ...]  # (B, N) each
    initial: tuple[Array, ...]  # (B, N) each, where there are resets
    streams: tuple[Array, ...]  # (T, B, …) each
    mask: Array | None  # (T, B)
    resets: Array | None  # (T, B), in the order of travel


class Spec(NamedTuple):
    """A loop apart from its arrays; hashable.

    Attributes:
        cell: whose ``update`` it is.
        structures: of params, carry and u.
        params: shapes of the leaves of params.
        description: the elementwise programs and sizes.
        reads: where the arrays come from.
        memory: whether all leaves of the carry are returned for all steps, or the hidden one alone.
        reverse: from the last step to the first.
    """

    cell: Cell
    structures: tuple[Any, Any, Any]
    params: tuple[jax.ShapeDtypeStruct, ...]
    description: Description
    reads: Reads
    memory: bool
    reverse: bool


class States(NamedTuple):
    """What the loop leaves behind."""

    hidden: Array  # (T, B, N)
    memory: Array  # (T, B, M), the other leaves of the carry; M = 0 where they are not asked for
    last: tuple[Array, ...]  # (B, N) each, the carry after the last step


def run(spec: Spec, arrays: Arrays) -> States:
    """Run it."""
    update = jax.vmap(functools.partial(_update, spec), in_axes=(None, 0, 0, 0))
    hidden = spec.description.hidden
    dot = functools.partial(_dot, "bfloat16" if spec.description.bfloat16 else "float32")

    def body(carry: tuple, step: tuple) -> tuple[tuple, tuple]:
        x, streams, mask, reset = step
        before = carry if reset is None else select_rows(reset, arrays.initial, carry)
        u = None if x is None else dot(_valid(x, mask), arrays.w_x) + jnp.asarray(arrays.b)[None]
        r = dot(before[hidden], arrays.w_h)
        new = update(arrays.vectors, before, _put_u(spec, u, streams), r)
        carry = new if mask is None else select_rows(mask, new, before)
        others = [leaf for k, leaf in enumerate(carry) if spec.memory and k != hidden]
        memory = jnp.concatenate([carry[hidden][:, :0], *others], axis=-1)
        return carry, (carry[hidden], memory)

    steps = arrays.x, arrays.streams, arrays.mask, arrays.resets
    carry, (states, memory) = jax.lax.scan(body, arrays.carry, steps, reverse=spec.reverse)
    return States(states, memory, carry)


def _valid(x: Array, mask: Array | None) -> Array:
    """Keep what stands in masked rows, NaN included, from the gradient of W_x."""
    return x if mask is None else jnp.where(mask[:, None], x, jnp.zeros((), x.dtype))


def _dot(factors: str, a: Array, b: Any) -> Array:
    a, b = a.astype(factors), b.astype(factors)
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _put_u(spec: Spec, projected: Array | None, streams: tuple) -> tuple:
    """Return what there is of the leaves of u, by their numbers; the others nobody reads."""
    leaves: list[Any] = [None] * spec.structures[2].num_leaves
    for k, leaf in zip(spec.reads.streams, streams, strict=True):
        leaves[k] = leaf
    if spec.reads.projected is not None:
        leaves[spec.reads.projected] = projected
    return tuple(leaves)


def _update(spec: Spec, vectors: tuple, carry: tuple, u: tuple, r: Array) -> tuple[Array, ...]:
    """Take the update of one row; what it does not read is None."""
    gated = spec.cell.gated()
    assert gated is not None, "a plain cell is refused before it gets here"
    leaves: list[Any] = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in spec.params]
    for k, leaf in zip(spec.reads.vectors, vectors, strict=True):
        leaves[k] = leaf
    params, carries, us = spec.structures
    trees = params.unflatten(leaves), carries.unflatten(carry), us.unflatten(u)
    return tuple(jax.tree.leaves(gated.update(*trees, r)))
