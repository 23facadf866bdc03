"""The batch over 8 virtual devices; see ``tests/sharding.py``."""

import pathlib
import subprocess
import sys

import pytest

from rnnjax.kernels import build
from tests.cases import (
    CELLS,
    DEFERRED,
    GATED,
    LINEAR,
    PARALLEL,
    REPRESENTATIVES,
    RUNNERS,
)


@pytest.mark.slow
def test_every_cell_and_strategy_on_eight_devices():
    result = subprocess.run(
        [sys.executable, "-m", "tests.sharding"],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = result.stdout.splitlines()
    values = [line for line in lines if line.startswith("values:")]
    collectives = [line for line in lines if line.startswith("collectives:")]
    merged, fused = 2, len(REPRESENTATIVES) * (build.missing() is None)
    plain = len(REPRESENTATIVES) * len(RUNNERS | DEFERRED)
    assert len(values) == plain + merged + fused + len(PARALLEL)
    # Deferred and fused, in shard_map and in a sharded jit; merged in a sharded jit.
    cells = CELLS.keys() - set(LINEAR)
    loops = len(RUNNERS) - 1  # besides the one that takes every cell
    plain = len(cells) + loops * (len(REPRESENTATIVES) + 1) + 2 * len(GATED)
    assert len(collectives) == plain + merged + 2 * fused + len(PARALLEL)


def test_training_on_eight_devices_is_training_on_one(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "tests.parallel_training", str(tmp_path)],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines() == ["same on 8 devices", "no collective inside a loop"]
