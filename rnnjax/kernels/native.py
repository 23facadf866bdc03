"""The primitives by kernels: leaves of ``Arrays`` in the layout of a kernel, and back."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array
from rnnjax.kernels import call
from rnnjax.kernels.plain import Arrays, Spec


def run(*leaves: Array, spec: Spec, tree: Any) -> list[Array]:
    """Return hidden, memory and the leaves of the last carry."""
    states = _forward(spec, tree.unflatten(leaves), memory=spec.memory, save=False)
    return [states.hidden, states.memory, *states.last]


def save(*leaves: Array, spec: Spec, tree: Any) -> list[Array]:
    """Return the same, memory always, and the preactivations."""
    states = _forward(spec, tree.unflatten(leaves), memory=True, save=True)
    return [states.hidden, states.memory, *states.last, states.saved]


def back(
    *operands: Array, spec: Spec, tree: Any, moving: tuple[bool, ...], given: tuple[bool, ...]
) -> list[Array]:
    """Return the cotangents of the arrays that move."""
    leaves, operands = operands[: tree.num_leaves], operands[tree.num_leaves :]
    arrays: Arrays = tree.unflatten(leaves)
    hidden, memory, saved, *arriving = operands
    d_hidden, d_memory, *d_last = _where_given(arriving, given)
    nothing = _nothing()
    gradients = call.backward(
        spec.description,
        _operands(spec, arrays),
        call.States(hidden, memory, nothing, saved),
        call.States(
            nothing if d_hidden is None else d_hidden,
            nothing if d_memory is None else d_memory,
            _stack(d_last, arrays.carry[0]),
            nothing,
        ),
        reverse=spec.reverse,
        wanted=_fields(tree, moving),
    )
    found = jax.tree.leaves(_as_arrays(spec, arrays, gradients))
    return [leaf for leaf, moves in zip(found, moving, strict=True) if moves]


def _where_given(arriving: Iterable[Array], given: tuple[bool, ...]) -> list[Array | None]:
    each = iter(arriving)
    return [next(each) if there else None for there in given]


def _fields(tree: Any, moving: tuple[bool, ...]) -> frozenset[str]:
    """Name the fields of which any leaf moves."""
    paths, _ = jax.tree.flatten_with_path(tree.unflatten(range(tree.num_leaves)))
    return frozenset(path[0].name for (path, _), m in zip(paths, moving, strict=True) if m)


def _forward(spec: Spec, arrays: Arrays, *, memory: bool, save: bool) -> call.States:
    time = jax.tree.leaves((arrays.x, arrays.streams))[0].shape[0]
    batch = arrays.carry[0].shape[0]
    operands = _operands(spec, arrays)
    options = {"reverse": spec.reverse, "memory": memory, "save": save}
    return call.forward(spec.description, operands, time, batch, **options)


def _nothing() -> Array:
    return jnp.zeros(call.NOTHING, jnp.float32)


def _operands(spec: Spec, arrays: Arrays) -> call.Operands:
    n = spec.description.units
    rows = [jnp.broadcast_to(v, (1, n)) if v.ndim == 0 else v.reshape(-1, n) for v in arrays.vectors]
    wide = [s.reshape(*s.shape[:2], -1).astype(jnp.float32) for s in arrays.streams]

    def there(leaf: Array | None) -> Array:
        return _nothing() if leaf is None else leaf

    return call.Operands(
        x=there(arrays.x),
        w_x=there(arrays.w_x),
        b=there(arrays.b),
        w_h=arrays.w_h,
        vectors=jnp.concatenate(rows) if rows else _nothing(),
        carry=jnp.stack(arrays.carry),
        initial=jnp.stack(arrays.initial) if arrays.initial else _nothing(),
        streams=jnp.concatenate(wide, axis=-1) if wide else _nothing(),
        mask=there(arrays.mask),
        resets=there(arrays.resets),
    )


def _stack(leaves: list[Array | None], like: Array) -> Array:
    """Put the leaves of a carry together, zeros for those that are not given; none if none is."""
    if all(leaf is None for leaf in leaves):
        return _nothing()
    return jnp.stack([jnp.zeros_like(like) if leaf is None else leaf for leaf in leaves])


def _as_arrays(spec: Spec, arrays: Arrays, gradients: call.Gradients) -> Arrays:
    """Return gradients in the form of the arrays; those that were not asked for as they come."""
    n = spec.description.units
    return Arrays(
        x=None if arrays.x is None else gradients.x,
        w_x=None if arrays.w_x is None else gradients.w_x,
        b=None if arrays.b is None else gradients.b,
        w_h=gradients.w_h,
        vectors=_cut(gradients.vectors, [max(1, v.size // n) if v.ndim else 1 for v in arrays.vectors],
                     arrays.vectors, axis=0),
        carry=tuple(gradients.carry),
        initial=_cut_carry(gradients.initial, arrays.initial),
        streams=_cut(gradients.streams, [s[0, 0].size for s in arrays.streams], arrays.streams, axis=-1),
        mask=arrays.mask,
        resets=arrays.resets,
    )  # fmt: skip


def _cut(joined: Array, widths: list[int], like: tuple[Array, ...], axis: int) -> tuple[Array, ...]:
    """Take gradients of several leaves apart; a scalar's is the sum of all units' shares."""
    if joined.shape == call.NOTHING:
        return like
    starts = [sum(widths[:k]) for k in range(1, len(widths))]
    parts = jnp.split(joined, starts, axis=axis)
    pairs = zip(parts, like, strict=True)
    return tuple(part.reshape(leaf.shape) if leaf.ndim else part.sum() for part, leaf in pairs)


def _cut_carry(joined: Array, like: tuple[Array, ...]) -> tuple[Array, ...]:
    return like if joined.shape == call.NOTHING else tuple(joined)
