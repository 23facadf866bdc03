"""Runs that are killed and started again: nothing is lost or half there, and no bit differs."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rnnjax import training
from rnnjax.training import storage
from tests import killed_saves

ROOT = Path(__file__).parent.parent
STEPS = 60


def start(folder, *, module="tests.training_worker", steps=STEPS, wrapped=()):
    environment = {
        **os.environ,
        # The same programs in every process, and most of each start-up saved.
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    command = [*wrapped, sys.executable, "-m", module, str(folder), str(steps)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Wait for a run; return its last words by their names."""
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return dict(line.split(" ", 1) for line in out.splitlines() if " " in line)


def kill_after(process, marker, delay):
    """Kill a run so long after a line that begins with the marker: the last line before its end."""
    last = ""
    with process:
        for line in process.stdout:
            last = line.strip()
            if last.startswith(marker):
                threading.Timer(delay, process.kill).start()
                break
        for line in process.stdout:
            last = line.strip() or last
    return last


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return finish(start(folder))["digest"], sorted(os.listdir(folder)), folder


def chain(kills, folder, uninterrupted):
    """Kill one run so many times, half of them inside a save; then let it end."""
    digest, names, whole = uninterrupted
    shutil.copytree(whole.parent / "programs", folder.parent / "programs", dirs_exist_ok=True)
    draw, hits = random.Random(kills), []
    for number in range(kills):
        inside = number % 2 == 0
        ahead = training.saved_steps(folder)[-1] if training.saved_steps(folder) else 0
        if ahead > STEPS - 12:  # too near the end to be hit: once more from the beginning
            shutil.rmtree(folder)
        process = start(folder)
        marker, delay = (
            ("saving", draw.uniform(0, 0.03)) if inside else ("started", draw.uniform(0, 2.5))
        )
        last = kill_after(process, marker, delay)
        print(f"kill {number + 1}: after {last!r}, status {process.returncode}")
        assert process.returncode in (-signal.SIGKILL, 0)
        hits += [last.split()[0]] if process.returncode else []
        for step in training.saved_steps(folder):
            storage.verify(folder / f"{step:08d}")
    assert len(hits) >= kills - 1  # one may have come after the end
    assert hits.count("saving") >= kills // 4
    assert finish(start(folder))["digest"] == digest
    assert sorted(os.listdir(folder)) == names


def test_killed_runs_end_with_the_same_bits(uninterrupted, tmp_path):
    chain(5, tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_many_killed_runs_end_with_the_same_bits(uninterrupted, tmp_path):
    chain(15, tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_status_0(asked, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(folder)
    for line in process.stdout:
        if line.startswith("saved 10"):
            break
    process.send_signal(asked)
    begin = time.perf_counter()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert time.perf_counter() - begin < 10
    newest = training.saved_steps(folder)[-1]
    assert 10 <= newest < STEPS
    last = finish(start(folder))
    assert last["resumed"] == str(newest)
    assert last["digest"] == uninterrupted[0]


def test_a_kill_at_each_sync_and_rename_leaves_the_old_or_the_new_step(tmp_path):
    program = [sys.executable, "-m", "tests.killed_saves", str(tmp_path)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    seen = re.findall(r"^(\w+) (\d+) steps (\[.*?\])$", done.stdout, re.MULTILINE)
    print(done.stdout)
    assert {call for call, *_ in seen} == set(killed_saves.CALLS)
    assert {found for *_, found in seen} == {"[1]", "[1, 2]"}


def strace_refuses():
    """Why calls to the system cannot be watched here, or an empty string."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-f", "true"], capture_output=True, text=True)
    return done.stderr if done.returncode else ""


@pytest.mark.slow
@pytest.mark.skipif(bool(strace_refuses()), reason=strace_refuses() or "-")
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_kill_at_each_call_of_any_thread_leaves_whole_steps(call, tmp_path):
    """As above, also where Orbax syncs and renames in threads of its own."""
    folder = tmp_path / "run"
    killed = 0
    for number in range(1, 40):  # counted by strace for each thread
        traced = ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}"]
        injected = ["-e", f"inject={call}:signal=SIGKILL:when={number}"]
        before = training.saved_steps(folder)
        save = [sys.executable, "-m", "tests.killed_saves", str(folder), "once"]
        status = subprocess.run(traced + injected + save, cwd=ROOT, capture_output=True).returncode
        after = killed_saves.whole_steps(folder) if folder.exists() else []
        assert after[-1:] in (before[-1:], [max([0, *before]) + 1])
        if status == 0:
            break
        killed += 1
    assert status == 0
    # One may be all: each of Orbax's threads may make the call once.
    assert killed >= 1
