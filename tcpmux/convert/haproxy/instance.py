"""`global` and `resolvers`: what is of the instance."""

from __future__ import annotations

from collections.abc import Sequence

from tcpmux.config.address import Address
from tcpmux.config.rows import DAY
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.tables import GLOBAL_CHANGES, global_reason
from tcpmux.convert.haproxy.values import (
    Unsupported,
    named,
    seconds,
    split_port,
    whole,
    whole_milliseconds,
    within,
)
from tcpmux.convert.report import Report

MAX_DRAIN = 7 * DAY
_RESOLVER_HARMLESS = ("accepted_payload_size", "resolve_retries", "timeout")


def maxconn_of(sections: Sequence[Section], report: Report) -> int:
    """Of all connections; 0 = none is said."""
    found = 0
    for setting in _globals(sections):
        if setting.words[0].text == "maxconn":
            numbers: list[int] = []
            guarded(
                report,
                setting.at,
                lambda s=setting, n=numbers: n.append(_number(s)),  # type: ignore[misc]
            )
            found = numbers[0] if numbers else 0
            setting.at.mapped(
                note="the limit applies to each frontend; in HAProxy, to all together"
            )
    return found


def _number(setting: Setting) -> int:
    return whole(_value(setting), 0, 2**31 - 1)


def _value(setting: Setting) -> str:
    setting.key = ""
    return setting.words[1].text if len(setting.words) > 1 else ""


def _globals(sections: Sequence[Section]) -> list[Setting]:
    return [s for section in sections if section.kind == "global" for s in section.settings]


def settings_of(sections: Sequence[Section], report: Report) -> dict[str, object]:
    """Keys of Config."""
    found: dict[str, object] = {}
    for section in sections:
        if section.kind == "global" and section.head is not None:
            section.head.harmless(note="only the head of a section")
    for setting in _globals(sections):
        _global_line(setting, sections, found, report)
    servers = _name_servers(sections)
    if servers:
        found["dns_servers"] = servers
    return found


def _global_line(
    setting: Setting, sections: Sequence[Section], found: dict[str, object], report: Report
) -> None:
    words = [word.text for word in setting.words]
    keyword = words[1] if words[0] == "no" and len(words) > 1 else words[0]
    if keyword == "maxconn":
        return
    if keyword == "hard-stop-after":
        guarded(report, setting.at, lambda: _drain(setting, found))
    elif keyword in GLOBAL_CHANGES:
        setting.at.changes(note=GLOBAL_CHANGES[keyword], needs="queues at a rate limit")
    elif keyword == "unix-bind" and _has_unix(sections):
        setting.at.changes(
            note="tcpmux does not change paths and permissions of UNIX sockets",
            needs="permissions of UNIX sockets",
        )
    elif keyword == "unix-bind":
        setting.at.harmless(note="no frontend listens on a UNIX socket")
    elif reason := global_reason(keyword):
        setting.at.harmless(note=reason)


def _has_unix(sections: Sequence[Section]) -> bool:
    return any(
        word.text.startswith(("/", "unix@"))
        for section in sections
        for line in section.raw.lines
        if line.words and line.words[0].text == "bind"
        for word in line.words[1:2]
    )


def _drain(setting: Setting, found: dict[str, object]) -> None:
    time = whole_milliseconds(seconds(_value(setting)))
    try:
        found["drain_timeout"] = within(time, 0.0, MAX_DRAIN)
        setting.at.mapped()
    except Unsupported as error:
        setting.at.changes(note=str(error))


def _name_servers(sections: Sequence[Section]) -> tuple[Address, ...]:
    """Of the resolvers section that servers use."""
    used = [s for s in sections if s.kind == "resolvers" and s.head is not None]
    found: list[Address] = []
    for section in used:
        section.at.mapped()
        for setting in section.settings:
            _resolver_line(setting, found, alone=len(used) == 1)
    if len(used) > 1:
        return ()
    return tuple(dict.fromkeys(found))


def _resolver_line(setting: Setting, found: list[Address], *, alone: bool) -> None:
    words = [word.text for word in setting.words]
    if words[0] == "nameserver" and len(words) == 3:
        host, port = split_port(words[2].removeprefix("udp@"))
        try:
            address = named(host, port or "53")
        except Unsupported as error:
            setting.at.changes(note=str(error), needs="name servers")
            return
        if not isinstance(address, Address) or address.path:
            setting.at.changes(note="a name server's address must be numeric", needs="name servers")
        elif alone:
            found.append(address)
            setting.at.mapped()
        else:
            setting.at.changes(
                note="tcpmux has one list of name servers", needs="name servers of an endpoint"
            )
    elif words[0] == "parse-resolv-conf":
        setting.at.mapped(note="tcpmux uses them unless the file names others")
    elif words[:2] == ["hold", "valid"]:
        setting.at.harmless(note="tcpmux resolves names again when their TTL expires")
    elif words[0] == "hold":
        setting.at.changes(
            note="tcpmux keeps the last addresses for as long as lookups fail",
            needs="expiry of names",
        )
    elif words[0] in _RESOLVER_HARMLESS:
        setting.at.harmless(note="affects only how HAProxy sends queries")
