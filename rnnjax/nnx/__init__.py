"""Cells as modules of Flax NNX, and blocks to make deep models of.

``import rnnjax.nnx`` needs Flax; nothing else in the library does. The signatures of ``RNN`` and
``Bidirectional`` are those of ``flax.nnx``, with mask, resets, context and strategy beside.
"""

from rnnjax.block import BlockCarry
from rnnjax.nnx.blocks import Block, Blocks
from rnnjax.nnx.rnn import RNN, Bidirectional

__all__ = ["RNN", "Bidirectional", "Block", "BlockCarry", "Blocks"]
