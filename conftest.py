"""Code blocks in the README, the docs and the docstrings are tests."""

import atexit
import os
import shutil
import tempfile
from typing import Any

from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

if "RNNJAX_CACHE" not in os.environ:
    # One for all processes of a run, which inherit it; nothing is left in the home.
    os.environ["RNNJAX_CACHE"] = tempfile.mkdtemp(prefix="rnnjax-kernels-")
    atexit.register(shutil.rmtree, os.environ["RNNJAX_CACHE"], ignore_errors=True)


def enter_new_folder(namespace: dict[str, Any]) -> None:
    """Let a page write into a folder of its own."""
    namespace["_folder"], namespace["_before"] = tempfile.TemporaryDirectory(), os.getcwd()
    os.chdir(namespace["_folder"].name)


def leave_folder(namespace: dict[str, Any]) -> None:
    """Remove what a page wrote."""
    os.chdir(namespace["_before"])
    namespace["_folder"].cleanup()


PACKAGES = ("rnnjax", "examples", "benchmarks")
PAGES = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
    setup=enter_new_folder,
    teardown=leave_folder,
)
DOCSTRINGS = Sybil(
    parsers=[DocTestParser()],
    # ** stands for at least one folder.
    patterns=[f"{top}/{own}" for top in PACKAGES for own in ("*.py", "**/*.py")],
    document_types={".py": PythonDocStringDocument},
)

pytest_collect_file = (PAGES + DOCSTRINGS).pytest()
