"""Weights of other libraries in and out, and their cells as cells of rnnjax.

Conversions read and write dicts of arrays; no peer is imported for them.
"""

from rnnjax.interop.cells import EquinoxCell, HaikuCell, LinenCell, NNXCell
from rnnjax.interop.equinox import from_equinox, to_equinox
from rnnjax.interop.flax import from_linen, from_nnx, to_linen, to_nnx
from rnnjax.interop.haiku import from_haiku, to_haiku
from rnnjax.interop.keras import from_keras, to_keras
from rnnjax.interop.safetensors import load_safetensors, save_safetensors
from rnnjax.interop.torch import (
    from_torch,
    from_torch_bidirectional,
    to_torch,
    to_torch_bidirectional,
)

__all__ = [
    "EquinoxCell",
    "HaikuCell",
    "LinenCell",
    "NNXCell",
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_torch",
    "from_torch_bidirectional",
    "load_safetensors",
    "save_safetensors",
    "to_equinox",
    "to_haiku",
    "to_keras",
    "to_linen",
    "to_nnx",
    "to_torch",
    "to_torch_bidirectional",
]
