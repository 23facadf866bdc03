"""Argument checks, made before anything is traced, and every message that a user can meet.

A message names the argument as the caller wrote it, what was expected, what came, and the mend.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from rnnjax.array_typing import DTypeLike, PyTree
from rnnjax.placement import varying_axes


def describe(value: Any) -> str:
    """Name a cell or strategy by what differs from its defaults: ``LSTM(64)``.

    Example:
        >>> import rnnjax
        >>> describe(rnnjax.LSTM(64, forget_bias=0.0))
        'LSTM(64, forget_bias=0.0)'
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    shown = []
    for field in dataclasses.fields(value):
        entry = getattr(value, field.name)
        if field.default is dataclasses.MISSING and not field.kw_only:
            shown.append(_describe_entry(entry))
        elif entry != field.default and not _same_dtype(entry, field.default):
            shown.append(f"{field.name}={_describe_entry(entry)}")
    return f"{type(value).__name__}({', '.join(shown)})"


def _describe_entry(entry: Any) -> str:
    if isinstance(entry, tuple):
        return f"({', '.join(map(_describe_entry, entry))}{',' * (len(entry) == 1)})"
    if isinstance(entry, np.dtype):
        return entry.name
    return getattr(entry, "__name__", None) or describe(entry)


def _same_dtype(entry: Any, default: Any) -> bool:
    return isinstance(entry, np.dtype) and default is not None and entry == jnp.dtype(default)


# Hyperparameters of cells and strategies


def positive_int(owner: str, name: str, value: Any) -> None:
    """Refuse anything but an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{owner}: {name} must be an int; got {value!r}.")
    if value < 1:
        raise ValueError(f"{owner}: {name} must be at least 1; got {value}.")


def one_of(owner: str, name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse what is not one of some strings."""
    if not isinstance(value, str) or value not in allowed:
        words = " or ".join(f'"{each}"' for each in allowed)
        raise ValueError(f"{owner}: {name} must be {words}; got {value!r}.")


def boolean(owner: str, name: str, value: Any) -> None:
    """Refuse anything but True and False."""
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be True or False; got {value!r}.")


def number_or(owner: str, name: str, value: Any, kind: type) -> None:
    """Refuse anything but a number or an instance of ``kind``."""
    if not isinstance(value, int | float | kind):
        raise TypeError(f"{owner}: {name} must be a number or a {kind.__name__}; got {value!r}.")


def number(owner: str, name: str, value: Any) -> None:
    """Refuse anything but a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise TypeError(f"{owner}: {name} must be a finite number; got {value!r}.")


def positive_number(owner: str, name: str, value: Any) -> None:
    """Refuse anything but a finite number greater than zero."""
    number(owner, name, value)
    if value <= 0:
        raise ValueError(f"{owner}: {name} must be greater than zero; got {value!r}.")


def function(owner: str, name: str, value: Any) -> None:
    """Refuse anything that cannot be called."""
    if not callable(value):
        raise TypeError(f"{owner}: {name} must be a function; got {value!r}.")


def string(owner: str, name: str, value: Any) -> None:
    """Refuse anything but a string."""
    if not isinstance(value, str):
        raise TypeError(f"{owner}: {name} must be a string; got {value!r}.")


def key(owner: str, name: str, value: Any) -> None:
    """Refuse anything but one key of ``jax.random``."""
    shape = key_shape(owner, name, value)
    if shape:
        raise ValueError(f"{owner}: {name} must be one key; got keys of the shape {shape}.")


def key_shape(owner: str, name: str, value: Any) -> tuple[int, ...]:
    """Refuse anything but keys of ``jax.random``, typed or raw; return how many, () for one."""
    dtype = getattr(value, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != jnp.uint32:
        raise TypeError(
            f"{owner}: {name} must be a key of jax.random, jax.random.key(0); got {value!r}."
        )
    return value.shape if typed else value.shape[:-1]


def probability(owner: str, name: str, value: Any) -> None:
    """Refuse anything but a number in [0, 1)."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{owner}: {name} must be a probability in [0, 1); got {value!r}.")


