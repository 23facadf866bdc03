"""One kernel for the whole loop, generated from the cell's own ``update``."""

import dataclasses

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Carry, Params, PyTree
from rnnjax.cell import Cell
from rnnjax.kernels import call, loop, products
from rnnjax.kernels.plain import Arrays, Spec, States
from rnnjax.kernels.trace import Refused, describe
from rnnjax.recurrence import Recurrence, Strategy, row_of
from rnnjax.strategies.sequential import Sequential


@dataclasses.dataclass(frozen=True)
class Fused(Strategy):
    """One kernel for the whole loop, forwards and backwards, generated for the cell at hand.

    For CPUs: ``update`` and its derivative are traced, written as C++, compiled by the system's
    compiler (about a second each way, once; kept in ``RNNJAX_CACHE`` or the user's cache) and
    called by XLA. The kernel takes the products with W_h and, where ``encode`` is x W_x + b, with
    W_x too, and backwards the gradients of the weights as well, while what they are made of is in
    the cache. Only what ``update`` reads is saved.

    It takes any ``GatedCell``, a user's own included, whose recurrent product is the default one
    and whose ``update`` computes every hidden unit by itself, in float32. Gates may be cut out of
    u and r at multiples of N; params that ``update`` reads are scalars or vectors of N, a block
    each.

    On other platforms, in exported programs, in second derivatives and with ``RNNJAX_FUSED=0`` the
    same loop runs as plain JAX, like ``Sequential()``.

    Args:
        product_dtype: to what the factors of products are rounded: ``"float32"``, not at all; or
            ``"bfloat16"``, half the bytes and one instruction for two products where the CPU has
            it. Sums, the carry and ``update`` stay float32.

    Raises:
        ValueError: when ``product_dtype`` is another; from ``scan``, when no kernel can be
            generated for the cell: it names what stands in the way, with the line of ``update``.
        rnnjax.kernels.build.BuildError: when a program is compiled for a CPU and there is no C++
            compiler, or it fails.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GRU(8)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.random.normal(jax.random.key(1), (6, 2, 4))
        >>> h, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Fused())
        >>> _, expected = rnnjax.scan(cell, params, xs, strategy=rnnjax.Sequential())
        >>> bool(abs(ys - expected).max() < 1e-6)
        True
    """

    product_dtype: str = "float32"

    def __post_init__(self):
        checks.one_of("Fused", "product_dtype", self.product_dtype, ("float32", "bfloat16"))

    def refusal(self, cell: Cell) -> str | None:
        """Refuse a cell that is not gated; more is known when the shapes are."""
        if cell.gated() is not None:
            return None
        return (
            "it needs a gated cell, whose recurrent product stands apart in mix. Use Sequential(), "
            "or write the cell as a rnnjax.GatedCell"
        )

    def run(self, recurrence: Recurrence) -> tuple[Carry, PyTree]:
        """Run the kernel; a scan where kernels are turned off or there is nothing to compute."""
        known = all(isinstance(size, int) for size in (recurrence.time, recurrence.batch))
        if not (loop.enabled() and known and recurrence.batch):
            return Sequential().run(recurrence)
        try:
            spec = _spec(recurrence, self.product_dtype)
        except Refused as error:
            raise checks.refusal("scan", recurrence.cell, self, str(error)) from error
        us = recurrence.all_steps(Recurrence.encode, recurrence.inputs)
        states = loop.run(spec, _arrays(spec, recurrence, us))
        carry = spec.structures[1].unflatten(states.last)
        return carry, jax.vmap(recurrence.readout)(_carries(spec, states), us, recurrence.inputs)


def unavailable(cell: Cell, row_params: Params, x: PyTree) -> str | None:
    """Say why ``Fused`` cannot run a cell here and now; None: it can.

    Args:
        cell: the cell.
        row_params: the shapes of its params as one row sees them.
        x: the shapes of one x_t.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LayerNormLSTM(8)
        >>> x = jax.ShapeDtypeStruct((3,), "float32")
        >>> "sums over hidden units" in unavailable(cell, cell.init(jax.random.key(0), 3), x)
        True
    """
    if not loop.enabled():
        return "RNNJAX_FUSED=0 turns kernels off"
    if reason := Fused().refusal(cell):
        return reason
    try:
        describe(cell, row_params, x)
    except Refused as error:
        return str(error)
    return call.unavailable()


def _spec(recurrence: Recurrence, product_dtype: str) -> Spec:
    cell, x = recurrence.cell, row_of(recurrence.inputs.x, 2)
    params = row_of(recurrence.row_params(), 0)
    description, reads = describe(cell, params, x)
    description = dataclasses.replace(description, bfloat16=product_dtype == "bfloat16")
    u = jax.eval_shape(cell.encode, params, x)
    structures = tuple(map(jax.tree.structure, (params, recurrence.carry, u)))
    shapes = tuple(jax.tree.leaves(params))
    return Spec(cell, structures, shapes, description, reads, reads.memory, recurrence.reverse)


def _arrays(spec: Spec, recurrence: Recurrence, us: PyTree) -> Arrays:
    """Return what the loop reads."""
    cell, reads, inputs = recurrence.cell, spec.reads, recurrence.inputs
    params, row = recurrence.row_params(), row_of(inputs.x, 2)
    x, w_x, b = None, None, None
    if reads.projected is not None:
        x = jax.tree.leaves(inputs.x)[reads.x]
        w_x, b = products.input_kernel(cell, params, row, reads.projected)
    leaves, u_leaves = jax.tree.leaves(params), jax.tree.leaves(us)
    return Arrays(
        x=x,
        w_x=w_x,
        b=b,
        w_h=products.recurrent_kernel(cell, params, row),
        vectors=tuple(leaves[k] for k in reads.vectors),
        carry=tuple(jax.tree.leaves(recurrence.carry)),
        initial=() if inputs.reset is None else tuple(jax.tree.leaves(recurrence.initial)),
        streams=tuple(u_leaves[k] for k in reads.streams),
        mask=inputs.mask,
        resets=inputs.reset,
    )


def _carries(spec: Spec, states: States) -> Carry:
    """Return the carry after each step; what the readout does not read is zeros."""
    d, hidden = spec.description, states.hidden
    others = iter(jnp.split(states.memory, max(1, d.carries - 1), axis=-1))
    leaves = [
        hidden if k == d.hidden else next(others) if spec.memory else jnp.zeros_like(hidden)
        for k in range(d.carries)
    ]
    return spec.structures[1].unflatten(leaves)
