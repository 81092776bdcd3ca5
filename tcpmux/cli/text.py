"""Text from outside on a terminal: nothing in it acts on the terminal, and columns stay columns.

Names, addresses, reasons and paths come from files, from the network and from other users. What is
shown of them goes through here; --json has them as they are, in ASCII.
"""

from __future__ import annotations

import unicodedata

from tcpmux.errors import printable

CUT_OFF = "…"


def width(text: str) -> int:
    """Columns that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """With blanks up to so many columns; right: in front."""
    blanks = " " * max(0, columns - width(text))
    return blanks + text if right else text + blanks


def cut(text: str, columns: int) -> str:
    """The beginning of a printable text that fits into so many columns."""
    if text.isascii():
        return text[: max(0, columns)]
    taken = 0
    for at, character in enumerate(text):
        taken += _width(character)
        if taken > columns:
            return text[:at]
    return text


def fitted(text: str, columns: int) -> str:
    """A foreign text in exactly so many columns: escaped, cut at its end or filled up."""
    return padded(cut(printable(text), columns), columns)


def fitted_end(text: str, columns: int) -> str:
    """As fitted(), cut at its beginning, where a mark says so."""
    shown = printable(text)
    if width(shown) > columns:
        while shown and width(shown) > columns - 1:
            shown = shown[1:]
        shown = CUT_OFF + shown
    return padded(shown, columns)


def shares_of_clients(by: str) -> str:
    """Of a sticky route: what its weights mean."""
    return f"sticky by {by}: shares are of clients, not exactly of connections"
