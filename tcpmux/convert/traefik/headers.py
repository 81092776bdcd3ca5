"""Headers of the PROXY protocol: of an entry point's clients, and to servers."""

from __future__ import annotations

from fractions import Fraction

from tcpmux.config.rows import DAY
from tcpmux.config.settings import AcceptProxy, Network
from tcpmux.convert.clients import EVERYBODY
from tcpmux.convert.seconds import limited
from tcpmux.convert.traefik.values import duration, networks
from tcpmux.convert.tree import Node

READ_TIMEOUT = Fraction(60)  # s; Traefik's default
OPTIONAL = "optional PROXY headers"


def accept_proxy_of(entry_point: Node) -> AcceptProxy:
    """Of an entry point that some TCP router uses."""
    node = entry_point["proxyprotocol"]
    if not node:
        return AcceptProxy()
    insecure, trusted = node["insecure"], node["trustedips"]
    every: tuple[Network, ...] = tuple(one for one in EVERYBODY if not isinstance(one, str))
    if insecure.flag():
        trusted.harmless("with insecure, every peer is trusted")
        insecure.changes(
            "tcpmux resets connections without a header; Traefik accepts them", OPTIONAL
        )
        return AcceptProxy(every, timeout=read_timeout(entry_point))
    senders = tuple(one for one in networks(trusted) if not isinstance(one, str))
    if not senders and not node.report.problems:
        node.problem("expected trustedIPs")
    trusted.changes(
        "tcpmux resets these peers if they send no header, and relays headers of others as data; "
        "Traefik accepts the first, and removes the others",
        OPTIONAL,
    )
    return AcceptProxy(senders, timeout=read_timeout(entry_point))


def read_timeout(entry_point: Node) -> float:
    """In s. 0: Traefik waits for ever."""
    wait = entry_point["transport"]["respondingtimeouts"]["readtimeout"]
    given = duration(wait)
    if given == 0:
        wait.mapped("tcpmux waits for at most a day")
        return float(DAY)
    return limited(wait, READ_TIMEOUT if given is None else given, 60.0, 0.001, DAY)


def send_proxy_of(node: Node) -> int:
    """Of proxyProtocol in a service or in a serversTransport: the version; 0 = it is not there."""
    if not node:
        return 0
    node.mapped()
    return node["version"].integer(2, 1, 2)
