"""What a health check says and expects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tcpmux.config.check import Check
from tcpmux.config.patterns import compiled
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.values import Refused, Unsupported, whole
from tcpmux.convert.report import Report

CHECKS = (
    "option httpchk", "option tcp-check", "option redis-check", "option mysql-check",
    "option pgsql-check", "option smtpchk", "option ldap-check", "option ssl-hello-chk",
    "option spop-check", "option external-check",
)  # fmt: skip
SCRIPTED = "scripted checks"
# LDAP: a bind without a name; a bindResponse whose result is 0. RFC 4511.
LDAP_BIND = bytes.fromhex("300c020101600702010304008000")
LDAP_BOUND = rb"(?s)^0(?:.|\x84....)\x02\x01\x01a(?:.|\x84....)\n\x01\x00"
_NOT_HEALTHY = {
    "option smtpchk": "a greeting, HELO and QUIT in turn",
    "option ssl-hello-chk": "an SSL 3.0 hello",
    "option spop-check": "SPOP",
    "option external-check": "a program",
}
MAX_SCRIPT = 65_536  # bytes sent or expected


def asked(back: Section, report: Report) -> Check | None:
    """The kind of check; None: none of tcpmux's does it, which is marked."""
    options = back.all(*CHECKS)
    if not options:
        return Check("tcp")
    setting = options[-1]
    found: list[Check] = []

    def read() -> None:
        try:
            found.append(_read(back, setting))
        except Unsupported as error:
            setting.at.changes(note=str(error), needs=error.needs or SCRIPTED)

    guarded(report, setting.at, read)
    return found[0] if found else None


def _read(back: Section, setting: Setting) -> Check:
    """Raises Refused or Unsupported."""
    at, key = setting.at, setting.key
    if key in _NOT_HEALTHY:
        raise Unsupported(f"the check needs {_NOT_HEALTHY[key]}")
    if key == "option httpchk":
        return _http(back, setting)
    if key == "option tcp-check":
        return _script(_rules(back, "tcp-check"), setting)
    if key == "option redis-check":
        at.mapped()
        return Check("send", send=b"*1\r\n$4\r\nPING\r\n", expect=rb"^\+PONG\r\n", is_pattern=True)
    if key == "option ldap-check":
        at.mapped()
        return Check("send", send=LDAP_BIND, expect=LDAP_BOUND, is_pattern=True)
    if key == "option pgsql-check":
        return _postgres(setting)
    if setting.args:
        raise Unsupported("the check logs in to MySQL")
    at.mapped()
    return Check("mysql")


def _postgres(setting: Setting) -> Check:
    if len(setting.args) != 2 or setting.args[0].text != "user":
        raise Refused("expected user NAME after option pgsql-check")
    name = setting.args[1].text.encode("utf-8", "surrogateescape")
    body = (3 << 16).to_bytes(4, "big") + b"user\0" + name + b"\0\0"
    setting.at.mapped()
    send = (len(body) + 4).to_bytes(4, "big") + body
    return Check("send", send=send, expect=rb"^R\x00\x00\x00", is_pattern=True)


def _rules(back: Section, key: str) -> list[Setting]:
    """The nearest section's that has some."""
    for section in reversed(back.chain):
        found = section.own(key)
        if found:
            return found
    return []


# --- tcp-check ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Script:
    send: bytes = b""
    expect: bytes = b""
    is_pattern: bool = False
    port: int = 0
    steps: list[str] = field(default_factory=list)


def _script(rules: Sequence[Setting], setting: Setting) -> Check:
    """A connect, or one text sent and one expected."""
    script = _Script()
    for rule in rules:
        words = [word.text for word in rule.args]
        if not words:
            raise Refused("expected an action after tcp-check")
        if words[0] == "comment":
            continue
        try:
            _step(script, words)
        except Unsupported as error:
            _all_change(rules, str(error))
            raise
    setting.at.mapped()
    for rule in rules:
        rule.at.mapped()
    if not script.steps:
        return Check("tcp", port=script.port)
    return Check(
        "send", send=script.send, expect=script.expect, is_pattern=script.is_pattern,
        port=script.port,
    )  # fmt: skip


def _all_change(rules: Sequence[Setting], note: str) -> None:
    for rule in rules:
        rule.at.changes(note=f"tcpmux does not run this check: {note}", needs=SCRIPTED)


