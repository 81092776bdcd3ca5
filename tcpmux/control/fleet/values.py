"""Values that come from etcd: none is believed before it is within bounds. Runs in control."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

MAX_REVISION = (1 << 63) - 1


class Malformed(Exception):
    """What etcd has sent makes no sense. Its text says what, in a few words."""


class KeyValue(NamedTuple):
    """revision: of its last change. lease: it goes with; 0 = none. value: None = it was deleted."""

    key: str
    value: bytes | None
    revision: int
    lease: int = 0


def number(value: Any) -> int:
    """One of 64 bits, which in JSON is a text, or missing where it is 0. Raises Malformed."""
    if value is None:
        return 0
    if type(value) is int:
        found = value
    elif isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        found = int(value)
    else:
        raise Malformed("a number that is none")
    if not 0 <= found <= MAX_REVISION:
        raise Malformed("a number that is too large")
    return found


def lease_id(value: Any) -> int:
    """As number(); it is signed. Raises Malformed."""
    if isinstance(value, str) and value.startswith("-"):
        return -number(value[1:])
    return number(value)


def mapping(value: Any) -> dict[str, Any]:
    """Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed("no object where one is expected")
    return value


def listing(value: Any, most: int) -> list[Any]:
    """Raises Malformed."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most:
        raise Malformed(f"no list of at most {most} where one is expected")
    return value


def decoded(data: bytes) -> dict[str, Any]:
    """Of JSON. Raises Malformed."""
    try:
        return mapping(json.loads(data))
    except (ValueError, RecursionError):
        raise Malformed("no JSON") from None


def packed(text: str | bytes) -> str:
    """As the gateway has keys and values."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def unpacked(value: Any) -> bytes:
    """Raises Malformed."""
    if value is None:
        return b""
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise Malformed("a value that is not base64") from None


def key_value(value: Any, *, deleted: bool = False) -> KeyValue:
    """Raises Malformed."""
    found = mapping(value)
    try:
        key = unpacked(found.get("key")).decode()
    except UnicodeDecodeError:
        raise Malformed("a key that is not UTF-8") from None
    data = None if deleted else unpacked(found.get("value"))
    return KeyValue(key, data, number(found.get("mod_revision")), lease_id(found.get("lease")))


def behind(prefix: str) -> str:
    """The end of the range of all keys that begin with it."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
