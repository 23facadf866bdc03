"""The loop as primitives of JAX, which kernels compute on a CPU.

    run      arrays → states
    save     the same, and the preactivations z, which the way back needs
    tangent  the derivative of ``run``: linear in the tangents, given what ``save`` returned
    back     its transpose

Each has a plain meaning in JAX (``plain.py``): that is what other platforms, exported programs and
higher derivatives compute. States and z are a function of the arrays, so the derivatives of
``tangent`` and ``back`` go by way of the arrays alone.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from rnnjax.array_typing import Array
from rnnjax.kernels import native, plain
from rnnjax.kernels.partition import needs_devices, partitioned
from rnnjax.kernels.plain import Arrays, Spec, States
from rnnjax.placement import vary, varying_axes

WEIGHTS = frozenset({"w_x", "b", "w_h", "vectors"})
"""The fields of ``Arrays`` that all rows share."""


def enabled() -> bool:
    """Say whether kernels may be used: ``RNNJAX_FUSED=0`` turns them off.

    Example:
        >>> enabled() == (os.environ.get("RNNJAX_FUSED") != "0")
        True
    """
    return PARTITIONED and os.environ.get("RNNJAX_FUSED") != "0"


def run(spec: Spec, arrays: Arrays) -> States:
    """Run the loop by a kernel where there is one; of a sharded batch each device runs its rows.

    Under automatic sharding that is left to XLA (``partition.py``).
    """
    mesh_axis = jax.typeof(arrays.carry[0]).sharding.spec[0]
    if mesh_axis is None:
        return States(*_bind(spec, arrays))
    leaves, tree = jax.tree.flatten(arrays)
    in_specs = tree.unflatten([_placed(name, mesh_axis) for name in _names(tree)])
    steps, rows = _placed("x", mesh_axis), _placed("carry", mesh_axis)
    out_specs = steps, steps, (rows,) * spec.description.carries
    each = jax.shard_map(functools.partial(_bind, spec), in_specs=(in_specs,), out_specs=out_specs)
    return States(*each(tree.unflatten(leaves)))


def _bind(spec: Spec, arrays: Arrays) -> tuple[Array, Array, tuple[Array, ...]]:
    leaves, tree = jax.tree.flatten(vary(arrays, varying_axes(arrays)))
    hidden, memory, *last = run_p.bind(*leaves, spec=spec, tree=tree)
    return hidden, memory, tuple(last)


def _placed(name: str, mesh_axis: Any) -> PartitionSpec:
    """Return how a field is sharded whose batch is over these mesh axes."""
    if name in WEIGHTS:
        return PartitionSpec()
    return PartitionSpec(*[None] * batch_axis(name), mesh_axis)


def _primitive(name: str) -> Primitive:
    primitive = Primitive(f"rnnjax_{name}")
    primitive.multiple_results = True
    return primitive


run_p, save_p, tangent_p, back_p = map(_primitive, ("run", "save", "tangent", "back"))


# --- what they mean. Operands: leaves of Arrays; then hidden, memory and z; then what moves ---


def _run(*leaves: Array, spec: Spec, tree: Any) -> list[Array]:
    return jax.tree.leaves(plain.run(spec, tree.unflatten(leaves)))


def _save(*leaves: Array, spec: Spec, tree: Any) -> list[Array]:
    """Return what all steps save, z last; plain JAX has no use for z."""
    arrays: Arrays = tree.unflatten(leaves)
    states = plain.run(spec._replace(memory=True), arrays)
    d, steps = spec.description, states.hidden.shape[:2]
    z = jnp.zeros((*steps, (d.gates + len(d.apart)) * d.units), jnp.float32)
    return [*jax.tree.leaves(states), vary(z, varying_axes(arrays))]


def _tangent(*operands: Array, spec: Spec, tree: Any, moving: tuple[bool, ...]) -> list[Array]:
    """Return the tangents of the states; ``moving`` says which arrays have one."""
    leaves, tangents = operands[: tree.num_leaves], operands[tree.num_leaves + 3 :]
    function, primals = _of_moving(functools.partial(_run, spec=spec, tree=tree), leaves, moving)
    return jax.jvp(function, primals, tuple(tangents))[1]


def _back(
    *operands: Array, spec: Spec, tree: Any, moving: tuple[bool, ...], given: tuple[bool, ...]
) -> list[Array]:
    """Return the cotangents of the arrays that move; ``given`` says which states have one."""
    leaves, cotangents = operands[: tree.num_leaves], iter(operands[tree.num_leaves + 3 :])
    function, primals = _of_moving(functools.partial(_run, spec=spec, tree=tree), leaves, moving)
    states, pull_back = jax.vjp(function, *primals)
    pairs = zip(states, given, strict=True)
    return list(pull_back([next(cotangents) if g else jnp.zeros_like(s) for s, g in pairs]))


def _of_moving(function: Callable, leaves: tuple, moving: tuple) -> tuple[Callable, tuple]:
    """Return the function of those leaves alone that move, and them."""
    places = [k for k, moves in enumerate(moving) if moves]

    def some(*values: Array) -> Any:
        changed = dict(zip(places, values, strict=True))
        return function(*(changed.get(k, leaf) for k, leaf in enumerate(leaves)))

    return some, tuple(leaves[k] for k in places)


# --- their derivatives ---


def _run_jvp(primals: tuple, tangents: tuple, *, spec: Spec, tree: Any) -> tuple:
    hidden, memory, *last, z = save_p.bind(*primals, spec=spec, tree=tree)
    moving = tuple(not isinstance(t, ad.Zero) for t in tangents)
    own = [t for t, moves in zip(tangents, moving, strict=True) if moves]
    shared = {"spec": spec, "tree": tree, "moving": moving}
    moved = tangent_p.bind(*primals, hidden, memory, z, *own, **shared)
    return [hidden, memory if spec.memory else memory[..., :0], *last], moved


def _save_jvp(primals: tuple, tangents: tuple, *, spec: Spec, tree: Any) -> tuple:
    out = save_p.bind(*primals, spec=spec, tree=tree)
    _, moved = _run_jvp(primals, tangents, spec=spec._replace(memory=True), tree=tree)
    # z is read by tangent and back alone, which move with the arrays.
    return out, [*moved, ad.Zero(jax.typeof(out[-1]).to_tangent_aval())]


def _plain_jvp(primitive: Primitive, function: Callable) -> None:
    """Let the derivative of a primitive be that of its plain meaning."""

    def rule(primals: tuple, tangents: tuple, **params: Any) -> tuple:
        moving = tuple(not isinstance(t, ad.Zero) for t in tangents)
        some, own = _of_moving(functools.partial(function, **params), primals, moving)
        d_own = tuple(t for t, moves in zip(tangents, moving, strict=True) if moves)
        return primitive.bind(*primals, **params), jax.jvp(some, own, d_own)[1]

    ad.primitive_jvps[primitive] = rule


def _tangent_transpose(
    cotangents: list, *operands: Any, spec: Spec, tree: Any, moving: tuple[bool, ...]
) -> list:
    known = operands[: tree.num_leaves + 3]
    given = tuple(not isinstance(ct, ad.Zero) for ct in cotangents)
    arriving = [ct for ct in cotangents if not isinstance(ct, ad.Zero)]
    shared = {"spec": spec, "tree": tree, "moving": moving, "given": given}
    out = back_p.bind(*known, *vary(arriving, varying_axes(known)), **shared)
    return [None] * len(known) + list(out)


ad.primitive_jvps[run_p] = _run_jvp
ad.primitive_jvps[save_p] = _save_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
_plain_jvp(tangent_p, _tangent)
_plain_jvp(back_p, _back)


# --- the fields of Arrays that operands and results belong to, or are laid out as ---


def _names(tree: Any, moving: tuple | None = None) -> list[str]:
    paths, _ = jax.tree.flatten_with_path(tree.unflatten(range(tree.num_leaves)))
    kept = moving or (True,) * len(paths)
    return [path[0].name for (path, _), moves in zip(paths, kept, strict=True) if moves]


def _states(spec: Spec, given: tuple | None = None) -> list[str]:
    names = ["x", "x", *["carry"] * spec.description.carries]
    return [name for name, there in zip(names, given or (True,) * len(names), strict=True) if there]


SAVED = ["x", "x", "x"]

FIELDS: dict[Primitive, Callable] = {
    run_p: lambda spec, tree: (_names(tree), _states(spec)),
    save_p: lambda spec, tree: (_names(tree), [*_states(spec), "x"]),
    tangent_p: lambda spec, tree, moving: (
        [*_names(tree), *SAVED, *_names(tree, moving)],
        _states(spec),
    ),
    back_p: lambda spec, tree, moving, given: (
        [*_names(tree), *SAVED, *_states(spec, given)],
        _names(tree, moving),
    ),
}


def batch_axis(name: str) -> int:
    """Return which axis of a field is the batch."""
    return 0 if name in ("carry", "initial") else 1


# --- many at once: the axis of vmap becomes part of the batch, where all share the weights ---


def _batch(primitive: Primitive, operands: tuple, axes: tuple, **params: Any) -> tuple:
    names, results = FIELDS[primitive](**params)
    own_weights = any(n in WEIGHTS and k is not None for n, k in zip(names, axes, strict=True))
    if own_weights or WEIGHTS & set(results):
        return _one_by_one(primitive, operands, axes, params), [0] * len(results)
    size = next(a.shape[k] for a, k in zip(operands, axes, strict=True) if k is not None)
    folded = [
        a if name in WEIGHTS else _into_batch(a, axis, size, batch_axis(name))
        for a, axis, name in zip(operands, axes, names, strict=True)
    ]
    places = [batch_axis(name) for name in results]
    out = primitive.bind(*folded, **params)
    return [_out_of_batch(a, size, k) for a, k in zip(out, places, strict=True)], places


def _into_batch(a: Array, axis: int | None, size: int, batch: int) -> Array:
    if axis is None:
        a, axis = jnp.broadcast_to(a, (size, *a.shape)), 0
    a = jnp.moveaxis(a, axis, batch)
    return a.reshape(*a.shape[:batch], size * a.shape[batch + 1], *a.shape[batch + 2 :])


def _out_of_batch(a: Array, size: int, batch: int) -> Array:
    return a.reshape(*a.shape[:batch], size, a.shape[batch] // size, *a.shape[batch + 1 :])


def _one_by_one(primitive: Primitive, operands: tuple, axes: tuple, params: dict) -> list[Array]:
    pairs = enumerate(zip(operands, axes, strict=True))
    mapped = {k: jnp.moveaxis(a, axis, 0) for k, (a, axis) in pairs if axis is not None}

    def one(own: dict[int, Array]) -> list[Array]:
        return primitive.bind(*(own.get(k, a) for k, a in enumerate(operands)), **params)

    return jax.lax.map(one, mapped)


# --- their types, and how they are computed ---


def _type_of_states(*avals: Any, spec: Spec, tree: Any, moving: Any = None, z: int = 0) -> list:
    """Type hidden, memory, the leaves of the last carry and z; they lie as the operands do."""
    del moving
    arrays: Arrays = tree.unflatten(avals[: tree.num_leaves])
    d, steps = spec.description, jax.tree.leaves((arrays.x, arrays.streams))[0].shape[:2]
    memory = (d.carries - 1) * d.units if spec.memory else 0
    rows = [leaf.shape for leaf in arrays.carry]
    shapes = [(*steps, d.units), (*steps, memory), *rows, *[(*steps, z)] * (z > 0)]
    like: Any = arrays.w_h

    def typed(shape: tuple) -> Any:
        return like.update(
            shape=shape, sharding=like.sharding.update(spec=PartitionSpec(*[None] * len(shape)))
        )

    return [typed(shape) for shape in shapes]


def _type_of_saved(*avals: Any, spec: Spec, tree: Any) -> list:
    d = spec.description
    z = (d.gates + len(d.apart)) * d.units
    return _type_of_states(*avals, spec=spec._replace(memory=True), tree=tree, z=z)


def _type_of_gradients(*avals: Any, spec: Spec, tree: Any, moving: tuple, given: Any) -> list:
    del spec, given
    return [aval for aval, moves in zip(avals[: tree.num_leaves], moving, strict=True) if moves]


def _on_cpu(primitive: Primitive, function: Callable, kernel: Callable) -> Callable:
    """Return the rule that compiles a kernel; an exported program is to run anywhere."""
    by_plain = mlir.lower_fun(function, multiple_results=True)

    def rule(context: Any, *operands: Any, **params: Any) -> Any:
        if context.module_context.lowering_parameters.for_export:
            return by_plain(context, *operands, **params)
        names, results = FIELDS[primitive](**params)
        call = functools.partial(kernel, **params)
        if getattr(context.module_context.axis_context, "num_devices", 1) > 1:
            sides = [
                [None if n in WEIGHTS else batch_axis(n) for n in side] for side in (names, results)
            ]
            call = partitioned(call, *sides)
        return mlir.lower_fun(call, multiple_results=True)(context, *operands)

    return rule


KERNELS: dict[Primitive, tuple[Callable, Callable, Callable | None]] = {
    run_p: (_type_of_states, _run, native.run),
    save_p: (_type_of_saved, _save, native.save),
    tangent_p: (_type_of_states, _tangent, None),
    back_p: (_type_of_gradients, _back, native.back),
}

for _p, (_type, _meaning, _kernel) in KERNELS.items():
    _p.def_abstract_eval(_type)
    _p.def_impl(_meaning)  # Under jax.disable_jit, where nothing is compiled.
    batching.primitive_batchers[_p] = functools.partial(_batch, _p)
    mlir.register_lowering(_p, mlir.lower_fun(_meaning, multiple_results=True))
    if _kernel is not None:
        mlir.register_lowering(_p, _on_cpu(_p, _meaning, _kernel), platform="cpu")

PARTITIONED = all(needs_devices(_p) for _p, (_, _, _kernel) in KERNELS.items() if _kernel)
"""Whether this JAX lets a primitive be partitioned; without it there are no kernels."""
