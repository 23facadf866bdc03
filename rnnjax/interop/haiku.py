"""Weights of Haiku's ``VanillaRNN``, ``LSTM`` and ``GRU``, as its dicts of dicts of arrays."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rnnjax.array_typing import Params
from rnnjax.cell import Cell
from rnnjax.cells.elman import Elman
from rnnjax.cells.gru import GRUResetBefore
from rnnjax.cells.lstm import LSTM
from rnnjax.checks import describe
from rnnjax.interop.weights import (
    Dense,
    Format,
    Tensor,
    contiguous,
    flatten,
    from_params,
    gates,
    join,
    mapping,
    split,
    take,
    to_params,
    unflatten,
)

HAIKU = Format("Haiku", {Elman: "h", LSTM: "igfo", GRUResetBefore: "zrn"})
NAMES = {Elman: "vanilla_rnn", LSTM: "lstm", GRUResetBefore: "gru"}


def from_haiku(cell: Cell, weights: Mapping[str, Any], name: str | None = None) -> Params:
    """Return the params of a cell from those of a Haiku core.

    ``LSTM`` has one kernel over (x, h) with the gates i, g, f, o, and its step adds 1 to the forget
    gate, which goes into b here. ``GRU`` has the gates z, r, n with the reset gate before the
    product, and keeps h where z is 0: as σ(−a) = 1 − σ(a), its z block changes its sign.
    ``VanillaRNN`` has the activation relu and two biases, which are added. The map is affine and
    differentiable.

    Args:
        cell: ``Elman`` with ``activation=jax.nn.relu``, ``LSTM`` or ``GRUResetBefore``.
        weights: what ``init`` of the transformed function returns; the entries of other modules
            are left alone.
        name: the name of the core; None: Haiku's own, ``"lstm"``, ``"gru"`` or ``"vanilla_rnn"``.

    Returns:
        What ``cell.init`` returns, in the dtypes of the weights.

    Raises:
        TypeError: when ``weights`` is no dict of floating-point arrays.
        ValueError: when one is missing, superfluous or of another shape, or Haiku has no such cell.

    Example:
        >>> import numpy as np, rnnjax
        >>> linear = {"w": np.ones((3 + 8, 32), "float32"), "b": np.zeros(32, "float32")}
        >>> params = rnnjax.interop.from_haiku(rnnjax.LSTM(8), {"lstm/linear": linear})
        >>> params["w_x"].shape, params["b"][8:16].tolist() == [1.0] * 8
        ((3, 32), True)
    """
    order = _order("from_haiku", cell)
    mapping("from_haiku", "weights", weights)
    name = NAMES[type(cell)] if name is None else name
    own = {k: v for k, v in weights.items() if k == name or str(k).startswith(f"{name}/")}
    flat = flatten(own or weights)
    double_bias = f"{name}/linear_1.b" in flat
    shapes = _shapes(cell, order, name, double_bias)
    w = list(take("from_haiku", "weights", cell, flat, shapes).values())
    if isinstance(cell, LSTM):
        (kernels, bias), d = w, w[0].shape[0] - cell.size
        kernel, recurrent_kernel = kernels[:d], kernels[d:]
        bias = _on_gate(bias, order, "f", lambda b: b + np.ones(b.shape, b.dtype))
    elif isinstance(cell, GRUResetBefore):
        kernel, recurrent_kernel, bias = (_on_gate(a, order, "z", operator.neg) for a in w)
    else:
        kernel, bias, recurrent_kernel = w[:3]
    zero = np.zeros(bias.shape, bias.dtype)
    dense = Dense(kernel, recurrent_kernel, bias, w[3] if double_bias else zero)
    return to_params(cell, dense, order)


def to_haiku(
    cell: Cell, params: Params, name: str | None = None, *, double_bias: bool = True
) -> dict[str, dict[str, np.ndarray]]:
    """Return the params of a Haiku core: the inverse of ``from_haiku``.

    Params come back exactly, but for the forget block of an LSTM's b, from which 1 is taken and
    to which it is added: that is rounded.

    Args:
        cell: as in ``from_haiku``.
        params: its params.
        name: the name of the core; None: Haiku's own.
        double_bias: for ``VanillaRNN``: its option of that name; the second bias is zero.

    Returns:
        Dicts of dicts of NumPy arrays.

    Raises:
        TypeError: when params are no dict of floating-point arrays.
        ValueError: when they are not those of the cell, or Haiku has no such cell.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GRUResetBefore(8)
        >>> weights = rnnjax.interop.to_haiku(cell, cell.init(jax.random.key(0), 3))
        >>> {name: array.shape for name, array in weights["gru"].items()}
        {'w_i': (3, 24), 'w_h': (8, 24), 'b': (24,)}
    """
    order = _order("to_haiku", cell)
    name = NAMES[type(cell)] if name is None else name
    kernel, recurrent_kernel, bias, zero, _ = from_params("to_haiku", cell, params, order)
    if isinstance(cell, LSTM):
        bias = _on_gate(bias, order, "f", lambda b: b - np.ones(b.shape, b.dtype))
        arrays = [np.concatenate([kernel, recurrent_kernel]), bias]
    elif isinstance(cell, GRUResetBefore):
        arrays = [_on_gate(a, order, "z", operator.neg) for a in (kernel, recurrent_kernel, bias)]
    else:
        arrays = [kernel, bias, recurrent_kernel, zero][: 3 + double_bias]
    names = _shapes(cell, order, name, double_bias)
    return contiguous(unflatten(dict(zip(names, arrays, strict=True))))


def _order(owner: str, cell: Cell) -> str:
    order = gates(owner, cell, HAIKU)
    if isinstance(cell, Elman) and cell.activation is not jax.nn.relu:
        raise ValueError(
            f"{owner}: cell must have the activation of Haiku's VanillaRNN, "
            f"rnnjax.Elman({cell.size}, activation=jax.nn.relu); got {describe(cell)}."
        )
    return order


def _shapes(cell: Any, order: str, name: str, double_bias: bool) -> dict[str, tuple]:
    n, width = cell.size, cell.size * len(order)
    if isinstance(cell, LSTM):
        return {f"{name}/linear.w": (f"D + {n}", width), f"{name}/linear.b": (width,)}
    if isinstance(cell, GRUResetBefore):
        return {f"{name}.w_i": ("D", width), f"{name}.w_h": (n, width), f"{name}.b": (width,)}
    second = {f"{name}/linear_1.b": (n,)} if double_bias else {}
    first = {f"{name}/linear.w": ("D", n), f"{name}/linear.b": (n,)}
    return first | {f"{name}/linear_1.w": (n, n)} | second


def _on_gate(a: Tensor, order: str, gate: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the array with the block of one gate changed."""
    blocks = split(a, order)
    return join(change(block) if g == gate else block for g, block in blocks.items())
