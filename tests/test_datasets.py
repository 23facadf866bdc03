"""Named texts: found, checked and split as their published scores need it, or refused."""

import functools
import http.server
import math
import threading
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.support import datasets
from examples.support.corpus import UNKNOWN, pack
from examples.support.datasets import ROOT, File
from examples.support.ngram import KneserNey, cross_entropy
from examples.support.words import END, WordVocabulary, words
from tests.data import DATA

CONTENT = b"two lines\r\nof text\n"
PATH = "text/poem.txt"


@pytest.fixture
def data(monkeypatch):
    """The real files, which are never downloaded for a test."""
    for dataset in (*datasets.BY_CHARACTER.values(), *datasets.BY_WORD.values()):
        for file in dataset.files:
            if not (DATA / file.path).is_file():
                pytest.skip(f"needs the texts: set {ROOT} to a folder that holds {file.path}")
    monkeypatch.setenv(ROOT, str(DATA))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no data folder."""
    monkeypatch.delenv(ROOT, raising=False)
    monkeypatch.setattr(datasets.pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache/rnnjax"


@pytest.fixture
def root(tmp_path, monkeypatch, cache):
    """A data folder that holds the poem."""
    folder = tmp_path / "data"
    (folder / PATH).parent.mkdir(parents=True)
    (folder / PATH).write_bytes(CONTENT)
    monkeypatch.setenv(ROOT, str(folder))
    return folder


@pytest.fixture
def server(tmp_path):
    """The address of a folder served on this machine, and what was asked of it."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "poem.txt").write_bytes(CONTENT)
    serve = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/poem.txt", asked
        running.shutdown()


def poem(content=CONTENT, address=None):
    return File(PATH, sha256(content).hexdigest(), address)


def test_the_data_folder_comes_first(root, server):
    address, asked = server
    assert poem(address=address).locate() == root / PATH
    assert poem(address=address).read() == CONTENT.decode()
    assert asked == []


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_download_is_kept_in_the_cache(elsewhere, cache, server, tmp_path, monkeypatch):
    address, asked = server
    if elsewhere:  # a data folder that does not hold this file
        monkeypatch.setenv(ROOT, str(tmp_path))
    assert poem(address=address).locate() == cache / PATH
    assert poem(address=address).read() == CONTENT.decode()
    assert asked == ["/poem.txt"]


@pytest.mark.parametrize("address", ["https://example.org/poem.txt", None])
def test_a_wrong_checksum_names_file_expected_and_found(address, root):
    file, found = poem(b"another text", address), sha256(CONTENT).hexdigest()
    with pytest.raises(ValueError, match=rf"poem\.txt: .*{file.sha256}; found {found}") as error:
        file.read()
    assert str(root / PATH) in str(error.value)
    assert f"Set {ROOT} to a folder that holds {PATH}" in str(error.value)


def test_a_download_with_a_wrong_checksum_is_not_kept(cache, server):
    file, found = poem(b"another text", server[0]), sha256(CONTENT).hexdigest()
    with pytest.raises(ValueError, match=rf"poem\.txt.*{file.sha256}.*{found}"):
        file.read()
    assert list((cache / "text").iterdir()) == []


@pytest.mark.parametrize("set_to", [None, "nowhere"])
def test_offline_the_error_says_what_to_do(set_to, cache, monkeypatch):
    if set_to:
        monkeypatch.setenv(ROOT, set_to)
    where = r"nowhere \(RNNJAX_DATA\)" if set_to else r"a data folder \(RNNJAX_DATA is not set\)"
    address = "http://127.0.0.1:9/poem.txt"  # the port that discards: nobody listens
    mend = f"Set {ROOT} to a folder that holds {PATH}, from {address}\\."
    with pytest.raises(FileNotFoundError, match=f"{where}.*failed \\(ConnectionError\\).*{mend}"):
        poem(address=address).read()
    with pytest.raises(FileNotFoundError, match=f"{where}\\. Set {ROOT} to a .* {PATH}\\.$"):
        poem().read()


def test_an_address_that_is_gone(cache, server):
    with pytest.raises(FileNotFoundError, match=r"failed \(HTTPError\)"):
        poem(address=server[0] + ".gone").read()


def test_every_name_is_one_dataset():
    for name, dataset in (datasets.BY_CHARACTER | datasets.BY_WORD).items():
        assert dataset.name == name
        for file in dataset.files:
            assert len(file.sha256) == 64
            assert file.address is None or file.address.startswith("https://")


