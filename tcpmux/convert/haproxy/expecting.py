"""What a check script expects, as bytes or a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tcpmux.config.patterns import compiled
from tcpmux.convert.haproxy.proxies import Section, Setting
from tcpmux.convert.haproxy.values import Refused, Unsupported

SCRIPTED = "scripted checks"
MAX_SCRIPT = 65_536  # bytes sent or expected


def rules_of(back: Section, key: str) -> list[Setting]:
    """The nearest section's that has some."""
    for section in reversed(back.chain):
        found = section.own(key)
        if found:
            return found
    return []


def all_change(rules: Sequence[Setting], note: str) -> None:
    for rule in rules:
        rule.at.changes(note=f"tcpmux does not run this check: {note}", needs=SCRIPTED)


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def from_hex(text: str) -> bytes:
    if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})*", text, re.ASCII):
        raise Refused(f"expected hexadecimal digits, got {text}")
    return bytes.fromhex(text)


def expected(words: list[str], before: bytes = b"") -> tuple[bytes, bool]:
    """(bytes, whether they are a pattern). before: a pattern for what comes first."""
    rest = list(words)
    while len(rest) > 2 and rest[0] in ("comment", "error-status", "tout-status", "ok-status"):
        rest = rest[2:]
    if rest[:1] == ["!"]:
        raise Unsupported("expect ! is not supported")
    if len(rest) != 2:
        raise Unsupported("only string, rstring, binary and rbinary are supported in expect")
    how, text = rest
    if how in ("string", "binary"):
        raw = from_hex(text) if how == "binary" else to_bytes(text)
        if not raw or len(raw) > MAX_SCRIPT:
            raise Unsupported("a text of this length is not supported")
        return (b"(?s)" + before + b".*" + _quoted(raw), True) if before else (raw, False)
    if how == "rstring":
        return pattern_of(text, before), True
    raise Unsupported(f"expect {how} is not supported")


def _quoted(raw: bytes) -> bytes:
    return b"".join(
        bytes([char]) if chr(char).isalnum() and char < 128 else b"\\x%02x" % char for char in raw
    )


def pattern_of(text: str, before: bytes) -> bytes:
    """As RE2 reads it the same."""
    pattern = to_bytes(text)
    if before:
        start = b"" if pattern.startswith(b"^") else b"(?s:.*)"
        rest = pattern.removeprefix(b"^")
        if re.search(rb"(?<![\[\\])\^", rest):
            raise Unsupported("a pattern with ^ within it is not supported")
        pattern = before + start + b"(?:" + rest + b")"
    return compiled_of(pattern)


def compiled_of(pattern: bytes) -> bytes:
    """Itself, if RE2 has it."""
    try:
        compiled(pattern)
    except ValueError as error:
        raise Unsupported(f"RE2 does not support this pattern: {error}") from None
    return pattern
