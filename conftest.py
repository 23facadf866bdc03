"""Code blocks in the README, the docs and the docstrings are tests."""

from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

PAGES = Sybil(parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"])
DOCSTRINGS = Sybil(
    parsers=[DocTestParser()],
    patterns=["rnnjax/**/*.py", "rnnjax/*.py"],
    document_types={".py": PythonDocStringDocument},
)

pytest_collect_file = (PAGES + DOCSTRINGS).pytest()
