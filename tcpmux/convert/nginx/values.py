"""Times, sizes, numbers and names of variables in nginx.conf."""

from __future__ import annotations

import re
from ipaddress import ip_network

from tcpmux.config.settings import Network

_UNITS = {
    "y": 365 * 86_400_000,
    "M": 30 * 86_400_000,
    "w": 7 * 86_400_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
    "": 1000,
}
_PART = r"(?:([0-9]{1,18})%s *)?"
_TIME = re.compile("".join(_PART % unit for unit in _UNITS))
_SIZE = re.compile(r"([0-9]{1,18})([kKmM]?)")
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20}
VARIABLE = re.compile(r"\$(?:\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))")
_NUMBER = re.compile(r"[0-9]{1,18}")


def milliseconds(text: str, *, whole_seconds: bool = False) -> int | None:
    """1h30m, 2w, 1500ms; a number alone is in seconds. None: nginx refuses it."""
    found = _TIME.fullmatch(text)
    if found is None or not text or text.endswith(" "):
        return None
    parts = dict(zip(_UNITS, found.groups(), strict=True))
    if whole_seconds and parts["ms"]:
        return None
    return sum(int(count) * _UNITS[unit] for unit, count in parts.items() if count)


def size(text: str) -> int | None:
    """Bytes: 10, 64k, 1M."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) * _SIZES[found[2].lower()] if found else None


def number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def network(text: str) -> Network | None:
    """An address or a network; None: neither."""
    length = text.partition("/")[2]
    if length and not (length.isascii() and length.isdigit()):
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def names_in(text: str) -> set[str]:
    """Of the variables in a text; of a $ that begins none, `$`."""
    found = {braced or plain for braced, plain in VARIABLE.findall(text)}
    return found | {"$"} if "$" in VARIABLE.sub("", text) else found
