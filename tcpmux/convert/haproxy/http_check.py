"""`option httpchk` and http-check: the request that a check makes, and the answer it expects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tcpmux.config.check import Check
from tcpmux.convert.haproxy.expecting import (
    all_change,
    compiled_of,
    expected,
    pattern_of,
    rules_of,
    to_bytes,
)
from tcpmux.convert.haproxy.proxies import Section, Setting
from tcpmux.convert.haproxy.values import Refused, Unsupported, whole


@dataclass(slots=True)
class _Request:
    method: str = "OPTIONS"
    path: str = "/"
    version: str = "HTTP/1.0"
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    port: int = 0
    status: tuple[int, int] | None = (200, 399)
    expect: bytes = b""
    tls: bool = False
    steps: list[str] = field(default_factory=list)


def http_check(back: Section, setting: Setting) -> Check:
    request = _Request()
    _httpchk(request, [word.text for word in setting.args])
    rules = rules_of(back, "http-check")
    for rule in rules:
        try:
            _http_rule(request, [word.text for word in rule.args])
        except Unsupported as error:
            all_change(rules, str(error))
            raise
    note = ""
    others = [name for name, _ in request.headers if name.lower() != "host"]
    hosts = [value for name, value in request.headers if name.lower() == "host"]
    plain = (
        request.method == "GET" and not others and not request.body and request.status
        and re.fullmatch(r"/[!-~]{0,1023}", request.path)
        and (not hosts or re.fullmatch(r"[A-Za-z0-9.:_\[\]-]{1,255}", hosts[0]))
    )  # fmt: skip
    if plain and request.status:
        if not hosts:
            note = "tcpmux sends HTTP/1.1 and a Host header"
        made = Check(
            "http", path=request.path, host=(hosts or [""])[0], status=request.status,
            port=request.port, tls=request.tls,
        )  # fmt: skip
    else:
        if request.tls:
            note = "over TLS, tcpmux sends a GET without headers or a body, and expects statuses"
            all_change(rules, note)
            raise Unsupported(note)
        made = Check(
            "send", send=_written(request), is_pattern=True, port=request.port,
            expect=compiled_of(request.expect or _status_pattern(request.status)),
        )  # fmt: skip
    setting.at.mapped(note=note)
    for rule in rules:
        rule.at.mapped()
    return made


def _httpchk(request: _Request, words: list[str]) -> None:
    if len(words) == 1:
        request.path = words[0]
    elif words:
        request.method, request.path = words[:2]
    if len(words) > 2:
        request.version, *lines = re.split(r"\r?\n", " ".join(words[2:]))
        for line in filter(None, lines):
            name, _, value = line.partition(":")
            request.headers.append((name.strip(), value.strip()))


def _http_rule(request: _Request, words: list[str]) -> None:
    action, *rest = words or [""]
    if action in ("comment", "send-state"):
        return
    if action in ("connect", "send") and "expect" in request.steps:
        raise Unsupported("it sends again after an answer")
    if action == "connect" and request.steps:
        raise Unsupported("it connects more than once")
    if action in request.steps:
        raise Unsupported(f"http-check {action} appears more than once")
    request.steps.append(action)
    if action == "connect":
        _http_connect(request, rest)
    elif action == "send":
        _http_send(request, rest)
    elif action == "expect":
        _http_expect(request, rest)
    else:
        raise Unsupported(f"http-check {' '.join(words[:2])} is not supported")


def _http_connect(request: _Request, words: list[str]) -> None:
    rest = list(words)
    while rest:
        if rest[0] == "port" and len(rest) > 1:
            request.port = whole(rest[1], 1, 65535)
            rest = rest[2:]
        elif rest[0] == "comment":
            rest = rest[2:]
        elif rest[0] in ("default", "ssl"):
            request.tls |= rest[0] == "ssl"
            rest = rest[1:]
        else:
            raise Unsupported(f"http-check connect {rest[0]} is not supported")


def _http_send(request: _Request, words: list[str]) -> None:
    rest = list(words)
    while rest:
        if rest[0] == "hdr" and len(rest) > 2:
            request.headers.append((rest[1], rest[2]))
            rest = rest[3:]
        elif rest[0] in ("meth", "uri", "ver", "body", "comment") and len(rest) > 1:
            if rest[0] == "body":
                request.body = to_bytes(rest[1])
            elif rest[0] == "meth":
                request.method = rest[1]
            elif rest[0] == "uri":
                request.path = rest[1]
            elif rest[0] == "ver":
                request.version = rest[1] if "/" in rest[1] else f"HTTP/{rest[1]}"
            rest = rest[2:]
        else:
            raise Unsupported(f"http-check send {rest[0]} is not supported")
    if any("%[" in value for _, value in request.headers):
        raise Unsupported("headers with expressions are not supported")


def _http_expect(request: _Request, words: list[str]) -> None:
    rest = list(words)
    while len(rest) > 2 and rest[0] in ("comment", "error-status", "tout-status", "ok-status"):
        rest = rest[2:]
    if len(rest) == 2 and rest[0] == "status":
        parts = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", rest[1], re.ASCII)
        if parts:
            request.status = (int(parts[1]), int(parts[2] or parts[1]))
            if request.status[0] > request.status[1]:
                raise Refused(f"expected statuses from low to high, got {rest[1]}")
            return
        if not re.fullmatch(r"[1-5][0-9]{2}(,[1-5][0-9]{2}){1,50}", rest[1], re.ASCII):
            raise Unsupported(f"http-check expect status {rest[1]} is not supported")
        request.status = None
        request.expect = _status_line(rest[1].replace(",", "|"))
    elif len(rest) == 2 and rest[0] == "rstatus":
        request.status = None
        within = rest[1].removeprefix("^").removesuffix("$")
        anchored = rest[1].startswith("^")
        if not re.fullmatch(r"[0-9.\[\]()|?:-]{1,60}", within) or not anchored:
            raise Unsupported(f"http-check expect rstatus {rest[1]} is not supported")
        request.expect = pattern_of(f"^HTTP/1\\.[01] (?:{within})", b"")
    elif len(rest) == 2 and rest[0] in ("string", "rstring"):
        request.status = None
        request.expect = expected(rest, rb"(?s:^HTTP/1\.[01] .*?\r\n\r\n)")[0]
    elif rest[:1] == ["!"]:
        raise Unsupported("expect ! is not supported")
    else:
        raise Unsupported("only status, rstatus, string and rstring are supported in expect")


def _status_line(alternatives: str) -> bytes:
    return rf"^HTTP/1\.[01] (?:{alternatives})[ \r]".encode()


def _status_pattern(status: tuple[int, int] | None) -> bytes:
    first, last = status or (200, 399)
    if (first, last) == (200, 399):
        return _status_line("[23][0-9][0-9]")
    return _status_line("|".join(str(code) for code in range(first, last + 1)))


def _written(request: _Request) -> bytes:
    """As HAProxy writes it."""
    lines = [f"{request.method} {request.path} {request.version}"]
    lines += [f"{name.lower()}: {value}" for name, value in request.headers]
    if request.body:
        lines.append(f"content-length: {len(request.body)}")
    if request.version == "HTTP/1.1":
        lines.append("connection: close")
    if any("\r" in line or "\n" in line for line in lines):
        raise Refused("a line break within a line of the request")
    return to_bytes("\r\n".join(lines) + "\r\n\r\n") + request.body
