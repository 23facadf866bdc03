"""Weights of the cells of Flax Linen and NNX, as nested dicts of arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnjax.array_typing import Params
from rnnjax.cell import Cell
from rnnjax.cells.elman import Elman
from rnnjax.cells.gru import GRU
from rnnjax.cells.lstm import LSTM
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

LINEN = Format("Flax Linen", {Elman: "h", LSTM: "ifgo", GRU: "rzn"})
NNX = Format("Flax NNX", LINEN.orders)


def from_linen(cell: Cell, weights: Mapping[str, Any]) -> Params:
    """Return the params of a cell from those of a Linen cell.

    A kernel for each gate in ours side by side: ``ii``, ``if``, ``ig``, ``io`` and ``hi``, … with
    the bias in the latter for ``LSTMCell`` and ``OptimizedLSTMCell``; ``ir``, ``iz``, ``in`` with
    biases, ``hr``, ``hz`` and ``hn``, whose bias is b_hn, for ``GRUCell``; ``i`` and ``h`` for
    ``SimpleCell`` (without ``residual``). The map is linear and differentiable.

    Args:
        cell: ``Elman``, ``LSTM`` or ``GRU``.
        weights: the cell's params: ``variables["params"]["cell"]`` of a ``flax.linen.RNN``.

    Returns:
        What ``cell.init`` returns, in the dtypes of the weights.

    Raises:
        TypeError: when ``weights`` is no dict of floating-point arrays.
        ValueError: when one is missing, superfluous or of another shape, or Linen has no such cell.

    Example:
        >>> import flax.linen, jax, rnnjax
        >>> module = flax.linen.RNN(flax.linen.GRUCell(8))
        >>> variables = module.init(jax.random.key(0), jax.numpy.ones((2, 5, 3)))
        >>> params = rnnjax.interop.from_linen(rnnjax.GRU(8), variables["params"]["cell"])
        >>> params["w_x"].shape
        (3, 24)
    """
    order = gates("from_linen", cell, LINEN)
    shapes = _linen_shapes(cell, order)
    return _from_blocks("from_linen", cell, weights, order, shapes)


def to_linen(cell: Cell, params: Params) -> dict[str, Any]:
    """Return the params of a Linen cell: the inverse of ``from_linen``, exact.

    Args:
        cell: as in ``from_linen``.
        params: its params.

    Returns:
        Nested dicts of NumPy arrays.

    Raises:
        TypeError: when params are no dict of floating-point arrays.
        ValueError: when they are not those of the cell, or Linen has no such cell.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LSTM(8)
        >>> weights = rnnjax.interop.to_linen(cell, cell.init(jax.random.key(0), 3))
        >>> sorted(weights), weights["hf"]["bias"].shape
        (['hf', 'hg', 'hi', 'ho', 'if', 'ig', 'ii', 'io'], (8,))
    """
    order = gates("to_linen", cell, LINEN)
    return _to_blocks("to_linen", cell, params, order, _linen_shapes(cell, order))


def from_nnx(cell: Cell, weights: Mapping[str, Any]) -> Params:
    """Return the params of a cell from those of an NNX cell.

    ``LSTMCell`` has a kernel for each gate, as Linen's, ``if_`` for ``if``; ``OptimizedLSTMCell``,
    ``GRUCell`` and ``SimpleCell`` (without ``residual``) have all gates in ``dense_i`` and
    ``dense_h``. NNX's ``GRUCell`` has no bias in the hidden product, so b_hn is zero. The map is
    linear and differentiable.

    Args:
        cell: ``Elman``, ``LSTM`` or ``GRU``.
        weights: ``nnx.to_pure_dict(nnx.state(module, nnx.Param))`` of the cell, not of the
            ``nnx.RNN`` around it.

    Returns:
        What ``cell.init`` returns, in the dtypes of the weights.

    Raises:
        TypeError: when ``weights`` is no dict of floating-point arrays.
        ValueError: when one is missing, superfluous or of another shape, or NNX has no such cell.

    Example:
        >>> import rnnjax
        >>> from flax import nnx
        >>> module = nnx.GRUCell(3, 8, rngs=nnx.Rngs(0))
        >>> weights = nnx.to_pure_dict(nnx.state(module, nnx.Param))
        >>> rnnjax.interop.from_nnx(rnnjax.GRU(8), weights)["w_x"].shape
        (3, 24)
    """
    order = gates("from_nnx", cell, NNX)
    mapping("from_nnx", "weights", weights)
    if isinstance(cell, LSTM) and "dense_i" not in weights:
        return _from_blocks("from_nnx", cell, weights, order, _nnx_lstm_shapes(cell, order))
    shapes = _nnx_dense_shapes(cell, order)
    w = take("from_nnx", "weights", cell, flatten(weights), shapes)
    kernel = w["dense_i.kernel"]
    zero = np.zeros(kernel.shape[1], kernel.dtype)
    bias = w["dense_h.bias" if isinstance(cell, LSTM) else "dense_i.bias"]
    return to_params(cell, Dense(kernel, w["dense_h.kernel"], bias, zero), order)


def to_nnx(cell: Cell, params: Params, *, optimized: bool = False) -> dict[str, Any]:
    """Return the params of an NNX cell: the inverse of ``from_nnx``, exact.

    ``nnx.update(module, weights)`` puts them into the module.

    Args:
        cell: as in ``from_nnx``.
        params: its params.
        optimized: for an LSTM: those of ``OptimizedLSTMCell`` instead of ``LSTMCell``.

    Returns:
        Nested dicts of NumPy arrays.

    Raises:
        TypeError: when params are no dict of floating-point arrays.
        ValueError: when they are not those of the cell, NNX has no such cell, or b_hn is not zero.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.LSTM(8)
        >>> weights = rnnjax.interop.to_nnx(cell, cell.init(jax.random.key(0), 3))
        >>> sorted(weights), weights["hf"]["bias"].shape
        (['hf', 'hg', 'hi', 'ho', 'if_', 'ig', 'ii', 'io'], (8,))
    """
    order = gates("to_nnx", cell, NNX)
    if isinstance(cell, LSTM) and not optimized:
        return _to_blocks("to_nnx", cell, params, order, _nnx_lstm_shapes(cell, order))
    dense = from_params("to_nnx", cell, params, order)
    if dense.recurrent_bias.any():
        raise ValueError(
            "to_nnx: params must have a b_hn of zeros, because the GRUCell of Flax NNX has no bias "
            "in the hidden product; this one is not zero. Flax Linen's GRUCell has one: to_linen."
        )
    side = "dense_h" if isinstance(cell, LSTM) else "dense_i"
    weights = {
        "dense_i": {"kernel": dense.kernel},
        "dense_h": {"kernel": dense.recurrent_kernel},
    }
    weights[side]["bias"] = dense.bias
    return contiguous(weights)


def _nnx_dense_shapes(cell: Any, order: str) -> dict[str, tuple]:
    width = cell.size * len(order)
    side = "dense_h" if isinstance(cell, LSTM) else "dense_i"
    kernels = {"dense_i.kernel": ("D", width), "dense_h.kernel": (cell.size, width)}
    return kernels | {f"{side}.bias": (width,)}


def _linen_shapes(cell: Any, order: str) -> dict[str, tuple]:
    n, shapes = cell.size, {}
    for gate in order:
        name = _gate_name(gate, order)
        shapes |= {f"i{name}.kernel": ("D", n), f"h{name}.kernel": (n, n)}
        sides = "h" if isinstance(cell, LSTM) else "ih" if gate == "n" else "i"
        shapes |= {f"{side}{name}.bias": (n,) for side in sides}
    return shapes


def _nnx_lstm_shapes(cell: Any, order: str) -> dict[str, tuple]:
    """Return the shapes of Linen, with ``if_`` for ``if``, which is no attribute's name."""
    shapes = _linen_shapes(cell, order)
    return {name.replace("if.", "if_."): shape for name, shape in shapes.items()}


