"""Weights of Keras' ``SimpleRNN``, ``LSTM`` and ``GRU``, as ``get_weights()`` gives them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnjax.array_typing import Params
from rnnjax.cell import Cell
from rnnjax.cells.elman import Elman
from rnnjax.cells.gru import GRU, GRUResetBefore
from rnnjax.cells.lstm import LSTM
from rnnjax.checks import describe
from rnnjax.interop.weights import (
    Dense,
    Format,
    contiguous,
    from_params,
    gates,
    no_bias,
    take,
    to_params,
)

KERAS = Format("Keras", {Elman: "h", LSTM: "ifgo", GRU: "zrn", GRUResetBefore: "zrn"})


def from_keras(cell: Cell, weights: Sequence[Any]) -> Params:
    """Return the params of a cell from the weights of a Keras layer.

    The kernels are used as they are; a GRU's gates z, r, n become r, z, n. A GRU with
    ``reset_after=True``, Keras' default, is ``GRU``, and its bias (2, 3N) becomes b and b_hn; one
    with ``reset_after=False`` is ``GRUResetBefore``. The map is linear and differentiable.

    Args:
        cell: ``Elman`` for ``SimpleRNN``, ``LSTM``, ``GRU`` or ``GRUResetBefore``.
        weights: ``layer.get_weights()``: the kernel, the recurrent kernel and, but for
            ``use_bias=False``, the bias. Of a ``Bidirectional`` layer the first half is that of
            the layer that runs forwards.

    Returns:
        What ``cell.init`` returns, in the dtypes of the weights.

    Raises:
        TypeError: when ``weights`` is no list of floating-point arrays.
        ValueError: when their number or a shape is another, or they are those of a GRU of the
            other reset form.

    Example:
        >>> import numpy as np, rnnjax
        >>> weights = [np.ones(shape, "float32") for shape in ((3, 24), (8, 24), (2, 24))]
        >>> params = rnnjax.interop.from_keras(rnnjax.GRU(8), weights)
        >>> params["b"].tolist() == [2.0] * 16 + [1.0] * 8
        True
    """
    order = gates("from_keras", cell, KERAS)
    if not isinstance(weights, list | tuple):
        raise TypeError(
            f"from_keras: weights must be the list that layer.get_weights() returns; got "
            f"{type(weights).__name__}."
        )
    if len(weights) not in (2, 3):
        raise ValueError(
            f"from_keras: weights must hold the kernel, the recurrent kernel and perhaps the bias; "
            f"got {len(weights)} arrays."
        )
    _check_reset_form(cell, weights)
    shapes = _shapes(cell, order)
    named = dict(zip(shapes, weights, strict=False))
    taken = take("from_keras", "weights", cell, named, {name: shapes[name] for name in named})
    kernel, recurrent_kernel = taken["kernel"], taken["recurrent_kernel"]
    zero = np.zeros(kernel.shape[1], kernel.dtype)
    bias = taken.get("bias", zero)
    biases = (bias, zero) if bias.ndim == 1 else (bias[0], bias[1])
    return to_params(cell, Dense(kernel, recurrent_kernel, *biases), order)


def to_keras(cell: Cell, params: Params, *, bias: bool = True) -> list[np.ndarray]:
    """Return the weights that ``layer.set_weights`` takes: the inverse of ``from_keras``.

    Params come back exactly. Of a GRU with ``reset_after=True`` b_hn becomes the n block of the
    second bias, whose other blocks are zero.

    Args:
        cell: as in ``from_keras``.
        params: its params.
        bias: False leaves out the bias, for a layer with ``use_bias=False``; it must be zero.

    Returns:
        The kernel, the recurrent kernel and the bias, as NumPy arrays.

    Raises:
        TypeError: when params are no dict of floating-point arrays.
        ValueError: when they are not those of the cell, Keras has no such cell, or a bias that
            would be left out is not zero.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GRU(8)
        >>> weights = rnnjax.interop.to_keras(cell, cell.init(jax.random.key(0), 3))
        >>> [array.shape for array in weights]
        [(3, 24), (8, 24), (2, 24)]
    """
    order = gates("to_keras", cell, KERAS)
    dense = from_params("to_keras", cell, params, order)
    weights = [dense.kernel, dense.recurrent_kernel]
    if not bias:
        no_bias("to_keras", dense)
        return contiguous(weights)
    both = np.stack([dense.bias, dense.recurrent_bias])
    return contiguous([*weights, both if isinstance(cell, GRU) else dense.bias])


def _shapes(cell: Any, order: str) -> dict[str, tuple]:
    width = cell.size * len(order)
    bias = (2, width) if isinstance(cell, GRU) else (width,)
    return {"kernel": ("D", width), "recurrent_kernel": (cell.size, width), "bias": bias}


def _check_reset_form(cell: Any, weights: Sequence[Any]) -> None:
    """Refuse the weights of a GRU of the other reset form; only the bias tells."""
    if len(weights) < 3 or not isinstance(cell, GRU | GRUResetBefore):
        return
    after = np.ndim(weights[2]) == 2
    if after != isinstance(cell, GRU):
        other = f"rnnjax.{'GRU' if after else 'GRUResetBefore'}({cell.size})"
        raise ValueError(
            f"from_keras: weights must be those of a GRU with reset_after={not after} for "
            f"{describe(cell)}; the bias {np.shape(weights[2])} is that of reset_after={after}. "
            f"Use {other}."
        )
