"""A gated cell → a description of its loop, from which kernels are generated.

Of a step

    u = encode(params, x)
    r = hidden(carry) @ w_h
    carry = update(params, carry, u, r)

the description has what each part reads, and ``update`` and its derivative as elementwise programs.
Where one leaf of u is x W_x + b, as wide as r, the kernel takes that product itself; every other
leaf of u is a stream, encoded before the loop.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Params, PyTree
from rnnjax.cell import Cell, Gated
from rnnjax.kernels import products
from rnnjax.kernels.program import NotElementwise, Program, Symbol, blocks_of, trace


@dataclasses.dataclass(frozen=True)
class Description:
    """One step of one hidden unit: what a kernel of the whole loop is generated from.

    The programs name what they read: carry ``c0``…, preactivations ``z0``…, the input's part of
    gates kept apart ``v0``…, streams ``s0``…, params ``p0``…, and ``ct0``…, the cotangents of the
    next carry.

    Attributes:
        units: N.
        features: D of the product that the kernel takes with x; 0: u is streamed whole.
        gates: G.
        apart: the gates of which ``update`` reads u and r apart; z of them is r alone, v is u.
        carries: how many leaves the carry has.
        hidden: which of them the recurrent product reads.
        streams: blocks of N that are read at each step.
        flags: those of them that are truth values.
        vectors: blocks of N that ``update`` reads of the params.
        forward: → the next carry.
        backward: → cotangents of c, z, v, s and p, in this order.
        bfloat16: whether the factors of products are rounded to bfloat16.
    """

    units: int
    features: int
    gates: int
    apart: tuple[int, ...]
    carries: int
    hidden: int
    streams: int
    flags: tuple[int, ...]
    vectors: int
    forward: Program
    backward: Program
    bfloat16: bool = False


class Reads(NamedTuple):
    """Where the arrays of a kernel come from, by the numbers of leaves.

    Attributes:
        projected: the leaf of u that is x W_x + b; None: none of them.
        x: the leaf of x in it.
        streams: the other leaves of u.
        vectors: the leaves of params that ``update`` reads.
        memory: whether ``readout`` reads more of the carry than the hidden vector.
    """

    projected: int | None
    x: int
    streams: tuple[int, ...]
    vectors: tuple[int, ...]
    memory: bool


class Refused(ValueError):
    """No kernel can be generated for a cell; the message says why and what to use instead."""


def describe(cell: Cell, params: Params, x: PyTree) -> tuple[Description, Reads]:
    """Describe the loop of a gated cell.

    Args:
        cell: the cell.
        params: the shapes of its params as one row sees them.
        x: the shapes of one x_t.

    Returns:
        The description, and where its arrays come from.

    Raises:
        Refused: when no kernel can be generated for it, with the reason.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GRU(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> description, _ = describe(cell, params, jax.ShapeDtypeStruct((3,), "float32"))
        >>> description.gates, description.apart, description.vectors
        (3, (2,), 1)
    """
    flat = jax.tree.leaves((params, x))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in flat)
    wide = jax.dtypes.canonicalize_dtype(float)
    return _describe(cell, jax.tree.structure((params, x)), shapes, wide)


@functools.lru_cache(maxsize=1024)
def _describe(
    cell: Cell, structure: Any, shapes: tuple, default_dtype: Any
) -> tuple[Description, Reads]:
    del default_dtype  # What update casts to float64 stays float32 without x64.
    params, x = jax.tree.unflatten(structure, shapes)
    gated = cell.gated()
    assert gated is not None, "a plain cell is refused before it gets here"
    step = _Step(cell, gated, params, x)
    step.check()
    if narrow := products.other_dtype(cell, params, x):
        raise Refused(_FLOAT32.format(narrow))
    if not products.is_dense(cell, params, x):
        raise Refused(f"{_DENSE}. {_INSTEAD}")
    projected, leaf = _projection(step)
    features = 0 if projected is None else jax.tree.leaves(x)[leaf].shape[0]
    params_read, u_read = step.read_by_update()
    streams = tuple(k for k in u_read if k != projected)
    if projected is None and not streams:
        raise Refused("its update reads nothing of the input. Use Sequential()")
    reads = Reads(projected, leaf, streams, params_read, step.reads_memory())
    try:
        return _programs(step, reads, features), reads
    except NotElementwise as error:
        raise Refused(
            f"its update has to compute every hidden unit by itself, but {error}. Use "
            f"Sequential(defer=True)"
        ) from error


class _Step:
    """The shapes of a step's parts, flattened."""

    def __init__(self, cell: Cell, gated: Gated, params: Params, x: PyTree):
        self.cell, self.gated, self.x = cell, gated, x
        carry, h, u, r = jax.eval_shape(self._parts, params, x)
        self.params, self.params_structure = jax.tree.flatten(params)
        self.carry, self.carry_structure = jax.tree.flatten(carry)
        self.u, self.u_structure = jax.tree.flatten(u)
        self.h, self.r = jax.tree.leaves(h), jax.tree.leaves(r)

    def _parts(self, params: Params, x: PyTree) -> tuple:
        carry, u = self.cell.initial_carry(params), self.cell.encode(params, x)
        h = self.gated.hidden(carry)
        return carry, h, u, self.gated.mix(params, h, u)

    def update(self, params: list, carry: list, u: list, r: Any) -> list[Array]:
        """Call update with leaves."""
        own = self.params_structure.unflatten(params)
        trees = self.carry_structure.unflatten(carry), self.u_structure.unflatten(u)
        return jax.tree.leaves(self.gated.update(own, *trees, r))

    def check(self) -> None:
        """Refuse what is not one dense product of a hidden vector, in float32."""
        narrow = [a for a in (*self.params, *self.carry, *self.r) if a.dtype != jnp.float32]
        inexact = [a.dtype for a in narrow if jnp.issubdtype(a.dtype, jnp.inexact)]
        if inexact:
            raise Refused(_FLOAT32.format(inexact[0]))
        if len(self.h) != 1 or self.h[0].ndim != 1 or len(self.r) != 1:
            raise Refused(f"{_DENSE}; it is of {[a.shape for a in self.h]}. {_INSTEAD}")
        (n,) = self.h[0].shape
        if any(leaf.shape != (n,) or leaf.dtype != jnp.float32 for leaf in self.carry):
            shapes = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in self.carry]
            raise Refused(f"every leaf of its carry has to be float32[{n}]; got {shapes}. Use "
                          f"Sequential()")  # fmt: skip
        if self.r[0].shape[-1] % n or self.r[0].ndim != 1:
            raise Refused(f"{_DENSE}; r is of {self.r[0].shape}. {_INSTEAD}")

    @property
    def units(self) -> int:
        return self.h[0].shape[0]

    @property
    def gates(self) -> int:
        return self.r[0].shape[0] // self.units

    def hidden(self) -> int:
        """Return which leaf of the carry the product reads."""
        jaxpr = jax.make_jaxpr(self.gated.hidden)(self.carry_structure.unflatten(self.carry)).jaxpr
        if not jaxpr.eqns:
            return list(jaxpr.invars).index(jaxpr.outvars[0])
        raise Refused(f"hidden(carry) has to be one leaf of the carry. {_INSTEAD}")

    def read_by_update(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the numbers of the leaves of params and of u that update reads."""
        jaxpr = jax.make_jaxpr(self.update)(self.params, self.carry, self.u, self.r[0]).jaxpr
        read, before_u = live_inputs(jaxpr), len(self.params) + len(self.carry)
        params = tuple(k for k in range(len(self.params)) if k in read)
        paths, _ = jax.tree.flatten_with_path(self.params_structure.unflatten(self.params))
        for path in (paths[k][0] for k in params):
            if path[0].key == "context":
                name = jax.tree_util.keystr(path)
                raise Refused(f"its update reads params{name}, which each row has of its own. "
                              f"{_INSTEAD}")  # fmt: skip
        u = tuple(k for k in range(len(self.u)) if before_u + k in read)
        kinds = [self.params[k].dtype for k in params]
        kinds += [self.u[k].dtype for k in u if self.u[k].dtype != bool]
        if other := [kind for kind in kinds if kind != jnp.float32]:
            raise Refused(f"its update reads {other[0]}, and a kernel float32. {_INSTEAD}")
        return params, u

    def reads_memory(self) -> bool:
        """Say whether readout reads another leaf of the carry than the hidden one."""

        def readout(carry: list, params: list, u: list) -> PyTree:
            own = self.params_structure.unflatten(params)
            trees = self.carry_structure.unflatten(carry), self.u_structure.unflatten(u)
            return self.cell.readout(own, *trees)

        read = live_inputs(jax.make_jaxpr(readout)(self.carry, self.params, self.u).jaxpr)
        return any(k in read for k in range(len(self.carry)) if k != self.hidden())


_FLOAT32 = (
    "it computes in float32, and here is {0}. Use Sequential(defer=True) for {0}, or cast params "
    "and inputs to float32"
)
_DENSE = "its recurrent product has to be the default, one dense matrix times the hidden vector"
_INSTEAD = "Use Sequential(defer=True), which takes any product"


class _Leaves:
    """What update reads, leaf by leaf, with a name for each block."""

    def __init__(self, step: _Step, reads: Reads):
        n, self.step, self.reads = step.units, step, reads
        self.vectors = [step.params[k] for k in reads.vectors]
        self.streams = [step.u[k] for k in reads.streams]
        self.c = _names("c", step.carry, n)
        self.p = _names("p", self.vectors, n)
        self.s = _names("s", self.streams, n)
        self.u = [["unread"] * blocks_of(leaf.shape, n) for leaf in step.u]
        for k, names in zip(reads.streams, self.s, strict=True):
            self.u[k] = names
        if reads.projected is not None:
            self.u[reads.projected] = [f"u{g}" for g in range(step.gates)]
        parts = self.vectors, step.carry, step.u, step.r[0]
        self.shapes, self.structure = jax.tree.flatten(parts)
        self.names = [*self.p, *self.c, *self.u, [f"r{g}" for g in range(step.gates)]]
        self.smooth = [k for k, a in enumerate(self.shapes) if jnp.issubdtype(a.dtype, jnp.inexact)]

    def update(self, *leaves: Any) -> list[Array]:
        """Return the leaves of the next carry; of params, what is not read may be anything."""
        vectors, carry, u, r = self.structure.unflatten(leaves)
        params = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in self.step.params]
        return self.step.update(_put(params, self.reads.vectors, vectors), carry, u, r)

    def pull_back(self, *leaves: Any) -> tuple:
        """Return the cotangents of the smooth leaves; the last of the leaves are those arriving."""
        own, arriving = list(leaves[: len(self.shapes)]), list(leaves[len(self.shapes) :])

        def of_smooth(*some: Any) -> list[Array]:
            return self.update(*_put(own, self.smooth, some))

        return jax.vjp(of_smooth, *(own[k] for k in self.smooth))[1](arriving)

    def cotangents(self, backward: Program) -> dict[str, Symbol]:
        """Return the cotangent of each name."""
        names = _flatten(self.names[k] for k in self.smooth)
        return dict(zip(names, backward.outputs, strict=True))


def _programs(step: _Step, reads: Reads, features: int) -> Description:
    """Trace update and its derivative."""
    n, leaves = step.units, _Leaves(step, reads)
    forward = trace(leaves.update, leaves.names, leaves.shapes, n)
    names = [*leaves.names, *_names("ct", step.carry, n)]
    backward = trace(leaves.pull_back, names, [*leaves.shapes, *step.carry], n, shares=True)
    apart = _apart(leaves, forward, backward)
    forward, backward = (_preactivations(p, step.gates, apart) for p in (forward, backward))

    projected = reads.projected is not None
    kept = _flatten([
        *leaves.c,
        [f"r{g}" for g in range(step.gates)],
        [f"u{g}" for g in apart if projected],
        *leaves.s,
        *leaves.p,
    ])  # fmt: skip
    found = leaves.cotangents(backward)
    pairs = zip(leaves.streams, leaves.s, strict=True)
    return Description(
        units=n,
        features=features,
        gates=step.gates,
        apart=apart if projected else (),
        carries=len(step.carry),
        hidden=step.hidden(),
        streams=len(_flatten(leaves.s)),
        flags=tuple(int(name[1:]) for leaf, own in pairs if leaf.dtype == bool for name in own),
        vectors=len(_flatten(leaves.p)),
        forward=forward,
        backward=Program(backward.ops, tuple(found.get(name, 0.0) for name in kept)),
    )


def _apart(leaves: _Leaves, forward: Program, backward: Program) -> tuple[int, ...]:
    """Return the gates of which update reads more than u + r, or of which u is a stream."""
    gates, found = range(leaves.step.gates), leaves.cotangents(backward)
    if leaves.reads.projected is None:
        return tuple(gates)
    return tuple(g for g in gates if not _is_sum(forward, backward, found, g))


def _names(letter: str, leaves: list, units: int) -> list[list[str]]:
    """Name the blocks of each leaf: one number after the other."""
    names, first = [], 0
    for leaf in leaves:
        last = first + blocks_of(leaf.shape, units)
        names.append([f"{letter}{k}" for k in range(first, last)])
        first = last
    return names


def _flatten(lists: Any) -> list[str]:
    return [name for own in lists for name in own]


def _put(leaves: list, places: Any, values: Any) -> list:
    """Return the leaves with other values in some places."""
    changed = dict(zip(places, values, strict=True))
    return [changed.get(k, leaf) for k, leaf in enumerate(leaves)]


def _sum_of(program: Program, g: int) -> str | None:
    """Return the name of u + r of a gate, where the program reads nothing but that of both."""
    of_u, of_r = program.readers(f"u{g}"), program.readers(f"r{g}")
    alone = of_u == of_r and len(of_u) == 1 and of_u[0].name == "add"
    handed_on = {f"u{g}", f"r{g}"} & set(program.outputs)
    return of_u[0].output if alone and not handed_on else None


def _is_sum(forward: Program, backward: Program, cotangents: dict, g: int) -> bool:
    """Say whether u and r of a gate are read as their sum alone, with one cotangent for both."""
    unread = not {f"u{g}", f"r{g}"} & backward.reads()
    backwards = unread or _sum_of(backward, g) is not None
    one = cotangents[f"u{g}"] == cotangents[f"r{g}"]
    return _sum_of(forward, g) is not None and backwards and one


def _preactivations(program: Program, gates: int, apart: tuple[int, ...]) -> Program:
    """Give what a gate reads its name: z, and v for the input's part of a gate kept apart."""
    names = {f"r{g}": f"z{g}" for g in apart}
    names |= {f"u{g}": f"v{k}" for k, g in enumerate(apart)}
    for g in set(range(gates)) - set(apart):
        if total := _sum_of(program, g):
            names[total] = f"z{g}"
    return program.rename(names)


def _projection(step: _Step) -> tuple[int | None, int]:
    """Return which leaf of u is a product of x that the kernel can take, and which leaf of x."""
    for k, leaf in enumerate(step.u):
        if leaf.shape == step.r[0].shape and leaf.dtype == jnp.float32:
            x = products.input_leaf(
                step.cell, step.params_structure.unflatten(step.params), step.x, k
            )
            if x is not None and jax.tree.leaves(step.x)[x].size:
                return k, x
    return None, 0


def live_inputs(jaxpr: Any) -> set[int]:
    """Return which inputs a program reads, looking into what is compiled apart."""
    live = {id(v) for v in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if not any(id(v) in live for v in equation.outvars):
            continue
        inner = equation.params.get("jaxpr") if equation.primitive.name in ("jit", "pjit") else None
        numbers = range(len(equation.invars)) if inner is None else live_inputs(inner.jaxpr)
        live |= {id(equation.invars[k]) for k in numbers}
    return {k for k, variable in enumerate(jaxpr.invars) if id(variable) in live}