def _gate_name(gate: str, order: str) -> str:
    """Return the letter of a gate; of a cell with one, none."""
    return gate if len(order) > 1 else ""


def _names(order: str, side: str, shapes: Mapping[str, tuple]) -> list[str]:
    """Return the names of the dense layers of one side, "i" or "h", in the order of the gates."""
    names = [side + _gate_name(gate, order) for gate in order]
    return [name if f"{name}.kernel" in shapes else f"{name}_" for name in names]


def _from_blocks(
    owner: str, cell: Any, weights: Any, order: str, shapes: Mapping[str, tuple]
) -> Params:
    mapping(owner, "weights", weights)
    w = take(owner, "weights", cell, flatten(weights), shapes)

    def side(letter: str) -> tuple[Tensor, Tensor]:
        names = _names(order, letter, shapes)
        kernel = join(w[f"{name}.kernel"] for name in names)
        zero = np.zeros(cell.size, kernel.dtype)
        return kernel, join(w.get(f"{name}.bias", zero) for name in names)

    (kernel, bias), (recurrent_kernel, recurrent_bias) = side("i"), side("h")
    return to_params(cell, Dense(kernel, recurrent_kernel, bias, recurrent_bias), order)


def _to_blocks(
    owner: str, cell: Any, params: Params, order: str, shapes: Mapping[str, tuple]
) -> dict[str, Any]:
    dense = from_params(owner, cell, params, order)
    blocks = Dense(*(split(a, order) for a in dense[:4]))
    weights = {}
    for gate, i, h in zip(order, *(_names(order, side, shapes) for side in "ih"), strict=True):
        weights |= {f"{i}.kernel": blocks.kernel[gate]}
        weights |= {f"{h}.kernel": blocks.recurrent_kernel[gate]}
        if f"{i}.bias" in shapes:
            weights[f"{i}.bias"] = blocks.bias[gate]
        if f"{h}.bias" in shapes:
            sole = f"{i}.bias" not in shapes
            weights[f"{h}.bias"] = (blocks.bias if sole else blocks.recurrent_bias)[gate]
    return contiguous(unflatten(weights))
