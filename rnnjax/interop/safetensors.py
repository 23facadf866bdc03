"""Params in safetensors files: nested dicts and tuples under dotted names."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from rnnjax.array_typing import Params
from rnnjax.interop.weights import contiguous, flatten, unflatten


def save_safetensors(path: str | os.PathLike, params: Params) -> None:
    """Write params to a safetensors file, each array under its dotted path, ``layers.0.w_x``.

    Such a file holds arrays and nothing that runs, and many libraries read it. Needs the package
    safetensors (``pip install "rnnjax[safetensors]"``).

    Args:
        path: the file.
        params: nested dicts and tuples of arrays; names are strings without dots, and not digits.

    Raises:
        TypeError: when params hold something else than arrays.
        ValueError: when a name has a dot, or is a number.

    Example:
        >>> import jax, pathlib, rnnjax, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "params.safetensors"
        >>> stack = rnnjax.Stack((rnnjax.LSTM(8), rnnjax.GRU(8)))
        >>> params = stack.init(jax.random.key(0), 3)
        >>> rnnjax.interop.save_safetensors(path, params)
        >>> back = rnnjax.interop.load_safetensors(path)
        >>> jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, back))
        True
    """
    flat = flatten(_as_dicts(params))
    for name, leaf in flat.items():
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"save_safetensors: params must hold arrays only; got {name} = {leaf}.")
    importlib.import_module("safetensors.flax").save_file(contiguous(flat), path)


def load_safetensors(path: str | os.PathLike) -> Params:
    """Read what ``save_safetensors`` wrote: nested dicts, tuples for numbers, and JAX arrays.

    Args:
        path: the file.

    Returns:
        The params, in the dtypes of the file.

    Raises:
        FileNotFoundError: when there is no such file.

    Example:
        That of ``save_safetensors``.
    """
    return _as_tuples(unflatten(importlib.import_module("safetensors.flax").load_file(path)))


def _as_dicts(tree: Any) -> Any:
    """Replace tuples by dicts of their indices."""
    if isinstance(tree, tuple):
        return {str(k): _as_dicts(entry) for k, entry in enumerate(tree)}
    if not isinstance(tree, Mapping):
        return tree
    for name in tree:
        if not isinstance(name, str) or "." in name or name.isdigit():
            raise ValueError(
                f"save_safetensors: names in params must be strings without dots that are no "
                f"numbers; got {name!r}."
            )
    return {name: _as_dicts(entry) for name, entry in tree.items()}


def _as_tuples(tree: Any) -> Any:
    """Replace dicts of indices by tuples."""
    if not isinstance(tree, dict):
        return tree
    entries = {name: _as_tuples(entry) for name, entry in tree.items()}
    if not all(name.isdigit() for name in entries):
        return entries
    return tuple(entries[str(k)] for k in range(len(entries)))
