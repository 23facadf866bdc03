"""The batch over 8 virtual devices; see ``tests/sharding.py``."""

import pathlib
import subprocess
import sys

import pytest

from tests.cases import (
    CELLS,
    CONTRACT,
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
    assert len(values) == len(REPRESENTATIVES) * len(RUNNERS | DEFERRED) + len(PARALLEL)
    # Deferred, in shard_map and in a sharded jit.
    others = CELLS.keys() - CONTRACT - set(LINEAR)
    assert len(collectives) == len(others) * len(RUNNERS) + len(CONTRACT) + 2 * len(GATED) + len(
        PARALLEL
    )


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
