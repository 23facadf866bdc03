"""Attention to a memory such as an encoder's outputs, and decoders that attend in every step."""

from rnnjax.attention.decoders import (
    AttentionDecoder,
    BahdanauCarry,
    BahdanauDecoder,
    DecoderOutput,
    InputFeeding,
    InputFeedingCarry,
    LuongDecoder,
    attention_memory,
)
from rnnjax.attention.mechanisms import (
    AdditiveAttention,
    Attended,
    Attention,
    DotAttention,
    Memory,
    MultiplicativeAttention,
)

__all__ = [
    "AdditiveAttention",
    "Attended",
    "Attention",
    "AttentionDecoder",
    "BahdanauCarry",
    "BahdanauDecoder",
    "DecoderOutput",
    "DotAttention",
    "InputFeeding",
    "InputFeedingCarry",
    "LuongDecoder",
    "Memory",
    "MultiplicativeAttention",
    "attention_memory",
]
