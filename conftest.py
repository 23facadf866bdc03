"""Code blocks in the README, the docs and the docstrings are tests."""

from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

PAGES = Sybil(parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"])
DOCSTRINGS = Sybil(
    parsers=[DocTestParser()],
    patterns=[f"{folder}/**/*.py" for folder in ("rnnjax", "examples", "benchmarks")],
    document_types={".py": PythonDocStringDocument},
)

pytest_collect_file = (PAGES + DOCSTRINGS).pytest()
