"""Fair timing: compiled ahead of time, warmed up, waited for, rivals in the same rounds."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

ROUNDS = 7
# Below about 20 ms the clock's own steps and a single interruption weigh too much.
ROUND_SECONDS = 0.02


class Program(NamedTuple):
    """A compiled program with its arguments; ``call`` returns when its results are there."""

    call: Callable[[], Any]
    compile_seconds: float
    peak_bytes: int | None


class Timing(NamedTuple):
    """One arm's time for a call: the minimum and the median over the rounds."""

    milliseconds: float
    milliseconds_median: float
    rounds: int


def compile_program(function: Callable, *args: Any) -> Program:
    """Trace and compile a function for these arguments; ``compile_seconds`` is both together."""
    arguments = jax.device_put(args)
    # What an earlier program has traced would be free for this one.
    jax.clear_caches()
    begin = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - begin
    return Program(
        lambda: jax.block_until_ready(compiled(*arguments)), seconds, peak_bytes(compiled)
    )


def peak_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Return what a call allocates, as the compiler planned it: temporaries plus outputs.

    Temporaries are one allocation, within which buffers share space when their lives do not
    overlap; so the sum is the peak. Not counted: arguments, which the caller holds anyway, the code
    itself, and scratch that library calls allocate on their own. XLA's own
    ``peak_memory_in_bytes`` is no use here: on CPU it is arguments plus outputs and leaves the
    temporaries out (jaxlib 0.10.2). None where the backend says nothing.
    """
    planned: Any = compiled.memory_analysis()
    if planned is None:
        return None
    return planned.temp_size_in_bytes + planned.output_size_in_bytes


def time_together(
    arms: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = ROUNDS,
    round_seconds: float = ROUND_SECONDS,
) -> dict[str, Timing]:
    """Time several calls in turn, round after round, so that they share what else the machine does.

    Args:
        arms: calls by name; each must return only when its work is done.
        rounds: how often each arm has its turn.
        round_seconds: the least time of one turn; a shorter call is repeated.
    """
    repeats = {name: _repeats(call, round_seconds) for name, call in arms.items()}
    turns = {name: [] for name in arms}
    for _ in range(rounds):
        for name, call in arms.items():
            turns[name].append(1e3 * _seconds(call, repeats[name]) / repeats[name])
    return {
        name: Timing(min(turn), statistics.median(turn), rounds) for name, turn in turns.items()
    }


def _repeats(call: Callable[[], Any], round_seconds: float) -> int:
    """Warm up and return how many calls fill a turn."""
    first = _seconds(call)
    # The first call also sets up what later ones reuse. A long one is no worse for it.
    once = first if first > 1 else _seconds(call)
    return max(1, math.ceil(round_seconds / once))


def _seconds(call: Callable[[], Any], repeats: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - begin
