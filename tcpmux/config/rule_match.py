"""Which rule a connection meets, and what keeps it from meeting the others: for `tcpmux explain`.
Workers find it another way (csrc/pick_rules.h); tests compare the two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from tcpmux.config.address import Address
from tcpmux.config.rule import Rule, tlv_text
from tcpmux.config.settings import UNIX, Clients

Client = IPv4Address | IPv6Address | str  # str: UNIX


@dataclass(frozen=True, slots=True)
class Facts:
    """A connection as rules see it. client, listener, tls: None = it is not known. sni: in lower
    case; "" = none. alpn: protocols that the client offers. tlvs: those of its PROXY header."""

    client: Client | None = None
    listener: Address | None = None
    tls: bool | None = None
    sni: str = ""
    alpn: tuple[str, ...] = ()
    tlvs: tuple[tuple[int, bytes], ...] = ()


def rule_met(rules: Sequence[Rule], facts: Facts) -> int:
    """The number of the first one; -1 = none."""
    return next((n for n, rule in enumerate(rules) if not why_not(rule, facts)), -1)


def why_not(rule: Rule, facts: Facts) -> str:
    """The condition that the connection does not meet, for people; "" = it meets all."""
    if rule.tls is not None and rule.tls is not facts.tls:
        known = {True: "it is TLS", False: "it is not TLS", None: "whether it is TLS is not said"}
        tls = f"tls {str(rule.tls).lower()}: {known[facts.tls]}"
    else:
        tls = ""
    return (
        _why_not_source(rule, facts.client)
        or _why_not_at(rule, facts.listener)
        or tls
        or _why_not_said(rule, facts)
    )


def _why_not_source(rule: Rule, client: Client | None) -> str:
    if not rule.sources:
        return ""
    if client is None:
        return f"source is not said: it may be in {_listed(map(str, rule.sources))}"
    if any(_is_in(client, source) for source in rule.sources):
        return ""
    return f"source {client} is not in {_listed(map(str, rule.sources))}"


def _why_not_at(rule: Rule, listener: Address | None) -> str:
    if (rule.ports or rule.listen) and listener is None:
        return f"port is not said: it may be {_listed(map(str, rule.ports or rule.listen))}"
    if rule.ports and listener and (listener.path or listener.port not in rule.ports):
        return f"port {listener.port or listener} is not {_listed(map(str, rule.ports))}"
    if rule.listen and listener not in rule.listen:
        return f"listen {listener} is not {_listed(map(str, rule.listen))}"
    return ""


def _why_not_said(rule: Rule, facts: Facts) -> str:
    """Of what the client or its balancer says."""
    if rule.sni and not any(is_named(facts.sni, pattern) for pattern in rule.sni):
        of = f"sni {facts.sni}" if facts.sni else "no sni: it"
        return f"{of} is not {_listed(rule.sni)}"
    if rule.alpn and not set(rule.alpn) & set(facts.alpn):
        of = f"alpn {', '.join(facts.alpn)}" if facts.alpn else "no alpn: it"
        return f"{of} does not offer {_listed(rule.alpn)}"
    for kind, values in rule.tlvs:
        sent = [value for of, value in facts.tlvs if of == kind]
        if not set(sent) & set(values):
            got = tlv_text(kind, sent[0]) if sent else "missing"
            return f"tlv {kind:#04x} is {got}, not {_listed([tlv_text(kind, v) for v in values])}"
    return ""


def is_named(sni: str, pattern: str) -> bool:
    """*.x: one or more labels in front of .x; as sni, all such names."""
    if pattern.startswith("*."):
        return sni.endswith(pattern[1:]) and len(sni) > len(pattern) - 1
    return sni == pattern


def _is_in(client: Client, source: Clients) -> bool:
    """IPv4 is a part of IPv6, as in allow and deny."""
    if isinstance(client, str) or isinstance(source, str):
        return client == source == UNIX
    first, last = _as_ipv6(source.network_address), _as_ipv6(source.broadcast_address)
    return first <= _as_ipv6(client) <= last


def _as_ipv6(address: IPv4Address | IPv6Address) -> int:
    return int(address) + (0xFFFF << 32 if address.version == 4 else 0)


def _listed(values: Iterable[str]) -> str:
    shown = list(values)
    more = len(shown) - 3
    return ", ".join(shown[:3]) + (f" or {more} more" if more > 0 else "")
