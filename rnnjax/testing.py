"""Test a cell against the contract, and the one table of tolerances."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, DTypeLike, InDim, Key, Params, PyTree
from rnnjax.cell import Cell, Keyed, feed, one_step, row_shapes, with_context
from rnnjax.kernels import build
from rnnjax.recurrence import Strategy
from rnnjax.scan import scan, sequence_noise, step, with_keys
from rnnjax.strategies.associative import Associative
from rnnjax.strategies.chunked import Chunked
from rnnjax.strategies.fused import Fused
from rnnjax.strategies.sequential import Sequential
from rnnjax.strategies.unrolled import Unrolled
from rnnjax.wrappers import Wrapper

TOLERANCE = {
    "float64": 1e-12,
    "complex128": 1e-12,
    "float32": 5e-6,
    "complex64": 5e-6,
    "float16": 5e-3,
    "bfloat16": 4e-2,
}
"""By the dtype that computes: the largest difference allowed, as ``largest_difference`` has it."""

FAST_COMPILATION = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""``compiler_options`` of ``jax.jit`` for a program that runs once: its time is compiling."""

STRATEGIES: tuple[Strategy, ...] = (
    Sequential(),
    Sequential(hoist=True),
    Sequential(defer=True),
    Unrolled(),
    Chunked(),
    Fused(),
    Associative(),
    Associative(block=2),
)
"""The ways of running a cell, the reference first; ``Fused`` where it can be compiled."""


class ContractError(AssertionError):
    """A cell breaks the contract; the message says where and how to mend it."""


def check_cell(cell: Cell, key: Key, in_dim: InDim) -> None:
    """Test any cell against the contract.

    That an equal cell built anew is equal; that the carry keeps its structure, shapes and dtypes;
    that the methods are pure, finite with their gradients (also at x = 0), and the same compiled;
    that the claims ``affine`` and ``elementwise``, ``gated()`` and ``operator()`` are true; that
    every strategy which accepts the cell agrees with ``Sequential()`` in values and gradients under
    mask, resets, context, noise and both directions; that parts equal the whole, and ``step``
    equals ``scan``.

    Args:
        cell: the cell.
        key: for params, inputs and noise.
        in_dim: as for ``cell.init``.

    Raises:
        ContractError: naming what is broken and how to mend it.

    Example:
        >>> import jax, rnnjax
        >>> from rnnjax.testing import check_cell
        >>> check_cell(rnnjax.GRU(4), jax.random.key(0), 3)
    """
    _check_value(cell)
    k_params, k_case = jax.random.split(key)
    params = _check_init(cell, k_params, in_dim)
    _check_carry(cell, params, in_dim)
    case = _Case.draw(cell, params, k_case, checks.as_shapes(in_dim))
    _check_pure(case)
    _check_affine(case)
    _check_elementwise(case)
    _check_gated(case)
    _check_operator(case)
    _check_gates(case)
    _check_running(case)


