"""What a health check says and expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tcpmux.config.check import Check
from tcpmux.convert.haproxy.expecting import (
    MAX_SCRIPT,
    SCRIPTED,
    all_change,
    expected,
    from_hex,
    rules_of,
    to_bytes,
)
from tcpmux.convert.haproxy.http_check import http_check
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.values import Refused, Unsupported, whole
from tcpmux.convert.report import Report

CHECKS = (
    "option httpchk", "option tcp-check", "option redis-check", "option mysql-check",
    "option pgsql-check", "option smtpchk", "option ldap-check", "option ssl-hello-chk",
    "option spop-check", "option external-check",
)  # fmt: skip
# LDAP: a bind without a name; a bindResponse whose result is 0. RFC 4511.
LDAP_BIND = bytes.fromhex("300c020101600702010304008000")
LDAP_BOUND = rb"(?s)^0(?:.|\x84....)\x02\x01\x01a(?:.|\x84....)\n\x01\x00"
_NOT_HEALTHY = {
    "option smtpchk": "a greeting, HELO and QUIT in turn",
    "option ssl-hello-chk": "an SSL 3.0 hello",
    "option spop-check": "SPOP",
    "option external-check": "a program",
}


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
        return http_check(back, setting)
    if key == "option tcp-check":
        return _script(rules_of(back, "tcp-check"), setting)
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
            all_change(rules, str(error))
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
        script.send += from_hex(text) if action == "send-binary" else to_bytes(text)
        script.steps.append("send")
    elif action == "expect":
        if "expect" in script.steps:
            raise Unsupported("it expects more than one answer")
        script.expect, script.is_pattern = expected(rest)
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