def inexact_dtype(owner: str, name: str, dtype: DTypeLike | None) -> np.dtype | None:
    """Return the dtype in its one normal form; refuse one that is not floating or complex."""
    if dtype is None:
        return None
    normal = jnp.dtype(dtype)
    if not jnp.issubdtype(normal, jnp.inexact):
        raise TypeError(f"{owner}: {name} must be a floating-point dtype; got {normal}.")
    return normal


def features(owner: str, in_dim: Any) -> int:
    """Return D of an input of shape (D,), given as D, as (D,) or as a ``jax.ShapeDtypeStruct``."""
    shape = getattr(in_dim, "shape", in_dim)
    shape = shape if isinstance(shape, tuple) else (shape,)
    if len(shape) != 1:
        raise ValueError(
            f"{owner}.init: in_dim must be D, the number of input features; got {in_dim}."
        )
    positive_int(f"{owner}.init", "in_dim", shape[0])
    return int(shape[0])


def instance(owner: str, name: str, value: Any, kind: type, example: str) -> None:
    """Refuse a value that is not an instance of ``kind``: a class, a string, something else."""
    if isinstance(value, kind):
        return
    if isinstance(value, type) and issubclass(value, kind):
        got, mend = f"the class {value.__name__}", f"Make an instance of it: {example}."
    else:
        got, mend = repr(value), f"Pass {_a(kind)} such as {example}."
    raise TypeError(f"{owner}: {name} must be {_a(kind)}; got {got}. {mend}")


def _a(kind: type) -> str:
    """Name a kind with its article."""
    return f"{'an' if kind.__name__[0] in 'AEIO' else 'a'} {kind.__name__}"


# Arrays of a run. ``axes`` is what the arrays lead with: ("T", "B") in scan, ("B",) in step.


@dataclasses.dataclass(frozen=True)
class Axes:
    """The leading axes of a run and their sizes, in words for messages."""

    owner: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def of(self, *names: str) -> "Axes":
        """Keep the axes of these names."""
        kept = [(n, s) for n, s in zip(self.names, self.sizes, strict=True) if n in names]
        return Axes(self.owner, tuple(n for n, _ in kept), tuple(s for _, s in kept))

    def expected(self, row: Sequence[int | str] = ()) -> str:
        """Write the shape in symbols and numbers: ``(T, B, D) = (5, 2, 3)``."""
        letters = shape_text((*self.names, *_letters(len(row))))
        return f"{letters} = {shape_text((*self.sizes, *row))}"


def _letters(rank: int) -> tuple[str, ...]:
    return ("D",) if rank == 1 else tuple(f"D{k}" for k in range(1, rank + 1))


def shape_text(shape: Sequence[Any]) -> str:
    """Write a shape whose entries are numbers or letters: ``(T, B, 3)``."""
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


def _name(root: str, path: Any) -> str:
    return root + jax.tree_util.keystr(path)


