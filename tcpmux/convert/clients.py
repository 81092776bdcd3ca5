"""Lists of clients, of which the first that matches decides, as an allow and a deny list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from tcpmux.config.settings import UNIX, Clients, Network

EVERYBODY: tuple[Clients, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"), UNIX)
MAX_PIECES = 10_000  # that a list may be cut into


class TooManyPieces(ValueError):
    """The list can't be written as an allow and a deny list of bearable length."""


@dataclass(frozen=True, slots=True)
class ClientRule:
    accepts: bool
    clients: Clients


def allow_and_deny(
    rules: Sequence[ClientRule], *, otherwise: bool = True
) -> tuple[tuple[Clients, ...], tuple[Clients, ...]]:
    """(allow, deny) that accept exactly the clients that the rules accept, of which the first that
    matches decides. otherwise: whether those are accepted that no rule matches. They keep the
    rules' own networks where that says the same. Raises TooManyPieces."""
    accepted = _accepted(rules, otherwise=otherwise)
    if set(accepted) == set(EVERYBODY):
        return (), ()
    allow = tuple(dict.fromkeys(rule.clients for rule in rules if rule.accepts))
    deny = tuple(dict.fromkeys(rule.clients for rule in rules if not rule.accepts))
    everybody = set(EVERYBODY)
    named = tuple(clients for clients in deny if clients not in everybody)
    for candidate in (
        (allow, ()) if allow else None,
        (allow, named) if allow else None,
        ((), deny) if deny else None,
    ):
        if candidate is not None and _meant(*candidate) == accepted:
            return candidate
    return (tuple(accepted), ()) if accepted else ((), EVERYBODY)


def all_of(lists: Iterable[tuple[Sequence[ClientRule], bool]]) -> list[ClientRule]:
    """Refuses the clients that any of these lists refuses, each with what it does `otherwise`; all
    others are accepted. Raises TooManyPieces."""
    refused: list[Clients] = []
    for rules, otherwise in lists:
        opposite = [ClientRule(not rule.accepts, rule.clients) for rule in rules]
        refused += _accepted(opposite, otherwise=not otherwise)
    return [ClientRule(accepts=False, clients=clients) for clients in refused]


def _meant(allow: Sequence[Clients], deny: Sequence[Clients]) -> list[Clients]:
    """Those that tcpmux accepts: in allow, unless that is empty, and not in deny."""
    rules = [ClientRule(accepts=False, clients=clients) for clients in deny]
    rules += [ClientRule(accepts=True, clients=clients) for clients in allow]
    return _accepted(rules, otherwise=not allow)


def _accepted(rules: Iterable[ClientRule], *, otherwise: bool) -> list[Clients]:
    """As disjoint networks, in order, and UNIX."""
    undecided: list[Network] = [net for net in EVERYBODY if not isinstance(net, str)]
    accepted: list[Network] = []
    unix: bool | None = None
    for rule in rules:
        clients = rule.clients
        if isinstance(clients, str):
            unix = rule.accepts if unix is None else unix
            continue
        rest: list[Network] = []
        for net in undecided:
            taken, left = _cut(net, clients)
            rest += left
            if rule.accepts:
                accepted += taken
        undecided = rest
        if len(undecided) + len(accepted) > MAX_PIECES:
            raise TooManyPieces(f"the list needs more than {MAX_PIECES} networks")
    if otherwise:
        accepted += undecided
    found: list[Clients] = [
        *collapse_addresses(net for net in accepted if isinstance(net, IPv4Network)),
        *collapse_addresses(net for net in accepted if isinstance(net, IPv6Network)),
    ]
    return [*found, UNIX] if (otherwise if unix is None else unix) else found


def _cut(net: Network, by: Network) -> tuple[list[Network], list[Network]]:
    """What of `net` is within `by`, and what is not."""
    if not net.overlaps(by):
        return [], [net]
    if net.prefixlen >= by.prefixlen:
        return [net], []
    return [by], list(net.address_exclude(by))  # type: ignore[arg-type]  # of the same family
