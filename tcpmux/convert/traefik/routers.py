"""Routers, each of which is a route where it serves every connection of an entry point."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tcpmux.config.address import Address
from tcpmux.config.settings import AcceptProxy, Clients, Retry, RoutePolicy, Source
from tcpmux.convert.clients import (
    ClientRule,
    TooManyNetworks,
    allow_and_deny,
    allow_and_deny_by_all,
)
from tcpmux.convert.draft import Draft
from tcpmux.convert.traefik.rules import Malformed, matchers, tree_of
from tcpmux.convert.traefik.services import Services
from tcpmux.convert.traefik.values import Rule, networks, plain, rule_of
from tcpmux.convert.tree import Node

_SEVERAL = (
    "Traefik 3 takes one value in a matcher, and drops a router with several unless its ruleSyntax "
    "is v2; tcpmux reads them as Traefik 2 does"
)


@dataclass(slots=True, eq=False)
class EntryPoint:
    """address: None = of UDP, or none that tcpmux can listen on. is_default: for routers that name
    none."""

    name: str
    node: Node
    address: Address | None
    is_default: bool = False
    routers: list[Router] = field(default_factory=list)
    accept_proxy: AcceptProxy = field(default_factory=AcceptProxy)
    is_by_rule: bool = False  # its routers share its connections


@dataclass(slots=True, eq=False)
class Router:
    """is_encrypted: it ends TLS, or looks at it."""

    name: str
    node: Node
    rule: Rule
    is_encrypted: bool
    entry_points: list[EntryPoint]
    serves: list[EntryPoint] = field(default_factory=list)  # those whose connections it has

    @property
    def listens(self) -> dict[AcceptProxy, list[Address]]:
        """In the order in which it names its entry points, by their PROXY headers."""
        found: dict[AcceptProxy, list[Address]] = {}
        for one in self.entry_points:
            if one in self.serves and one.address is not None:
                found.setdefault(one.accept_proxy, []).append(one.address)
        return found

    @property
    def has_tls(self) -> bool:
        """It is asked for clients of TLS, and for no others."""
        return "tls" in self.node.fields

    @property
    def takes_all(self) -> bool:
        return not self.rule.needs and not self.is_encrypted

    @property
    def priority(self) -> tuple[int, int]:
        text = self.node["rule"].text()
        given = self.node["priority"].integer(0, -(2**53), 2**53)
        return (given or (-1 if not self.rule.clients and self.takes_all else len(text)), 0)


def router_of(node: Node, entry_points: dict[str, EntryPoint]) -> Router:
    name = node.key
    node.name_section(f"router {name}")
    rule = rule_of(node["rule"].text())
    if not node["rule"].text():
        node.problem("expected a rule")
    if _has_several(node["rule"].text()) and node["rulesyntax"].text().lower() != "v2":
        node["rule"].mapped(_SEVERAL)
    if node["rulesyntax"]:
        node["rulesyntax"].mapped()
    used = []
    for entry in node["entrypoints"]:
        found = entry_points.get(entry.text().lower())
        if found is None:
            entry.changes("no such entry point in the files")
        else:
            used.append(found)
    if not node["entrypoints"]:
        used = [one for one in entry_points.values() if one.is_default]
    router = Router(name, node, rule, _is_encrypted(node), used)
    for one in used:
        one.routers.append(router)
    return router


def _has_several(rule: str) -> bool:
    """Values in one matcher."""
    try:
        return any(len(one.values) > 1 for one in matchers(tree_of(rule)))
    except Malformed:
        return False


def _is_encrypted(node: Node) -> bool:
    if "tls" not in node.fields:
        return False
    tls = node["tls"]
    if tls["passthrough"].flag() if tls.fields else False:
        tls.mapped()
        return False
    tls.changes("tcpmux relays what clients send as it is, still encrypted", "TLS")
    return True


def decide(entry_point: EntryPoint) -> None:
    """Which router has the connections of an entry point."""
    routers = sorted(entry_point.routers, key=lambda router: router.priority, reverse=True)
    if not routers or entry_point.address is None:
        return
    mains = [router for router in routers if router.takes_all and not router.rule.clients]
    is_alone = len(routers) == 1 and not routers[0].rule.needs
    if not is_alone and (len(mains) < len(routers) or len({one.has_tls for one in mains}) > 1):
        entry_point.is_by_rule = True
        return
    for router in routers:
        if router.has_tls and not router.is_encrypted:
            router.node["tls"].mapped("tcpmux relays connections without TLS as well")
    if len(routers) == 1 and (routers[0].takes_all or not routers[0].rule.needs):
        mains = routers
    for router in routers:
        if mains and router is mains[0]:
            router.serves.append(entry_point)
        elif mains and router in mains and router.priority < mains[0].priority:
            router.node.harmless(f"{mains[0].name} gets all connections of {entry_point.name}")
        elif mains and router in mains:
            told = f"{mains[0].name} has the same priority: tcpmux uses only that router"
            router.node.changes(told)
        else:
            needs = router.rule.needs or ("rules by source" if router.rule.clients else "TLS")
            told = (
                "tcpmux sends these connections where all others go"
                if mains
                else "its port is not opened"
            )
            router.node.changes(told, needs)


def drafts_of(router: Router, services: Services, middlewares: dict[str, Node]) -> list[Draft]:
    """[]: no entry point's connections go to it."""
    node = router.node
    service = node["service"]
    if not router.listens:
        if any(one.is_by_rule for one in router.entry_points):
            return []
        if not router.entry_points:
            node.changes(
                "no entry point in the files uses it: name the static file with -c as well"
            )
        node.mapped()
        return []
    found = services.shares(service.text(), service)
    shares = [(services.pool(name), share) for name, share in found.parts.items()]
    policy = _policy(router, middlewares)
    if len(shares) > 1 and not found.reaches:
        policy = replace(policy, on_unavailable="reject")
    at = node.place
    assert at is not None
    sections = {f"router {router.name}", *found.sections}
    sections |= {f"entry point {one.name}" for one in router.entry_points}
    if len(router.listens) > 1 and policy.source.max_connections:
        note = "entry points that differ in their PROXY headers are routes, each with its own limit"
        node["middlewares"].changes(note, "limits across routes")
    return [
        Draft(
            router.name,
            listen,
            shares,
            at,
            policy=replace(policy, accept_proxy=accept),
            sections=sections,
        )
        for accept, listen in router.listens.items()
    ]


