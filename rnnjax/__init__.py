"""Sequence models in JAX whose cells are pure functions.

Write one step for one example; ``scan`` runs it over time and batch, in any of several ways that
give the same answer.
"""

from rnnjax import ctc, decoding, diagnostics, initializers, interop, testing
from rnnjax.attention import (
    AdditiveAttention,
    Attended,
    Attention,
    AttentionDecoder,
    BahdanauCarry,
    BahdanauDecoder,
    DecoderOutput,
    DotAttention,
    InputFeeding,
    InputFeedingCarry,
    LuongDecoder,
    Memory,
    MultiplicativeAttention,
    attention_memory,
)
from rnnjax.bidirectional import bidirectional, init_bidirectional
from rnnjax.causal_conv import causal_conv, causal_conv_step, init_causal_conv
from rnnjax.cell import Cell, Gated, GatedCell, Keyed, Operator, product
from rnnjax.cells.conv_lstm import ConvLSTM
from rnnjax.cells.ctrnn import CTRNN
from rnnjax.cells.elman import Elman
from rnnjax.cells.gated_delta import GatedDelta
from rnnjax.cells.gru import GRU, GRUResetBefore, LiGRU
from rnnjax.cells.indrnn import IndRNN
from rnnjax.cells.layer_norm import LayerNormGRU, LayerNormLSTM
from rnnjax.cells.lru import LRU
from rnnjax.cells.lstm import (
    LSTM,
    CoupledLSTM,
    LSTMCarry,
    MultiplicativeLSTM,
    PeepholeLSTM,
    ProjectedLSTM,
)
from rnnjax.cells.min_gru import MinGRU, MinLSTM
from rnnjax.cells.minimal import JANET, MGU, MinimalRNN
from rnnjax.cells.rg_lru import RGLRU
from rnnjax.cells.s5 import S5
from rnnjax.cells.slstm import SLSTM, SLSTMCarry
from rnnjax.recurrence import Recurrence, Strategy
from rnnjax.scan import initial_carry, scan, sequence_noise, step, with_keys
from rnnjax.strategies.associative import Associative
from rnnjax.strategies.auto import Auto
from rnnjax.strategies.chunked import Chunked
from rnnjax.strategies.fused import Fused
from rnnjax.strategies.sequential import Sequential
from rnnjax.strategies.unrolled import Unrolled
from rnnjax.wrappers import (
    Dropout,
    DropoutMasks,
    Highway,
    LearntCarry,
    OutputAndCarry,
    Residual,
    ScheduledCarry,
    ScheduledSampling,
    Stack,
    VariationalDropout,
    WithCarry,
    Wrapper,
    Zoneout,
    drop_connect,
)

__version__ = "0.1.0.dev0"

__all__ = [
    "CTRNN",
    "GRU",
    "JANET",
    "LRU",
    "LSTM",
    "MGU",
    "RGLRU",
    "S5",
    "SLSTM",
    "AdditiveAttention",
    "Associative",
    "Attended",
    "Attention",
    "AttentionDecoder",
    "Auto",
    "BahdanauCarry",
    "BahdanauDecoder",
    "Cell",
    "Chunked",
    "ConvLSTM",
    "CoupledLSTM",
    "DecoderOutput",
    "DotAttention",
    "Dropout",
    "DropoutMasks",
    "Elman",
    "Fused",
    "GRUResetBefore",
    "Gated",
    "GatedCell",
    "GatedDelta",
    "Highway",
    "IndRNN",
    "InputFeeding",
    "InputFeedingCarry",
    "Keyed",
    "LSTMCarry",
    "LayerNormGRU",
    "LayerNormLSTM",
    "LearntCarry",
    "LiGRU",
    "LuongDecoder",
    "Memory",
    "MinGRU",
    "MinLSTM",
    "MinimalRNN",
    "MultiplicativeAttention",
    "MultiplicativeLSTM",
    "Operator",
    "OutputAndCarry",
    "PeepholeLSTM",
    "ProjectedLSTM",
    "Recurrence",
    "Residual",
    "SLSTMCarry",
    "ScheduledCarry",
    "ScheduledSampling",
    "Sequential",
    "Stack",
    "Strategy",
    "Unrolled",
    "VariationalDropout",
    "WithCarry",
    "Wrapper",
    "Zoneout",
    "attention_memory",
    "bidirectional",
    "causal_conv",
    "causal_conv_step",
    "ctc",
    "decoding",
    "diagnostics",
    "drop_connect",
    "init_bidirectional",
    "init_causal_conv",
    "initial_carry",
    "initializers",
    "interop",
    "product",
    "scan",
    "sequence_noise",
    "step",
    "testing",
    "with_keys",
]
