"""How tests that train compile: quickly."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def compiled_quickly() -> Iterator[None]:
    """One configuration, so that equal models are compiled once, and little optimisation."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("raise"):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