def _leaves(root: str, tree: PyTree) -> list[tuple[str, Any]]:
    """List (name, abstract value) of each leaf, names as the caller would write them."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    try:
        return [(_name(root, path), jax.typeof(leaf)) for path, leaf in flat]
    except TypeError as error:
        raise TypeError(f"{root} must hold arrays only: {error}") from error


def inputs(owner: str, root: str, names: tuple[str, ...], cell: Any, params: Any, xs: Any) -> Axes:
    """Check the rank, width and kind of the inputs; return the leading axes with their sizes."""
    leaves = _leaves(f"{owner}: {root}", xs)
    if not leaves:
        raise ValueError(f"{owner}: {root} must hold at least one array; got {xs!r}.")
    wanted = _input_shapes(owner, cell, params)
    if wanted is None:
        rows = [() for _ in leaves]
        ranked = all(leaf.ndim >= len(names) for _, leaf in leaves)
    else:
        _same_structure(owner, root, wanted, xs)
        rows = [tuple(row.shape) for row in jax.tree.leaves(wanted)]
        _kinds(leaves, jax.tree.leaves(wanted), cell)
        ranked = all(
            leaf.ndim == len(names) + len(row) for (_, leaf), row in zip(leaves, rows, strict=True)
        )
    if not ranked:
        _wrong_rank(names, leaves, rows, cell)
    axes = Axes(owner, names, leaves[0][1].shape[: len(names)])
    for (name, leaf), row in zip(leaves, rows, strict=True):
        if leaf.shape[: len(names)] != axes.sizes:
            raise ValueError(
                f"{name} must lead with {axes.expected()} as the other inputs do; got {leaf.shape}."
            )
        if wanted is not None and leaf.shape[len(names) :] != row:
            raise ValueError(
                f"{name} must be {axes.expected(row)} for {describe(cell)} with these params; got "
                f"{leaf.shape}. Pass inputs of that width, or init params for the width you have."
            )
    return axes


def _input_shapes(owner: str, cell: Any, params: Any) -> PyTree | None:
    """Ask the cell what it reads; params of another cell show here first."""
    try:
        return cell.input_shapes(params)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{owner}: params must be what {describe(cell)}.init(key, in_dim) returns; these hold "
            f"{sorted(map(str, params))}: {type(error).__name__}: {error}."
        ) from error


def _wrong_rank(names: tuple[str, ...], leaves: list, rows: list, cell: Any) -> None:
    for (name, leaf), row in zip(leaves, rows, strict=True):
        rank = len(names) + len(row)
        if leaf.ndim == rank or (not row and leaf.ndim > rank):
            continue
        letters = shape_text((*names, *(row or ("…",))))
        missing = leaf.ndim == rank - 1
        variable = name.split(": ")[-1]
        index = "[:, None]" if names == ("T", "B") else "[None]"
        mend = f" Add a batch axis: {variable}{index}." if missing else ""
        raise ValueError(f"{name} must be {letters} for {describe(cell)}; got {leaf.shape}.{mend}")


def _kinds(leaves: list, wanted: list, cell: Any) -> None:
    for (name, leaf), row in zip(leaves, wanted, strict=True):
        if jnp.issubdtype(row.dtype, jnp.inexact) and not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"{name} must be floating point for {describe(cell)}; got {leaf.dtype}. Embed or "
                f"one-hot encode symbols (flax.linen.Embed, jax.nn.one_hot); cast numbers with "
                f".astype(jnp.float32)."
            )
        if _kind_of(leaf) == "complex" != _kind_of(row):
            raise TypeError(
                f"{name} must be real for {describe(cell)}; got {leaf.dtype}. Pass real and "
                f"imaginary parts as features of their own."
            )


def _same_structure(owner: str, root: str, wanted: PyTree, got: PyTree) -> None:
    want, have = jax.tree.structure(wanted), jax.tree.structure(got)
    if want != have:
        raise ValueError(f"{owner}: {root} must have the structure {want}; got {have}.")


def _array(name: str, value: Any) -> tuple[str, Any]:
    """Return (name, abstract value) of what must be one array and no list of numbers."""
    leaves = _leaves(name, value)
    if len(leaves) != 1 or leaves[0][0] != name:
        raise TypeError(f"{name} must be one array; got {value!r}. Write jnp.array(…).")
    return leaves[0]


def keys(root: str, key: Any, axes: Axes) -> None:
    """Check the keys of ``Keyed`` inputs: one a step and row."""
    name, leaf = _array(f"{axes.owner}: {root}.key", key)
    typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    if not typed and leaf.dtype != jnp.uint32:
        raise TypeError(f"{name} must hold keys of jax.random; got {leaf.dtype}.")
    shape = leaf.shape if typed else leaf.shape[:-1]
    if shape != axes.sizes:
        raise ValueError(
            f"{name} must hold one key each for {axes.expected()}; got {shape}. Write "
            f"rnnjax.Keyed({root}, jax.random.split(key, {axes.sizes}))."
        )


def booleans(name: str, value: Any, axes: Axes) -> None:
    """Check that a mask or resets are boolean with exactly the leading axes."""
    if value is None:
        return
    name, leaf = _array(f"{axes.owner}: {name}", value)
    if leaf.dtype != jnp.bool_:
        raise TypeError(
            f"{name} must be boolean; got {leaf.dtype}. Write {name.split(': ')[-1]} != 0."
        )
    if leaf.shape != axes.sizes:
        raise ValueError(f"{name} must be {axes.expected()}; got {leaf.shape}.")


def lengths(value: Any, axes: Axes) -> None:
    """Check lengths: integers (B,), and where their values are at hand, within 0…T, or 0…S."""
    if value is None:
        return
    name, leaf = _array(f"{axes.owner}: lengths", value)
    if not jnp.issubdtype(leaf.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers; got {leaf.dtype}.")
    batch = axes.of("B")
    if leaf.shape != batch.sizes:
        raise ValueError(f"{name} must be {batch.expected()}; got {leaf.shape}.")
    if isinstance(value, jax.core.Tracer):
        return
    wrong = [int(n) for n in np.asarray(value) if not 0 <= n <= axes.sizes[0]]
    if wrong:
        limit = f"0…{axes.names[0]} = {axes.sizes[0]}"
        raise ValueError(f"{name} must be within {limit}; got {wrong[0]}.")


def sharded_sequence(name: str, xs: PyTree, carry: PyTree, axes: Axes) -> Axes:
    """Check that the sequence lies in parts along a mesh axis; return the axes of the whole."""
    owner = f"{axes.owner}: a strategy with axis_name={name!r}"
    try:
        size, index = jax.lax.axis_size(name), jax.lax.axis_index(name)
    except NameError as error:
        raise ValueError(
            f"{owner} must run inside of jax.shard_map over a mesh that has the axis {name!r}; "
            f"there is none here. Without axis_name, it takes xs to be the whole sequence."
        ) from error
    if name not in varying_axes(index):
        raise ValueError(
            f"{owner} must run inside of jax.shard_map with check_vma=True, its default: it needs "
            f"to know what varies over {name!r}."
        )
    if name not in varying_axes(xs):
        raise ValueError(
            f"{owner} needs xs that are sharded over that axis; they are the same on all its "
            f"devices. Write jax.P({name!r}) for them in in_specs."
        )
    if name in varying_axes(carry):
        raise ValueError(
            f"{owner} needs a carry that is the same on all devices of that axis; it varies. "
            f"Write jax.P() for it in in_specs, without {name!r}."
        )
    return dataclasses.replace(axes, sizes=(axes.sizes[0] * size, *axes.sizes[1:]))


def one_sequence_axis(owner: str, names: Sequence[str | None]) -> None:
    """Refuse layers that take the same sequence to be sharded in different ways."""
    if len(names) > 1:
        raise ValueError(
            f"{owner}: the strategies of all layers must have the same axis_name; got "
            f"{', '.join(map(repr, names))}."
        )


def params(owner: str, cell: Any, value: Any) -> None:
    """Check that params are a dict that leaves the name ``context`` free."""
    if not isinstance(value, dict):
        raise TypeError(
            f"{owner}: params must be the dict that {describe(cell)}.init(key, in_dim) returns; "
            f"got {type(value).__name__}. A FrozenDict of Flax has .unfreeze()."
        )
    if "context" in value:
        raise ValueError(
            f'{owner}: params must not hold the entry "context"; pass it as context=… instead.'
        )
    _leaves(f"{owner}: params", value)


def context(cell: Any, value: Any, axes: Axes) -> None:
    """Check that the context has what the cell reads, with the batch axis in front."""
    wanted = cell.context_shapes()
    if value is None and not wanted:
        return
    batch = axes.of("B")
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise TypeError(f"{axes.owner}: context must be a dict; got {type(value).__name__}.")
    for name in wanted:
        if name not in value:
            raise ValueError(
                f"{axes.owner}: context must hold {name!r}, which {describe(cell)} reads; got "
                f"{sorted(value)}."
            )
    for name, leaf in _leaves(f"{axes.owner}: context", value):
        if leaf.shape[:1] != batch.sizes:
            raise ValueError(
                f"{name} must lead with the batch axis {batch.expected()}; got {leaf.shape}. "
                f"One for all rows: jnp.broadcast_to(a, (B, *a.shape))."
            )
    for name, shapes in wanted.items():
        _same_structure(axes.owner, f"context[{name!r}]", shapes, value[name])
        found = _leaves(f"{axes.owner}: context[{name!r}]", value[name])
        for (leaf_name, leaf), row in zip(found, jax.tree.leaves(shapes), strict=True):
            if leaf.ndim != 1 + len(row.shape):
                raise ValueError(
                    f"{leaf_name} must have the batch axis and {len(row.shape)} more for "
                    f"{describe(cell)}; got {leaf.shape}."
                )
            if _kind_of(leaf) != _kind_of(row):
                raise TypeError(
                    f"{leaf_name} must be {_kind_of(row)} for {describe(cell)}; got {leaf.dtype}."
                )


def memory(owner: str, root: str, value: Any, features: int) -> Axes:
    """Check a memory of this many features: (S, B, M), floating point; return (S, B)."""
    name, leaf = _array(f"{owner}: {root}", value)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point; got {leaf.dtype}.")
    if leaf.ndim != 3 or leaf.shape[2] != features or not leaf.shape[0]:
        raise ValueError(
            f"{name} must be (S, B, M) = (S, B, {features}), S at least 1, as scan returns "
            f"outputs; got {leaf.shape}."
        )
    return Axes(owner, ("S", "B"), leaf.shape[:2])


def _kind_of(leaf: Any) -> str:
    """Name what may not stand in for another: boolean, integer, floating point or complex."""
    kinds = {"boolean": jnp.bool_, "integer": jnp.integer, "floating point": jnp.floating}
    return next((k for k, dtype in kinds.items() if jnp.issubdtype(leaf.dtype, dtype)), "complex")


def carry(cell: Any, wanted: PyTree, value: Any, axes: Axes) -> None:
    """Check a carry handed in against the initial carry of one row, leaf by leaf."""
    if value is None:
        return
    batch = axes.of("B")
    _same_structure(axes.owner, "carry", wanted, value)
    for (name, leaf), row in zip(
        _leaves(f"{axes.owner}: carry", value), jax.tree.leaves(wanted), strict=True
    ):
        shape = (*batch.sizes, *row.shape)
        if leaf.shape != shape:
            raise ValueError(
                f"{name} must be {shape}, batch first, for {describe(cell)}; got {leaf.shape}."
            )
        if leaf.dtype != row.dtype:
            raise TypeError(
                f"{name} must be {row.dtype} for {describe(cell)}; got {leaf.dtype}. A carry is "
                f"kept in at least float32, whatever the compute dtype: .astype({row.dtype})."
            )


def preserved(owner: str, cell: Any, before: PyTree, after: PyTree) -> None:
    """Check that a step returns the carry that it was given: structure, shapes and dtypes."""
    want, have = jax.tree.structure(before), jax.tree.structure(after)
    if want != have:
        raise TypeError(
            f"{owner}: {describe(cell)}.step must return a carry of the structure of "
            f"initial_carry, {want}; got {have}."
        )
    for (name, leaf), new in zip(_leaves("carry", before), jax.tree.leaves(after), strict=True):
        if (leaf.shape, leaf.dtype) != (new.shape, new.dtype):
            raise TypeError(
                f"{owner}: {describe(cell)}.step must keep {name} "
                f"{leaf.dtype}{list(leaf.shape)}, as initial_carry makes it; it returned "
                f"{new.dtype}{list(new.shape)}."
            )


def untraceable(
    owner: str, axes: tuple[str, ...], cell: Any, row: PyTree, error: Exception
) -> Exception:
    """Wrap what a cell raised while one step of one row was traced."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    shapes = jax.tree.map(lambda a: (*a.shape, a.dtype.name), row, is_leaf=_has_shape)
    return kind(
        f"{owner}: {describe(cell)} cannot take one step with these params on one row of the "
        f"inputs, {shapes}: {type(error).__name__}: {error}. The axes {', '.join(axes)} come "
        f"first in the inputs; params are what {describe(cell)}.init(key, in_dim) returned."
    )