def largest_difference(a: PyTree, b: PyTree) -> float:
    """Return the largest |a − b| over all leaves, relative to the largest entry of the leaf.

    Of a leaf without an entry above 0.1 the difference is taken relative to 0.1: its own rounding
    errors are those of larger numbers that it was summed from. Keys are left out.

    Raises:
        ValueError: when the structures or the shapes differ.

    Example:
        >>> import numpy as np
        >>> largest_difference({"x": np.array([100.0, 1.0])}, {"x": np.array([101.0, 1.0])})
        0.01
    """
    checks.same_shapes("largest_difference", "a", a, "b", b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max((_difference(x, y) for x, y in pairs), default=0.0)


def _difference(x: Any, y: Any) -> float:
    if x.dtype == jax.dtypes.float0 or jnp.issubdtype(x.dtype, jax.dtypes.extended) or not x.size:
        return 0.0
    kind = complex if jnp.iscomplexobj(x) else float
    x, y = np.asarray(x).astype(kind), np.asarray(y).astype(kind)
    scale = max(0.1, float(np.abs(x).max()))
    difference = float(np.abs(x - y).max())
    return difference / scale if np.isfinite(difference) else float("inf")


def _compile(function: Callable) -> Callable:
    return jax.jit(function, compiler_options=FAST_COMPILATION)


def _require(true: bool, message: str) -> None:
    if not true:
        raise ContractError(message)


def _require_close(a: PyTree, b: PyTree, tolerance: float, message: str) -> None:
    difference = largest_difference(a, b)
    if not difference <= tolerance:
        raise ContractError(
            f"{message} They differ by {difference:.1e}; {tolerance:.0e} is allowed."
        )


def _check_value(cell: Cell) -> None:
    name = type(cell).__name__
    frozen = dataclasses.is_dataclass(cell) and type(cell).__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    _require(
        frozen, f"{name} must be a frozen dataclass: write @dataclasses.dataclass(frozen=True)."
    )
    fields = {field.name for field in dataclasses.fields(cell)}  # pyright: ignore[reportArgumentType]
    claims = fields & {"affine", "elementwise", "noisy"}
    _require(
        not claims,
        f"{name}: {sorted(claims)} must be class attributes: a claim is no hyperparameter. Write "
        f"them without annotation, or as ClassVar[bool].",
    )
    twin = dataclasses.replace(cell)  # pyright: ignore[reportArgumentType]
    try:
        equal = twin == cell and hash(twin) == hash(cell)
    except (TypeError, ValueError) as error:
        raise ContractError(
            f"{name} must hash and compare by value: {error}. Its fields must be hashable values; "
            f"arrays belong in params."
        ) from error
    _require(
        equal,
        f"{name} built anew from its own fields must equal itself: __post_init__ or a field "
        f"changes the value, so every new cell would compile again.",
    )


def _check_init(cell: Cell, key: Key, in_dim: InDim) -> Params:
    name = checks.describe(cell)
    params = cell.init(key, in_dim)
    _require(isinstance(params, dict), f"{name}.init must return a dict; got {type(params)}.")
    _require("context" not in params, f'{name}.init must leave the name "context" free.')
    _require(
        all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(params)),
        f"{name}.init must return arrays alone: jnp.asarray for numbers.",
    )
    again = cell.init(key, in_dim)
    _require(largest_difference(params, again) == 0.0, f"{name}.init must depend on its key alone.")
    return params


def _check_carry(cell: Cell, params: Params, in_dim: InDim) -> None:
    whole = with_context(params, cell.context_shapes())
    shapes = row_shapes(cell, whole, checks.as_shapes(in_dim))
    try:
        checks.preserved("check_cell", cell, shapes.carry, shapes.next_carry)
    except TypeError as error:
        raise ContractError(str(error)) from error
    narrow = [
        s.dtype for s in jax.tree.leaves(shapes.carry) if s.dtype in (jnp.bfloat16, jnp.float16)
    ]
    _require(
        not narrow,
        f"{checks.describe(cell)}.initial_carry must be at least float32, or errors add up over "
        f"time; got {narrow[:1]}.",
    )


