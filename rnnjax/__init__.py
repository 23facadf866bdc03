"""Sequence models in JAX whose cells are pure functions.

Write one step for one example; ``scan`` runs it over time and batch, in any of several ways that
give the same answer.
"""

from rnnjax import decoding, diagnostics, initializers, interop, testing
from rnnjax.cell import Cell, Gated, GatedCell, Keyed, Operator, product
from rnnjax.cells.elman import Elman
from rnnjax.cells.gru import GRU, GRUResetBefore
from rnnjax.cells.lstm import LSTM, LSTMCarry
from rnnjax.recurrence import Recurrence, Strategy
from rnnjax.scan import initial_carry, scan, step, with_keys
from rnnjax.strategies.auto import Auto
from rnnjax.strategies.chunked import Chunked
from rnnjax.strategies.sequential import Sequential
from rnnjax.strategies.unrolled import Unrolled
from rnnjax.wrappers import Residual, Stack, Wrapper, Zoneout

__version__ = "0.1.0.dev0"

__all__ = [
    "GRU",
    "LSTM",
    "Auto",
    "Cell",
    "Chunked",
    "Elman",
    "GRUResetBefore",
    "Gated",
    "GatedCell",
    "Keyed",
    "LSTMCarry",
    "Operator",
    "Recurrence",
    "Residual",
    "Sequential",
    "Stack",
    "Strategy",
    "Unrolled",
    "Wrapper",
    "Zoneout",
    "decoding",
    "diagnostics",
    "initial_carry",
    "initializers",
    "interop",
    "product",
    "scan",
    "step",
    "testing",
    "with_keys",
]