def _step(script: _Script, words: list[str]) -> None:
    action, *rest = words
    if action == "connect":
        _connect(script, rest)
    elif action in ("send", "send-binary"):
        if "expect" in script.steps:
            raise Unsupported("it sends again after an answer")
        text, comment = (rest or [""])[0], rest[1:]
        if comment[:1] not in ([], ["comment"]):
            raise Unsupported(f"{comment[0]} is not supported")
        script.send += _hex(text) if action == "send-binary" else _bytes(text)
        script.steps.append("send")
    elif action == "expect":
        if "expect" in script.steps:
            raise Unsupported("it expects more than one answer")
        script.expect, script.is_pattern = _expected(rest)
        script.steps.append("expect")
    else:
        raise Unsupported(f"tcp-check {action} is not supported")
    if len(script.send) > MAX_SCRIPT:
        raise Unsupported(f"it sends more than {MAX_SCRIPT} bytes, tcpmux's maximum")


def _connect(script: _Script, words: list[str]) -> None:
    if script.steps:
        raise Unsupported("it connects more than once")
    rest = list(words)
    while rest:
        if rest[0] == "port" and len(rest) > 1:
            script.port = whole(rest[1], 1, 65535)
            rest = rest[2:]
        elif rest[0] == "comment":
            rest = rest[2:]
        elif rest[0] == "default":
            rest = rest[1:]
        else:
            raise Unsupported(f"tcp-check connect {rest[0]} is not supported")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _hex(text: str) -> bytes:
    if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})*", text, re.ASCII):
        raise Refused(f"expected hexadecimal digits, got {text}")
    return bytes.fromhex(text)


def _expected(words: list[str], before: bytes = b"") -> tuple[bytes, bool]:
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
        raw = _hex(text) if how == "binary" else _bytes(text)
        if not raw or len(raw) > MAX_SCRIPT:
            raise Unsupported("a text of this length is not supported")
        return (b"(?s)" + before + b".*" + _quoted(raw), True) if before else (raw, False)
    if how == "rstring":
        return _pattern(text, before), True
    raise Unsupported(f"expect {how} is not supported")


def _quoted(raw: bytes) -> bytes:
    return b"".join(
        bytes([char]) if chr(char).isalnum() and char < 128 else b"\\x%02x" % char for char in raw
    )


def _pattern(text: str, before: bytes) -> bytes:
    """As RE2 reads it the same."""
    pattern = _bytes(text)
    if before:
        start = b"" if pattern.startswith(b"^") else b"(?s:.*)"
        rest = pattern.removeprefix(b"^")
        if re.search(rb"(?<![\[\\])\^", rest):
            raise Unsupported("a pattern with ^ within it is not supported")
        pattern = before + start + b"(?:" + rest + b")"
    return _compiled(pattern)


def _compiled(pattern: bytes) -> bytes:
    """Itself, if RE2 has it."""
    try:
        compiled(pattern)
    except ValueError as error:
        raise Unsupported(f"RE2 does not support this pattern: {error}") from None
    return pattern


# --- http -----------------------------------------------------------------------------------------


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


def _http(back: Section, setting: Setting) -> Check:
    request = _Request()
    _httpchk(request, [word.text for word in setting.args])
    rules = _rules(back, "http-check")
    for rule in rules:
        try:
            _http_rule(request, [word.text for word in rule.args])
        except Unsupported as error:
            _all_change(rules, str(error))
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
            port=request.port,
        )  # fmt: skip
    else:
        made = Check(
            "send", send=_written(request), is_pattern=True, port=request.port,
            expect=_compiled(request.expect or _status_pattern(request.status)),
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
    if action == "connect" and not rest:
        return
    if action == "connect" and rest[0] == "port" and len(rest) == 2:
        request.port = whole(rest[1], 1, 65535)
    elif action == "send":
        _http_send(request, rest)
    elif action == "expect":
        _http_expect(request, rest)
    else:
        raise Unsupported(f"http-check {' '.join(words[:2])} is not supported")


def _http_send(request: _Request, words: list[str]) -> None:
    rest = list(words)
    while rest:
        if rest[0] == "hdr" and len(rest) > 2:
            request.headers.append((rest[1], rest[2]))
            rest = rest[3:]
        elif rest[0] in ("meth", "uri", "ver", "body", "comment") and len(rest) > 1:
            if rest[0] == "body":
                request.body = _bytes(rest[1])
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
        request.expect = _pattern(f"^HTTP/1\\.[01] (?:{within})", b"")
    elif len(rest) == 2 and rest[0] in ("string", "rstring"):
        request.status = None
        request.expect = _expected(rest, rb"(?s:^HTTP/1\.[01] .*?\r\n\r\n)")[0]
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
    return _bytes("\r\n".join(lines) + "\r\n\r\n") + request.body
