"""What all formats share: tensors checked by name and shape, gates put into another order."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rnnjax import checks
from rnnjax.array_typing import Params
from rnnjax.cell import Cell
from rnnjax.cells.gru import GRU, GRUResetBefore
from rnnjax.cells.lstm import ProjectedLSTM

Tensor = Any
"""A NumPy array, or a traced one, so that conversions can be differentiated."""


class Dense(NamedTuple):
    """The dense weights that every format stores in some way, all gates in one matrix."""

    kernel: Tensor  # (D, G·N)
    recurrent_kernel: Tensor  # (N, G·N), with a projection (P, G·N)
    bias: Tensor  # (G·N,), added to the input's product
    recurrent_bias: Tensor  # (G·N,), added to the recurrent product
    projection: Tensor | None = None  # (N, P), of the hidden vector


class Format(NamedTuple):
    """A peer's name, and its gates, in its order, of each cell that it has."""

    peer: str
    orders: dict[type[Cell], str]


def gates(owner: str, cell: Any, form: Format) -> str:
    """Return the gates in the peer's order; refuse a cell that the peer does not have."""
    checks.instance(owner, "cell", cell, Cell, "rnnjax.LSTM(64)")
    if type(cell) in form.orders:
        return form.orders[type(cell)]
    known = ", ".join(sorted(kind.__name__ for kind in form.orders))
    raise ValueError(
        f"{owner}: cell must be one of {known} for weights of {form.peer}; got "
        f"{checks.describe(cell)}.{_mend(cell, form)}"
    )


def _mend(cell: Cell, form: Format) -> str:
    if isinstance(cell, GRUResetBefore) and GRU in form.orders:
        return f" {form.peer} applies the reset gate after the product: rnnjax.GRU({cell.size})."
    if isinstance(cell, GRU) and GRUResetBefore in form.orders:
        return (
            f" {form.peer} applies the reset gate before the product: "
            f"rnnjax.GRUResetBefore({cell.size})."
        )
    return " Weights of a wrapped cell are those of the cell inside."


def mapping(owner: str, root: str, tensors: Any) -> None:
    """Refuse anything but tensors by name."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"{owner}: {root} must be a dict of arrays; got {type(tensors).__name__}.")


def take(
    owner: str, root: str, cell: Cell, tensors: Any, shapes: Mapping[str, tuple]
) -> dict[str, Tensor]:
    """Return the tensors of exactly these names and shapes; a word in a shape, "D", is any size.

    Raises:
        TypeError: when they are no mapping, or one is not floating point.
        ValueError: naming the first that is missing, superfluous or of another shape.
    """
    mapping(owner, root, tensors)
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(
                f"{owner}: {root} must hold {name!r} of the shape {checks.shape_text(shape)} for "
                f"{checks.describe(cell)}; it holds {sorted(map(str, tensors))}."
            )
    for name in tensors:
        if name not in shapes:
            raise ValueError(
                f"{owner}: {root} must hold nothing but {sorted(shapes)} for "
                f"{checks.describe(cell)}; got {name!r} too."
            )
    return {
        name: tensor(f"{owner}: {root}[{name!r}]", cell, tensors[name], shape)
        for name, shape in shapes.items()
    }


def tensor(name: str, cell: Cell, value: Any, shape: tuple) -> Tensor:
    """Return one tensor as an array; refuse another shape and what is not floating point."""
    array = value if isinstance(value, Tracer) else np.asarray(value)
    if not _fits(array.shape, shape):
        raise ValueError(
            f"{name} must be {checks.shape_text(shape)} for {checks.describe(cell)}; got "
            f"{array.shape}."
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point; got {array.dtype}.")
    return array


def _fits(shape: tuple, wanted: tuple) -> bool:
    if len(shape) != len(wanted):
        return False
    pairs = zip(shape, wanted, strict=True)
    return all(isinstance(want, str) or size == want for size, want in pairs)


def hidden_size(cell: Any) -> int:
    """Return the size of the hidden vector: N, or P of a projection."""
    return cell.projection if isinstance(cell, ProjectedLSTM) else cell.size


def to_params(cell: Any, dense: Dense, order: str) -> Params:
    """Return the params of a cell from dense weights whose gates stand in this order."""
    kernel, recurrent_kernel, bias, recurrent_bias = (
        reorder(a, order, cell.gate_order) for a in dense[:4]
    )
    params = {"w_x": kernel, "w_h": recurrent_kernel}
    if dense.projection is not None:
        params["w_p"] = dense.projection
    if isinstance(cell, GRU):
        gates = 2 * cell.size  # r and z; the recurrent bias of n stands inside r ⊙ (…).
        params["b"] = join([bias[:gates] + recurrent_bias[:gates], bias[gates:]])
        params["b_hn"] = recurrent_bias[gates:]
    else:
        params["b"] = bias + recurrent_bias
    # Copied, because a NumPy array may be changed by its owner.
    return {name: jnp.array(a) for name, a in params.items()}


def from_params(owner: str, cell: Any, params: Params, order: str) -> Dense:
    """Return a cell's params as dense weights whose gates stand in this order."""
    n, ours = cell.size, cell.gate_order
    width = n * len(ours)
    shapes = {"w_x": ("D", width), "w_h": (hidden_size(cell), width), "b": (width,)}
    if isinstance(cell, GRU):
        shapes["b_hn"] = (n,)
    if isinstance(cell, ProjectedLSTM):
        shapes["w_p"] = (n, cell.projection)
    p = take(owner, "params", cell, params, shapes)
    recurrent_bias = np.zeros_like(p["b"])
    if isinstance(cell, GRU):
        recurrent_bias[2 * n :] = p["b_hn"]
    gated = (p["w_x"], p["w_h"], p["b"], recurrent_bias)
    return Dense(*(reorder(a, ours, order) for a in gated), projection=p.get("w_p"))


def contiguous(tree: Any) -> Any:
    """Return NumPy arrays of their own, stored row by row, as safetensors takes for granted."""
    if isinstance(tree, dict):
        return {name: contiguous(entry) for name, entry in tree.items()}
    if isinstance(tree, list):
        return [contiguous(entry) for entry in tree]
    return np.array(tree, order="C")


def no_bias(owner: str, dense: Dense) -> None:
    """Refuse to leave out biases that are not zero."""
    if dense.bias.any() or dense.recurrent_bias.any():
        raise ValueError(
            f"{owner}: bias must be True for params whose b or b_hn is not zero; got False."
        )


def reorder(a: Tensor, order: str, wanted: str) -> Tensor:
    """Put the gates along the last axis into another order."""
    if order == wanted:
        return a
    blocks = split(a, order)
    return join([blocks[gate] for gate in wanted])


def split(a: Tensor, order: str) -> dict[str, Tensor]:
    """Return the blocks of the last axis by the name of their gate."""
    n = a.shape[-1] // len(order)
    return {gate: a[..., k * n : (k + 1) * n] for k, gate in enumerate(order)}


def join(blocks: Iterable[Tensor]) -> Tensor:
    """Concatenate along the last axis; in NumPy, which compiles nothing, where none is traced."""
    blocks = list(blocks)
    traced = any(isinstance(block, Tracer) for block in blocks)
    return (jnp if traced else np).concatenate(blocks, axis=-1)


def flatten(tree: Mapping) -> dict[str, Any]:
    """Return the leaves of nested mappings by their names, joined with dots."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[str(name)] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dicts from names joined with dots."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *outer, last = path.split(".")
        inner = tree
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = leaf
    return tree
