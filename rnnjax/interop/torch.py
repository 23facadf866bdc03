"""Weights of ``torch.nn.RNN``, ``LSTM`` and ``GRU``, as a ``state_dict`` of arrays."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Params
from rnnjax.bidirectional import check_directions
from rnnjax.cell import Cell
from rnnjax.cells.elman import Elman
from rnnjax.cells.gru import GRU
from rnnjax.cells.lstm import LSTM, ProjectedLSTM
from rnnjax.interop.weights import (
    Dense,
    Format,
    Tensor,
    contiguous,
    from_params,
    gates,
    hidden_size,
    mapping,
    no_bias,
    take,
    to_params,
)

TORCH = Format("PyTorch", {Elman: "h", LSTM: "ifgo", ProjectedLSTM: "ifgo", GRU: "rzn"})


def from_torch(cell: Cell, state: Mapping[str, Any], prefix: str = "") -> Params:
    """Return the params of a cell, or of a ``Stack`` of like cells, from PyTorch's weights.

    W_x = W_ihᵀ, W_h = W_hhᵀ, b = b_ih + b_hh; of a GRU's n gate b_ih and b_hh stay apart, as b and
    b_hn. Without biases (``bias=False``) b is zero. The map is linear and differentiable.

    Args:
        cell: ``Elman`` for ``torch.nn.RNN`` (``activation=jax.nn.relu`` for
            ``nonlinearity="relu"``, which the weights do not tell), ``LSTM``, ``ProjectedLSTM``
            for ``proj_size``, or ``GRU``; a ``Stack`` of ``num_layers`` of them.
        state: the module's ``state_dict()``; arrays, or tensors that ``numpy.asarray`` takes.
        prefix: read the names that begin so, ``"encoder.rnn."``, and leave all others.

    Returns:
        What ``cell.init`` returns, in the dtypes of the tensors.

    Raises:
        TypeError: when ``state`` is no dict of floating-point arrays.
        ValueError: when a tensor is missing, superfluous or of another shape, or PyTorch has no
            such cell.

    Example:
        >>> import jax, numpy as np, rnnjax
        >>> state = {
        ...     "weight_ih_l0": np.ones((32, 3), "float32"),
        ...     "weight_hh_l0": np.ones((32, 8), "float32"),
        ...     "bias_ih_l0": np.ones(32, "float32"),
        ...     "bias_hh_l0": np.ones(32, "float32"),
        ... }
        >>> params = rnnjax.interop.from_torch(rnnjax.LSTM(8), state)
        >>> params["w_x"].shape, params["b"][0].item()
        ((3, 32), 2.0)
    """
    checks.instance("from_torch", "cell", cell, Cell, "rnnjax.LSTM(64)")
    (params,) = _read("from_torch", (cell.layers() or (cell,),), state, prefix)
    return params[0] if cell.layers() is None else {"layers": params}


def to_torch(
    cell: Cell, params: Params, prefix: str = "", *, bias: bool = True
) -> dict[str, np.ndarray]:
    """Return PyTorch's weights of a cell, or of a ``Stack`` of like cells.

    The inverse of ``from_torch``: b becomes ``bias_ih``, and ``bias_hh`` is zero, but for the b_hn
    of a GRU. So params come back exactly; of a state read from PyTorch come back the kernels, and
    the biases in sum. ``module.load_state_dict({k: torch.tensor(v) for k, v in state.items()})``.

    Args:
        cell: as in ``from_torch``.
        params: its params.
        prefix: what the names begin with.
        bias: False leaves out the biases, for a module with ``bias=False``; they must be zero.

    Returns:
        The tensors by name, as NumPy arrays.

    Raises:
        TypeError: when params are no dict of floating-point arrays.
        ValueError: when they are not those of the cell, PyTorch has no such cell, or a bias that
            would be left out is not zero.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GRU(8)
        >>> state = rnnjax.interop.to_torch(cell, cell.init(jax.random.key(0), 3))
        >>> {name: tensor.shape for name, tensor in state.items()}
        {'weight_ih_l0': (24, 3), 'weight_hh_l0': (24, 8), 'bias_ih_l0': (24,), 'bias_hh_l0': (24,)}
    """
    checks.instance("to_torch", "cell", cell, Cell, "rnnjax.LSTM(64)")
    layers = cell.layers()
    inner = (params,) if layers is None else _entry("to_torch", params, "layers", len(layers))
    return _write("to_torch", (layers or (cell,),), (inner,), prefix, bias)


def from_torch_bidirectional(
    forwards: tuple[Cell, ...],
    backwards: tuple[Cell, ...],
    state: Mapping[str, Any],
    prefix: str = "",
) -> Params:
    """Return the params of ``rnnjax.bidirectional`` from a module with ``bidirectional=True``.

    As ``from_torch``, with the tensors of ``…_reverse`` for the cells that run backwards.

    Args:
        forwards: the cells that run forwards, one a layer, as in ``rnnjax.bidirectional``.
        backwards: the cells that run backwards.
        state: the module's ``state_dict()``.
        prefix: read the names that begin so.

    Returns:
        What ``rnnjax.init_bidirectional`` returns: ``{"forwards": (…), "backwards": (…)}``.

    Raises:
        TypeError: as ``from_torch``.
        ValueError: as ``from_torch``.

    Example:
        >>> import numpy as np, rnnjax
        >>> shapes = {"weight_ih_l0": (8, 3), "weight_hh_l0": (8, 8)}
        >>> shapes |= {f"{name}_reverse": shape for name, shape in shapes.items()}
        >>> state = {name: np.ones(shape, "float32") for name, shape in shapes.items()}
        >>> cells = (rnnjax.Elman(8),)
        >>> params = rnnjax.interop.from_torch_bidirectional(cells, cells, state)
        >>> sorted(params), params["backwards"][0]["w_x"].shape
        (['backwards', 'forwards'], (3, 8))
    """
    owner = "from_torch_bidirectional"
    check_directions(owner, forwards, backwards)
    read = _read(owner, (forwards, backwards), state, prefix)
    return dict(zip(("forwards", "backwards"), read, strict=True))


def to_torch_bidirectional(
    forwards: tuple[Cell, ...],
    backwards: tuple[Cell, ...],
    params: Params,
    prefix: str = "",
    *,
    bias: bool = True,
) -> dict[str, np.ndarray]:
    """Return PyTorch's weights of ``rnnjax.bidirectional``, as ``to_torch`` does for one direction.

    Args:
        forwards: as in ``from_torch_bidirectional``.
        backwards: as in ``from_torch_bidirectional``.
        params: what ``rnnjax.init_bidirectional`` returns.
        prefix: what the names begin with.
        bias: as in ``to_torch``.

    Returns:
        The tensors by name, as NumPy arrays.

    Raises:
        TypeError: as ``to_torch``.
        ValueError: as ``to_torch``.

    Example:
        >>> import jax, rnnjax
        >>> cells = (rnnjax.LSTM(8),)
        >>> init = cells[0].init(jax.random.key(0), 3)
        >>> params = {"forwards": (init,), "backwards": (init,)}
        >>> state = rnnjax.interop.to_torch_bidirectional(cells, cells, params)
        >>> state["weight_ih_l0_reverse"].shape
        (32, 3)
    """
    owner = "to_torch_bidirectional"
    check_directions(owner, forwards, backwards)
    inner = tuple(_entry(owner, params, name, len(forwards)) for name in ("forwards", "backwards"))
    return _write(owner, (forwards, backwards), inner, prefix, bias)


Directions = tuple[tuple[Cell, ...], ...]
"""The cells of each direction, one a layer."""


def _entry(owner: str, params: Any, name: str, count: int) -> tuple[Params, ...]:
    """Return the params of each layer from the tuple that stands under a name."""
    entry = params.get(name) if isinstance(params, Mapping) else None
    if not isinstance(entry, tuple | list) or len(entry) != count:
        raise ValueError(
            f"{owner}: params must hold under {name!r} a tuple of {count} dicts, one a layer."
        )
    return tuple(entry)


def _order(owner: str, directions: Directions) -> str:
    """Return PyTorch's gate order of the cells; refuse a mixture, which PyTorch does not have."""
    first = directions[0][0]
    for cell in itertools.chain(*directions):
        gates(owner, cell, TORCH)
        if cell != first:
            raise ValueError(
                f"{owner}: all layers must be alike, as PyTorch's are; got "
                f"{checks.describe(first)} and {checks.describe(cell)}."
            )
    return gates(owner, first, TORCH)


