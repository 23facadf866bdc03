"""What a run was made on, to be kept beside its scores."""

import os
from importlib.metadata import version

import jax


def device() -> str:
    """Return the kind of device and the processors at hand, such as ``cpu, 2 processors``."""
    return f"{jax.devices()[0].device_kind}, {_processors()} processors"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of packages by name.

    Example:
        >>> list(versions("jax", "rnnjax"))
        ['jax', 'rnnjax']
    """
    return {name: version(name) for name in packages}


def _processors() -> int | None:
    """Count the processors that this process may use; elsewhere than on Linux, all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
