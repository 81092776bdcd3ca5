"""The id of a connection, as the admin API shows it: worker, record there, its generation. Used
everywhere."""

from __future__ import annotations

import re

PATTERN = r"([0-9]{1,4})-([0-9]{1,9})-([0-9]{1,10})"
_ID = re.compile(PATTERN)


def parse_id(text: object) -> tuple[int, int, int] | None:
    """None: it is no id. A generation that no record can have is one."""
    found = _ID.fullmatch(text) if isinstance(text, str) else None
    return (int(found[1]), int(found[2]), int(found[3])) if found else None
