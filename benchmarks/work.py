"""How much a program computes, and in how long a chain: counted in its jaxpr, before XLA's turn.

Work is arithmetic: one operation for each entry of a result, of a product of matrices two for each
pair that is multiplied and added. Depth is the longest chain of operations on whole arrays that
wait for one another, whatever their size; a turn of a loop waits for the one before. What only
moves numbers is neither.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

MOVES = (
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "slice", "split"),
    *("concatenate", "pad", "dynamic_slice", "dynamic_update_slice", "gather", "scatter", "rev"),
    *("convert_element_type", "complex", "real", "imag", "iota", "copy", "pvary"),
)
SUMS = ("reduce_sum", "reduce_max", "reduce_min", "cumsum")


class Count(NamedTuple):
    """Work in arithmetic operations, depth in operations on arrays."""

    work: int
    depth: int


def count(function: Callable, *arguments: Any) -> Count:
    """Count the operations of a function of arrays, or of ``jax.ShapeDtypeStruct``s.

    Raises:
        ValueError: when the program has a loop whose turns are not known beforehand.

    Example:
        >>> import jax.numpy as jnp
        >>> count(lambda x: jnp.sin(x) + jnp.cos(x), jnp.ones((3,)))
        Count(work=9, depth=2)
        >>> count(lambda x: jax.lax.scan(lambda h, x: (h * x + x, None), 1.0, x)[0], jnp.ones((5,)))
        Count(work=10, depth=10)
    """
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> Count:
    work, done = 0, {}
    for equation in jaxpr.eqns:
        inputs = [variable for variable in equation.invars if not isinstance(variable, Literal)]
        cost = _of_equation(equation)
        ready = max((done.get(variable, 0) for variable in inputs), default=0)
        done |= dict.fromkeys(equation.outvars, ready + cost.depth)
        work += cost.work
    return Count(work, max(done.values(), default=0))


def _of_equation(equation: Any) -> Count:
    name, params = equation.primitive.name, equation.params
    if name == "while":
        raise ValueError(
            "count: a program must have loops of known length alone; got a while loop."
        )
    if name == "scan":
        turn = _of(params["jaxpr"].jaxpr)
        return Count(turn.work * params["length"], turn.depth * params["length"])
    if name == "custom_linear_solve":
        return _of(params["jaxprs"].solve.jaxpr)
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None:
        return _of(getattr(inner, "jaxpr", inner))
    if name in MOVES:
        return Count(0, 0)
    return Count(_arithmetic(equation), 1)


def _arithmetic(equation: Any) -> int:
    name, out = equation.primitive.name, equation.outvars[0].aval
    if name == "dot_general":
        (summed, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * out.size * math.prod(shape[axis] for axis in summed)
    return equation.invars[0].aval.size if name in SUMS else out.size
