"""Who may connect, and how often: allow, deny, limit_conn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tcpmux.config.rows import MAX_CONNECTIONS
from tcpmux.config.settings import UNIX, Clients, RoutePolicy, Source
from tcpmux.convert.clients import EVERYBODY, ClientRule, TooManyNetworks, allow_and_deny
from tcpmux.convert.nginx.header import names_all
from tcpmux.convert.nginx.scope import is_plain
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.nginx.values import names_in, network, number
from tcpmux.convert.report import Report, Word

_CLIENT = ("$binary_remote_addr", "$remote_addr", "${binary_remote_addr}", "${remote_addr}")
# What the header says, whoever sends it.
_NAMED = ("$proxy_protocol_addr", "${proxy_protocol_addr}")
_LISTENER = {"server_addr", "server_port", "protocol"}


def client_rules(directives: Sequence[Directive], report: Report) -> list[ClientRule]:
    """In order: the first that matches decides."""
    rules: list[ClientRule] = []
    for one in directives:
        accepts = one.name == "allow"
        clients = _clients(one.at.words[1])
        if not clients:
            report.problem(one.at, "expected an address, a network, unix: or all", one.at.words[1])
        one.at.mapped()
        rules += [ClientRule(accepts, each) for each in clients]
    return rules


def _clients(word: Word) -> tuple[Clients, ...]:
    if word.text == "all":
        return EVERYBODY
    if word.text == "unix:":
        return (UNIX,)
    found = network(word.text)
    return () if found is None else (found,)


def client_lists(
    rules: Sequence[ClientRule], at: Sequence[Directive]
) -> tuple[tuple[Clients, ...], tuple[Clients, ...]]:
    """(allow, deny) that are equivalent. at: what the rules are made of."""
    try:
        return allow_and_deny(rules)
    except TooManyNetworks as error:
        for one in at:
            one.at.changes(note=f"no client may connect: {error}")
        return (), EVERYBODY


@dataclass(slots=True)
class Zones:
    """limit_conn_zone, by name: its directive; and the servers whose connections it counts."""

    report: Report
    zones: dict[str, Directive] = field(default_factory=dict)
    users: dict[str, set[str]] = field(default_factory=dict)

    def define(self, one: Directive) -> None:
        if not is_plain(one, self.report, 2, 2):
            return
        name = one.argument(1).removeprefix("zone=").partition(":")[0]
        if not one.argument(1).startswith("zone=") or not name:
            self.report.problem(one.at, "expected zone=NAME:SIZE", one.at.words[2])
        elif name in self.zones:
            self.report.problem(one.at, f"the zone {name} is already defined", one.at.words[2])
        else:
            self.zones[name] = one

    def are_of_clients(self, directives: Sequence[Directive]) -> bool:
        """Whether one of these limits counts connections by the client's address."""
        zones = (self.zones.get(one.argument()) for one in directives)
        return any(zone is not None and zone.argument() in _CLIENT for zone in zones)

    def use(self, directives: Sequence[Directive], route: str) -> None:
        for one in directives:
            self.users.setdefault(one.argument(), set()).add(route)

    def apply(
        self, policy: RoutePolicy, directives: Sequence[Directive], listeners: int, *, dry: bool
    ) -> RoutePolicy:
        """With the limits of a route, which listens on so many addresses. dry: they are only
        logged. use() has been called for all routes."""
        for one in directives:
            count, zone = number(one.argument(1)), self.zones.get(one.argument())
            if not count:
                self.report.problem(one.at, "expected a number from 1", one.at.words[2])
            elif zone is None:
                self.report.problem(one.at, f"there is no limit_conn_zone named {one.argument()}")
            elif dry:
                one.at.harmless(note="limit_conn_dry_run is on: nginx only logs it")
            elif count > MAX_CONNECTIONS:
                one.at.changes(note=f"it is above {MAX_CONNECTIONS}, tcpmux's maximum")
            else:
                policy = self._limit(policy, one, zone, count, listeners)
        return policy

    def _limit(
        self, policy: RoutePolicy, one: Directive, zone: Directive, count: int, listeners: int
    ) -> RoutePolicy:
        key = zone.argument()
        others = len(self.users.get(one.argument(), ())) > 1
        if key in _CLIENT or (key in _NAMED and names_all(policy.accept_proxy)):
            one.at.mapped()
            zone.at.mapped(note="tcpmux counts an IPv6 /64 network as one client")
            if others:
                note = "each route has its own limit; in nginx, all users of the zone share one"
                one.at.changes(note=note, needs="limits across routes")
            old = policy.source.max_connections
            limit = min(old, count) if old else count
            return replace(policy, source=Source(max_connections=limit))
        names = names_in(key)
        if names <= _LISTENER and (listeners == 1 or names >= {"server_addr", "server_port"}):
            one.at.mapped()
            zone.at.mapped()
            if others:
                one.at.changes(note="each route has its own limit", needs="limits across routes")
            old = policy.listener_max_connections
            return replace(policy, listener_max_connections=min(old, count) if old else count)
        for each in (one, zone):
            each.at.changes(note="tcpmux limits only connections of a client or of a listener")
        return policy

    def mark_unused(self) -> None:
        for zone in self.zones.values():
            if zone.at.words[0].effect is None:
                zone.at.harmless(note="no limit_conn in effect uses it")
