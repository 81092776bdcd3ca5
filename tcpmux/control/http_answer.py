"""Requests to the admin API and its answers as bytes, without a socket: for both clients.

HTTP/1.0, so that an answer is all that comes before the end of the connection, however long it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_ANSWER = 1 << 28  # bytes; the metrics of 65,536 endpoints take some 50 MiB
MAX_HEAD = 64 << 10  # bytes
END = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: |$)")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*(?=\r\n|$)", re.IGNORECASE)


class NotHttp(Exception):
    """What has come is no answer of tcpmux."""


class CutShort(Exception):
    """The connection ended before the answer did."""


def request_bytes(
    method: str,
    target: str,
    body: object,
    *,
    accept: str,
    host: str = "tcpmux",
    token: str | None = None,
) -> bytes:
    """body: for JSON; None = there is none. token: one word of ASCII text."""
    lines = [f"{method} {target} HTTP/1.0", f"Host: {host}", f"Accept: {accept}"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    content = b""
    if body is not None:
        content = json.dumps(body).encode()
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Reply:
    """What comes on a connection, part by part."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._begin = 0  # of the body; 0: the head is not complete
        self._length: int | None = None  # of the body, if that was told
        self.status = 0

    @property
    def has_head(self) -> bool:
        return self._begin > 0

    @property
    def body(self) -> bytes:
        """What has come of it."""
        return bytes(self._data[self._begin :])

    def feed(self, part: bytes) -> bool:
        """Takes one part; empty: the connection has ended, and False is returned. Raises NotHttp
        and CutShort."""
        self._data += part
        if len(self._data) > MAX_ANSWER:
            raise NotHttp("an answer without an end")
        if not self.has_head:
            self._parse_head(is_all=not part)
        if not part and self._length is not None and len(self.body) < self._length:
            raise CutShort
        return bool(part)

    def _parse_head(self, *, is_all: bool) -> None:
        start = bytes(self._data[: len("HTTP/1.1 200 ")])
        found = _STATUS.match(start)
        end = self._data.find(END, 0, MAX_HEAD)
        if found is None and (end >= 0 or len(start) > len("HTTP/1.1 200") or (is_all and start)):
            raise NotHttp(start)
        if found is None or end < 0:
            if is_all:
                raise CutShort
            if len(self._data) >= MAX_HEAD:
                raise NotHttp("a head without an end")
            return
        length = _LENGTH.search(self._data, 0, end)
        self.status, self._begin = int(found[1]), end + len(END)
        self._length = int(length[1]) if length else None


class Events:
    """Takes server-sent events apart as they come. objects: the class of those in them."""

    def __init__(self, objects: type[dict[str, Any]] = dict) -> None:
        self._objects = objects
        self._data = bytearray()
        self._kind = ""

    def feed(self, part: bytes) -> Iterator[tuple[str, Any]]:
        """The events that are complete with it. Raises NotHttp."""
        self._data += part
        if len(self._data) > MAX_ANSWER:
            raise NotHttp("an event without an end")
        *lines, rest = self._data.split(b"\n")
        self._data = bytearray(rest)
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"event":
                self._kind = value.decode()
            elif name == b"data":
                try:
                    yield self._kind, json.loads(value, object_hook=self._objects)
                except (ValueError, RecursionError) as error:
                    raise NotHttp(str(error)) from None
            elif line.strip() and not line.startswith(b":"):  # a comment
                raise NotHttp(line[:100])
