"""Headers of the PROXY protocol: of whom a frontend expects one, and to which servers one goes."""

from __future__ import annotations

from contextlib import suppress

from tcpmux.config.address import Address
from tcpmux.config.rows import DAY
from tcpmux.config.settings import AcceptProxy, Clients, Network
from tcpmux.convert.clients import EVERYBODY
from tcpmux.convert.haproxy.access import Access, mark_changes, truth_of
from tcpmux.convert.haproxy.binds import Binds
from tcpmux.convert.haproxy.options import PROXY_NOTE
from tcpmux.convert.haproxy.proxies import Section
from tcpmux.convert.haproxy.servers import Line, Servers, agreed
from tcpmux.convert.haproxy.values import seconds, whole_milliseconds
from tcpmux.convert.report import Report
from tcpmux.convert.truth import Among, Unknown

NEEDS = "the PROXY protocol"
_UNIX = "tcpmux accepts no PROXY header on a UNIX socket"
_EARLY = "`tcp-request connection` rules apply to the address that sends the header"


def headers_at(
    front: Section, binds: Binds, access: Access, at: Address, report: Report
) -> AcceptProxy:
    """At one of its addresses. The header has to be there within the client's timeout."""
    early = any(rule.stage == "connection" and rule.accepts is not None for rule in access.rules)
    senders: tuple[Clients, ...] = ()
    if at in binds.proxied:
        setting, word = binds.proxied[at]
        if at.path or early:
            setting.at.changes(word, note=_UNIX if at.path else _EARLY, needs=NEEDS)
        else:
            setting.at.mapped(word)
            senders = EVERYBODY
    for rule in access.expects:
        if early:
            mark_changes(rule.setting, rule.condition, _EARLY, NEEDS)
            continue
        truth = truth_of(rule.setting, rule.condition, at, report)
        if isinstance(truth, bool | Among) and not (at.path and truth):
            rule.setting.at.mapped()
            for definition in rule.condition.definitions:
                definition.at.mapped()
            if truth:
                senders += truth.clients if isinstance(truth, Among) else EVERYBODY
        elif isinstance(truth, Unknown):
            mark_changes(rule.setting, rule.condition, truth.note, truth.needs)
        else:
            note = _UNIX if at.path else "tcpmux does not expect headers by chance"
            mark_changes(rule.setting, rule.condition, note, NEEDS)
    found = _networks(senders)
    return AcceptProxy(found, timeout=_timeout(front)) if found else AcceptProxy()


def _networks(senders: tuple[Clients, ...]) -> tuple[Network, ...]:
    every = tuple(one for one in EVERYBODY if not isinstance(one, str))
    found = tuple(dict.fromkeys(one for one in senders if not isinstance(one, str)))
    return every if {*found} >= {*every} else found


def _timeout(front: Section) -> float:
    """In s."""
    setting, timeout = front.last("timeout client"), 0.0
    if setting is not None:
        with suppress(ValueError):  # it is told with the other timeouts
            timeout = whole_milliseconds(seconds(setting.arg().text))
    return min(timeout or DAY, DAY)


# --- to servers ----------------------------------------------------------------------------------

# Option: version of the header.
_SENDS = {"send-proxy": 1, "send-proxy-v2": 2, "send-proxy-v2-ssl": 2, "send-proxy-v2-ssl-cn": 2}


def send_proxy_of(servers: Servers) -> int:
    """The version of the header that all servers get; 0 = none."""
    version = 0
    if any(isinstance(line.endpoint, Address) and line.endpoint.path for line in servers.all):
        for line in servers.all:
            for name in _SENDS:
                if name in line.options:
                    line.options[name].changes(
                        "tcpmux sends no PROXY header to UNIX sockets", NEEDS
                    )
        return 0
    for name, number in _SENDS.items():
        note = "send_proxy applies to all servers of a destination"
        option = agreed(servers.all, name, note, "PROXY headers of single servers")
        if option is not None:
            version = number
    for line in servers.all:
        _others(line, has_header=bool(version))
    return version


# Options of version 2 that are about TLS which HAProxy has ended.
_OF_TLS = {"ssl", "cert-cn", "ssl-cipher", "cert-sig", "cert-key"}
_NOT_TLS = "HAProxy also tells servers that the client's connection is not encrypted"


def _others(line: Line, *, has_header: bool) -> None:
    """Of a server: what it says of its header beside the version."""
    for name in ("send-proxy-v2-ssl", "send-proxy-v2-ssl-cn"):
        if name in line.options and has_header:
            line.options[name].mapped(_NOT_TLS)
    extensions = line.options.get("proxy-v2-options")
    if extensions is not None and has_header and {*extensions.text.split(",")} <= _OF_TLS:
        extensions.mapped(_NOT_TLS)
    elif extensions is not None:
        extensions.changes(PROXY_NOTE, "PROXY header extensions")
    checks = line.options.get("check-send-proxy")
    if checks is not None and has_header:
        checks.mapped("plain tcp checks send no header")
    elif checks is not None:
        note = "tcpmux sends a PROXY header in checks only if servers get one"
        checks.changes(note, NEEDS)
