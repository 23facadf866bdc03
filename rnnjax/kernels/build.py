"""Source in C++ → a shared library, by the system's compiler, kept on disk.

A library is found again by a hash of all that it depends on: the source, the command, the
compiler's version and the features of the CPU; so a home that several machines share holds a
library for each. It is written under another name and renamed, so several processes may build the
same one; each library ends with a hash of itself, and one that does not fit is built anew.
"""

import functools
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
import time
from importlib import metadata

import jax

from rnnjax.kernels.emit import FOLDER

LOG = logging.getLogger("rnnjax.kernels")

FLAGS = (
    "-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-fno-ivopts", "-fPIC", "-shared", "-fvisibility=default", "-pthread",
)  # fmt: skip
"""No -ffast-math: NaN, Inf and signed zeros are what JAX makes of them. GCC's -fivopts has products
read a vector of weights again for each row that it is multiplied with; clang ignores its flag."""


class BuildError(RuntimeError):
    """No library: there is no compiler, it fails, or there is nowhere to write to."""


def missing() -> str | None:
    """Say what is missing to compile kernels here; None: nothing.

    Example:
        >>> missing() is None or "compiler" in missing() or "folder" in missing()
        True
    """
    if compiler() is None:
        return (
            "there is no C++ compiler: none of $RNNJAX_CXX, $CXX, c++, g++ and clang++ is found. "
            "Install g++ or clang++"
        )
    try:
        cache_folder()
    except OSError as error:
        return f"no folder can be written for kernels ({error}). Set RNNJAX_CACHE to one"
    return None


def compiler() -> str | None:
    """Return the compiler's path: ``RNNJAX_CXX``, ``CXX``, or the first that is installed."""
    chosen = os.environ.get("RNNJAX_CXX") or os.environ.get("CXX")
    names = [chosen] if chosen else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def cache_folder() -> pathlib.Path:
    """Return the folder of libraries, made if need be: ``RNNJAX_CACHE``, or in the user's cache.

    Raises:
        OSError: when it cannot be made or written to, or others may write to it.
    """
    folder = _chosen_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is read-only")
    # Whoever may write there runs code as whoever loads it.
    state = folder.stat()
    if hasattr(os, "getuid") and (state.st_uid not in (os.getuid(), 0) or state.st_mode & 0o002):
        raise PermissionError(f"{folder} is another user's, or anybody may write to it")
    return folder


def _chosen_folder() -> pathlib.Path:
    if chosen := os.environ.get("RNNJAX_CACHE"):
        return pathlib.Path(chosen)
    try:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from error
    return pathlib.Path(home) / "rnnjax"


def library(source: str, what: str, flags: tuple[str, ...] = ()) -> pathlib.Path:
    """Return a library made of this source, from the cache or compiled now.

    Args:
        source: in C++.
        what: how the log calls it.
        flags: more flags of the compiler.

    Raises:
        BuildError: with the compiler's message, the command, and where the source is.
    """
    if reason := missing():
        raise BuildError(f"a kernel cannot be compiled: {reason}.")
    command = (str(compiler()), *FLAGS, *extra_flags(), *flags, f"-I{jax.ffi.include_dir()}")
    parts = [source, *command, _machine(command[0]), metadata.version("jaxlib")]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    path = cache_folder() / f"{key[:32]}.so"
    if not _sound(path):
        _compile(source, command, path, what)
    return path


def extra_flags() -> tuple[str, ...]:
    """Return the flags of ``RNNJAX_CXXFLAGS``, such as ``-mno-avx512f``."""
    return tuple(os.environ.get("RNNJAX_CXXFLAGS", "").split())


@functools.cache
def _machine(path: str) -> str:
    """Return what code for this machine depends on: the compiler's version, the CPU's features."""
    version = subprocess.run(
        [path, "--version"], capture_output=True, text=True, check=False
    ).stdout
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([version, platform.machine(), *sorted(set(features))])


def _sound(path: pathlib.Path) -> bool:
    """Say whether a library is there, whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > 32 and hashlib.sha256(content[:-32]).digest() == content[-32:]


def _compile(source: str, command: tuple[str, ...], path: pathlib.Path, what: str) -> None:
    """Compile, and put the library where it is looked for, in one step."""
    started = time.perf_counter()
    text = path.with_suffix(".cc")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
        made, written = pathlib.Path(folder) / path.name, pathlib.Path(folder) / text.name
        written.write_text(source)
        arguments = [*command, str(written), "-o", str(made)]
        result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        os.replace(written, text)
        if result.returncode:
            shown = " ".join([*command, str(text), "-o", str(path)])
            raise BuildError(
                f"the C++ compiler failed to make a kernel of {what}. The source is {text}; the "
                f"command was\n  {shown}\nand its message\n{result.stderr[-3000:]}"
            )
        content = made.read_bytes()
        # What stands behind the end of a library is not read when it is loaded.
        made.write_bytes(content + hashlib.sha256(content).digest())
        os.replace(made, path)
    LOG.info("compiled a kernel of %s in %.1f s: %s", what, time.perf_counter() - started, path)


def read_source(name: str) -> str:
    """Return a file of C++ that stands beside this one."""
    return (FOLDER / name).read_text()
