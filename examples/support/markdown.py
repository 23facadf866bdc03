"""Tables for pages."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    r"""A table; the first row is its head.

    Example:
        >>> print(table([["", "share"], ["a | b", "50 %"]]), end="")
        |  | share |
        | --- | --- |
        | a \| b | 50 % |
    """
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    lines = (" | ".join(cell.replace("|", r"\|") for cell in row) for row in rows)
    return "".join(f"| {line} |\n" for line in lines)
