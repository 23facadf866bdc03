"""What takes turns with its rivals: a program that was compiled and run once, or why it was not."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import timing, wording
from benchmarks.results import Row
from benchmarks.speed_rows import TRAINING
from rnnjax import checks
from rnnjax.array_typing import Array
from rnnjax.cell import carry_dtype
from rnnjax.kernels import build


class Ready(NamedTuple):
    """An arm that can be timed; its first call, which also warms up, took so many seconds."""

    turn: timing.Turn
    compile_seconds: float | None
    peak_bytes: int | None
    first_seconds: float = 0.0


def of_pass(direction: str, run: Callable[[Any, Array], Any]) -> Callable[[Any, Array], dict]:
    """Return what is timed of (weights, xs) → ys: the outputs, or a loss with all its gradients."""

    def forward(weights: Any, xs: Array) -> dict[str, Any]:
        return {"ys": run(weights, xs)}

    def loss(weights: Any, xs: Array) -> Array:
        ys = run(weights, xs)
        return jnp.mean(ys.astype(carry_dtype(ys.dtype)) ** 2)

    def train(weights: Any, xs: Array) -> dict[str, Any]:
        value, (d_weights, d_xs) = jax.value_and_grad(loss, argnums=(0, 1))(weights, xs)
        return {"loss": value, "d_xs": d_xs, "d_weights": d_weights}

    return train if direction == TRAINING else forward


class Bounds(NamedTuple):
    """What one call may take; an arm that takes more is a gap with that reason."""

    seconds: float = 60
    gigabytes: float | None = None


GENEROUS = Bounds()


def prepare(
    function: Callable, *arguments: Any, bounds: Bounds = GENEROUS
) -> tuple[Ready, Any] | str:
    """Compile an arm and run it once, for (arm, results); say why where it is not to be timed."""
    try:
        program = timing.compile_program(function, *arguments)
        if over := _too_large(program.peak_bytes, bounds.gigabytes):
            return over
        begin = time.perf_counter()
        results = program.call()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return "out of memory"
    except (checks.Refusal, build.BuildError) as error:
        return str(error).splitlines()[0]
    if (seconds := time.perf_counter() - begin) > bounds.seconds:
        return f"a call takes {seconds:.0f} s; the bound is {bounds.seconds:g} s"
    turn = timing.turn(program.call)
    return Ready(turn, program.compile_seconds, program.peak_bytes, seconds), results


def _too_large(peak_bytes: int | None, bound: float | None) -> str | None:
    if bound is None or peak_bytes is None or peak_bytes <= 1e9 * bound:
        return None
    return f"a call allocates {wording.short(peak_bytes / 1e9)} GB; the bound is {bound:g} GB"


def figures(arm: Ready | str, times: timing.Timing | None) -> Row:
    """Return what every row says of an arm: its times, or None for each with the reason."""
    skipped, ready = (arm, None) if isinstance(arm, str) else (None, arm)
    return {
        **(times._asdict() if times else dict.fromkeys(timing.Timing._fields)),
        "compile_seconds": ready and ready.compile_seconds,
        "peak_bytes": ready and ready.peak_bytes,
        "skipped": skipped,
    }
