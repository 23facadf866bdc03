"""Vietnamese numbers: the rules, what they share with num2words, and where the two differ."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from num2words import num2words

from examples.support.numerals import LIMIT, ZERO_TO_NINE, spell

DIFFERENCES = [
    # lẻ and linh are both said; schoolbooks of the north have linh.
    (r"\blẻ (một|hai|ba|bốn|năm|sáu|bảy|tám|chín)\b", r"linh \1"),
    # Four after mươi: bốn is understood, tư is what is said.
    (r"mươi bốn", "mươi tư"),
]
"""What num2words says, as regular expressions, and what is said here, inside a group of three."""


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "không"),
        (4, "bốn"),
        (10, "mười"),
        (11, "mười một"),
        (14, "mười bốn"),
        (15, "mười lăm"),
        (20, "hai mươi"),
        (21, "hai mươi mốt"),
        (24, "hai mươi tư"),
        (25, "hai mươi lăm"),
        (55, "năm mươi lăm"),
        (100, "một trăm"),
        (101, "một trăm linh một"),
        (104, "một trăm linh bốn"),
        (105, "một trăm linh năm"),
        (110, "một trăm mười"),
        (115, "một trăm mười lăm"),
        (1_000, "một nghìn"),
        (1_005, "một nghìn không trăm linh năm"),
        (1_010, "một nghìn không trăm mười"),
        (1_100, "một nghìn một trăm"),
        (2_021, "hai nghìn không trăm hai mươi mốt"),
        (24_000, "hai mươi tư nghìn"),
        (105_014, "một trăm linh năm nghìn không trăm mười bốn"),
        (
            999_999,
            "chín trăm chín mươi chín nghìn chín trăm chín mươi chín",
        ),
        (1_000_005, "một triệu không trăm linh năm"),
        (1_234_567, "một triệu hai trăm ba mươi tư nghìn năm trăm sáu mươi bảy"),
        (7_045_000, "bảy triệu không trăm bốn mươi lăm nghìn"),
    ],
)
def test_rules(number, words):
    assert spell(number) == words


def test_below_a_thousand_two_words_differ_from_num2words():
    """Nothing else: linh for lẻ and tư for bốn after mươi."""
    differ = {"linh": 0, "tư": 0}
    for number in range(1000):
        theirs = num2words(number, lang="vi")
        for word in differ:
            differ[word] += word in spell(number).split()
        for pattern, ours in DIFFERENCES:
            theirs = re.sub(pattern, ours, theirs)
        assert spell(number) == theirs
    # 101 … 109, 201 … 209, …; and of each hundred 24, 34 … 94.
    assert differ == {"linh": 9 * 9, "tư": 10 * 8}


@given(st.integers(1000, 999_999))
def test_above_num2words_leaves_out_hundreds_of_zero(number):
    """The third difference: "nghìn lẻ năm", "nghìn lẻ hai mươi", for "nghìn không trăm …"."""
    thousands, rest = divmod(number, 1000)
    theirs = num2words(number, lang="vi")
    ours = f"{spell(thousands)} nghìn"
    if rest:
        full = spell(1000 + rest).removeprefix("một nghìn ")
        ours = f"{ours} {full}"
    assert spell(number) == ours
    if rest >= 100:
        for pattern, replaced in DIFFERENCES:
            theirs = re.sub(pattern, replaced, theirs)
        assert spell(number) == theirs
    elif rest:
        assert theirs.partition(" nghìn ")[2].startswith("lẻ ")
        assert " nghìn không trăm " in spell(number)


@given(st.integers(0, LIMIT - 1))
def test_words_can_be_read_back(number):
    assert _read(spell(number)) == number


@pytest.mark.parametrize("number", [-1, LIMIT])
def test_what_is_not_spelt(number):
    with pytest.raises(ValueError, match=rf"0…999,999,999; got {number}"):
        spell(number)


DIGITS = {word: value for value, word in enumerate(ZERO_TO_NINE)}
DIGITS |= {"mốt": 1, "tư": 4, "lăm": 5}


def _read(words):
    """An independent reading: digits add up until a unit multiplies them."""
    total, group, digit = 0, 0, 0
    for word in words.split():
        if word in DIGITS:
            digit = DIGITS[word]
        elif word == "mười":
            group += 10
        elif word in ("mươi", "trăm"):
            group, digit = group + digit * (10 if word == "mươi" else 100), 0
        elif word in ("nghìn", "triệu"):
            total += (group + digit) * (1000 if word == "nghìn" else 1_000_000)
            group = digit = 0
        else:
            assert word == "linh"
    return total + group + digit