def _has_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def hashable(owner: str, cell: Any) -> None:
    """Refuse a cell that cannot be the key of a compiled program."""
    try:
        hash(cell)
    except TypeError as error:
        raise TypeError(
            f"{owner}: cell must hash by value; {type(cell).__name__} does not: {error}. Its "
            f"fields must be hashable: tuples for lists; arrays belong in params."
        ) from error


def strategy_per_layer(owner: str, cell: Any, cells: Any, strategies: tuple) -> None:
    """Refuse a tuple of strategies that does not give each layer of a stack one."""
    if cells is None:
        raise TypeError(
            f"{owner}: a tuple of strategies is for a Stack; {describe(cell)} takes one strategy."
        )
    if len(strategies) != len(cells):
        raise ValueError(
            f"{owner}: strategy must hold one strategy for each of the {len(cells)} layers of "
            f"{describe(cell)}; got {len(strategies)}."
        )


class Refusal(ValueError):
    """A strategy cannot run a cell."""


def refused(owner: str, cell: Any, strategy: Any, reason: str | None) -> None:
    """Refuse a strategy that cannot run the cell, with the reason that it gives."""
    if reason is not None:
        raise refusal(owner, cell, strategy, reason)


def refusal(owner: str, cell: Any, strategy: Any, reason: str) -> Refusal:
    """Return the error of a strategy that cannot run a cell."""
    return Refusal(f"{owner}: {describe(strategy)} cannot run {describe(cell)}: {reason}")


