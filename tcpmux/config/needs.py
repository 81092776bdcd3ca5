"""What has to be read of a connection before its destination is picked, as some of the route's keys
depend on it. One function for each; what depends on it adds its condition there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcpmux.config.model import Route

AUTHORITY, ALPN = 0x02, 0x01  # types of TLVs


NOTHING, NAMES, ALL_PROTOCOLS = range(3)  # csrc/conn/preread.h: enum tm_preread


def reading(route: Route) -> int:
    """What is read of the client's first bytes. Where rules go by protocols, a client whose list
    finds no room is reset: one of those that are left out may be named in a rule."""
    if any(rule.alpn for rule in route.rules):
        return ALL_PROTOCOLS
    return NAMES if needs_client_hello(route) else NOTHING


def needs_client_hello(route: Route) -> bool:
    """Whether a TLS ClientHello is waited for and read."""
    sent = [destination.policy.send_proxy for destination in route.destinations]
    return (
        route.policy.preread.is_asked
        or route.policy.sticky.by == "sni"
        or any(rule.reads_hello for rule in route.rules)
        or any(header.authority or header.alpn for header in sent)
    )


def kept_tlvs(route: Route) -> tuple[int, ...]:
    """Types of TLVs of the PROXY protocol's header that somebody asks for: to be shown, for
    endpoints, for rules, or to tell clients apart."""
    found = {*route.policy.accept_proxy.keep}
    for destination in route.destinations:
        sent = destination.policy.send_proxy
        found |= {*sent.passed}
        found |= {AUTHORITY} if sent.authority else set()
        found |= {ALPN} if sent.alpn else set()
    found |= {kind for rule in route.rules for kind, _ in rule.tlvs}
    if route.policy.sticky.by == "tlv":
        found.add(route.policy.sticky.tlv)
    return tuple(sorted(found))
