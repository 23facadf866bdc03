"""The products of a step, x W_x + b and h W_h: found in what the cell computes.

``encode`` and ``mix`` are functions that anybody may write. Where all that one of them does to x or
h is a product with a matrix, and the matrix depends on the params alone (cast, masked, scaled, as
it may be), a kernel can take the product itself. The params' part is computed once, before the
loop, and differentiated there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp

from rnnjax.array_typing import Array, Params, PyTree
from rnnjax.cell import Cell


class Product(NamedTuple):
    """x W + b of one leaf x (D,) of the inputs.

    Attributes:
        leaf: the number of the leaf.
        kernel: W (D, M).
        bias: b (M,), or None.
    """

    leaf: int
    kernel: Array
    bias: Array | None


def input_leaf(cell: Cell, params: Params, x: PyTree, k: int) -> int | None:
    """Return which leaf of x the k-th leaf of u is a product of; None: it is none. Of shapes."""
    found = []

    def look(params: Params) -> None:
        product = _product(_encoder(cell, k), params, x)
        found.append(product and product.leaf)

    jax.eval_shape(look, params)
    return found[0]


def input_kernel(cell: Cell, params: Params, x: PyTree, k: int) -> tuple[Array, Array]:
    """Return W_x (D, M) and b (M,) of the k-th leaf of u; x is shapes."""
    found = _product(_encoder(cell, k), params, x)
    assert found is not None, "it is looked for where the loop is described"
    width = found.kernel.shape[-1:]
    bias = jnp.zeros(width, found.kernel.dtype) if found.bias is None else found.bias
    return found.kernel, jnp.broadcast_to(bias, width)


def is_dense(cell: Cell, params: Params, x: PyTree) -> bool:
    """Say whether the recurrent product is h W_h, one dense matrix. Of shapes."""
    found = []

    def look(params: Params) -> None:
        product = _recurrent(cell, params, x)
        found.append(product is not None and product.bias is None)

    jax.eval_shape(look, params)
    return found[0]


def other_dtype(cell: Cell, params: Params, x: PyTree) -> str | None:
    """Return the dtype of floating point, if any but float32, in which the product is taken."""
    closed = jax.make_jaxpr(_mix(cell))(params, _mixed(cell, params, x))
    dtypes = {v.aval.dtype for equation in closed.jaxpr.eqns for v in equation.invars}
    other = [d.name for d in dtypes if jnp.issubdtype(d, jnp.floating) and d != jnp.float32]
    return min(other, default=None)


def recurrent_kernel(cell: Cell, params: Params, x: PyTree) -> Array:
    """Return W_h (N, G·N); x is shapes."""
    found = _recurrent(cell, params, x)
    assert found is not None, "it is looked for where the loop is described"
    return found.kernel


def _encoder(cell: Cell, k: int) -> Callable:
    return lambda params, x: jax.tree.leaves(cell.encode(params, x))[k]


def _recurrent(cell: Cell, params: Params, x: PyTree) -> Product | None:
    found = _product(_mix(cell), params, _mixed(cell, params, x))
    return found if found and found.leaf == 0 else None


def _mix(cell: Cell) -> Callable:
    gated = cell.gated()
    assert gated is not None, "a plain cell is refused before it gets here"

    def mix(params: Params, h_and_u: tuple) -> Array:
        (r,) = jax.tree.leaves(gated.mix(params, *h_and_u))
        return r

    return mix


def _mixed(cell: Cell, params: Params, x: PyTree) -> tuple[PyTree, PyTree]:
    """Return the shapes of the hidden vector and of u."""
    gated = cell.gated()
    assert gated is not None, "a plain cell is refused before it gets here"

    def parts(params: Params, x: PyTree) -> tuple[PyTree, PyTree]:
        return gated.hidden(cell.initial_carry(params)), cell.encode(params, x)

    return jax.eval_shape(parts, params, x)


class _Input(NamedTuple):
    """A leaf of x, by its number, as it came."""

    leaf: int


SAME_NUMBERS = {"convert_element_type", "copy", "mesh_cast", "pcast", "pvary", "reshard"}
"""What leaves the numbers as they are, in another place or of another type."""

UNKNOWN = object()
"""What depends on x in another way."""


def _product(function: Callable, params: Params, x: PyTree) -> Product | None:
    """Return the product that ``function(params, x)`` is, or None; x is shapes, or arrays."""
    closed = jax.make_jaxpr(function)(params, x)
    own = {name: leaf for name, leaf in params.items() if name != "context"}
    rows = {name: jax.tree.map(lambda _: UNKNOWN, leaf) for name, leaf in params.items()}
    inputs = [_Input(k) for k in range(len(jax.tree.leaves(x)))]
    known = jax.tree.leaves({**rows, **own})
    (out,) = _follow(closed.jaxpr, closed.consts, [*known, *inputs])
    return out if isinstance(out, Product) else None


def _follow(jaxpr: Any, consts: Any, inputs: list) -> list:
    """Compute what depends on the params alone; tell of the rest whether it is a product of x."""
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        arguments = [read(atom) for atom in equation.invars]
        values.update(zip(equation.outvars, _apply(equation, arguments), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, arguments: list) -> list:
    if not any(a is UNKNOWN or isinstance(a, _Input | Product) for a in arguments):
        return _evaluate(equation, arguments)
    if equation.primitive.name in ("jit", "pjit"):
        inner = equation.params["jaxpr"]
        return _follow(inner.jaxpr, inner.consts, arguments)
    if not equation.outvars:
        return []
    return [_symbolic(equation, arguments)] + [UNKNOWN] * (len(equation.outvars) - 1)


def _evaluate(equation: Any, arguments: list) -> list:
    pairs = zip(equation.invars, arguments, strict=True)
    given = {atom: value for atom, value in pairs if not hasattr(atom, "val")}
    debug_info = jax.make_jaxpr(lambda: None)().jaxpr.debug_info
    program = jax.extend.core.Jaxpr(
        [], list(given), equation.outvars, [equation], equation.effects, debug_info
    )
    closed = jax.extend.core.ClosedJaxpr(program, [])
    return jax.extend.core.jaxpr_as_fun(closed)(*given.values())


def _symbolic(equation: Any, arguments: list) -> Any:
    name, out = equation.primitive.name, equation.outvars[0].aval
    match arguments:
        case [_Input() | Product() as x] if name in SAME_NUMBERS:
            return x if out.dtype == equation.invars[0].aval.dtype else UNKNOWN
        case [_Input() as x, kernel] if name == "dot_general" and _is_dense(equation):
            return UNKNOWN if kernel is UNKNOWN else Product(x.leaf, kernel, None)
        case [Product() as x, b] | [b, Product() as x] if name == "add" and x.bias is None:
            if b is UNKNOWN or isinstance(b, _Input | Product) or jnp.ndim(b) > 1:
                return UNKNOWN
            return x._replace(bias=b)
    return UNKNOWN


def _is_dense(equation: Any) -> bool:
    """Say whether this is a float32 vector (D,) times a matrix (D, M)."""
    avals = [v.aval for v in (*equation.invars, *equation.outvars)]
    float32 = all(a.dtype == jnp.float32 for a in avals)
    vector = equation.params["dimension_numbers"] == (((0,), (0,)), ((), ()))
    return float32 and vector and (avals[0].ndim, avals[1].ndim) == (1, 2)
