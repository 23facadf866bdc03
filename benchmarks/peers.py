"""Cells with the initialisation that other libraries give them."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from rnnjax import GRU, LSTM, GRUResetBefore, Wrapper, interop
from rnnjax.array_typing import Key, Params


@dataclasses.dataclass(frozen=True)
class AsDrawn(Wrapper):
    """A cell whose params are drawn by a peer, for the peer's cell of the same equations.

    Args:
        cell: the cell.
        draw: (cell, key, D) → its params.
    """

    draw: Callable[[Any, Key, int], Params]

    def init(self, key: Key, in_dim: Any) -> Params:
        """Draw the peer's params."""
        return self.draw(self.cell, key, in_dim)


def _flax(cell: Any, key: Key, in_dim: int) -> Params:
    module = nn.OptimizedLSTMCell if isinstance(cell, LSTM) else nn.GRUCell
    return interop.from_linen(cell, interop.LinenCell(module(cell.size)).init(key, in_dim))


# Imported where they are used, so that the others are measured where one is not installed.
def _haiku(cell: Any, key: Key, in_dim: int) -> Params:
    haiku: Any = importlib.import_module("haiku")
    core = haiku.LSTM if isinstance(cell, LSTM) else haiku.GRU
    return interop.from_haiku(cell, interop.HaikuCell(core, cell.size).init(key, in_dim))


def _equinox(cell: Any, key: Key, in_dim: int) -> Params:
    equinox: Any = importlib.import_module("equinox")
    kind = equinox.nn.LSTMCell if isinstance(cell, LSTM) else equinox.nn.GRUCell
    peer = interop.EquinoxCell(kind, cell.size)
    return interop.from_equinox(cell, vars(peer.init(key, in_dim)["module"]))


def flax(cell: LSTM | GRU) -> AsDrawn:
    """Return a cell as Flax draws it."""
    return AsDrawn(cell, _flax)


def haiku(cell: LSTM | GRUResetBefore) -> AsDrawn:
    """Return a cell as Haiku draws it."""
    return AsDrawn(cell, _haiku)


def equinox(cell: LSTM | GRU) -> AsDrawn:
    """Return a cell as Equinox draws it."""
    return AsDrawn(cell, _equinox)
