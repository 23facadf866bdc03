"""Elementwise programs: what ``update`` and its derivative do to one hidden unit.

A traced function of arrays (…, k·N) is followed block by block: every block of N entries is one
symbol, which stands for the entry of whichever unit is asked about. Slices and concatenations at
multiples of N only move symbols around; arithmetic makes new ones. Whatever would read another
unit's entry has no meaning here and is refused.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import source_info_util

Symbol = str | float | bool | int
"""The name of a value, or a number."""


class Op(NamedTuple):
    """One elementwise operation: ``output = name(*inputs)``.

    Attributes:
        name: of JAX's primitive.
        inputs: what it reads.
        output: the name of its value.
        detail: an exponent, for ``integer_pow``; the new dtype, for ``convert_element_type``.
        boolean: the value is a truth value and no number.
    """

    name: str
    inputs: tuple[Symbol, ...]
    output: str
    detail: Any
    boolean: bool


class Program(NamedTuple):
    """Operations in order, and what they are computed for."""

    ops: tuple[Op, ...]
    outputs: tuple[Symbol, ...]

    def rename(self, names: dict[str, str]) -> "Program":
        """Return the same program with other names."""

        def new(symbol: Symbol) -> Symbol:
            return names.get(symbol, symbol) if isinstance(symbol, str) else symbol

        ops = [op._replace(inputs=tuple(map(new, op.inputs))) for op in self.ops]
        kept = [op for op in ops if op.output not in names]
        return Program(tuple(kept), tuple(map(new, self.outputs)))

    def readers(self, name: str) -> list[Op]:
        """Return the operations that read a value."""
        return [op for op in self.ops if name in op.inputs]

    def reads(self) -> set[Symbol]:
        """Return all that it reads or returns."""
        return {i for op in self.ops for i in op.inputs} | set(self.outputs)


class NotElementwise(Exception):
    """A function mixes hidden units, or uses what no kernel can be generated for."""


ARITHMETIC = {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "cbrt", "ceil", "clamp", "convert_element_type", "cos", "cosh", "div", "eq", "erf", "erfc",
    "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rsqrt", "select_n",
    "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor",
}  # fmt: skip
"""The primitives of JAX that a kernel can compute."""

PASSED_ON = {"copy", "optimization_barrier", "pvary", "stop_gradient"}
CALLS = {
    "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit",
    "remat", "remat2",
}  # fmt: skip


class _Array:
    """A traced array of which the last axis is counted in blocks of ``width`` entries.

    ``partial``: a sum over units of which only each unit's own share is known.
    """

    def __init__(self, blocks: Any, width: int, partial: bool = False):
        self.blocks = np.asarray(blocks, dtype=object)
        self.width = width
        self.partial = partial

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.blocks.shape
        return (*shape[:-1], shape[-1] * self.width) if shape else ()


def trace(
    function: Callable,
    names: Sequence[Any],
    arguments: Sequence[Any],
    units: int,
    *,
    shares: bool = False,
) -> Program:
    """Follow a function of arrays whose last axes are made of blocks of N = ``units`` entries.

    Args:
        function: of the arguments; its outputs are flattened, block by block.
        names: of each argument an array of names, as many as it has blocks.
        arguments: ``jax.ShapeDtypeStruct``s.
        units: N.
        shares: an output that is a sum over units, as the gradient of a scalar is, may be given as
            each unit's share of it.

    Returns:
        The program, without what its outputs do not need.

    Raises:
        NotElementwise: naming what it could not follow, and where it stands.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> pair = jax.ShapeDtypeStruct((6,), "float32")
        >>> program = trace(lambda a: a[:3] * a[3:], [["x", "y"]], [pair], 3)
        >>> [op[:3] for op in program.ops]
        [('mul', ('x', 'y'), 't0')]
    """
    closed = jax.make_jaxpr(function)(*arguments)
    follower = _Follower(units, shares)
    inputs = [
        _Array(np.reshape(np.array(own, object), _block_shape(each.shape, units)[0]), width)
        for own, each in zip(names, arguments, strict=True)
        for width in [_block_shape(each.shape, units)[1]]
    ]
    outputs = follower.run(closed.jaxpr, closed.consts, inputs)
    if any(out.partial and out.width > 1 for out in outputs):
        raise NotElementwise("it sums over hidden units")
    symbols = [symbol for out in outputs for symbol in out.blocks.reshape(-1)]
    return _needed(follower.ops, symbols)


def blocks_of(shape: tuple[int, ...], units: int) -> int:
    """Return of how many blocks of N entries an array is made; a scalar counts as one.

    Example:
        >>> blocks_of((6,), 3), blocks_of((2, 3), 3), blocks_of((), 3)
        (2, 2, 1)
    """
    return math.prod(_block_shape(shape, units)[0])


def _block_shape(shape: tuple[int, ...], units: int) -> tuple[tuple[int, ...], int]:
    """Return the shape in blocks, and the width of a block."""
    if not shape or shape[-1] % units:
        return shape, 1
    return (*shape[:-1], shape[-1] // units), units


def _needed(ops: Iterable[Op], outputs: Sequence[Symbol]) -> Program:
    """Leave out what the outputs do not need."""
    live, kept = set(outputs), []
    for op in reversed(list(ops)):
        if op.output in live:
            kept.append(op)
            live |= set(op.inputs)
    return Program(tuple(reversed(kept)), tuple(outputs))


class _Follower:
    """Runs a jaxpr on symbols; what is computed twice is computed once."""

    def __init__(self, units: int, shares: bool):
        self.units = units
        self.shares = shares
        self.ops: list[Op] = []
        self.known: dict[tuple, str] = {}

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[_Array]) -> list[_Array]:
        values: dict[Any, _Array] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, const in zip(jaxpr.constvars, consts, strict=True):
            values[variable] = self._constant(np.asarray(const))

        def read(atom: Any) -> _Array:
            return self._constant(np.asarray(atom.val)) if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            arrays = [read(atom) for atom in equation.invars]
            try:
                outputs = self._equation(equation, arrays)
                self._check(equation, outputs)
            except NotElementwise as error:
                if "line" in str(error):
                    raise
                raise NotElementwise(f"{error}{_line(equation)}") from None
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _constant(self, value: np.ndarray) -> _Array:
        """Take a number, or an array of one number again and again."""
        if value.size and (value != value.flat[0]).any() and not np.isnan(value).all():
            raise NotElementwise(
                f"it closes over an array {value.shape}; put it into params, where update finds it"
            )
        shape, width = _block_shape(value.shape, self.units)
        number = value.flat[0].item() if value.size else 0.0
        return _Array(np.full(shape, number, object), width)

    def _equation(self, equation: Any, arrays: list[_Array]) -> list[_Array]:
        name, params = equation.primitive.name, equation.params
        if name in CALLS:
            inner = params.get("jaxpr") or params.get("call_jaxpr") or params["fun_jaxpr"]
            consts = getattr(inner, "consts", ())
            return self.run(getattr(inner, "jaxpr", inner), consts, arrays)
        if name in PASSED_ON:
            return arrays
        if name in ARITHMETIC:
            return [self._arithmetic(equation, arrays)]
        if move := getattr(self, f"_{name}", None):
            out = move(arrays, params, [v.aval.shape for v in equation.outvars])
            return out if isinstance(out, list) else [out]
        raise NotElementwise(f"it uses {name}, which a kernel of single hidden units cannot")

    def _check(self, equation: Any, outputs: list[_Array]) -> None:
        """Refuse an array whose entries do not stand where blocks of N would have them."""
        for variable, out in zip(equation.outvars, outputs, strict=True):
            if (out.blocks.shape, out.width) != _block_shape(variable.aval.shape, self.units):
                raise NotElementwise(
                    f"{equation.primitive.name} makes {variable.aval.shape} of what is not made of "
                    f"gates of N = {self.units}"
                )

    def _reduce_precision(self, arrays: list[_Array], params: Any, shapes: list) -> list[_Array]:
        del shapes
        bits = params["exponent_bits"], params["mantissa_bits"]
        if bits != (8, 23):
            raise NotElementwise(f"it rounds to {bits} bits; a kernel computes in float32")
        return arrays

    def _arithmetic(self, equation: Any, arrays: list[_Array]) -> _Array:
        name, out = equation.primitive.name, equation.outvars[0].aval
        partial = _is_share(name, arrays)
        _check_kinds(equation)
        detail = params_of_interest(equation)
        shape, width = _block_shape(out.shape, self.units)
        blocks, kind = np.empty(shape, object), np.dtype(out.dtype)
        if any(a.width not in (1, width) for a in arrays):
            raise NotElementwise(f"it computes with what is not made of gates of N = {self.units}")
        try:
            inputs = [np.broadcast_to(a.blocks, shape) for a in arrays]
        except ValueError:
            raise NotElementwise(
                f"it computes with what is not made of gates of N = {self.units}"
            ) from None
        for place in np.ndindex(shape):
            symbols = tuple(each[place] for each in inputs)
            blocks[place] = self._apply(name, symbols, detail, kind == np.bool_)
        return _Array(blocks, width, partial)

    def _apply(self, name: str, inputs: tuple, detail: Any, boolean: bool) -> Symbol:
        neutral = {"add_any": 0.0, "mul": 1.0}.get(name)
        if neutral is not None and neutral in inputs:
            return inputs[1] if inputs[0] == neutral else inputs[0]
        if name == "convert_element_type" and detail == "same":
            return inputs[0]
        # −0.0 == 0.0, 1 == True: numbers of equal value are told apart by how they are written.
        key = (name, tuple(map(repr, inputs)), detail)
        if key not in self.known:
            self.known[key] = f"t{len(self.ops)}"
            self.ops.append(Op(name, inputs, self.known[key], detail, boolean))
        return self.known[key]

    # What only moves blocks around. Each takes (arrays, params, shapes of the outputs).

    def _broadcast_in_dim(self, arrays: list[_Array], params: Any, shapes: list) -> _Array:
        (a,), (out,) = arrays, shapes
        shape, width = _block_shape(out, self.units)
        placed = [1] * len(out)
        for axis, to in enumerate(params["broadcast_dimensions"]):
            placed[to] = a.blocks.shape[axis]
        last = len(out) - 1
        if a.width != width and len(out) and placed[last] != 1:
            raise NotElementwise("it repeats hidden units along another axis")
        if a.width > 1 and params["broadcast_dimensions"][-1] != last:
            raise NotElementwise("it repeats hidden units along another axis")
        return _Array(np.broadcast_to(a.blocks.reshape(placed), shape), width, a.partial)

    def _reshape(self, arrays: list[_Array], params: Any, shapes: list) -> _Array:
        del params
        (a,), (out,) = arrays, shapes
        shape, width = _block_shape(out, self.units)
        if a.width == width:
            return _Array(a.blocks.reshape(shape), width, a.partial)
        if a.blocks.size == 1 and math.prod(out) == 1:
            return _Array(a.blocks.reshape(out), 1, a.partial)
        raise NotElementwise(f"it reshapes {a.shape} to {out}, which cuts through gates of N units")

    def _squeeze(self, arrays: list[_Array], params: Any, shapes: list) -> _Array:
        return self._reshape(arrays, params, shapes)

    def _expand_dims(self, arrays: list[_Array], params: Any, shapes: list) -> _Array:
        return self._reshape(arrays, params, shapes)

    def _slice(self, arrays: list[_Array], params: Any, shapes: list) -> _Array:
        strides = params["strides"] or (1,) * len(shapes[0])
        return self._cut(arrays[0], params["start_indices"], params["limit_indices"], strides)

    def _dynamic_slice(self, arrays: list[_Array], params: Any, shapes: list) -> _Array:
        a, *starts = arrays
        begin = [start.blocks.item() for start in starts]
        if not all(isinstance(start, int) for start in begin):
            raise NotElementwise("it cuts out of an array where only its values say")
        stop = [b + size for b, size in zip(begin, shapes[0], strict=True)]
        return self._cut(a, begin, stop, (1,) * len(stop))

    def _cut(self, a: _Array, start: Any, stop: Any, strides: Any) -> _Array:
        bounds = list(zip(map(int, start), map(int, stop), map(int, strides), strict=True))
        if a.width > 1:
            first, last, stride = bounds[-1]
            if first % a.width or last % a.width or stride != 1:
                raise NotElementwise(
                    f"it cuts [{first}:{last}:{stride}] out of {a.shape[-1]} entries, not at "
                    f"multiples of N = {self.units}"
                )
            bounds[-1] = first // a.width, last // a.width, 1
        return _Array(a.blocks[tuple(slice(*bound) for bound in bounds)], a.width, a.partial)

    def _split(self, arrays: list[_Array], params: Any, shapes: list) -> list[_Array]:
        (a,), axis, parts, start = arrays, params["axis"], [], 0
        for shape in shapes:
            first, last = [0] * len(shape), list(a.shape)
            first[axis], last[axis] = start, start + shape[axis]
            parts.append(self._cut(a, first, last, (1,) * len(shape)))
            start = last[axis]
        return parts

    def _concatenate(self, arrays: list[_Array], params: Any, shapes: list) -> _Array:
        shape, width = _block_shape(shapes[0], self.units)
        if any(a.width != width for a in arrays):
            raise NotElementwise(f"it puts arrays together that are not gates of N = {self.units}")
        blocks = np.concatenate([a.blocks for a in arrays], params["dimension"])
        return _Array(blocks.reshape(shape), width, _is_share("add", arrays))

    def _pad(self, arrays: list[_Array], params: Any, shapes: list) -> _Array:
        a, value = arrays
        shape, width = _block_shape(shapes[0], self.units)
        config = [tuple(map(int, each)) for each in params["padding_config"]]
        if width > 1:
            low, high, inside = config[-1]
            if a.width != width or low % width or high % width or inside:
                raise NotElementwise(f"it pads by what is no gate of N = {self.units}")
            config[-1] = low // width, high // width, 0
        if any(low < 0 or high < 0 or inside for low, high, inside in config):
            raise NotElementwise("it pads by a negative number")
        blocks = np.full(shape, value.blocks.item(), object)
        inner = [slice(low, low + n) for (low, _, _), n in zip(config, a.blocks.shape, strict=True)]
        blocks[tuple(inner)] = a.blocks
        return _Array(blocks, width, _is_share("add", arrays))

    def _reduce_sum(self, arrays: list[_Array], params: Any, shapes: list) -> _Array:
        """Add up blocks; over the units of a block, keep each unit's share."""
        (a,), axes = arrays, sorted(params["axes"], reverse=True)
        blocks, over_units = a.blocks, a.width > 1 and a.blocks.ndim - 1 in axes
        if over_units and (a.partial or not self.shares):
            raise NotElementwise("it sums over hidden units")
        partial = a.partial or over_units
        for axis in axes:
            blocks = np.moveaxis(blocks, axis, 0)
            total = blocks[0]
            for other in blocks[1:]:
                total = self._add(total, other)
            blocks = np.asarray(total, object)
        shape, width = _block_shape(shapes[0], self.units)
        return _Array(blocks.reshape(shape), width, partial)

    def _add(self, a: Any, b: Any) -> Any:
        total = np.empty(np.shape(a), object)
        for place in np.ndindex(np.shape(a)):
            pair = np.asarray(a, object)[place], np.asarray(b, object)[place]
            total[place] = self._apply("add_any", pair, None, False)
        return total


