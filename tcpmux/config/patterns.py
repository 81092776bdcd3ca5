"""Regular expressions that an endpoint's answer is matched with: in the master, to check a
configuration, and in control.

RE2 matches in a time that is linear in the answer, whatever the pattern: no answer can keep control
from its work (https://github.com/google/re2/wiki/Syntax). Bytes stand for themselves.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from tcpmux.errors import printable

MAX_MEMORY = 1 << 20  # bytes of a pattern and what it remembers while it matches
# The time for an answer is its length times this, in the worst case 7 ns each.
MAX_INSTRUCTIONS = 500


class Pattern(Protocol):
    def search(self, text: bytes) -> object | None:
        """None: it is nowhere in the text."""


@lru_cache(maxsize=1024)
def compiled(pattern: bytes) -> Pattern:
    """Raises ValueError, whose text is the reason."""
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.never_capture = True
    options.max_mem = MAX_MEMORY
    try:
        found = re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(_reason(error)) from None
    if found.programsize > MAX_INSTRUCTIONS:
        raise ValueError(f"it is too large: {found.programsize} steps, at most {MAX_INSTRUCTIONS}")
    made: Pattern = found
    return made


def _reason(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return printable(str(text))
