"""Whole numbers in Vietnamese words, below a billion.

Groups of three digits are read one by one, each with its unit: nghìn (1,000) and triệu (1,000,000).
What makes it a language and not a table of digits:

    linh    stands for a zero among the tens: 104 một trăm linh bốn (lẻ in the south)
    mười    is ten; mươi is a ten of several: 10 mười, 20 hai mươi
    mốt     is a one after mươi: 21 hai mươi mốt; but 11 mười một, 101 một trăm linh một
    tư      is a four after mươi: 24 hai mươi tư; but 14 mười bốn, 104 một trăm linh bốn
    lăm     is a five after mười and mươi: 15 mười lăm, 25 hai mươi lăm; but 105 một trăm linh năm

After a group that was read, the next is read in full, its zero hundreds too, because "một nghìn
linh năm" would leave open whether a hundred was meant: 1,005 một nghìn không trăm linh năm. A group
of zeros is not read: 1,000,005 một triệu không trăm linh năm.
"""

ZERO_TO_NINE = ("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín")
AFTER_TEN = {5: "lăm"}  # mười
AFTER_TENS = {1: "mốt", 4: "tư", 5: "lăm"}  # mươi
UNITS = (("triệu", 1_000_000), ("nghìn", 1_000), ("", 1))
LIMIT = 1_000_000_000


def spell(number: int) -> str:
    """Write a number as it is said.

    Raises:
        ValueError: it is below 0, or a billion or more.

    Example:
        >>> spell(21), spell(105_014)
        ('hai mươi mốt', 'một trăm linh năm nghìn không trăm mười bốn')
    """
    if not 0 <= number < LIMIT:
        raise ValueError(f"spell: number must be within 0…{LIMIT - 1:,}; got {number}.")
    words: list[str] = []
    for unit, size in UNITS:
        group = number // size % 1000
        if group:
            words += _below_thousand(group, in_full=bool(words)) + [unit] * bool(unit)
    return " ".join(words) or ZERO_TO_NINE[0]


def _below_thousand(number: int, *, in_full: bool) -> list[str]:
    hundreds, rest = divmod(number, 100)
    words = [ZERO_TO_NINE[hundreds], "trăm"] if hundreds or in_full else []
    tens, ones = divmod(rest, 10)
    if tens > 1:
        words += [ZERO_TO_NINE[tens], "mươi"]
    elif tens == 1:
        words += ["mười"]
    elif ones and words:
        words += ["linh"]
    changed = (AFTER_TENS if tens > 1 else AFTER_TEN) if tens else {}
    return words + [changed.get(ones, ZERO_TO_NINE[ones])] * bool(ones)
