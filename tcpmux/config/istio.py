"""Routes from Istio's Gateway, VirtualService and DestinationRule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tcpmux.config.address import Address
from tcpmux.config.hosts import Hosts, NoEndpoints
from tcpmux.config.istio_specs import (
    DestinationRuleSpec,
    GatewaySpec,
    OutlierDetection,
    Server,
    TcpKeepalive,
    TcpRule,
    TrafficPolicy,
    VirtualServiceSpec,
    WeightedTarget,
)
from tcpmux.config.model import Destination, Route
from tcpmux.config.resources import ISTIO, Resource
from tcpmux.config.rows import MAX_CONNECTIONS
from tcpmux.config.settings import (
    DestinationPolicy,
    Keepalive,
    Lifetime,
    Passive,
    SlowStart,
)
from tcpmux.config.specs import (
    read,
)

T = TypeVar("T")
ONLY_DESTINATION = 100  # its weight says nothing
MESH = "mesh"  # the gateway of the sidecars
# Its LEAST_REQUEST is the better of two at random; here it is the best of all.
BALANCES = {
    "ROUND_ROBIN": "round_robin",
    "UNSPECIFIED": "round_robin",
    "LEAST_REQUEST": "least_connections",
    "LEAST_CONN": "least_connections",
    "RANDOM": "random_two",
}
OUTLIERS = Passive()  # Istio's defaults are ours


@dataclass(frozen=True, slots=True)
class _Gateway:
    resource: Resource
    spec: GatewaySpec

    def listens(self) -> Iterator[tuple[int, Server, Address]]:
        for index, server in enumerate(self.spec.servers):
            text = server.bind or ""
            try:
                if text.startswith("unix:"):
                    address = Address.parse("unix:" + text[5:].removeprefix("//"))
                else:
                    host = f"[{text}]" if ":" in text else text
                    address = Address.parse(f"{host}:{server.port.number}")
            except ValueError as error:
                self.resource.problem(f"{error}, got {text}", "spec", "servers", index, "bind")
                continue
            yield index, server, address


def istio_routes(resources: Sequence[Resource], hosts: Hosts) -> list[tuple[Route, Resource]]:
    """A route for each rule of a VirtualService that some port of a Gateway comes to."""
    gateways = {
        (resource.namespace, resource.name): _Gateway(resource, read_gateway)
        for resource in resources
        if (resource.group, resource.kind) == (ISTIO, "Gateway")
        and (read_gateway := _gateway(resource)) is not None
    }
    rules = _Rules.of(resources, hosts)
    services = [
        (resource, spec)
        for resource in resources
        if (resource.group, resource.kind) == (ISTIO, "VirtualService")
        and (spec := read(resource, VirtualServiceSpec)) is not None
    ]
    names = [resource.name for resource, _ in services]
    found: list[tuple[Route, Resource]] = []
    served: set[tuple[str, str]] = set()
    for resource, spec in services:
        name = resource.name
        if names.count(name) > 1:
            name = f"{resource.namespace}.{name}"
        for part, (index, rule, listen) in enumerate(_used(resource, spec, gateways, served)):
            made = _route(resource, index, rule, hosts, rules)
            if made is not None:
                route_name = name if part == 0 else f"{name}-{listen[0].port or part}"
                route = replace(made, name=route_name, listen=tuple(listen), source=str(resource))
                found.append((route, resource))
    for key in gateways.keys() - served:
        gateways[key].resource.warn("no VirtualService uses it: its ports are not opened")
    return found


def _gateway(resource: Resource) -> GatewaySpec | None:
    spec = read(resource, GatewaySpec)
    if spec is None:
        return None
    for index, server in enumerate(spec.servers):
        protocol = server.port.protocol
        if protocol != "TCP" and server.tls is None:
            word = "TLS is not supported yet" if protocol == "TLS" else "tcpmux relays TCP"
            resource.problem(
                f"{word}: expected TCP, got {protocol}",
                *("spec", "servers", index, "port", "protocol"),
            )
    return spec


def _used(
    resource: Resource,
    spec: VirtualServiceSpec,
    gateways: dict[tuple[str, str], _Gateway],
    served: set[tuple[str, str]],
) -> list[tuple[int, TcpRule, list[Address]]]:
    """The rules to which some listener comes, with these. The first that matches is the one."""
    wanted = [name for name in spec.gateways or [MESH] if name != MESH]
    if not wanted:
        resource.warn("names no gateway, so it applies to sidecars only: ignored")
        return []
    if not spec.tcp and spec.http is None and spec.tls is None:
        resource.problem("tcp is missing", "spec")
    listens: dict[int, list[Address]] = {}
    for at, name in enumerate(spec.gateways or ()):
        gateway = _named_gateway(resource, at, name, gateways, served) if name != MESH else None
        for _, server, address in gateway.listens() if gateway else ():
            index = _matching(spec, server.port.number, name)
            if index is not None:
                listens.setdefault(index, []).append(address)
    for index in range(len(spec.tcp)):
        if index not in listens and listens:
            resource.warn("no connection can reach this rule", "spec", "tcp", index)
    if spec.tcp and not listens and not resource.document.problems:
        resource.problem("no port of its gateways leads to any of these rules", "spec", "tcp")
    return [(index, spec.tcp[index], listens[index]) for index in sorted(listens)]


def _named_gateway(
    resource: Resource,
    at: int,
    name: str,
    gateways: dict[tuple[str, str], _Gateway],
    served: set[tuple[str, str]],
) -> _Gateway | None:
    namespace, slash, short = name.rpartition("/")
    key = (namespace if slash else resource.namespace, short)
    served.add(key)
    if key not in gateways:
        known = ", ".join(n for _, n in gateways) or "none"
        resource.problem(
            f"no Gateway {name} in the files; there are: {known}", "spec", "gateways", at
        )
    return gateways.get(key)


def _matching(spec: VirtualServiceSpec, port: int, gateway: str) -> int | None:
    for index, rule in enumerate(spec.tcp):
        if not rule.match or any(
            match.port in (None, port) and (match.gateways is None or gateway in match.gateways)
            for match in rule.match
        ):
            return index
    return None


@dataclass(slots=True)
class _Rules:
    """DestinationRules by host, short and long."""

    found: dict[str, tuple[Resource, DestinationRuleSpec]]

    @classmethod
    def of(cls, resources: Sequence[Resource], hosts: Hosts) -> _Rules:
        found: dict[str, tuple[Resource, DestinationRuleSpec]] = {}
        for resource in resources:
            if (resource.group, resource.kind) != (ISTIO, "DestinationRule"):
                continue
            spec = read(resource, DestinationRuleSpec)
            if spec is None:
                continue
            _check_policy(resource, spec.trafficPolicy, "spec")
            hosts.mention(spec.host, resource.namespace)
            for index, subset in enumerate(spec.subsets):
                hosts.mention(spec.host, resource.namespace, subset.name)
                _check_policy(resource, subset.trafficPolicy, "spec", "subsets", index)
            host = _long(spec.host, resource.namespace)
            if host in found:
                resource.problem(
                    f"{spec.host} has a DestinationRule already: {found[host][0]}", "spec", "host"
                )
            found[host] = resource, spec
        return cls(found)

    def of_host(self, host: str, namespace: str) -> tuple[Resource, DestinationRuleSpec] | None:
        return self.found.get(_long(host, namespace))


def _long(host: str, namespace: str) -> str:
    return host if "." in host else f"{host}.{namespace}.svc.cluster.local"


def _check_policy(resource: Resource, policy: TrafficPolicy, *inside: str | int) -> None:
    where = (*inside, "trafficPolicy")
    if policy.tls.mode != "DISABLE":
        resource.problem("TLS is not supported yet: expected DISABLE", *where, "tls", "mode")
    simple = policy.loadBalancer.simple
    if simple is not None and simple not in BALANCES:
        resource.warn(
            f"{simple} is not supported yet: using round robin", *where, "loadBalancer", "simple"
        )


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)


def _policy(*policies: TrafficPolicy) -> DestinationPolicy:
    """What they say, of the subset first, then of the whole host, then the defaults."""
    pools = [policy.connectionPool.tcp for policy in policies]
    balancers = [policy.loadBalancer for policy in policies]
    alive = _first(*(pool.tcpKeepalive for pool in pools)) or TcpKeepalive()
    simple = _first(*(balancer.simple for balancer in balancers)) or ""
    hashed = _first(*(balancer.consistentHash for balancer in balancers))
    balance = BALANCES.get(simple, "round_robin")
    if hashed is not None and hashed.useSourceIp:
        balance = "maglev" if hashed.maglev is not None else "source_hash"
    warmup = _first(*(balancer.warmup for balancer in balancers))
    seconds = _first(*(balancer.warmupDurationSecs for balancer in balancers)) or 0.0
    outliers = _first(*(policy.outlierDetection for policy in policies)) or OutlierDetection()
    most = _first(*(pool.maxConnections for pool in pools)) or 0
    plain = DestinationPolicy()
    return DestinationPolicy(
        connect_timeout=_first(*(p.connectTimeout for p in pools), plain.connect_timeout) or 0.0,
        idle_timeout=_first(*(p.idleTimeout for p in pools), plain.idle_timeout) or 0.0,
        balance=balance,
        max_connections=min(most, MAX_CONNECTIONS),
        panic_threshold=outliers.minHealthPercent or 0,
        slow_start=SlowStart(
            warmup.duration if warmup else seconds,
            max(1, (warmup and warmup.minimumPercent) or plain.slow_start.floor),
        ),
        passive=_passive(outliers),
        max_connection_duration=Lifetime(
            _first(*(pool.maxConnectionDuration for pool in pools)) or 0.0
        ),
        keepalive=Keepalive(
            round(alive.time or plain.keepalive.idle) or 1,
            round(alive.interval or plain.keepalive.interval) or 1,
            alive.probes or plain.keepalive.count,
        ),
    )


def _passive(of: OutlierDetection) -> Passive:
    errors = _first(
        of.consecutiveLocalOriginFailures,
        of.consecutiveGatewayErrors,
        of.consecutive5xxErrors,
        of.consecutiveErrors,
        OUTLIERS.errors,
    )
    most = OUTLIERS.most_ejected if of.maxEjectionPercent is None else of.maxEjectionPercent
    return Passive(
        min(errors or 0, 1000),
        of.interval or OUTLIERS.interval,
        of.baseEjectionTime or OUTLIERS.ejection_time,
        most,
    )


def _route(
    resource: Resource, index: int, rule: TcpRule, hosts: Hosts, rules: _Rules
) -> Route | None:
    """Without a name and listeners; None if something is wrong with it."""
    here = ("spec", "tcp", index, "route")
    if len(rule.route) > 1 and not any(target.weight for target in rule.route):
        resource.problem("expected a weight above 0 for at least one of them", *here)
    names = _destination_names(rule.route)
    if len(set(names)) < len(names):
        resource.problem("the same destination is listed twice", *here)
    destinations = []
    for at, (name, target) in enumerate(zip(names, rule.route, strict=True)):
        made = _destination(resource, (*here, at, "destination"), target, hosts, rules)
        if made is not None:
            weight = target.weight if len(rule.route) > 1 else ONLY_DESTINATION
            destinations.append(replace(made, name=name, weight=weight))
    if len(destinations) < len(rule.route):
        return None
    return Route("", (), tuple(destinations))


def _destination_names(targets: Sequence[WeightedTarget]) -> list[str]:
    """As short as they can be told apart: the subset, or the host, or more of it."""

    def names(form: int) -> list[str]:
        found = []
        for target in targets:
            to = target.destination
            host = to.host.split(".")[0] if form < 2 else to.host
            parts = [to.subset] if to.subset and form == 0 else [host, to.subset]
            if form == 3 and to.port:
                parts.append(str(to.port.number))
            found.append("-".join(part for part in parts if part))
        return found

    return next((n for n in map(names, range(4)) if len(set(n)) == len(n)), names(3))


def _destination(
    resource: Resource,
    here: tuple[str | int, ...],
    target: WeightedTarget,
    hosts: Hosts,
    rules: _Rules,
) -> Destination | None:
    to = target.destination
    rule = rules.of_host(to.host, resource.namespace)
    policies = [rule[1].trafficPolicy] if rule else []
    labels = {}
    if to.subset is not None:
        subsets = {subset.name: subset for subset in rule[1].subsets} if rule else {}
        if to.subset not in subsets:
            known = ", ".join(subsets) or "none"
            resource.problem(
                f"no DestinationRule gives {to.host} a subset {to.subset}; there are: {known}",
                *(*here, "subset"),
            )
            return None
        labels = subsets[to.subset].labels
        policies.insert(0, subsets[to.subset].trafficPolicy)
    port = to.port.number if to.port else None
    try:
        endpoints = hosts.endpoints(to.host, resource.namespace, port, to.subset or "", labels)
    except NoEndpoints as error:
        resource.problem(str(error), *here)
        return None
    return Destination("", 0, endpoints, _policy(*policies))
