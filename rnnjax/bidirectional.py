"""Both directions over time, layer upon layer."""

from typing import Any

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Carry, InDim, Int, Key, Params, PyTree
from rnnjax.cell import Cell, Keyed, feed, row_shapes, with_context
from rnnjax.recurrence import Strategy, fold_in
from rnnjax.scan import scan, sequence_axes
from rnnjax.strategies.auto import Auto

Cells = tuple[Cell, ...]


def bidirectional(
    forwards: Cells,
    backwards: Cells,
    params: Params,
    xs: PyTree,
    carry: tuple[Carry, Carry] | None = None,
    *,
    mask: Bool[Array, "T B"] | None = None,
    lengths: Int[Array, " B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    context: dict[str, PyTree] | None = None,
    strategy: Strategy | tuple[Strategy, ...] = Auto(),
) -> tuple[tuple[Carry, Carry], PyTree]:
    """Run cells in both directions: each layer reads both outputs of the layer below, side by side.

    Not causal: an output has seen the whole sequence, so there is no step for it and it is no cell.
    In the direction backwards each row begins at its own last valid step. ``Chunked`` bounds memory
    within a layer.

    Args:
        forwards: a cell for each layer, from the input up.
        backwards: likewise, run in reverse.
        params: what ``init_bidirectional`` returned.
        xs: inputs, a pytree with leading axes (T, B); ``rnnjax.with_keys`` adds noise to them,
            which differs by layer and direction.
        carry: (carries forwards, carries backwards), each a tuple with one entry a layer; None: the
            cells' initial carries.
        mask: as in ``scan``.
        lengths: as in ``scan``.
        resets: as in ``scan``; one array serves both directions.
        context: as in ``scan``.
        strategy: how to run; a tuple gives each layer its own.

    Returns:
        (carries forwards, carries backwards) after all T steps in their directions, and the outputs
        (T, B, …), those forwards first on the last axis.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> cells = (rnnjax.LSTM(8), rnnjax.LSTM(8))
        >>> params = rnnjax.init_bidirectional(cells, cells, jax.random.key(0), 4)
        >>> xs, lengths = jnp.ones((5, 2, 4)), jnp.array([5, 3])
        >>> (forwards, backwards), ys = rnnjax.bidirectional(
        ...     cells, cells, params, xs, lengths=lengths)
        >>> len(forwards), ys.shape
        (2, (5, 2, 16))
    """
    check_directions("bidirectional", forwards, backwards)
    _check_pair("params", params, ("forwards", "backwards"), len(forwards))
    if carry is None:
        carry = (None,) * len(forwards), (None,) * len(forwards)
    _check_pair("carry", carry, (0, 1), len(forwards))
    strategies = _per_layer(strategy, len(forwards))
    options: dict[str, Any] = {"mask": mask, "lengths": lengths, "resets": resets}
    key = xs.key if isinstance(xs, Keyed) else None
    y = xs if key is None else xs.x
    carries: tuple[list, list] = [], []
    for k, one in enumerate(strategies):
        outputs = []
        for way, cells in enumerate((forwards, backwards)):
            x = y if key is None else feed(cells[k], Keyed(y, fold_in(key, 2 * k + way)))
            last, output = scan(
                cells[k],
                params[("forwards", "backwards")[way]][k],
                x,
                carry[way][k],
                context=context,
                reverse=way == 1,
                strategy=one,
                **options,
            )
            carries[way].append(last)
            outputs.append(output)
        y = _side_by_side(*outputs)
    return (tuple(carries[0]), tuple(carries[1])), y


def init_bidirectional(forwards: Cells, backwards: Cells, key: Key, in_dim: InDim) -> Params:
    """Draw the params of both directions, each layer as wide as both outputs of the one below.

    Args:
        forwards: a cell for each layer.
        backwards: likewise.
        key: of ``jax.random``.
        in_dim: the shape of one input, as in ``cell.init``.

    Returns:
        ``{"forwards": (…), "backwards": (…)}``, the params of one cell a layer in each tuple.

    Raises:
        TypeError: when the cells are not tuples of cells.
        ValueError: when their numbers differ.

    Example:
        >>> import jax, rnnjax
        >>> cells = (rnnjax.GRU(8), rnnjax.GRU(8))
        >>> params = rnnjax.init_bidirectional(cells, cells, jax.random.key(0), 4)
        >>> params["backwards"][1]["w_x"].shape
        (16, 24)
    """
    check_directions("init_bidirectional", forwards, backwards)
    params: dict[str, list] = {"forwards": [], "backwards": []}
    for k, pair in zip(
        jax.random.split(key, len(forwards)), zip(forwards, backwards, strict=True), strict=True
    ):
        outputs = []
        for cell, way, k_way in zip(pair, params, jax.random.split(k), strict=True):
            drawn = cell.init(k_way, in_dim)
            params[way].append(drawn)
            row = with_context(drawn, cell.context_shapes())
            outputs.append(row_shapes(cell, row, checks.as_shapes(in_dim)).y)
        in_dim = jax.eval_shape(_side_by_side, *outputs)
    return {way: tuple(layers) for way, layers in params.items()}


def _side_by_side(forwards: PyTree, backwards: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=-1), forwards, backwards)


def check_directions(owner: str, forwards: Any, backwards: Any) -> None:
    """Refuse what is not a cell a layer in each direction."""
    for name, cells in (("forwards", forwards), ("backwards", backwards)):
        if not isinstance(cells, tuple) or not cells:
            got = repr(cells) if isinstance(cells, tuple) else type(cells).__name__
            raise TypeError(
                f"{owner}: {name} must be a tuple of cells, one a layer; got {got}. Write "
                f"(rnnjax.LSTM(64),) for one layer."
            )
        for k, cell in enumerate(cells):
            checks.instance(owner, f"{name}[{k}]", cell, Cell, "rnnjax.LSTM(64)")
    if len(forwards) != len(backwards):
        raise ValueError(
            f"{owner}: backwards must hold a cell for each of the {len(forwards)} layers; got "
            f"{len(backwards)}."
        )


def _check_pair(name: str, value: Any, entries: tuple, layers: int) -> None:
    """Refuse what has not a tuple of one entry a layer for each direction."""
    kind = dict if entries[0] == "forwards" else tuple
    fits = isinstance(value, kind) and len(value) == 2
    fits = fits and all(kind is tuple or entry in value for entry in entries)
    if not fits or any(not isinstance(value[e], tuple) or len(value[e]) != layers for e in entries):
        words = (
            'a dict with the entries "forwards" and "backwards", from init_bidirectional'
            if kind is dict
            else "a pair (carries forwards, carries backwards)"
        )
        raise ValueError(
            f"bidirectional: {name} must be {words}, each a tuple with one entry for each of the "
            f"{layers} layers; got {jax.tree.structure(value)}."
        )


def _per_layer(strategy: Any, layers: int) -> tuple[Strategy, ...]:
    if not isinstance(strategy, tuple):
        return (strategy,) * layers
    if len(strategy) != layers:
        raise ValueError(
            f"bidirectional: strategy must be one, or a tuple with one for each of the {layers} "
            f"layers; got {len(strategy)}."
        )
    for one in strategy:
        checks.instance("bidirectional", "strategy", one, Strategy, "rnnjax.Sequential()")
    checks.one_sequence_axis("bidirectional", sequence_axes(strategy))
    return strategy
