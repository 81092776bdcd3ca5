"""`bind`: where a frontend listens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from tcpmux.config.address import Address
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.values import (
    MAX_PORTS,
    Refused,
    Unsupported,
    listen_addresses,
    whole,
)
from tcpmux.convert.report import Report, Statement, Word

ANY_V6, ANY_V4 = "::", "0.0.0.0"  # noqa: S104
_HARMLESS = {  # option: (values after it, reason)
    "name": (1, "only a name"),
    "id": (1, "only a name"),
    "label": (1, "only a name"),
    "guid-prefix": (1, "only a name"),
    "nice": (1, "affects only the priority of HAProxy's tasks"),
    "process": (1, "affects only which of HAProxy's processes accepts"),
    "thread": (1, "affects only which of HAProxy's threads accepts"),
    "shards": (1, "affects only how HAProxy's threads accept"),
    "backlog": (1, "tcpmux uses the longest backlog that the system allows"),
    "tfo": (0, "saves only a round trip"),
    "mss": (1, "affects only the size of segments"),
    "defer-accept": (0, "HAProxy also accepts clients that send nothing, a second later"),
    "level": (1, "applies to the stats socket only"),
    "severity-output": (1, "applies to the stats socket only"),
    "expose-fd": (1, "applies to the stats socket only"),
    "v4v6": (0, ""),
    "tcp": (0, ""),
    "proto": (1, "applies to HTTP only"),
    "cc": (1, "tcpmux uses the host's congestion control"),
    "idle-ping": (1, "applies to HTTP/2 only"),
}
_CHANGES = {
    "accept-netscaler-cip": (1, "tcpmux would relay NetScaler's header as data", "NetScaler's CIP"),
    "interface": (1, "tcpmux would listen on every interface", "interfaces"),
    "namespace": (1, "tcpmux would listen in its own network namespace", "network namespaces"),
    "transparent": (
        0,
        "HAProxy listens on addresses that the host does not have",
        "source addresses",
    ),
    "tcp-ut": (1, "tcp_user_timeout applies to both sides", "timeouts of one side"),
    "mode": (1, "tcpmux sets the socket's permissions by its umask", "permissions of UNIX sockets"),
    "user": (1, "the socket belongs to tcpmux's user", "permissions of UNIX sockets"),
    "group": (1, "the socket belongs to tcpmux's user", "permissions of UNIX sockets"),
    "uid": (1, "the socket belongs to tcpmux's user", "permissions of UNIX sockets"),
    "gid": (1, "the socket belongs to tcpmux's user", "permissions of UNIX sockets"),
}
FULL = "beyond it, clients wait in HAProxy"
RESETS = f"{FULL}; tcpmux resets them unless a connection ends within 0.2 s"
TLS = "tcpmux relays TLS without decrypting it"


@dataclass(slots=True)
class Binds:
    """limits: of each address, 0 = none. v6only: those that do not take IPv4. proxied: those with
    accept-proxy."""

    listen: list[Address] = field(default_factory=list)
    limits: dict[Address, int] = field(default_factory=dict)
    v6only: dict[Address, Setting] = field(default_factory=dict)
    proxied: dict[Address, tuple[Setting, Word]] = field(default_factory=dict)


def binds_of(front: Section, report: Report) -> Binds:
    binds = Binds()
    if front.raw.old_addresses:
        word = front.raw.old_addresses[0]
        guarded(report, front.at, lambda: _addresses(front.at, word, binds), word)
    for setting in front.all("bind"):
        guarded(report, setting.at, lambda s=setting: _bind(s, binds))  # type: ignore[misc]
    return binds


def _addresses(at: Statement, word: Word, binds: Binds) -> list[Address]:
    found: list[Address] = []
    for text in word.text.split(","):
        if not text:
            continue
        try:
            found += listen_addresses(text)
        except Unsupported as error:
            at.changes(word, note=f"it is not opened: {error}", needs=error.needs)
    if len(found) + len(binds.listen) > MAX_PORTS:
        raise Refused(f"more than {MAX_PORTS} addresses")
    at.mapped(word)
    binds.listen += found
    return found


def _bind(setting: Setting, binds: Binds) -> None:
    at, words = setting.at, setting.args
    at.mapped(at.words[0])
    found = _addresses(at, setting.arg(), binds)
    has_tls = any(word.text == "ssl" for word in words[1:])
    index, limit, v6only = 1, 0, False
    while index < len(words):
        word = words[index]
        values = words[index + 1 :]
        taken = 0
        if word.text in _HARMLESS:
            taken, note = _HARMLESS[word.text]
            at.harmless(word, *values[:taken], note=note)
        elif word.text in _CHANGES:
            taken, note, needs = _CHANGES[word.text]
            at.changes(word, *values[:taken], note=note, needs=needs)
        elif word.text == "maxconn" and values:
            limit, taken = whole(values[0].text, 0, 2**31 - 1), 1
            at.mapped(word, values[0], note=RESETS if limit else "")
        elif word.text == "accept-proxy":
            binds.proxied |= dict.fromkeys(found, (setting, word))
        elif word.text == "v6only":
            v6only = True
            at.mapped(word)
        elif has_tls:
            at.changes(word, note=TLS, needs="TLS")
        index += 1 + taken
    for address in found:
        binds.limits[address] = limit
        if v6only and address.host == ANY_V6:
            binds.v6only[address] = setting


def mark_v6only(binds: Binds, listen: Collection[Address]) -> None:
    """listen: of all routes. tcpmux takes IPv4 at [::] unless it listens on 0.0.0.0 and that port,
    too."""
    for address, setting in binds.v6only.items():
        if Address(ANY_V4, address.port, "") in listen:
            continue
        words = [word for word in setting.args if word.text == "v6only"]
        setting.at.changes(
            *words,
            note=f"tcpmux would also accept IPv4 clients at {address}",
            needs="IPv6-only listeners",
        )