def _is_share(name: str, arrays: list[_Array]) -> bool:
    """Say whether a value is each unit's share of a sum, as some of what it is made of is.

    Of sums that are linear: a share and a whole that is not zero do not add up.
    """
    shares = [a for a in arrays if a.partial]
    wholes = [a for a in arrays if not a.partial]
    if not shares:
        return False
    apart = all(symbol == 0.0 for a in wholes for symbol in a.blocks.reshape(-1))
    added = name in ("add", "add_any", "sub", "neg", "convert_element_type") and apart
    scaled = name == "mul" and len(shares) == 1
    if not (added or scaled):
        raise NotElementwise("it sums over hidden units")
    return True


def _check_kinds(equation: Any) -> None:
    """Refuse what is computed neither in float32 nor, as logic alone, in truth values."""
    name = equation.primitive.name
    kinds = [np.dtype(v.aval.dtype) for v in (*equation.invars, *equation.outvars)]
    if other := [kind for kind in kinds if kind not in (np.float32, np.bool_)]:
        raise NotElementwise(f"it computes {name} in {other[0]}; a kernel computes in float32")
    logic = ("and", "or", "not", "xor", "eq", "ne", "convert_element_type")
    values = kinds[1:] if name == "select_n" else kinds
    if values[0] == np.bool_ and name not in logic:
        raise NotElementwise(f"it computes {name} of truth values")


def params_of_interest(equation: Any) -> Any:
    """Return what of an equation's parameters its value depends on."""
    if equation.primitive.name == "integer_pow":
        return int(equation.params["y"])
    if equation.primitive.name == "convert_element_type":
        kinds = [np.dtype(v.aval.dtype) for v in (*equation.invars, *equation.outvars)]
        return "same" if kinds[0] == kinds[1] else f"{kinds[0].name} to {kinds[1].name}"
    return None


def _line(equation: Any) -> str:
    """Return where an equation stands in the user's code, where JAX knows it."""
    where = source_info_util.summarize(equation.source_info)
    return f" (line {where})" if where else ""
