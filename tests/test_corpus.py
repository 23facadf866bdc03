"""Text as integer streams: what is read, what is kept apart, and what is refused."""

import sysconfig

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.support.corpus import (
    BOUNDARY,
    UNKNOWN,
    Document,
    Vocabulary,
    pack,
    python_sources,
    split,
    text_file,
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=BOUNDARY), max_size=30)
documents_ = st.lists(st.builds(Document, texts, texts), min_size=1, max_size=6)


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A stand-in for the standard library's folder, with one file of each kind."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    files = {f"module{i}.py": f"x = {i}\n".encode() for i in range(8)}
    files |= {
        "package/inner.py": b"y = 1\n",
        "latin.py": "# coding: latin-1\n# \xe9\n".encode("latin-1"),
        "undecodable.py": b"# \xff\n",
        "unknown_coding.py": b"# coding: nonsense\n",
        "empty.py": b"",
        "notes.txt": b"not Python",
        "test/test_x.py": b"z = 1\n",
        "lib2to3/tests/data.py": b"z = 1\n",
        "idlelib/idle_test/mock.py": b"z = 1\n",
        "site-packages/numpy/__init__.py": b"z = 1\n",
        "encodings/cp037.py": b"z = 1\n",
        "html/entities.py": b"z = 1\n",
        "_sysconfigdata__linux.py": b"z = 1\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def test_python_sources_reads_the_library_alone(library):
    documents = dict(python_sources(10**6))
    assert set(documents) == {*(f"module{i}.py" for i in range(8)), "package/inner.py", "latin.py"}
    assert documents["latin.py"].endswith("# \xe9\n")


def test_python_sources_order_is_mixed_and_a_cap_takes_a_prefix(library):
    everything = python_sources(10**6)
    names = [d.name for d in everything]
    assert names != sorted(names)
    assert python_sources(20) == everything[: len(python_sources(20))]
    assert 0 < sum(len(d.text) for d in python_sources(20)) <= 20


def test_python_sources_of_this_interpreter():
    documents = python_sources(200_000)
    total = sum(len(d.text) for d in documents)
    assert len(documents) > 1
    assert 0 < total <= 200_000
    assert documents == python_sources(200_000)


def test_python_sources_refuses(library, monkeypatch):
    with pytest.raises(ValueError, match="no document fits in max_characters = 1; raise it"):
        python_sources(1)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library / "python311.zip"))
    with pytest.raises(FileNotFoundError, match=r"python311\.zip .*pass `--data FILE`"):
        python_sources(10**6)


def test_text_file_changes_nothing(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_bytes("\ufeffa\r\nb\rc\n".encode())
    assert text_file(path) == [Document("poem.txt", "\ufeffa\r\nb\rc\n")]


def test_text_file_refuses(tmp_path, monkeypatch):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9!")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(b"ab\0")
    with pytest.raises(FileNotFoundError, match=r"nothing at .*missing\.txt"):
        text_file(tmp_path / "missing.txt")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        text_file(tmp_path)
    with pytest.raises(ValueError, match=r"latin\.txt has the byte 0xe9 at 3"):
        text_file(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        text_file(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match=r"binary\.txt has a NUL at character 2"):
        text_file(tmp_path / "binary.txt")
    # By a stand-in: permissions do not bind a test that runs as root.
    monkeypatch.setattr("pathlib.Path.read_bytes", _refuse)
    with pytest.raises(PermissionError, match=r"no permission to read .*latin\.txt"):
        text_file(tmp_path / "latin.txt")


def _refuse(path):
    raise PermissionError(13, "Permission denied", str(path))


@given(
    names=st.lists(st.text(max_size=5), min_size=2, max_size=40, unique=True),
    share=st.floats(0.01, 0.99),
)
def test_split_by_document_depends_on_names_alone(names, share):
    documents = [Document(name, "text") for name in names]
    train, validation = split(documents, share)
    assert sorted(train + validation) == sorted(documents)
    assert abs(len(validation) - share * len(names)) <= 1
    assert train
    assert validation
    reordered = split(documents[::-1], share)
    assert (train[::-1], validation[::-1]) == reordered


@given(text=st.text(min_size=3), share=st.floats(0.4, 0.6))
def test_split_by_position(text, share):
    train, validation = split([Document("one", text)], share)
    assert train[0].text + validation[0].text == text
    assert abs(len(validation[0].text) - share * len(text)) <= 1


def test_split_of_tiny_shakespeare_is_the_usual_one():
    train, _ = split([Document("tiny", "x" * 1_115_394)], 0.1)
    assert len(train[0].text) == 1_003_854


def test_split_refuses():
    with pytest.raises(ValueError, match=r"validation_share must lie in \(0, 1\); got 1"):
        split([Document("a", "abc")], 1)
    with pytest.raises(ValueError, match="1 characters are too few"):
        split([Document("a", "a")], 0.5)
    with pytest.raises(ValueError, match="at least one document"):
        split([], 0.5)


def test_vocabulary_keeps_what_training_repeats():
    vocabulary = Vocabulary.of([Document("a", "aab"), Document("b", "b\U0001f600c")], min_count=2)
    assert vocabulary.symbols == (BOUNDARY, UNKNOWN, "a", "b")
    assert len(vocabulary) == 4
    ids = vocabulary.encode("ab\0c\U0001f600\ufffd\udc80")
    assert ids.tolist() == [2, 3, 0, 1, 1, 1, 1]
    assert ids.dtype == np.int32
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


@given(text=texts, other=texts)
def test_encode_then_decode(text, other):
    vocabulary = Vocabulary.of([Document("train", text)])
    assert vocabulary.decode(vocabulary.encode(text)) == text
    expected = "".join(c if c in vocabulary.symbols else UNKNOWN for c in other)
    assert vocabulary.decode(vocabulary.encode(other)) == expected


def test_vocabulary_refuses():
    with pytest.raises(ValueError, match="must begin with"):
        Vocabulary(("a", "b"))
    with pytest.raises(ValueError, match="distinct single characters"):
        Vocabulary((BOUNDARY, UNKNOWN, "ab"))
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 2\); got values from -1 to 1"):
        Vocabulary((BOUNDARY, UNKNOWN)).decode([1, -1])


def test_require_names_the_character():
    letters = "".join(map(chr, range(0x4E00, 0x4E64)))
    vocabulary = Vocabulary.of([Document("a", letters)])
    vocabulary.require(letters[::-1])
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 1.*102 symbols.*40 more"):
        vocabulary.require(letters[0] + "é")


@given(documents=documents_)
def test_pack_keeps_documents_apart(documents):
    vocabulary = Vocabulary.of(documents)
    tokens, starts = pack(documents, vocabulary)
    assert (tokens.dtype, starts.dtype) == (np.int32, np.bool_)
    assert np.array_equal(tokens == 0, starts)
    assert vocabulary.decode(tokens).split(BOUNDARY)[1:] == [d.text for d in documents]
