"""Saves that are killed at one of their calls to the system.

    python -m tests.killed_saves FOLDER         before each sync, rename and removal, one by one
    python -m tests.killed_saves FOLDER once    one more save, for a tracer that kills it

FOLDER gets a whole step 1; then step 2 is saved again and again, by a child that dies at one call
of ``os``. A line says which, and which steps are whole afterwards.
"""

import itertools
import os
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np

from rnnjax import training
from rnnjax.training import checkpoints, storage

CALLS = ("fsync", "rename", "rmdir", "unlink")


def save(folder, step):
    """Save and prune, as a run does."""
    arrays = {"params": np.full((300,), step, np.float32)}
    leaves = {"params": {"shape": [300], "dtype": "float32"}}
    shot = checkpoints.Snapshot(step, arrays, leaves, {"params": "params", "average": None})
    checkpoints.save(folder, shot, {"config": {}}, {})
    checkpoints.prune(folder, step, keep=2)


def whole_steps(folder):
    """The steps that are there, whole and with their own content; what else is there must go."""
    storage.remove_asides(folder)
    found = training.saved_steps(folder)
    assert sorted(f"{step:08d}" for step in found) == sorted(os.listdir(folder))
    for step in found:
        assert (training.load(folder, step).arrays["params"] == step).all()
    return found


def die_at(call, number):
    """Kill the process right before it makes this call of ``os`` for the n-th time."""
    original, count = getattr(os, call), itertools.count()

    def replaced(*args, **options):
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(os, call, replaced)


def in_child(work, *arguments):
    """Run in a child: the number of the signal that ended it, 0 if none."""
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return -status


def report(folder, call, number):
    """Say what a kill has left."""
    print(call, number, "steps", whole_steps(folder), flush=True)


def kill_each(folder):
    """Kill a save at each of its calls."""
    first, again = folder / "first", folder / "again"
    in_child(save, first, 1)

    def second_save(call, number):
        die_at(call, number)
        save(again, 2)

    for call in CALLS:
        for number in itertools.count():
            shutil.rmtree(again, ignore_errors=True)
            shutil.copytree(first, again)
            killed = in_child(second_save, call, number)
            in_child(report, again, call, number)
            if not killed:
                break


def main():
    """Do one of the two."""
    folder = Path(sys.argv[1])
    # JAX warns of threads that a child would lack; nothing here has started any yet.
    warnings.simplefilter("ignore", RuntimeWarning)
    folder.mkdir(exist_ok=True)
    if sys.argv[2:] == ["once"]:
        save(folder, max([0, *training.saved_steps(folder)]) + 1)
    else:
        kill_each(folder)


if __name__ == "__main__":
    main()
