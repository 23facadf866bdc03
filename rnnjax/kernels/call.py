"""Calling a kernel: load its library, make room for results and scratch, hand over to XLA."""

import ctypes
import functools
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.array_typing import Array
from rnnjax.kernels import build, emit
from rnnjax.kernels.trace import Description


class Operands(NamedTuple):
    """What a kernel reads; an array without entries stands for none."""

    x: Array  # (T, B, D)
    w_x: Array  # (D, G·N)
    b: Array  # (G·N,)
    w_h: Array  # (N, G·N)
    vectors: Array  # (P, N)
    carry: Array  # (C, B, N)
    initial: Array  # (C, B, N), where there are resets
    streams: Array  # (T, B, S·N)
    mask: Array  # (T, B)
    resets: Array  # (T, B), in the order of travel


class States(NamedTuple):
    """What the loop leaves behind."""

    hidden: Array  # (T, B, N)
    memory: Array  # (T, B, (C − 1)·N), the other leaves of the carry; (T, B, 0) where not wanted
    last: Array  # (C, B, N), the carry after the last step
    saved: Array  # (T, B, …), preactivations


class Gradients(NamedTuple):
    """Cotangents of the operands."""

    x: Array
    w_x: Array
    b: Array
    w_h: Array
    vectors: Array
    carry: Array
    initial: Array
    streams: Array


NOTHING = (0,)


def forward(
    description: Description,
    operands: Operands,
    time: int,
    batch: int,
    *,
    reverse: bool,
    memory: bool,
    save: bool,
) -> States:
    """Run the loop.

    Args:
        description: of the loop.
        operands: what it reads.
        time: T.
        batch: B.
        reverse: from the last step to the first.
        memory: whether the other leaves of the carry are wanted for all steps.
        save: whether the preactivations are.
    """
    d, steps = description, (time, batch)
    others, saved = (d.carries - 1) * d.units, (d.gates + len(d.apart)) * d.units
    kernel, block = load(d, "forward"), _forward_block(d, time, batch)
    shapes = [
        (*steps, d.units),
        (*steps, others if memory else 0),
        (d.carries, batch, d.units),
        (*steps, saved) if save else NOTHING,
        (kernel.scratch(time, batch, block),),
    ]
    return States(*_call(kernel, shapes, operands, (reverse, block))[:-1])


def backward(
    description: Description,
    operands: Operands,
    states: States,
    cotangents: States,
    *,
    reverse: bool,
    wanted: frozenset[str],
) -> Gradients:
    """Run the loop backwards.

    Args:
        description: of the loop.
        operands: what it read.
        states: what it left behind, saved preactivations included.
        cotangents: of ``hidden``, ``memory`` and ``last``.
        reverse: as the loop ran.
        wanted: the names of the gradients that are asked for; others are without entries.
    """
    d, (time, batch, _) = description, states.hidden.shape
    o, block = operands, max(1, min(time, -(-256 // batch)))
    kernel = load(d, "backward")
    shapes = {name: getattr(o, name).shape for name in Gradients._fields}
    kept = wanted | {"carry"}
    results = [shape if name in kept else NOTHING for name, shape in shapes.items()]
    arguments = [
        *(o.x, o.w_x, o.w_h, o.vectors, o.carry, o.initial, o.streams, o.mask, o.resets),
        *(states.hidden, states.memory, states.saved),
        *(cotangents.hidden, cotangents.memory, cotangents.last),
    ]
    results.append((kernel.scratch(time, batch, block),))
    return Gradients(*_call(kernel, results, arguments, (reverse, block))[:-1])


def _forward_block(d: Description, time: int, batch: int) -> int:
    """Return of how many steps the input's product is taken at a time; 0: it is part of a step.

    Of few rows a product of one step would read W_x again and again.
    """
    return 0 if d.features <= 8 or batch >= 16 else max(1, min(time, 32 // batch))


def _call(kernel: "Kernel", shapes: list, arguments: tuple | list, options: tuple) -> list[Array]:
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    run = jax.ffi.ffi_call(kernel.target, results)
    return list(run(*arguments, options=np.array(options, np.int64)))


class Kernel(NamedTuple):
    """A kernel that XLA knows.

    Attributes:
        target: the name under which it does.
        library: the loaded library.
    """

    target: str
    library: ctypes.CDLL

    def scratch(self, time: int, batch: int, block: int) -> int:
        """Return how many floats of scratch memory it needs."""
        return self.library.scratch(time, batch, block)


@functools.lru_cache(maxsize=1024)
def load(description: Description, way: str) -> Kernel:
    """Return the kernel that goes this way, compiled if it has not been, and tell XLA of it.

    Raises:
        BuildError: when it cannot be compiled.
    """
    d = description
    words = f"N = {d.units}, D = {d.features}, {d.gates} gates, {way}"
    path = build.library(emit.source(d, way), words)
    library = ctypes.CDLL(str(path))
    functions = (_pool().run_parallel, _pool().cores)
    library.set_parallel(*(ctypes.cast(each, ctypes.c_void_p) for each in functions))
    library.scratch.restype = ctypes.c_int64
    library.scratch.argtypes = [ctypes.c_int64] * 3
    target = f"rnnjax_{way}_{path.stem}"
    handler = jax.ffi.pycapsule(getattr(library, way))
    jax.ffi.register_ffi_target(target, handler, platform="cpu")
    return Kernel(target, library)


def unavailable() -> str | None:
    """Say why no kernel can be built and loaded here; None: they can.

    Example:
        >>> unavailable() is None or isinstance(unavailable(), str)
        True
    """
    if reason := build.missing():
        return reason
    try:
        _pool()
    except (build.BuildError, OSError) as error:
        return str(error).splitlines()[0]
    return None


def set_threads(count: int) -> None:
    """Run kernels on so many threads; 0: on as many as the process may use cores."""
    _pool().set_threads(count)


@functools.cache
def _pool() -> ctypes.CDLL:
    """Return the library of the threads that all kernels share; ``RNNJAX_THREADS`` bounds them."""
    path = build.library(build.read_source("pool.cc"), "threads")
    pool = ctypes.CDLL(str(path))
    pool.set_threads(int(os.environ.get("RNNJAX_THREADS") or _quota()))
    return pool


def _quota() -> int:
    """Return how many cores a container may use, where it is told; 0: all that there are."""
    try:
        quota, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 0
    cores = os.cpu_count() or 1
    return 0 if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
