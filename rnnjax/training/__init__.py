"""Training that survives: steps as pure functions, ``fit``, checkpoints, sources of batches.

It needs Optax and Orbax, and is imported by itself: ``from rnnjax import training``.
"""

from rnnjax.training.checkpoints import (
    Checkpoints,
    MismatchError,
    Saved,
    SaveError,
    load,
    saved_steps,
)
from rnnjax.training.compiled import DataParallel, compiled_step, evaluate
from rnnjax.training.data import (
    ArrayBatches,
    BatchIterator,
    Buckets,
    Chunk,
    Padded,
    Source,
    TokenStreams,
)
from rnnjax.training.fit import Fitted, fit
from rnnjax.training.log import JSONLines, Record, TensorBoard, Writer, read_json_lines
from rnnjax.training.run import Best, NonFiniteError, Validation
from rnnjax.training.signals import Preempted
from rnnjax.training.state import Loss, Metrics, TrainState, initial_state, tbptt_step
from rnnjax.training.storage import DamagedError

__all__ = [
    "ArrayBatches",
    "BatchIterator",
    "Best",
    "Buckets",
    "Checkpoints",
    "Chunk",
    "DamagedError",
    "DataParallel",
    "Fitted",
    "JSONLines",
    "Loss",
    "Metrics",
    "MismatchError",
    "NonFiniteError",
    "Padded",
    "Preempted",
    "Record",
    "SaveError",
    "Saved",
    "Source",
    "TensorBoard",
    "TokenStreams",
    "TrainState",
    "Validation",
    "Writer",
    "compiled_step",
    "evaluate",
    "fit",
    "initial_state",
    "load",
    "read_json_lines",
    "saved_steps",
    "tbptt_step",
]