@dataclasses.dataclass(frozen=True)
class _Case:
    """A cell with generic arrays: T = 5 steps of B = 3 rows, some of them masked, some reset."""

    cell: Cell
    params: Params
    xs: PyTree
    carry: Carry
    mask: Array
    resets: Array
    context: dict[str, PyTree] | None
    tolerance: float

    @classmethod
    def draw(cls, cell: Cell, params: Params, key: Key, x: PyTree) -> "_Case":
        time, batch = 5, 3
        k_x, k_carry, k_mask, k_resets, k_context, k_noise = jax.random.split(key, 6)
        shapes = cell.context_shapes()
        context = random_like(k_context, shapes, (batch,))
        context = (context | sequence_noise(k_context, cell, params, batch)) or None
        xs = with_keys(k_noise, random_like(k_x, x, (time, batch)))
        row_params = with_context(params, shapes)
        carry = row_shapes(cell, row_params, x).carry
        return cls(
            cell,
            params,
            xs if cell.noisy else xs.x,
            random_like(k_carry, carry, (batch,)),
            jax.random.bernoulli(k_mask, 0.7, (time, batch)),
            jax.random.bernoulli(k_resets, 0.2, (time, batch)),
            context,
            tolerance(*_computing_dtypes(cell, row_params, carry, x)),
        )

    @property
    def name(self) -> str:
        return checks.describe(self.cell)

    def row(self, t: int = 0, b: int = 0) -> tuple[Params, Carry, PyTree]:
        """Return (params, carry, x) of one row and step, as the cell's methods take them."""
        context, carry = jax.tree.map(lambda a: a[b], (self.context, self.carry))
        x = jax.tree.map(lambda a: a[t, b], self.xs)
        return with_context(self.params, context), carry, x

    def encoded(self, t: int = 0, b: int = 0) -> tuple[Params, Carry, PyTree]:
        """Return (params, carry, u) of one row and step."""
        params, carry, x = self.row(t, b)
        return params, carry, self.cell.encode(params, feed(self.cell, x))


def _computing_dtypes(cell: Cell, row_params: Params, carry: Carry, x: PyTree) -> set[str]:
    """Return the floating-point dtypes that appear in a traced step, layers inside included."""
    traced = jax.make_jaxpr(functools.partial(one_step, cell))(row_params, carry, x)
    short = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64"}
    return {short[name] for name in re.findall(r"\b(bf16|f16|f32|f64)\[", str(traced))}


def tolerance(*dtypes: DTypeLike) -> float:
    """Return the tolerance of the coarsest floating-point dtype among these.

    Example:
        >>> tolerance("float32", "bfloat16") == TOLERANCE["bfloat16"]
        True
    """
    return max((TOLERANCE[np.dtype(d).name] for d in dtypes), default=TOLERANCE["float64"])


