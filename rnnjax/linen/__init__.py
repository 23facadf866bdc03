"""Cells as modules of Flax Linen, and blocks to make deep models of.

``import rnnjax.linen`` needs Flax; nothing else in the library does. The signatures of ``RNN`` and
``Bidirectional`` are those of ``flax.linen``, with mask, resets, context and strategy beside.
"""

from rnnjax.block import BlockCarry
from rnnjax.linen.blocks import Block, Blocks
from rnnjax.linen.rnn import RNN, Bidirectional

__all__ = ["RNN", "Bidirectional", "Block", "BlockCarry", "Blocks"]
