"""Files of time series: what is in them, and what is wrong in which line."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.support import labelled_series, ts_files
from examples.support.datasets import ROOT
from tests.data import DATA

HEADER = "#a comment\n@problemName Two\n@timeStamps false\n@missing false\n@univariate false\n"
HEADER += "@dimensions 2\n@equalLength false\n@classLabel true a b\n"
CASES = "@data\n1.5,2,-3e1:4,5,6:a\n\n7:8:b\n"


def write(folder, text, name="own.ts"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_cases_of_different_lengths_are_read(tmp_path):
    found = ts_files.read(write(tmp_path, HEADER + CASES))
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [0, 1]
    assert found.series[0].tolist() == [[1.5, 4], [2, 5], [-30, 6]]
    assert found.series[1].tolist() == [[7, 8]]


def test_case_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path):
    windows = (HEADER + CASES).replace("\n", "\r\n").encode("utf-8-sig").replace(b"@data", b"@DATA")
    for text in (windows, (HEADER + CASES).rstrip()):
        assert len(ts_files.read(write(tmp_path, text)).series) == 2


MISTAKES = {
    "line 4: expected @missing false": HEADER.replace("missing false", "missing true") + CASES,
    "line 3: expected @timeStamps false": HEADER.replace("Stamps false", "Stamps true") + CASES,
    "line 10: expected numbers; channel 2 has a missing value": HEADER + CASES.replace(",5", ",?"),
    "line 10: expected numbers; channel 1 has 'x'": HEADER + CASES.replace("2", "x"),
    "line 10: expected finite numbers; channel 1 has NaN": HEADER + CASES.replace("2", "NaN"),
    "line 10: expected channels of one length; got 2 and 3": HEADER + CASES.replace(",2", ""),
    "line 10: expected 3 channels and a class; got 2": HEADER.replace("ons 2", "ons 3") + CASES,
    "line 12: expected one of the classes a b; got 'c'": HEADER + CASES.replace(":b", ":c"),
    "line 8: expected @classLabel true and two": HEADER.replace("true a b", "false") + CASES,
    "line 8: expected @classLabel true and the classes before @data": HEADER.replace(
        "@classLabel true a b\n", ""
    )
    + CASES,
    "line 8: expected classes (@classLabel); got numbers": HEADER.replace("class", "target")
    + CASES,
    "line 6: expected a number of channels": HEADER.replace("ons 2", "ons two") + CASES,
    "line 1: expected a line of the header such as @dimensions 12; got '1.5,2": "1.5,2:4,5:a\n",
    "line 2: expected a line of the header such as @dimensions 12; got '@colour'": "#\n@colour 1\n",
    ": expected @data; the file ends": HEADER,
    ": expected a case; the file ends": HEADER + "@data\n",
    ": expected text in UTF-8; byte 1 is not": b"@\xff\xfe\x00",
    "line 10: expected 5 values (@seriesLength); got 3": HEADER.replace(
        "@equalLength false", "@equalLength true\n@seriesLength 5"
    ).replace("#a comment\n@problemName Two\n", "#\n")
    + CASES,
}


@pytest.mark.parametrize("message", MISTAKES)
def test_the_file_and_the_line_are_named(message, tmp_path):
    path = write(tmp_path, MISTAKES[message])
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        ts_files.read(path)
    assert str(error.value).startswith(str(path))


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5), min_size=1))
def test_what_is_written_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("ts") / "own.ts"
    lines = [f"{','.join(map(repr, row))}:{'ab'[len(row) % 2]}\n" for row in rows]
    path.write_text("@univariate true\n@classLabel true a b\n@data\n" + "".join(lines))
    found = ts_files.read(path)
    assert [x[:, 0].tolist() for x in found.series] == rows
    assert found.labels.tolist() == [len(row) % 2 for row in rows]


VOWELS = pytest.mark.skipif(not (DATA / "series").is_dir(), reason="needs series/ of RNNJAX_DATA")


@VOWELS
@pytest.mark.parametrize("part", ["TRAIN", "TEST"])
def test_the_vowels_are_read_as_aeon_reads_them(part):
    """Its versions of today ask for an older NumPy, so it is no requirement of the tests."""
    aeon = pytest.importorskip("aeon.datasets", reason="needs aeon: pip install 'rnnjax[aeon]'")
    path = DATA / f"series/JapaneseVowels_{part}.ts"
    found, (series, labels) = ts_files.read(path), aeon.load_from_ts_file(str(path))
    assert [found.classes[label] for label in found.labels] == labels.tolist()
    for ours, theirs in zip(found.series, series, strict=True):
        np.testing.assert_allclose(ours, theirs.T, rtol=1e-6)


@VOWELS
def test_the_vowels_are_divided_by_class(monkeypatch):
    monkeypatch.setenv(ROOT, str(DATA))
    parts = labelled_series.read("vowels")
    assert [len(part.labels) for part in parts] == [216, 54, 370]
    assert np.bincount(parts.validation.labels).tolist() == [6] * 9
    lengths = [(min(map(len, part.series)), max(map(len, part.series))) for part in parts]
    assert lengths[2] == (7, 29)
    frames = np.concatenate(parts.learnt.series)
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-5)