def random_like(key: Key, shapes: PyTree, leading: tuple[int, ...]) -> PyTree:
    """Draw a generic array (*leading, *shape) for each ``jax.ShapeDtypeStruct``.

    Example:
        >>> import jax
        >>> random_like(jax.random.key(0), jax.ShapeDtypeStruct((4,), "float32"), (2, 3)).shape
        (2, 3, 4)
    """
    # By NumPy: jax.random would compile a program for every shape.
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def draw(leaf: Any) -> Array:
        shape = (*leading, *leaf.shape)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.asarray(random.random(shape) < 0.6, leaf.dtype)
        drawn = 0.5 * random.standard_normal(shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            drawn = drawn + 0.5j * random.standard_normal(shape)
        return jnp.asarray(drawn, leaf.dtype)

    return jax.tree.map(draw, shapes)


def _check_pure(case: _Case) -> None:
    """Twice the same, compiled the same, finite also at x = 0 and in gradients."""
    params, carry, x = case.row()

    one = functools.partial(one_step, case.cell)
    plain, compiled = one(params, carry, x), _compile(one)(params, carry, x)
    _require(
        largest_difference(plain, one(params, carry, x)) == 0.0,
        f"{case.name} must give the same step for the same arguments: it keeps state or draws "
        f"noise of its own. Noise comes from keys: set noisy = True and read Keyed in encode.",
    )
    _require_close(
        plain, compiled, case.tolerance, f"{case.name} must step the same under jax.jit."
    )
    gradients = _compile(jax.grad(lambda *row: _scalar(one(*row)), (0, 1, 2), allow_int=True))
    zero = jax.tree.map(lambda a: jnp.zeros_like(a) if _inexact(a) else a, x)
    for words, at in (("random inputs", x), ("x = 0", zero)):
        _require(_finite(one(params, carry, at)), f"{case.name} must be finite at {words}.")
        _require(
            _finite(gradients(params, carry, at)),
            f"{case.name} must have finite gradients at {words}, or padding would leak into them. "
            f"Guard √, log and division: jnp.where(x > 0, …) around both the input and the result.",
        )


def _tangent(case: _Case, at: Carry, along: Carry) -> Carry:
    """Return how the next carry moves when the carry moves along a direction."""
    params, _, u = case.encoded()
    return jax.jvp(lambda carry: case.cell.step(params, carry, u), (at,), (along,))[1]


def _check_affine(case: _Case) -> None:
    if not case.cell.affine:
        return
    message = f"{case.name} claims affine, but its step is not affine in the carry"
    a, b, along = (jax.tree.map(lambda leaf, k=k: leaf[k], case.carry) for k in range(3))
    slope = _tangent(case, a, along)
    elsewhere = _tangent(case, b, along)
    _require_close(
        slope, elsewhere, case.tolerance,
        f"{message}: the slope of its entry {_worst(slope, elsewhere)} changes with the carry. "
        f"Drop the claim.",
    )  # fmt: skip
    turned, expected = _tangent(case, a, jax.tree.map(_turn, along)), jax.tree.map(_turn, slope)
    _require_close(
        expected, turned, case.tolerance,
        f"{message}: its entry {_worst(expected, turned)} is not holomorphic, as Re and conj are "
        f"not. Drop the claim.",
    )  # fmt: skip


def _check_elementwise(case: _Case) -> None:
    if not case.cell.elementwise:
        return
    carry, along = (jax.tree.map(lambda leaf, k=k: leaf[k], case.carry) for k in range(2))
    for chosen in _halves(carry):
        some = jax.tree.map(lambda c, a: jnp.where(c, a, jnp.zeros_like(a)), chosen, along)
        moved = _tangent(case, carry, some)
        spread = jax.tree.map(lambda c, m: jnp.where(c, jnp.zeros_like(m), m), chosen, moved)
        _require(
            not any(bool(leaf.any()) for leaf in jax.tree.leaves(spread)),
            f"{case.name} claims elementwise, but the entry {_worst(spread)} of its next carry "
            f"depends on another entry of the carry. Drop the claim.",
        )


def _worst(a: PyTree, b: PyTree | None = None) -> str:
    """Name the entry in which two pytrees differ most, or the largest of one: ``.c[3]``."""
    gaps = a if b is None else jax.tree.map(jnp.subtract, a, b)
    # NaN is the largest of all, and argmax takes it for that.
    sizes = [(path, np.abs(np.asarray(leaf))) for path, leaf in jax.tree.leaves_with_path(gaps)]
    path, leaf = max(
        ((path, size) for path, size in sizes if size.size),
        key=lambda entry: np.nan_to_num(entry[1].max(), nan=np.inf),
        default=((), np.zeros(())),
    )
    index = ", ".join(str(int(n)) for n in np.unravel_index(leaf.argmax(), leaf.shape))
    return f"carry{jax.tree_util.keystr(path)}" + (f"[{index}]" if index else "")


def _halves(tree: PyTree) -> Iterator[PyTree]:
    """Yield choices of entries such that some choice holds any one entry without any other one.

    They go by the bits of an entry's index: two different indices differ in some bit.
    """
    leaves, structure = jax.tree.flatten(tree)
    for k, leaf in enumerate(leaves):
        for bit, value in itertools.product(range(max(leaf.size - 1, 1).bit_length()), (0, 1)):
            chosen = [np.zeros(other.shape, bool) for other in leaves]
            chosen[k] = (np.arange(leaf.size) >> bit & 1 == value).reshape(leaf.shape)
            yield jax.tree.unflatten(structure, chosen)


def _turn(a: Array) -> Array:
    """Multiply a complex array by i, so that a step which is not holomorphic shows."""
    return a * 1j if jnp.iscomplexobj(a) else a


def _check_gated(case: _Case) -> None:
    gated = case.cell.gated()
    if gated is None:
        return
    params, carry, u = case.encoded()
    h = gated.hidden(carry)
    h_2 = gated.hidden(jax.tree.map(lambda a: a[1], case.carry))
    parts = gated.update(params, carry, u, gated.mix(params, h, u))
    _require_close(
        parts, case.cell.step(params, carry, u), case.tolerance,
        f"{case.name}: update(params, carry, u, mix(params, hidden(carry), u)) must be its step.",
    )  # fmt: skip
    combined = gated.mix(params, jax.tree.map(lambda a, b: 2 * a - 3 * b, h, h_2), u)
    apart = [gated.mix(params, part, u) for part in (h, h_2)]
    _require_close(
        combined, jax.tree.map(lambda a, b: 2 * a - 3 * b, *apart), case.tolerance,
        f"{case.name}.mix must be linear in the hidden vector: move biases into encode or update.",
    )  # fmt: skip


def _check_operator(case: _Case) -> None:
    operator = case.cell.operator()
    if operator is None:
        return
    params, carry, _ = case.encoded()
    us = [case.encoded(t)[2] for t in range(3)]
    a, b, c = (operator.element(params, u) for u in us)
    left = operator.combine(operator.combine(a, b), c)
    right = operator.combine(a, operator.combine(b, c))
    _require_close(
        left, right, case.tolerance,
        f"{case.name}.operator().combine must be associative: (a b) c and a (b c) differ. Its "
        f"first argument is the earlier step.",
    )  # fmt: skip
    stepped = carry
    for u in us:
        stepped = case.cell.step(params, stepped, u)
    _require_close(
        operator.apply(left, carry), stepped, case.tolerance,
        f"{case.name}.operator() must give the carry that stepping gives.",
    )  # fmt: skip


def _check_gates(case: _Case) -> None:
    gates = case.cell.gates(*case.encoded())
    _require(
        isinstance(gates, dict) and all(isinstance(name, str) for name in gates) and _finite(gates),
        f"{case.name}.gates must return a dict from names to finite arrays; got {gates!r}.",
    )


def _check_running(case: _Case) -> None:
    """Every strategy against the reference; parts, steps and layers against the whole.

    A noisy cell runs with keys; without them, for evaluation, it has to run too.
    """
    if isinstance(case.xs, Keyed):
        evaluation = dataclasses.replace(case, xs=case.xs.x)
        _check_pure(evaluation)
        _check_parts(evaluation)
    reference = _run(case, case.xs, STRATEGIES[0])
    _require(
        _identical(reference, _run(case, _dirty(case), STRATEGIES[0])),
        f"{case.name} lets NaN at masked steps reach outputs or gradients: its step from a zero "
        f"input must be finite, with finite gradients.",
    )
    for strategy in STRATEGIES[1:]:
        if accepts(strategy, case.cell) and (result := _run_unless_refused(case, strategy)):
            _require_close(
                reference, result, case.tolerance,
                f"{case.name} must give the same under {strategy} as under {STRATEGIES[0]}.",
            )  # fmt: skip
    if case.cell.layers() is not None:
        one_cell = dataclasses.replace(case, cell=Wrapper(case.cell))
        _require_close(
            reference,
            _run(one_cell, case.xs, STRATEGIES[0]),
            case.tolerance,
            f"{case.name} must give the same layer by layer as in one cell.",
        )
    _check_parts(case)


def accepts(strategy: Strategy, cell: Cell) -> bool:
    """Return whether a strategy can run a cell, or every layer of one that it runs layer by layer.

    Example:
        >>> import rnnjax
        >>> accepts(rnnjax.Sequential(), rnnjax.LSTM(4))
        True
    """
    layers = cell.layers() if strategy.layerwise else None
    if layers is None:
        return strategy.refusal(cell) is None
    return all(accepts(strategy, layer) for layer in layers)


def _run_unless_refused(case: _Case, strategy: Strategy) -> tuple | None:
    """Run a strategy; None where it refuses, once it has seen the shapes, or nothing compiles."""
    if isinstance(strategy, Fused) and build.missing() is not None:
        return None
    try:
        return _run(case, case.xs, strategy)
    except checks.Refusal:
        return None


def _run(case: _Case, xs: PyTree, strategy: Strategy) -> tuple:
    """Scan both ways; return ((loss, results), gradients in params, carry, xs and context)."""

    def both(params: Params, carry: Carry, xs: PyTree, context: Any) -> tuple[Array, tuple]:
        options = {"mask": case.mask, "resets": case.resets, "context": context}
        results = tuple(
            scan(case.cell, params, xs, carry, reverse=reverse, strategy=strategy, **options)
            for reverse in (False, True)
        )
        return _scalar(results), results

    gradients = jax.value_and_grad(both, argnums=(0, 1, 2, 3), has_aux=True, allow_int=True)
    return _compile(gradients)(case.params, case.carry, xs, case.context)


def _check_parts(case: _Case) -> None:
    """Two parts, and T single steps, against the whole."""
    whole, joined, stepped = _compile(functools.partial(_in_parts, case))(case.xs)
    _require_close(
        whole,
        joined,
        case.tolerance,
        f"{case.name} must give the same in two parts as in one: all memory must be in the carry.",
    )
    _require_close(whole, stepped, case.tolerance, f"{case.name} must give the same step by step.")


def _in_parts(case: _Case, xs: PyTree) -> tuple[tuple, tuple, tuple]:
    """Return (carry, ys) of one scan, of two scans and of T steps."""

    def part(start: int, stop: int, carry: Carry) -> tuple[Carry, PyTree]:
        some, mask, resets = jax.tree.map(lambda a: a[start:stop], (xs, case.mask, case.resets))
        return scan(
            case.cell, case.params, some, carry, mask=mask, resets=resets, context=case.context
        )

    def one(t: int, carry: Carry) -> tuple[Carry, PyTree]:
        x, mask, reset = jax.tree.map(lambda a: a[t], (xs, case.mask, case.resets))
        return step(case.cell, case.params, x, carry, mask=mask, reset=reset, context=case.context)

    time, k = case.mask.shape[0], 2
    middle, early = part(0, k, case.carry)
    last, late = part(k, time, middle)
    joined = last, jax.tree.map(lambda *y: jnp.concatenate(y), early, late)
    carry, ys = case.carry, []
    for t in range(time):
        carry, y = one(t, carry)
        ys.append(y)
    stepped = carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)
    return part(0, time, case.carry), joined, stepped


def _dirty(case: _Case) -> PyTree:
    """Return the inputs with NaN and Inf wherever they are masked."""

    def spoil(a: Array) -> Array:
        if not _inexact(a):
            return a
        keep = jax.lax.expand_dims(case.mask, range(2, a.ndim))
        rubbish = jnp.where(jnp.arange(a.size).reshape(a.shape) % 2 == 0, jnp.nan, jnp.inf)
        return jnp.where(keep, a, rubbish.astype(a.dtype))

    return jax.tree.map(spoil, case.xs)


def _inexact(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.inexact)


def _finite(tree: PyTree) -> bool:
    return all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(tree) if _inexact(a))


def _identical(a: PyTree, b: PyTree) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(bool((x == y).all()) for x, y in pairs if _inexact(x))


def _scalar(tree: PyTree) -> Array:
    """Return a scalar that depends on every entry."""
    leaves = [a for a in jax.tree.leaves(tree) if _inexact(a)]
    return sum((jnp.sum(jnp.sin(a).real.astype(float)) for a in leaves), jnp.zeros(()))
