"""Cells made of cells. Each hands on the claims and ``gated()``, and so runs in every way."""

from rnnjax.wrappers.base import Wrapper
from rnnjax.wrappers.carry import LearntCarry, OutputAndCarry, WithCarry
from rnnjax.wrappers.dropout import Dropout, DropoutMasks, VariationalDropout, drop_connect
from rnnjax.wrappers.residual import Highway, Residual
from rnnjax.wrappers.scheduled_sampling import ScheduledCarry, ScheduledSampling
from rnnjax.wrappers.stack import Stack
from rnnjax.wrappers.zoneout import Zoneout

__all__ = [
    "Dropout",
    "DropoutMasks",
    "Highway",
    "LearntCarry",
    "OutputAndCarry",
    "Residual",
    "ScheduledCarry",
    "ScheduledSampling",
    "Stack",
    "VariationalDropout",
    "WithCarry",
    "Wrapper",
    "Zoneout",
    "drop_connect",
]
