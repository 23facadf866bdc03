"""Connectionist temporal classification (Graves et al. 2006): labels without their times.

A model scores V symbols at each of T frames, one of which is the blank. A path π is one symbol a
frame, p(π | x) = Π_t softmax(logits_t)_{π_t}; it stands for the labelling y that is left when
repeated symbols are merged and then blanks removed, so that p(y | x) sums over all paths of y.

Logits are time-major, (T, B, V), as ``rnnjax.scan`` returns them. Labels are one row an utterance,
(B, U), padded on the right, as Optax has them; results are padded with ``PADDING``, arguments with
anything.
"""

from rnnjax.ctc.alignment import Alignment, align
from rnnjax.ctc.arguments import PADDING
from rnnjax.ctc.beam import Labellings, prefix_beam
from rnnjax.ctc.greedy import Transcripts, greedy
from rnnjax.ctc.loss import Losses, feasible, loss

__all__ = [
    "PADDING",
    "Alignment",
    "Labellings",
    "Losses",
    "Transcripts",
    "align",
    "feasible",
    "greedy",
    "loss",
    "prefix_beam",
]
