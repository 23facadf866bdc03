"""Kernels on disk: found again, built anew where damaged, by several processes at once."""

import ctypes
import logging
import subprocess
import sys

import pytest

from rnnjax.kernels import build
from tests.cases import skip_without_compiler

SOURCE = 'extern "C" int answer() { return 42; }'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    skip_without_compiler()
    monkeypatch.setenv("RNNJAX_CACHE", str(tmp_path))
    return tmp_path


def test_a_library_is_compiled_once_and_logged(cache, caplog):
    with caplog.at_level(logging.INFO, "rnnjax.kernels"):
        first, second = (build.library(SOURCE, "an answer") for _ in range(2))
    assert first == second
    assert ctypes.CDLL(str(first)).answer() == 42
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("compiled a kernel of an answer in ")
    assert sorted(path.suffix for path in cache.iterdir()) == [".cc", ".so"]


def test_source_and_flags_tell_libraries_apart(monkeypatch):
    paths = {build.library(SOURCE, "a"), build.library(SOURCE, "a", ("-DX=1",))}
    monkeypatch.setenv("RNNJAX_CXXFLAGS", "-DX=2")
    paths.add(build.library(SOURCE, "a"))
    monkeypatch.setattr(build, "_machine", lambda path: "another machine")
    paths.add(build.library(SOURCE, "a"))
    assert len(paths) == 4


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_library_is_built_anew(damage):
    path = build.library(SOURCE, "a")
    content = path.read_bytes()
    path.write_bytes(content[:-100] if damage is None else damage)
    assert build.library(SOURCE, "a") == path
    assert ctypes.CDLL(str(path)).answer() == 42


def test_a_failing_compiler_is_quoted(cache):
    with pytest.raises(build.BuildError) as caught:
        build.library("int broken(", "a broken kernel")
    message = str(caught.value)
    assert "failed to make a kernel of a broken kernel" in message
    assert "-O3" in message
    assert "error:" in message
    (source,) = cache.glob("*.cc")
    assert str(source) in message
    assert source.read_text() == "int broken("


def test_a_folder_that_cannot_be_made_is_named(cache, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("RNNJAX_CACHE", str(cache / "file" / "folder"))
    assert "no folder can be written" in (build.missing() or "")
    with pytest.raises(build.BuildError, match="RNNJAX_CACHE"):
        build.library(SOURCE, "a")


def test_two_processes_race_on_an_empty_cache(cache):
    program = (
        "import ctypes; from rnnjax.kernels import build;"
        f"print(ctypes.CDLL(str(build.library({SOURCE!r}, 'a'))).answer())"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in running] == ["42", "42"]
    assert sorted(path.suffix for path in cache.iterdir()) == [".cc", ".so"]
