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
    rows = [widen(leaf, 0, n).reshape(-1, n) for leaf in arrays.vectors]
    wide = [widen(leaf, 2, n).astype(jnp.float32) for leaf in arrays.streams]

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
    vectors = gradients.vectors.reshape(-1)
    return Arrays(
        x=None if arrays.x is None else gradients.x,
        w_x=None if arrays.w_x is None else gradients.w_x,
        b=None if arrays.b is None else gradients.b,
        w_h=gradients.w_h,
        vectors=_take_apart(vectors, arrays.vectors, 0, n),
        carry=tuple(gradients.carry),
        initial=tuple(gradients.initial) if gradients.initial.size else arrays.initial,
        streams=_take_apart(gradients.streams, arrays.streams, 2, n),
        mask=arrays.mask,
        resets=arrays.resets,
    )


def widen(leaf: Array, leading: int, n: int) -> Array:
    """Flatten what follows the leading axes; repeat for N units what all of them share.

    Example:
        >>> import jax.numpy as jnp
        >>> widen(jnp.ones((2, 6)), 0, 3).shape, widen(jnp.ones((5, 4)), 2, 3).shape
        ((12,), (5, 4, 3))
    """
    lead = leaf.shape[:leading]
    if _is_made_of_units(leaf.shape[leading:], n):
        return leaf.reshape(*lead, -1)
    return jnp.repeat(leaf.reshape(*lead, -1), n, axis=-1)


def _is_made_of_units(shape: tuple[int, ...], n: int) -> bool:
    return bool(shape) and shape[-1] % n == 0


def _take_apart(joined: Array, like: tuple[Array, ...], leading: int, n: int) -> tuple[Array, ...]:
    """Undo ``widen`` of several leaves for their gradients: what was repeated is added up."""
    if not joined.size:
        return like
    parts, start = [], 0
    for leaf in like:
        stop = start + jax.eval_shape(lambda leaf=leaf: widen(leaf, leading, n)).shape[-1]
        part, start = joined[..., start:stop], stop
        if not _is_made_of_units(leaf.shape[leading:], n):
            part = part.reshape(*part.shape[:-1], -1, n).sum(-1)
        parts.append(part.reshape(leaf.shape))
    return tuple(parts)
