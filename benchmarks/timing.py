"""Fair timing: compiled ahead of time, warmed up, waited for, rivals in the same rounds."""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

ROUNDS = 7
# Below about 20 ms the clock's own steps and a single interruption weigh too much.
ROUND_SECONDS = 0.02
# Threads of the rival before still spin for a millisecond or so.
REST_SECONDS = 0.005

Key = TypeVar("Key", bound=Hashable)

Turn = Callable[[int], float]
"""Makes a call so many times and returns the seconds that this took."""


class Program(NamedTuple):
    """A compiled program with its arguments; ``call`` returns when its results are there."""

    call: Callable[[], Any]
    compile_seconds: float
    peak_bytes: int | None


class Timing(NamedTuple):
    """One arm's time for a call: the minimum, the median and the maximum over the rounds."""

    milliseconds: float
    milliseconds_median: float
    milliseconds_max: float
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
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = ROUNDS,
    round_seconds: float = ROUND_SECONDS,
) -> dict[str, Timing]:
    """Time several calls in turn, round after round, so that they share what else the machine does.

    Args:
        calls: calls by name; each must return only when its work is done.
        rounds: how often each has its turn.
        round_seconds: the least time of one turn; a shorter call is repeated.
    """
    turns = {name: turn(call) for name, call in calls.items()}
    return take_turns(turns, rounds=rounds, round_seconds=round_seconds)


def take_turns(
    turns: Mapping[Key, Turn], *, rounds: int = ROUNDS, round_seconds: float = ROUND_SECONDS
) -> dict[Key, Timing]:
    """Do the same with what measures itself, in another process for example."""
    repeats = {key: _repeats(turn, round_seconds) for key, turn in turns.items()}
    taken = {key: [] for key in turns}
    for _ in range(rounds):
        for key, turn in turns.items():
            time.sleep(REST_SECONDS)
            taken[key].append(1e3 * turn(repeats[key]) / repeats[key])
    return {
        key: Timing(min(times), statistics.median(times), max(times), rounds)
        for key, times in taken.items()
    }


def turn(call: Callable[[], Any]) -> Turn:
    """Return what repeats a call so many times and gives the seconds that it took."""

    def seconds(repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - begin

    return seconds


def _repeats(turn: Turn, round_seconds: float) -> int:
    """Warm up and return how many calls fill a turn."""
    first = turn(1)
    # The first call also sets up what later ones reuse. A long one is no worse for it.
    once = first if first > 1 else turn(1)
    return max(1, math.ceil(round_seconds / once))