def _suffix(layer: int, direction: int) -> str:
    return f"_l{layer}" + "_reverse" * direction


def _shapes(cell: Any, order: str, width: Any, bias: bool) -> dict[str, tuple]:
    """Return the shapes of one layer that reads ``width`` features."""
    rows = cell.size * len(order)
    shapes = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size(cell))}
    if isinstance(cell, ProjectedLSTM):
        shapes["weight_hr"] = (cell.projection, cell.size)
    return shapes | ({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {})


def _read(owner: str, directions: Directions, state: Any, prefix: str) -> tuple:
    """Return the params of each layer of each direction."""
    order = _order(owner, directions)
    cell: Any = directions[0][0]
    mapping(owner, "state", state)
    state = {name: t for name, t in state.items() if str(name).startswith(prefix)}
    bias = any("bias" in str(name) for name in state)
    places = [(k, d) for k in range(len(directions[0])) for d in range(len(directions))]
    wanted = {}
    for k, d in places:
        width = "D" if k == 0 else hidden_size(cell) * len(directions)
        for name, shape in _shapes(cell, order, width, bias).items():
            wanted[prefix + name + _suffix(k, d)] = shape
    tensors = take(owner, "state", cell, state, wanted)

    def layer(k: int, d: int) -> Params:
        def get(name: str) -> Tensor:
            return tensors[prefix + name + _suffix(k, d)]

        kernel, recurrent_kernel = get("weight_ih").T, get("weight_hh").T
        zero = np.zeros(kernel.shape[1], kernel.dtype)
        biases = (get("bias_ih"), get("bias_hh")) if bias else (zero, zero)
        projection = get("weight_hr").T if isinstance(cell, ProjectedLSTM) else None
        return to_params(cell, Dense(kernel, recurrent_kernel, *biases, projection), order)

    return tuple(
        tuple(layer(k, d) for k in range(len(cells))) for d, cells in enumerate(directions)
    )


def _write(
    owner: str, directions: Directions, params: tuple, prefix: str, bias: bool
) -> dict[str, np.ndarray]:
    """Return the tensors of each layer of each direction."""
    order, cell, state = _order(owner, directions), directions[0][0], {}
    for k in range(len(directions[0])):
        for d in range(len(directions)):
            dense = from_params(owner, cell, params[d][k], order)
            layer = {"weight_ih": dense.kernel.T, "weight_hh": dense.recurrent_kernel.T}
            if dense.projection is not None:
                layer["weight_hr"] = dense.projection.T
            if bias:
                layer |= {"bias_ih": dense.bias, "bias_hh": dense.recurrent_bias}
            else:
                no_bias(owner, dense)
            state |= {prefix + name + _suffix(k, d): a for name, a in layer.items()}
    return contiguous(state)
