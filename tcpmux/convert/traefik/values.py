"""Values as Traefik's files have them, and its rules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import ip_network
from typing import Any

from tcpmux.config.address import Address
from tcpmux.config.problems import describe
from tcpmux.config.rows import DAY
from tcpmux.config.settings import Clients
from tcpmux.convert.report import Effect
from tcpmux.convert.seconds import limited
from tcpmux.convert.tree import Node

HARMLESS, CHANGES = Effect.HARMLESS, Effect.CHANGES
_UNITS = {
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "ns": Fraction(1, 10**9),
}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ms|us|µs|ns|[hms])", re.ASCII)
_MATCHER = re.compile(r"(HostSNI|ClientIP)\(((?:`[^`]*`|\"[^\"]*\"|[\s,])+)\)")


def _duration(value: Any) -> Fraction:
    text = str(value)
    sign = -1 if text.startswith("-") else 1
    rest = text.lstrip("+-")
    if not isinstance(value, bool) and re.fullmatch(r"[0-9]{1,15}", rest):
        return Fraction(sign * int(rest))  # s
    total, at = Fraction(0), 0
    while part := _PART.match(rest, at):
        total += Fraction(part[1]) * _UNITS[part[2]]
        at = part.end()
    if at == 0 or at != len(rest) or isinstance(value, bool):
        raise ValueError(f"expected a duration such as 10s or 1m30s, got {describe(value)}")
    return sign * total


def duration(node: Node) -> Fraction | None:
    """In s; None: it is not there."""
    return node.read(_duration, None)


def seconds(node: Node, default: float, low: float = 0.001, high: float = DAY) -> float:
    """A duration within tcpmux's limits, in s; what is beyond them changes traffic."""
    found = duration(node)
    return default if found is None else limited(node, found, default, low, high)


def networks(node: Node) -> list[Clients]:
    """A list of addresses and networks."""
    found: list[Clients] = []
    for entry in node:
        text = entry.text()
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            entry.problem(f"expected an address or a network, got {describe(text)}")
    return found


def plain(name: str) -> str | None:
    """A name without @file; None: of another provider."""
    short, at, provider = name.partition("@")
    return short if not at or provider == "file" else None


def entry_point_address(text: str) -> tuple[Address | None, str]:
    """Of `[host]:port[/tcp|/udp]`; else what is wrong with it."""
    address, _, protocol = text.partition("/")
    if protocol.lower() == "udp":
        return None, "udp"
    try:
        return Address.parse(address), ""
    except ValueError as error:
        return None, str(error)


@dataclass(frozen=True, slots=True)
class Rule:
    """clients: those that it is for; none = everybody. needs: what tcpmux would need to have it;
    "" = nothing."""

    clients: tuple[Clients, ...] = ()
    needs: str = ""


def rule_of(text: str) -> Rule:
    """HostSNI(`*`), ClientIP(...), or both. Anything else needs what tcpmux has not."""
    try:
        return _rule(text)
    except ValueError:
        return Rule(needs="rules by SNI" if "HostSNI" in text else "rules by source")


def _rule(text: str) -> Rule:
    clients: tuple[Clients, ...] | None = None
    parts = text.split("&&")
    for part in parts:
        if len(parts) > 1 and "||" in part and _unwrapped(part) == part.strip():
            raise ValueError  # && binds first
        alternatives = [one.strip() for one in _unwrapped(part).split("||")]
        found = [_matcher(one) for one in alternatives]
        names = {name for name, _ in found}
        if names == {"HostSNI"} and all(values == ("*",) for _, values in found):
            continue
        if names != {"ClientIP"} or clients is not None:
            raise ValueError
        clients = tuple(ip_network(value, strict=False) for _, values in found for value in values)
    return Rule(clients or ())


def _unwrapped(part: str) -> str:
    part = part.strip()
    return part[1:-1] if part.startswith("(") and part.endswith(")") else part


def _matcher(text: str) -> tuple[str, tuple[str, ...]]:
    found = _MATCHER.fullmatch(text.strip())
    if found is None:
        raise ValueError
    values = tuple(value[1:-1] for value in re.findall(r"`[^`]*`|\"[^\"]*\"", found[2]))
    if not values:
        raise ValueError
    return found[1], values
