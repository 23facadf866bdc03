"""Sequence models in JAX whose cells are pure functions.

Write one step for one example; ``scan`` runs it over time and batch, in any of several ways that
give the same answer.
"""

from rnnjax import decoding, diagnostics, initializers, testing
from rnnjax.cell import Cell, Gated, GatedCell, Keyed, Operator, product
from rnnjax.cells.elman import Elman
from rnnjax.cells.gru import GRU, GRUResetBefore
from rnnjax.cells.lstm import LSTM, LSTMCarry
from rnnjax.recurrence import Recurrence, Strategy
from rnnjax.scan import initial_carry, scan, sequence_noise, step, with_keys
from rnnjax.strategies.auto import Auto
from rnnjax.strategies.chunked import Chunked
from rnnjax.strategies.sequential import Sequential
from rnnjax.strategies.unrolled import Unrolled
from rnnjax.wrappers import (
    Dropout,
    DropoutMasks,
    Highway,
    LearntCarry,
    OutputAndCarry,
    Residual,
    Stack,
    VariationalDropout,
    WithCarry,
    Wrapper,
    Zoneout,
    drop_connect,
)

__version__ = "0.1.0.dev0"

__all__ = [
    "GRU",
    "LSTM",
    "Auto",
    "Cell",
    "Chunked",
    "Dropout",
    "DropoutMasks",
    "Elman",
    "GRUResetBefore",
    "Gated",
    "GatedCell",
    "Highway",
    "Keyed",
    "LSTMCarry",
    "LearntCarry",
    "Operator",
    "OutputAndCarry",
    "Recurrence",
    "Residual",
    "Sequential",
    "Stack",
    "Strategy",
    "Unrolled",
    "VariationalDropout",
    "WithCarry",
    "Wrapper",
    "Zoneout",
    "decoding",
    "diagnostics",
    "drop_connect",
    "initial_carry",
    "initializers",
    "product",
    "scan",
    "sequence_noise",
    "step",
    "testing",
    "with_keys",
]
