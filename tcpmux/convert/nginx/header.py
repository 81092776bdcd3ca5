"""The PROXY protocol's header in front of a server's connections, and whose address counts then.

nginx requires the header from every peer of a listener with proxy_protocol, but replaces the
client's address for peers in set_real_ip_from only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import collapse_addresses

from tcpmux.config.address import Address
from tcpmux.config.rows import DAY
from tcpmux.config.settings import UNIX, AcceptProxy, Clients
from tcpmux.convert.clients import EVERYBODY, without_mapped
from tcpmux.convert.nginx.listen import ANY_V6, Listen
from tcpmux.convert.nginx.proxy import seconds_of
from tcpmux.convert.nginx.scope import Scope
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.nginx.values import network
from tcpmux.convert.report import Report

TIMEOUT = 30.0  # s; nginx's default
NEEDS = "the PROXY protocol"


@dataclass(slots=True)
class Headers:
    """Of a server. trusted: whose headers say who the client is. places: what says so."""

    trusted: list[Clients] = field(default_factory=list)
    places: Sequence[Directive] = ()
    timeout: float = TIMEOUT

    def accepted(
        self,
        listens: Sequence[Listen],
        addresses: Sequence[Address],
        uses: Sequence[str],
        *,
        v6_only: bool,
    ) -> AcceptProxy:
        """Of a route on these addresses, all of listeners that have it. uses: what of the route
        depends on the client's address, as nginx has that. v6_only: it denies IPv4."""
        families = {0 if address.path else 6 if ":" in address.host else 4 for address in addresses}
        if any(address.host == ANY_V6 for address in addresses):
            families.add(4)
        every = tuple(one for one in EVERYBODY if _family(one) in families)
        trusts_all = self.trusts(families)
        trusted = tuple(
            part for net in self.trusted if _family(net) in families for part in without_mapped(net)
        )
        for one in listens:
            assert one.header is not None
            if v6_only:
                note = "tcpmux also resets clients that a header names by an IPv4 address"
                one.at.changes(one.header, note=note, needs="IPv6-only listeners")
            elif not uses or trusts_all:
                one.at.mapped(one.header)
            else:
                one.at.changes(one.header, note=_difference(trusted, uses), needs=NEEDS)
        senders = trusted if uses and trusted and not trusts_all else every
        return AcceptProxy(senders, timeout=self.timeout)

    def trusts(self, families: set[int]) -> bool:
        """Whether it trusts all peers of these families."""
        found = {net for net in self.trusted if 0 in families and net == UNIX}
        for family in families - {0}:
            mine = [net for net in self.trusted if _family(net) == family]
            found.update([*collapse_addresses(mine)][:1])  # type: ignore[type-var]
        return found == {one for one in EVERYBODY if _family(one) in families}


def _family(peers: Clients) -> int:
    """The version of IP; 0 = they are of UNIX sockets."""
    return 0 if isinstance(peers, str) else peers.version


def _difference(trusted: Sequence[Clients], uses: Sequence[str]) -> str:
    told = " and ".join(uses)
    if not trusted:
        return f"tcpmux uses the address in the header for {told}; nginx, that of the peer"
    return (
        "peers that are not in set_real_ip_from: nginx requires their header and ignores the "
        f"address in it for {told}, tcpmux relays the header as data"
    )


def names_all(accept: AcceptProxy) -> bool:
    """Whether every client is the one that a header names."""
    return bool(accept.senders) and {*accept.senders} <= {*EVERYBODY}


def headers_of(server: Scope, stream: Scope, report: Report, *, reads: bool) -> Headers:
    """reads: whether some listener of the server has headers."""
    own = server.lists.get("set_real_ip_from")
    found = Headers(places=own or stream.lists.get("set_real_ip_from") or ())
    wait = server.settings.get("proxy_protocol_timeout")
    if not reads:
        for one in (*(own or ()), *([wait] if wait else ())):
            one.at.harmless(note="no listener here reads a PROXY header")
        return found
    wait = wait or stream.settings.get("proxy_protocol_timeout")
    if wait is not None:
        found.timeout = seconds_of(wait, report, DAY) or TIMEOUT
    for one in found.places:
        found.trusted += _networks(one, report)
    return found


def _networks(one: Directive, report: Report) -> list[Clients]:
    text = one.argument()
    if text == "unix:":
        one.at.mapped()
        return [UNIX]
    found = network(text)
    if found is not None:
        one.at.mapped()
        return [found]
    if "/" in text:
        report.problem(one.at, "expected an address, a network or a name", one.at.words[1])
    else:
        one.at.changes(note="tcpmux takes addresses of balancers, not names", needs="names")
    return []