def as_shapes(in_dim: Any) -> PyTree:
    """Return ``in_dim``, an int, a shape or a pytree of shapes, as ``jax.ShapeDtypeStruct``s."""
    if isinstance(in_dim, int | np.integer):
        in_dim = (int(in_dim),)
    if isinstance(in_dim, tuple) and all(isinstance(n, int | np.integer) for n in in_dim):
        return jax.ShapeDtypeStruct(in_dim, jnp.float32)
    return in_dim


def same_shapes(owner: str, name: str, a: PyTree, other: str, b: PyTree) -> None:
    """Refuse two pytrees whose leaves differ in shape."""
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{owner}: {name} must have the shape of {other}, {shapes[1]}; got {shapes[0]}."
        )


# Arguments of functions that step through a batch on their own


def array(owner: str, name: str, value: Any) -> Any:
    """Check that a value is one array and no list of numbers; return its abstract value."""
    return _array(f"{owner}: {name}", value)[1]


def integers(owner: str, name: str, value: Any) -> tuple[int, ...]:
    """Check that a value is one array of integers; return its shape."""
    name, leaf = _array(f"{owner}: {name}", value)
    if not jnp.issubdtype(leaf.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers; got {leaf.dtype}.")
    return leaf.shape


def leading_batch(owner: str, root: str, tree: PyTree, batch: int) -> None:
    """Check that every leaf of a pytree leads with the batch axis."""
    for name, leaf in _leaves(f"{owner}: {root}", tree):
        if leaf.shape[:1] != (batch,):
            raise ValueError(
                f"{name} must lead with the batch axis (B,) = ({batch},); got {leaf.shape}. One "
                f"for all rows: jnp.broadcast_to(a, (B, *a.shape))."
            )


def returned(owner: str, function_name: str, root: str, before: PyTree, after: PyTree) -> None:
    """Check that a function returns what it was given: structure, shapes and dtypes."""
    want, have = jax.tree.structure(before), jax.tree.structure(after)
    if want != have:
        raise TypeError(
            f"{owner}: {function_name} must return a {root} of the structure that it is given, "
            f"{want}; got {have}."
        )
    pairs = zip(_leaves(root, before), jax.tree.leaves(after), strict=True)
    for (name, leaf), new in pairs:
        if (leaf.shape, leaf.dtype) != (new.shape, new.dtype):
            raise TypeError(
                f"{owner}: {function_name} must keep {name} {leaf.dtype}{list(leaf.shape)}; it "
                f"returned {new.dtype}{list(new.shape)}. Pass and return it in one shape and dtype."
            )
