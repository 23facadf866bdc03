"""Measurements behind every claim of speed: ``python -m benchmarks`` lists them.

To add one, write ``benchmarks/NAME.py`` that defines ``BENCHMARK`` and add its line to the table.
"""

import importlib

from benchmarks.benchmark import Benchmark

BENCHMARKS = {
    "scan_vs_unrolled": "A compiled loop against a Python loop, T = 8 … 1,024; memory to 100,000.",
    "speed": "Every strategy beside Flax, Haiku, Equinox, Keras and PyTorch, on six sizes.",
    "fused": "One kernel for the loop: masks and resets, system time, seconds to compile.",
    "parallel": "Linear cells step by step and in parallel over time, T = 256 … 131,072.",
    "streaming": "Writing text token by token: microseconds a token, beside PyTorch and Flax.",
    "gradients": "What is left of a gradient 10,000 steps back, before and after training.",
}


def find(name: str) -> Benchmark:
    """Return the benchmark of that name.

    Raises:
        ValueError: when there is none.
    """
    if name not in BENCHMARKS:
        names = ", ".join([*BENCHMARKS, "agree", "choose", "tables"])
        raise ValueError(
            f"benchmarks: NAME must be one of {names}; got {name!r}. "
            "`python -m benchmarks` lists them, a line each."
        )
    return importlib.import_module(f"benchmarks.{name}").BENCHMARK
