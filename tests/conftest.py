"""Strict numerics for every test."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def optax_promotion(_strict):
    """Relax it for Optax's Adam, whose bias correction raises a float to an integer power."""
    with jax.numpy_dtype_promotion("standard"):
        yield
