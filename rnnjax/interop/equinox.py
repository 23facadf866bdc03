"""Weights of Equinox's ``LSTMCell`` and ``GRUCell``, as dicts of arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnjax.array_typing import Params
from rnnjax.cell import Cell
from rnnjax.cells.gru import GRU
from rnnjax.cells.lstm import LSTM
from rnnjax.interop.weights import (
    Dense,
    Format,
    contiguous,
    from_params,
    gates,
    join,
    mapping,
    no_bias,
    take,
    to_params,
)

EQUINOX = Format("Equinox", {LSTM: "ifgo", GRU: "rzn"})
SETTINGS = {"input_size", "hidden_size", "use_bias"}


def from_equinox(cell: Cell, weights: Mapping[str, Any]) -> Params:
    """Return the params of a cell from those of an Equinox cell.

    The kernels are transposed; ``bias_n`` is b_hn. Without biases (``use_bias=False``) b is zero.
    The map is linear and differentiable.

    Args:
        cell: ``LSTM`` or ``GRU``.
        weights: ``vars(module)``, whose settings and entries of None are left out.

    Returns:
        What ``cell.init`` returns, in the dtypes of the weights.

    Raises:
        TypeError: when ``weights`` is no dict of floating-point arrays.
        ValueError: when one is missing, superfluous or of another shape, or Equinox has no such
            cell.

    Example:
        >>> import numpy as np, rnnjax
        >>> shapes = {"weight_ih": (24, 3), "weight_hh": (24, 8), "bias": (24,), "bias_n": (8,)}
        >>> weights = {name: np.ones(shape, "float32") for name, shape in shapes.items()}
        >>> rnnjax.interop.from_equinox(rnnjax.GRU(8), weights)["b_hn"].shape
        (8,)
    """
    order = gates("from_equinox", cell, EQUINOX)
    mapping("from_equinox", "weights", weights)
    weights = {k: v for k, v in weights.items() if k not in SETTINGS and v is not None}
    bias = any(str(name).startswith("bias") for name in weights)
    w = take("from_equinox", "weights", cell, weights, _shapes(cell, order, bias))
    kernel = w["weight_ih"].T
    zero = np.zeros(kernel.shape[1], kernel.dtype)
    recurrent_bias = join([zero[len(w["bias_n"]) :], w["bias_n"]]) if "bias_n" in w else zero
    dense = Dense(kernel, w["weight_hh"].T, w.get("bias", zero), recurrent_bias)
    return to_params(cell, dense, order)


def to_equinox(cell: Cell, params: Params, *, bias: bool = True) -> dict[str, np.ndarray]:
    """Return the params of an Equinox cell: the inverse of ``from_equinox``, exact.

    ``equinox.tree_at(lambda c: [getattr(c, name) for name in weights], module,
    list(weights.values()))`` puts them into the module.

    Args:
        cell: as in ``from_equinox``.
        params: its params.
        bias: False leaves out the biases, for a module with ``use_bias=False``; they must be zero.

    Returns:
        The weights by name, as NumPy arrays.

    Raises:
        TypeError: when params are no dict of floating-point arrays.
        ValueError: when they are not those of the cell, Equinox has no such cell, or a bias that
            would be left out is not zero.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LSTM(8)
        >>> weights = rnnjax.interop.to_equinox(cell, cell.init(jax.random.key(0), 3))
        >>> {name: array.shape for name, array in weights.items()}
        {'weight_ih': (32, 3), 'weight_hh': (32, 8), 'bias': (32,)}
    """
    order = gates("to_equinox", cell, EQUINOX)
    dense = from_params("to_equinox", cell, params, order)
    weights = {"weight_ih": dense.kernel.T, "weight_hh": dense.recurrent_kernel.T}
    if not bias:
        no_bias("to_equinox", dense)
        return contiguous(weights)
    weights["bias"] = dense.bias
    if isinstance(cell, GRU):
        weights["bias_n"] = dense.recurrent_bias[-cell.size :]
    return contiguous(weights)


def _shapes(cell: Any, order: str, bias: bool) -> dict[str, tuple]:
    rows = cell.size * len(order)
    shapes: dict[str, tuple] = {"weight_ih": (rows, "D"), "weight_hh": (rows, cell.size)}
    if not bias:
        return shapes
    return shapes | {"bias": (rows,)} | ({"bias_n": (cell.size,)} if isinstance(cell, GRU) else {})
