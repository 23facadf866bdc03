"""Where the real data lie that some tests read; they skip without it."""

import os
from pathlib import Path

from examples.support.datasets import ROOT

DATA = Path(os.environ.get(ROOT) or Path(__file__).parents[2] / "shared/data")