def test_tinyshakespeare(data):
    parts, tuning = datasets.TINYSHAKESPEARE.load(), datasets.TINYSHAKESPEARE_TUNING.load()
    assert (parts.test, tuning.test) == ([], [])
    (train,), (validation,) = parts.train, parts.validation
    assert (len(train.text), len(validation.text)) == (1_003_854, 111_540)
    assert train.text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.")
    assert tuning.train[0].text + tuning.validation[0].text == train.text
    assert len(tuning.validation[0].text) / len(train.text) == pytest.approx(0.05, abs=1e-6)
    assert len(parts.vocabulary) == 2 + 65
    assert UNKNOWN not in parts.vocabulary.decode(parts.vocabulary.encode(validation.text))


def test_viwiki(data):
    parts = datasets.VIWIKI.load()
    pieces = (parts.train, parts.validation, parts.test)
    assert [len(piece) for piece in pieces] == [512, 64, 65]
    joined = ["\n\n".join(document.text for document in piece) for piece in pieces]
    assert [len(text) for text in joined] == [2_367_055, 287_928, 315_306]
    assert not any("\r" in text for text in joined)
    assert len(parts.vocabulary) == 2 + 195
    unknown = np.mean(parts.vocabulary.encode(joined[2]) == 1)
    assert unknown == pytest.approx(0.0016, abs=1e-4)


def test_wikitext2(data):
    parts = datasets.WIKITEXT2.load()
    assert (len(parts.train), len(parts.test)) == (217_646, 245_569)
    assert (parts.train.count(END), parts.test.count(END)) == (3_760, 4_358)
    assert len(parts.vocabulary) == 13_777
    assert parts.vocabulary.encode(parts.train).max() == 13_776


@pytest.mark.parametrize(("order", "perplexity"), [(1, 557.0), (2, 245.1), (3, 231.4), (4, 229.1)])
def test_wikitext2_ngrams(order, perplexity, data):
    parts = datasets.WIKITEXT2.load()
    train, test = (parts.vocabulary.encode(part) for part in (parts.train, parts.test))
    nats = cross_entropy(train, test, order, len(parts.vocabulary))
    assert math.exp(nats) == pytest.approx(perplexity, abs=0.1)


def test_viwiki_ngram(data):
    parts = datasets.VIWIKI.load()
    train, test = (pack(part, parts.vocabulary)[0] for part in (parts.train, parts.test))
    ngram = KneserNey(5, len(parts.vocabulary)).fit(train)
    nats = ngram.log_probabilities(test[1:], history=test[:1])
    assert -nats.mean() == pytest.approx(1.661, abs=1e-3)


def test_viwiki_letters_are_composed_and_rare_ones_unknown():
    articles = [f"Tie\u0302\u0301ng\r\nVie\u0323\u0302t {i}" for i in range(640)]
    parts = datasets.split_viwiki("\n\n".join([*articles, "\u1ebf\ufeff"]))
    assert parts.train[3].text == "Ti\u1ebfng\nVi\u1ec7t 3"
    assert parts.vocabulary.decode(parts.vocabulary.encode(parts.test[-1].text)) == "\u1ebf\ufffd"


def test_vocabulary_keeps_the_frequent_words():
    vocabulary = WordVocabulary.of(words("b a b c\na <unk>\n"), min_count=2)
    assert vocabulary.symbols == ("<eos>", "<unk>", "a", "b")
    assert len(vocabulary) == 4
    ids = vocabulary.encode("b c <unk>\n\na")
    assert (ids.tolist(), ids.dtype) == ([3, 1, 1, 0, 0, 2], np.int32)
    assert vocabulary.encode(["b", "c"]).tolist() == [3, 1]
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


@given(st.lists(st.sampled_from(["a", "bird", "sings", END])))
def test_encode_then_decode(sentence):
    vocabulary = WordVocabulary.of(["a", "bird", "sings"])
    text = vocabulary.decode(vocabulary.encode(sentence))
    assert words(text) == sentence
    assert " \n" not in text
    assert "\n " not in text


def test_word_vocabulary_refuses():
    with pytest.raises(ValueError, match="must begin with '<eos>' and '<unk>'"):
        WordVocabulary(("a", "b"))
    for wrong in ("a a", "", "<unk>"):
        with pytest.raises(ValueError, match="distinct words without white space"):
            WordVocabulary((END, "<unk>", wrong))
    vocabulary = WordVocabulary.of(words("a red rose"))
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 5\); got values from -1 to 5"):
        vocabulary.decode([5, -1])
    vocabulary.require("a rose\n")
    with pytest.raises(ValueError, match=r"got 'roses' as word 1.*5 words, such as rose, or by"):
        vocabulary.require("a roses")
    with pytest.raises(ValueError, match="such as a, red, rose, or by <unk>"):
        vocabulary.require(["xyz"])
