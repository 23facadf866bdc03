"""Strict numerics for every test, and no programs of one file kept for the next."""

import gc

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Keep a process from growing by gigabytes of machine code, in which it may fail to compile."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def optax_promotion(_strict):
    """Relax it for Optax's Adam, whose bias correction raises a float to an integer power."""
    with jax.numpy_dtype_promotion("standard"):
        yield