def limits_of(
    router: Router, middlewares: dict[str, Node]
) -> tuple[list[tuple[Clients, ...]], int]:
    """Of its middlewares: lists that a client must all be in, and how many connections it may have;
    0 = any number."""
    lists: list[tuple[Clients, ...]] = []
    most = 0
    for entry in router.node["middlewares"]:
        name = plain(entry.text())
        found = middlewares.get(name or "")
        if found is None:
            entry.changes("no such TCP middleware in the files")
            continue
        for kind in ("ipallowlist", "ipwhitelist"):
            if found[kind]:
                lists.append(tuple(networks(found[kind]["sourcerange"])))
        if found["inflightconn"]:
            amount = found["inflightconn"]["amount"]
            amount_ = amount.integer(0, 1, 10_000_000)
            most = min(most, amount_) if most else amount_
            amount.mapped("tcpmux counts an IPv6 /64 network as one client")
    return lists, most


def _policy(router: Router, middlewares: dict[str, Node]) -> RoutePolicy:
    lists, most = limits_of(router, middlewares)
    if router.rule.clients:
        lists.insert(0, router.rule.clients)
    allow: tuple[Clients, ...] = ()
    deny: tuple[Clients, ...] = ()
    rules = [[ClientRule(accepts=True, clients=one) for one in each] for each in lists]
    try:
        if len(rules) == 1:
            allow, deny = allow_and_deny(rules[0], otherwise=False)
        elif rules:
            allow, deny = allow_and_deny_by_all((each, False) for each in rules)
    except TooManyNetworks as error:
        router.node["middlewares"].changes(str(error))
    return RoutePolicy(
        source=Source(max_connections=most), allow=allow, deny=deny, retry=Retry(attempts=1)
    )
