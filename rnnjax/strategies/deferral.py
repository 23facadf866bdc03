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
from rnnjax.placement import shard_batch, vary, varying_axes
from rnnjax.recurrence import Inputs, Recurrence
from rnnjax.strategies.blocks import scan_blocks
from rnnjax.strategies.gates import count_gates, join, separate
from rnnjax.strategies.products import apart, merged
from rnnjax.strategies.reads import gated_of, reads_of_update


class Loop(NamedTuple):
    """How the loop runs.

    Attributes:
        unroll: steps in a turn.
        hoist: u is read, instead of computed in the loop.
        block: u is computed for so many steps at a time; None: for all of them.
        merge: the product that u is, computed in the loop, is taken with that of h.
    """

    unroll: int
    hoist: bool
    block: int | None
    merge: bool


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
    gated = gated_of(recurrence)
    update = recurrence.rows(gated.update, 3)
    multiply = merged(recurrence, reads_of_update(recurrence)) if how.merge else apart(recurrence)

    def body(carry: Carry, step: tuple) -> tuple[Carry, tuple[Carry, PyTree]]:
        inputs, u, tangents = step
        before = recurrence.before(carry, inputs)
        h = jax.vmap(gated.hidden)(before)
        u, r = multiply(inputs, h) if u is None else (join(u), _mix(recurrence, h, join(u)))
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


def _mix(recurrence: Recurrence, h: PyTree, u: PyTree) -> PyTree:
    return recurrence.rows(gated_of(recurrence).mix, 2)(recurrence.params, h, u)


def _tapped_update(
    recurrence: Recurrence, taps: Taps, tangents: tuple, before: Carry, u: PyTree, r: PyTree
) -> Carry:
    gated = gated_of(recurrence)
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
    reads = reads_of_update(recurrence)

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
    r = _first_product(recurrence, us)
    zeros = place.zeros(r), {k: place.zeros(row) for k, row in rows.items()}
    results, derivative, hs = jax.linearize(loop, states.primals, whole, *zeros, has_aux=True)
    _, d_r = jax.jvp(lambda moving: mix_all(moving, hs), (mixed.primals,), (mixed.tangents,))
    d_r = d_r + d_us if summed else d_r
    d_vectors = {k: place.steps(place.rows(params.tangents[k])) for k in vectors}
    d_whole = {k: params.tangents[k] for k in whole}
    return results, derivative(states.tangents, d_whole, d_r, d_vectors)


def _first_product(recurrence: Recurrence, us: PyTree) -> PyTree:
    """Return r of the first step, for its shape."""
    h = jax.vmap(gated_of(recurrence).hidden)(recurrence.carry)
    u = jax.tree.map(lambda a: a[0], us)
    return jax.eval_shape(functools.partial(_mix, recurrence), h, u)


def _leaves_of_context(params: Params) -> set[int]:
    paths, _ = jax.tree.flatten_with_path(params)
    return {k for k, (path, _) in enumerate(paths) if path[0].key == "context"}


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
