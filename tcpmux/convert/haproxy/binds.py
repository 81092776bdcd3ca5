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
    "name": (1, "a name"),
    "id": (1, "a name"),
    "label": (1, "a name"),
    "guid-prefix": (1, "a name"),
    "nice": (1, "a priority of HAProxy's tasks"),
    "process": (1, "which of HAProxy's processes accepts"),
    "thread": (1, "which of HAProxy's threads accepts"),
    "shards": (1, "how HAProxy's threads accept"),
    "backlog": (1, "tcpmux listens with the longest queue that the kernel allows"),
    "tfo": (0, "it saves the first round trip"),
    "mss": (1, "the size of segments"),
    "defer-accept": (0, "HAProxy accepts clients that send nothing a second later"),
    "level": (1, "it is of the stats socket"),
    "severity-output": (1, "it is of the stats socket"),
    "expose-fd": (1, "it is of the stats socket"),
    "v4v6": (0, ""),
    "tcp": (0, ""),
    "proto": (1, "it is of HTTP"),
    "cc": (1, "the kernel's congestion control is the host's in tcpmux"),
    "idle-ping": (1, "it is of HTTP/2"),
}
_CHANGES = {
    "accept-netscaler-cip": (1, "NetScaler's header would be sent to servers", "NetScaler's CIP"),
    "interface": (1, "it would listen on every interface", "interfaces"),
    "namespace": (1, "it would listen in its own network namespace", "network namespaces"),
    "transparent": (0, "it listens on addresses that are not the host's", "source addresses"),
    "tcp-ut": (1, "tcp_user_timeout is for both sides", "timeouts of one side"),
    "mode": (1, "the socket's permissions are what tcpmux's umask says", "modes of UNIX sockets"),
    "user": (1, "the socket is tcpmux's user's", "modes of UNIX sockets"),
    "group": (1, "the socket is tcpmux's user's", "modes of UNIX sockets"),
    "uid": (1, "the socket is tcpmux's user's", "modes of UNIX sockets"),
    "gid": (1, "the socket is tcpmux's user's", "modes of UNIX sockets"),
}
FULL = "HAProxy lets clients beyond it wait"
RESETS = f"{FULL}; tcpmux resets them if no place becomes free within 0.2 s"
TLS = "tcpmux does not speak TLS: servers would get what is encrypted"


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
            at.changes(word, note=f"it is not listened on: {error}", needs=error.needs)
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


def accepts_proxy(binds: Binds, *, has_connection_rules: bool) -> bool:
    """Whether every address takes a PROXY header from everybody, as one route does."""
    why = ""
    if any(address not in binds.proxied for address in binds.listen):
        why = "accept_proxy is of a route, and other addresses of this section take no header"
    elif any(address.path for address in binds.listen):
        why = "tcpmux takes no PROXY header on a UNIX socket"
    elif has_connection_rules:
        why = "`tcp-request connection` is about the address of who sends the header"
    for setting, word in binds.proxied.values():
        if why:
            setting.at.changes(word, note=why, needs="the PROXY protocol")
        else:
            setting.at.mapped(word)
    return bool(binds.proxied) and not why


def mark_v6only(binds: Binds, listen: Collection[Address]) -> None:
    """listen: of all routes. tcpmux takes IPv4 at [::] unless it listens on 0.0.0.0 and that port,
    too."""
    for address, setting in binds.v6only.items():
        if Address(ANY_V4, address.port, "") in listen:
            continue
        words = [word for word in setting.args if word.text == "v6only"]
        setting.at.changes(
            *words, note=f"IPv4 clients could connect to {address}, too", needs="IPv6 alone"
        )
