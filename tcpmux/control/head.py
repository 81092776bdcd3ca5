"""Strict parsing of the head of an HTTP request, before anything else is done with it. Runs in
control.

Strict on purpose. What is not exactly one well-formed request is refused, so that no two readers
can understand it differently: one Content-Length or none, no Transfer-Encoding, no encoded bodies,
CRLF and nothing else at the end of a line. The server behind it gets a head made anew, with
the few headers that it uses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MAX_HEAD = 16 << 10  # bytes
MAX_HEADERS = 100
MAX_TARGET = 4096  # bytes of path and query
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
ALLOW = "GET, POST, PUT"
PASSED_ON = ("accept", "content-type", "if-none-match")
# What may not come twice: two readers could each believe another one.
ONCE = (
    *PASSED_ON,
    "authorization",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "origin",
    "sec-fetch-mode",
    "sec-fetch-site",
)
_REQUEST = re.compile(rb"([!-~]{1,32}) (/[!-~]*) HTTP/([0-9])\.([0-9])")
_BEGUN = re.compile(rb"[A-Z]{1,32} /[!-~]*")  # a target whose end has not come
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_LENGTH = re.compile(r"[0-9]{1,12}", re.ASCII)


class Refused(Exception):
    """What is answered instead. status: HTTP. The text says why, in one line."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True, slots=True)
class Head:
    """headers: by name in lower case. length: bytes of the body. keep: the client expects that the
    connection stays."""

    method: str
    target: str
    minor: int  # HTTP/1.minor
    headers: dict[str, str] = field(default_factory=dict)
    length: int = 0
    keep: bool = True

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def waits(self) -> bool:
        """For a word that the body may come."""
        return self.headers.get("expect", "").lower() == "100-continue" and self.minor > 0

    def made_anew(self) -> bytes:
        """For the server behind it."""
        lines = [f"{self.method} {self.target} HTTP/1.{self.minor}", "Host: tcpmux"]
        lines += [f"{name}: {self.headers[name]}" for name in PASSED_ON if name in self.headers]
        if self.length:
            lines.append(f"Content-Length: {self.length}")
        lines.append(f"Connection: {'keep-alive' if self.keep else 'close'}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def parse_head(data: bytes) -> Head:
    """data: all before the empty line. Raises Refused."""
    first, *lines = data.split(b"\r\n")
    found = _REQUEST.fullmatch(first)
    if found is None:
        raise Refused(400, "this is not an HTTP request")
    method, target = found[1].decode(), found[2].decode()
    if found[3] != b"1":
        raise Refused(505, "expected HTTP/1.1")
    if len(target) > MAX_TARGET:
        raise _target_too_long()
    if method not in METHODS:
        raise Refused(405, "this HTTP method is not supported", Allow=ALLOW)
    headers = _headers(lines)
    minor = min(int(found[4]), 1)
    if "host" not in headers and minor > 0:
        raise Refused(400, "the Host header is missing")
    if "transfer-encoding" in headers:
        raise Refused(411, "a body needs Content-Length; Transfer-Encoding is not supported")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "Content-Encoding is not supported")
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length):
        raise Refused(400, "Content-Length: expected a number")
    wishes = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    keep = "close" not in wishes if minor > 0 else "keep-alive" in wishes
    return Head(method, target, minor, headers, int(length), keep)


def too_large(data: bytes) -> Refused:
    """data: the beginning of a head, of which it is too much already."""
    if _BEGUN.fullmatch(data, 0, MAX_HEAD):
        return _target_too_long()
    return Refused(431, f"the head is larger than {MAX_HEAD >> 10} KiB")


def _target_too_long() -> Refused:
    return Refused(414, f"path and query are longer than {MAX_TARGET} bytes: ask for less at once")


def _headers(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise Refused(431, f"more than {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise Refused(400, "a malformed header")
        name, value = found[1].decode().lower(), found[2].decode("latin-1").strip(" \t")
        if name in headers:
            if name in ONCE:
                raise Refused(400, f"{name} is given twice")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers
