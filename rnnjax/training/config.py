"""Values to JSON and back, so that a folder says by itself what was trained.

Cells, strategies, initialisers and any other dataclass are written as the name of their class and
their fields, dtypes by name, functions by the public module that holds them:

    LSTM(64)  ↔  {"$type": "rnnjax.cells.lstm:LSTM", "size": 64, …}
"""

import dataclasses
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FUNCTIONS = {"jax.nn": jax.nn, "jax.numpy": jnp, "jax.lax": jax.lax}


def encode(value: Any, name: str = "config") -> Any:
    """Return a value as what ``json`` writes.

    Args:
        value: nested dicts with str keys, lists, tuples, numbers, strings, paths, dtypes, functions
            of ``jax.nn``, ``jax.numpy`` and ``jax.lax``, and dataclasses of these.
        name: how messages call it.

    Raises:
        TypeError: it holds anything else; the message says where.

    Example:
        >>> encode((jnp.bfloat16, jax.nn.relu))
        {'$tuple': [{'$dtype': 'bfloat16'}, {'$function': 'jax.nn:relu'}]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return _encode_all(value, name)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"$tuple": _encode_all(value, name)}
    if isinstance(value, dict):
        return _encode_dict(value, name)
    if isinstance(value, Path):
        return {"$path": str(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_dataclass(value, name)
    if _is_dtype(value):
        return {"$dtype": jnp.dtype(value).name}
    if isinstance(value, np.generic):
        return value.item()
    for module, functions in FUNCTIONS.items():
        function = getattr(value, "__name__", "")
        if function and getattr(functions, function, None) is value:
            return {"$function": f"{module}:{function}"}
    raise TypeError(
        f"{name} must hold numbers, strings, dicts, lists, tuples, dataclasses and functions of "
        f"jax.nn, jax.numpy or jax.lax; got {value!r}."
    )


def decode(value: Any) -> Any:
    """Return the value that ``encode`` wrote.

    A class outside rnnjax has to be imported by the caller first: reading a folder runs no code of
    modules that the program has not chosen itself.

    Raises:
        ValueError: a class that is not imported, or that does not exist any more.

    Example:
        >>> import rnnjax
        >>> decode(encode(rnnjax.LSTM(64))) == rnnjax.LSTM(64)
        True
    """
    if isinstance(value, list):
        return [decode(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$tuple": entries}:
            return tuple(decode(entry) for entry in entries)
        case {"$dtype": name}:
            return jnp.dtype(name)
        case {"$path": path}:
            return Path(path)
        case {"$function": name}:
            module, function = name.split(":")
            return getattr(FUNCTIONS[module], function)
        case {"$type": name}:
            fields = {key: decode(entry) for key, entry in value.items() if key != "$type"}
            return _class_of(name)(**fields)
    return {key: decode(entry) for key, entry in value.items()}


def differences(saved: Any, current: Any, name: str = "config") -> Iterator[str]:
    """Yield, field by field, where two encoded values differ.

    Example:
        >>> list(differences({"size": 64, "layers": 1}, {"size": 32, "layers": 1}))
        ['config.size: 64 in the checkpoint, 32 here']
    """
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted(saved.keys() | current.keys()):
            inner = f"{name}.{key.removeprefix('$')}"
            yield from differences(saved.get(key), current.get(key), inner)
    elif isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        for k, (a, b) in enumerate(zip(saved, current, strict=True)):
            yield from differences(a, b, f"{name}[{k}]")
    elif saved != current and not (saved != saved and current != current):  # NaN is as it was
        yield f"{name}: {_short(saved)} in the checkpoint, {_short(current)} here"


def _encode_all(values: Any, name: str) -> list:
    return [encode(entry, f"{name}[{k}]") for k, entry in enumerate(values)]


def _encode_dict(value: dict, name: str) -> dict:
    for key in value:
        if not isinstance(key, str) or key.startswith("$"):
            raise TypeError(f"{name} must have names as keys, without a leading $; got {key!r}.")
    return {key: encode(entry, f"{name}.{key}") for key, entry in value.items()}


def _encode_dataclass(value: Any, name: str) -> dict:
    kind = type(value)
    if "<locals>" in kind.__qualname__:
        raise TypeError(
            f"{name} must be of a class that can be found again; {kind.__qualname__} is defined "
            "inside a function. Move it to the top of its module."
        )
    fields = {
        field.name: encode(getattr(value, field.name), f"{name}.{field.name}")
        for field in dataclasses.fields(value)
        if field.init
    }
    return {"$type": f"{kind.__module__}:{kind.__qualname__}", **fields}


def _is_dtype(value: Any) -> bool:
    scalar = isinstance(value, type) and issubclass(value, np.generic)
    return scalar or isinstance(value, np.dtype | type(jnp.float32))


def _class_of(name: str) -> type:
    module, qualname = name.split(":")
    if module.split(".")[0] == __name__.split(".")[0]:
        import_module(module)
    found: Any = sys.modules.get(module)
    if found is None:
        raise ValueError(
            f"the checkpoint holds a {qualname} of the module {module}, which is not imported. "
            f"Import it first: import {module}."
        )
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"the checkpoint holds a {qualname}; {module} has no such dataclass.")
    return found


def _short(value: Any, limit: int = 60) -> str:
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
