"""A loop that leaves the gradients of weights for one product after it.

Differentiated as it stands, a loop adds up the gradient of every weight step by step: T small
products, and T sums as large as the weights. Here the loop takes its tangents at taps,

    u_t = encode(params, x_t)                       + δu_t
    r_t = mix(params, hidden(h_{t−1}), u_t)         + δr_t
    p_t = p, a vector that update reads, a row each + δp_t

where they arrive ready-made for all T at once; δr = d mix(params, hs, us) at the hidden vectors hs
that the loop met. Transposed, the loop hands back the cotangents at the taps, its carry is that of
the cell alone, and the gradient of a weight is one product over all steps and rows.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from rnnjax.array_typing import Array, Carry, Params, PyTree
from rnnjax.cell import Gated
from rnnjax.placement import shard_batch, vary, varying_axes
from rnnjax.recurrence import Inputs, Recurrence
from rnnjax.strategies.blocks import scan_blocks
from rnnjax.strategies.gates import count_gates, join, separate


class Loop(NamedTuple):
    """How the loop runs.

    Attributes:
        unroll: steps in a turn.
        hoist: u is read, instead of computed in the loop.
        block: u is computed for so many steps at a time; None: for all of them.
    """

    unroll: int
    hoist: bool
    block: int | None


def run(recurrence: Recurrence, how: Loop) -> tuple[Carry, PyTree]:
    """Run a gated cell's recurrence so.

    Where only values are asked for, what the taps alone would read is dead code.
    """
    us = recurrence.all_steps(Recurrence.encode, recurrence.inputs)

    @jax.custom_jvp
    def loop(params: Params, initial: Carry, carry: Carry, us: PyTree, inputs: Inputs) -> tuple:
        here = recurrence.replace(params=params, initial=initial, carry=carry, inputs=inputs)
        carry, (carries, _) = _scan(here, us, how, None)
        return carry, carries

    def rule(primals: tuple, tangents: tuple) -> tuple:
        params, initial, carry, us, inputs = primals
        here = recurrence.replace(params=params, initial=initial, carry=carry, inputs=inputs)
        return _linearised(here, us, how, tangents[:-1])

    loop.defjvp(rule, symbolic_zeros=True)
    arrays = recurrence.params, recurrence.initial, recurrence.carry, us, recurrence.inputs
    carry, carries = loop(*arrays)
    return carry, jax.vmap(recurrence.readout)(carries, us, recurrence.inputs)


# --- the loop ---


class Taps(NamedTuple):
    """Where the loop takes tangents; the arrays (T, B, …) are read for their tangents alone.

    Attributes:
        leaves: of params, as ``update`` reads them.
        axes: 0 for a leaf that has a row for each example, else None.
        u: (T, B, …).
        r: (T, B, …).
        vectors: (T, B, …), by the number of the leaf.
        summed: ``update`` is handed u + r as r, and zeros as u.
        gates: how many arrays u and r are saved as.
    """

    leaves: list[Array]
    axes: list[int | None]
    u: PyTree
    r: PyTree
    vectors: dict[int, Array]
    summed: bool
    gates: int


def _scan(recurrence: Recurrence, us: PyTree, how: Loop, taps: Taps | None) -> tuple:
    """Return (carry, (carry after each step, hidden vector before each step))."""
    gated = _gated(recurrence)
    update = recurrence.rows(gated.update, 3)

    def body(carry: Carry, step: tuple) -> tuple[Carry, tuple[Carry, PyTree]]:
        inputs, u, tangents = step
        u = recurrence.encode(inputs) if u is None else join(u)
        before = recurrence.before(carry, inputs)
        h = jax.vmap(gated.hidden)(before)
        r = _mix(recurrence, h, u)
        if taps is None:
            new = update(recurrence.params, before, u, r)
        else:
            new = _tapped_update(recurrence, taps, tangents, before, u, r)
        carry = recurrence.after(before, new, inputs)
        return carry, (carry, h)

    tangents = taps and (taps.u, taps.r, taps.vectors)
    steps = recurrence.inputs, us if how.hoist and how.block is None else None, tangents
    run = functools.partial(jax.lax.scan, body, reverse=recurrence.reverse, unroll=how.unroll)
    if how.block is None:
        return run(recurrence.carry, steps)

    def block(carry: Carry, steps: tuple) -> tuple:
        inputs, _, tangents = steps
        us = recurrence.replace(inputs=inputs).all_steps(Recurrence.encode, inputs)
        return run(carry, (inputs, separate(us, count_gates(recurrence)), tangents))

    return scan_blocks(block, recurrence.carry, steps, how.block, reverse=recurrence.reverse)


def _gated(recurrence: Recurrence) -> Gated:
    gated = recurrence.cell.gated()
    assert gated is not None, "a plain cell is refused before it gets here"
    return gated


def _mix(recurrence: Recurrence, h: PyTree, u: PyTree) -> PyTree:
    return recurrence.rows(_gated(recurrence).mix, 2)(recurrence.params, h, u)


def _tapped_update(
    recurrence: Recurrence, taps: Taps, tangents: tuple, before: Carry, u: PyTree, r: PyTree
) -> Carry:
    gated = _gated(recurrence)
    structure = jax.tree.structure(recurrence.params)

    def update(leaves: list[Array], before: Carry, u: PyTree, r: PyTree) -> Carry:
        return gated.update(structure.unflatten(leaves), before, join(u), join(r))

    d_u, d_r, d_vectors = tangents
    leaves = [_tap(p, d_vectors[k]) if k in d_vectors else p for k, p in enumerate(taps.leaves)]
    u, r = (jnp.zeros_like(u), u + r) if taps.summed else (u, r)
    u, r = jax.tree.map(_tap, u, d_u), jax.tree.map(_tap, r, d_r)
    u, r = separate((u, r), taps.gates)
    # Saved is what it reads, and not every factor of its derivative; inside a loop nothing can be
    # merged across the checkpoint.
    rows = jax.vmap(update, (taps.axes, 0, 0, 0), axis_size=recurrence.batch)
    return jax.checkpoint(rows, prevent_cse=False)(leaves, before, u, r)


@jax.custom_jvp
def _tap(value: Array, tangent: Array) -> Array:
    """Return value; its tangent is that of both. The value of ``tangent`` is never read."""
    del tangent
    return value


@_tap.defjvp
def _tap_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Any]:
    value, _ = primals
    d_value, d_tap = tangents
    return value, d_value if d_value.dtype == jax.dtypes.float0 else d_value + d_tap


# --- its derivative ---


class _Moving:
    """A pytree of which some leaves have a tangent, each by its number."""

    def __init__(self, tree: PyTree, tangents: PyTree):
        self.leaves, self.structure = jax.tree.flatten(tree)
        leaves = enumerate(self.structure.flatten_up_to(tangents))
        self.tangents = {k: t for k, t in leaves if not isinstance(t, SymbolicZero)}
        self.primals = {k: self.leaves[k] for k in self.tangents}

    def put(self, primals: dict[int, Array]) -> PyTree:
        """Return the pytree with other values for those leaves."""
        leaves = [primals.get(k, leaf) for k, leaf in enumerate(self.leaves)]
        return self.structure.unflatten(leaves)


def _linearised(recurrence: Recurrence, us: PyTree, how: Loop, tangents: tuple) -> tuple:
    """Return (carry, carries) and their tangents."""
    d_params, d_initial, d_carry, d_us = tangents
    params = _Moving(recurrence.params, d_params)
    mixed = _Moving((recurrence.params, us), (d_params, d_us))
    r = jax.eval_shape(functools.partial(_mix, recurrence), *_first_step(recurrence, us))
    reads = _reads_of_update(recurrence, us, r)

    # Where update reads u + r and nothing else of both, the tangent of u arrives with that of r.
    summed = isinstance(us, jax.Array) and reads.sum and not isinstance(d_us, SymbolicZero)
    d_u = SymbolicZero(jax.typeof(us)) if summed else d_us
    states = _Moving((recurrence.initial, recurrence.carry, us), (d_initial, d_carry, d_u))

    of_context = _leaves_of_context(recurrence.params)
    moving = reads.params & params.tangents.keys()
    vectors = {k for k in moving - of_context if params.leaves[k].ndim < 2}
    gates = count_gates(recurrence)
    axes = [0 if k in vectors | of_context else None for k in range(len(params.leaves))]

    def loop(moving: dict, whole: dict, r: PyTree, d_vectors: dict) -> tuple:
        initial, carry, u = states.put(moving)
        here = recurrence.replace(initial=initial, carry=carry)
        leaves = jax.tree.leaves(params.put(whole | rows))
        taps = Taps(leaves, axes, u, r, d_vectors, summed, gates)
        carry, (carries, hs) = _scan(here, us, how, taps)
        return (carry, carries), hs

    def mix_all(moving: dict, hs: PyTree) -> PyTree:
        params, us = mixed.put(moving)
        return recurrence.replace(params=params).all_steps(_mix, hs, us)

    place = _Place.of(recurrence)
    rows = {k: place.rows(params.leaves[k]) for k in vectors}
    whole = {k: params.leaves[k] for k in moving - vectors}
    zeros = place.zeros(r), {k: place.zeros(row) for k, row in rows.items()}
    results, derivative, hs = jax.linearize(loop, states.primals, whole, *zeros, has_aux=True)
    _, d_r = jax.jvp(lambda moving: mix_all(moving, hs), (mixed.primals,), (mixed.tangents,))
    d_r = d_r + d_us if summed else d_r
    d_vectors = {k: place.steps(place.rows(params.tangents[k])) for k in vectors}
    d_whole = {k: params.tangents[k] for k in whole}
    return results, derivative(states.tangents, d_whole, d_r, d_vectors)


def _first_step(recurrence: Recurrence, us: PyTree) -> tuple[PyTree, PyTree]:
    """Return h and u of one step, for their shapes."""
    hidden = jax.vmap(_gated(recurrence).hidden)
    return hidden(recurrence.carry), jax.tree.map(lambda a: a[0], us)


def _leaves_of_context(params: Params) -> set[int]:
    paths, _ = jax.tree.flatten_with_path(params)
    return {k for k, (path, _) in enumerate(paths) if path[0].key == "context"}


class _Reads(NamedTuple):
    """What ``update`` reads.

    Attributes:
        params: the numbers of the leaves.
        sum: of u and r, each one array, nothing but their sum.
    """

    params: set[int]
    sum: bool


def _reads_of_update(recurrence: Recurrence, us: PyTree, r: PyTree) -> _Reads:
    """Trace one step to see."""
    update = recurrence.rows(_gated(recurrence).update, 3)
    _, u = _first_step(recurrence, us)
    jaxpr = jax.make_jaxpr(update)(recurrence.params, recurrence.carry, u, r).jaxpr
    params = len(jax.tree.leaves(recurrence.params))
    arrays = len(jax.tree.leaves((recurrence.params, recurrence.carry)))
    u_and_r = jaxpr.invars[arrays:]
    readers = [[e for e in jaxpr.eqns if any(v is w for w in e.invars)] for v in u_and_r]
    handed_on = any(v is w for v in u_and_r for w in jaxpr.outvars)
    alone = len(u_and_r) == 2 and all(len(each) == 1 for each in readers) and not handed_on
    is_sum = alone and readers[0] == readers[1] and readers[0][0].primitive.name == "add"
    return _Reads(_read(jaxpr) & set(range(params)), is_sum)


def _read(jaxpr: Any) -> set[int]:
    """Return which of its inputs a program reads, looking into what is compiled apart."""
    read = {id(variable) for variable in jaxpr.outvars}
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr") if equation.primitive.name in ("jit", "pjit") else None
        numbers = range(len(equation.invars)) if inner is None else _read(inner.jaxpr)
        read |= {id(equation.invars[k]) for k in numbers}
    return {k for k, variable in enumerate(jaxpr.invars) if id(variable) in read}


class _Place(NamedTuple):
    """Makes arrays that lie on the devices as the rows of the inputs do."""

    time: int
    batch: int
    mesh_axis: Any
    varying: frozenset

    @classmethod
    def of(cls, recurrence: Recurrence) -> "_Place":
        first = jax.typeof(jax.tree.leaves(recurrence.inputs.x)[0])
        return cls(
            recurrence.time,
            recurrence.batch,
            first.sharding.spec[1],
            varying_axes((recurrence.carry, recurrence.inputs)),
        )

    def rows(self, leaf: Array) -> Array:
        """Repeat for each row: (…) → (B, …)."""
        return shard_batch(jnp.broadcast_to(leaf, (self.batch, *leaf.shape)), 0, self.mesh_axis)

    def steps(self, leaf: Array) -> Array:
        """Repeat for each step: (B, …) → (T, B, …)."""
        return jnp.broadcast_to(leaf, (self.time, *leaf.shape))

    def zeros(self, step: PyTree) -> PyTree:
        """Return zeros (T, B, …) for arrays or shapes (B, …)."""

        def fill(leaf: Any) -> Array:
            return jnp.zeros((self.time, *leaf.shape), leaf.dtype)

        return vary(shard_batch(jax.tree.map(fill, step), 1, self.mesh_axis), self.varying)
