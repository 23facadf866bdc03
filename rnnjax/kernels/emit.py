"""A description → the source of its kernels in C++.

The loops stand in ``forward.cc`` and ``backward.cc``; what is generated is a table of sizes and the
two functions of one vector of hidden units, ``update`` and ``pull_back``.
"""

import pathlib

from rnnjax.kernels.program import Op, Program, Symbol
from rnnjax.kernels.trace import Description

FOLDER = pathlib.Path(__file__).parent

INFIX = {
    "add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=",
    "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "&", "or": "|", "xor": "^",
}  # fmt: skip

FUNCTIONS = {
    "abs": "absolute", "acos": "arc_cosine", "acosh": "arc_cosine_hyperbolic", "asin": "arc_sine",
    "asinh": "arc_sine_hyperbolic", "atan": "arc_tangent", "atan2": "arc_tangent_2",
    "atanh": "arc_tangent_hyperbolic", "cbrt": "cube_root", "ceil": "ceiling", "clamp": "clamp",
    "cos": "cosine", "cosh": "cosine_hyperbolic", "erf": "error_function",
    "erfc": "error_function_rest", "exp": "exponential", "exp2": "exponential_2",
    "expm1": "exponential_minus_1", "floor": "floor_down", "is_finite": "is_finite",
    "log": "logarithm", "log1p": "logarithm_of_1_plus", "logistic": "logistic", "max": "maximum",
    "min": "minimum", "neg": "-", "not": "~", "pow": "power", "sign": "sign", "sin": "sine",
    "sinh": "sine_hyperbolic", "sqrt": "square_root", "tan": "tangent",
    "tanh": "hyperbolic_tangent",
}  # fmt: skip

READS = {"c": "c", "z": "z", "v": "v", "s": "s", "p": "vectors", "ct": "ct"}
"""The array that stands for each letter of the description's names."""


def source(description: Description, way: str) -> str:
    """Return the source of one kernel, ``"forward"`` or ``"backward"``.

    Example:
        >>> import jax, rnnjax
        >>> from rnnjax.kernels.trace import describe
        >>> cell = rnnjax.Elman(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> description, _ = describe(cell, params, jax.ShapeDtypeStruct((3,), "float32"))
        >>> print(source(description, "forward").split("vec* next) {")[1].split("}")[0].strip())
        const vec t1 = hyperbolic_tangent(z[0]);
          next[0] = t1;
    """
    generated = _update(description) if way == "forward" else _pull_back(description)
    texts = [(FOLDER / name).read_text() for name in ("vector.h", "loop.h", f"{way}.cc")]
    return "\n".join([_sizes(description), texts[0], texts[1], generated, texts[2]])


def _sizes(d: Description) -> str:
    sizes = {
        "N": d.units, "D": d.features, "G": d.gates, "C": d.carries, "HIDDEN": d.hidden,
        "APART_COUNT": len(d.apart), "STREAMS": d.streams, "VECTORS": d.vectors,
        "U": units_in_panel(d),
    }  # fmt: skip
    places = [d.apart.index(g) if g in d.apart else -1 for g in range(d.gates)]
    return (
        f"#define BFLOAT16 {int(d.bfloat16)}  // the factors of products\n"
        f"constexpr int {', '.join(f'{name} = {size}' for name, size in sizes.items())};\n"
        f"// Where the input's part of a gate stands that update reads apart; −1: with the sum.\n"
        f"constexpr int APART[] = {{{', '.join(map(str, places))}}};\n"
    )


def units_in_panel(d: Description) -> int:
    """Return how many vectors of hidden units, with all their gates, a panel of weights has."""
    units = {1: 4, 2: 2}.get(d.gates, 1)
    while units > 1 and d.units < 32 * units:
        units //= 2
    return units


def _update(d: Description) -> str:
    return (
        "INLINE void update(const vec* c, const vec* z, const vec* v, const vec* s, "
        "const vec* vectors, vec* next) {\n"
        f"{_body(d, d.forward, [f'next[{k}]' for k in range(d.carries)])}}}\n"
    )


def _pull_back(d: Description) -> str:
    counts = [("d_c", d.carries), ("d_z", d.gates), ("d_v", len(d.apart)), ("d_s", d.streams)]
    counts += [("d_vectors", d.vectors)]
    outputs = [f"{name}[{k}]" for name, count in counts for k in range(count)]
    return (
        "INLINE void pull_back(const vec* c, const vec* z, const vec* v, const vec* s, "
        "const vec* vectors, const vec* ct, vec* d_c, vec* d_z, vec* d_v, vec* d_s, "
        "vec* d_vectors) {\n"
        f"{_body(d, d.backward, outputs)}}}\n"
    )


def _body(d: Description, program: Program, outputs: list[str]) -> str:
    lines = [
        f"{'truth' if op.boolean else 'vec'} {op.output} = {_value(d, op)}" for op in program.ops
    ]
    lines = [f"  const {line};\n" for line in lines]
    values = zip(outputs, program.outputs, strict=True)
    return "".join([*lines, *(f"  {name} = {_symbol(d, value)};\n" for name, value in values)])


def _value(d: Description, op: Op) -> str:
    inputs = [_symbol(d, symbol) for symbol in op.inputs]
    if op.name in INFIX:
        return f"{inputs[0]} {INFIX[op.name]} {inputs[1]}"
    if op.name in FUNCTIONS:
        return f"{FUNCTIONS[op.name]}({', '.join(inputs)})"
    match op.name:
        case "select_n":
            return f"choose({inputs[0]}, {inputs[2]}, {inputs[1]})"
        case "square":
            return f"{inputs[0]} * {inputs[0]}"
        case "rsqrt":
            return f"fill(1.f) / square_root({inputs[0]})"
        case "integer_pow":
            product = " * ".join([inputs[0]] * abs(op.detail)) or "fill(1.f)"
            return product if op.detail > 0 else f"fill(1.f) / ({product})"
        case "convert_element_type":
            return (
                f"number({inputs[0]})"
                if op.detail == "bool to float32"
                else f"nonzero({inputs[0]})"
            )
    raise AssertionError(f"{op.name} is in ARITHMETIC, but not here")


def _symbol(d: Description, symbol: Symbol) -> str:
    if isinstance(symbol, bool):
        return f"fill_truth({-int(symbol)})"
    if isinstance(symbol, str):
        letter = symbol.rstrip("0123456789")
        if letter not in READS:
            return symbol
        place = f"{READS[letter]}[{symbol[len(letter) :]}]"
        return f"nonzero({place})" if letter == "s" and int(symbol[1:]) in d.flags else place
    return f"fill({_literal(float(symbol))})"


def _literal(value: float) -> str:
    if value != value:
        return '__builtin_nanf("")'
    if value in (float("inf"), float("-inf")):
        return f"{'-' if value < 0 else ''}__builtin_inff()"
    return f"{value!r}f"
