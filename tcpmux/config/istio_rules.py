"""What Istio's DestinationRules say of connections to a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from tcpmux.config.hosts import Hosts
from tcpmux.config.istio_specs import (
    DestinationRuleSpec,
    LoadBalancer,
    OutlierDetection,
    PoolModel,
    PortPolicy,
    SubsetModel,
    TcpKeepalive,
    TrafficPolicy,
)
from tcpmux.config.resources import ISTIO, Resource
from tcpmux.config.rows import MAX_CONNECTIONS
from tcpmux.config.settings import (
    DestinationPolicy,
    Keepalive,
    Lifetime,
    Passive,
    SendProxy,
    SlowStart,
)
from tcpmux.config.specs import read, read_value

T = TypeVar("T")
# Its LEAST_REQUEST is the better of two at random; here it is the best of all.
BALANCES = {
    "ROUND_ROBIN": "round_robin",
    "UNSPECIFIED": "round_robin",
    "LEAST_REQUEST": "least_connections",
    "LEAST_CONN": "least_connections",
    "RANDOM": "random_two",
}
OUTLIERS = Passive()  # Istio's defaults are ours
Rule = tuple[Resource, DestinationRuleSpec]


@dataclass(slots=True)
class Rules:
    """DestinationRules by host, short and long. limited: what a limit of connections has been
    given to."""

    hosts: Hosts
    found: dict[str, list[Rule]]
    limited: set[tuple[tuple[str, ...], str, int | None]] = field(default_factory=set)

    @classmethod
    def of(cls, resources: Sequence[Resource], hosts: Hosts) -> Rules:
        found: dict[str, list[Rule]] = {}
        for resource in resources:
            if (resource.group, resource.kind) != (ISTIO, "DestinationRule"):
                continue
            spec = read(resource, DestinationRuleSpec)
            if spec is None:
                continue
            hosts.mention(spec.host, resource.namespace)
            for subset in spec.subsets:
                hosts.mention(spec.host, resource.namespace, subset.name)
            host = hosts.full_name(spec.host, resource.namespace)
            found.setdefault(host, []).append((resource, spec))
        return cls(hosts, found)

    def of_host(self, host: str, namespace: str) -> Rule | None:
        """The rule for a host: its own, or that of the longest `*` that stands for it."""
        name = self.hosts.full_name(host, namespace)
        names = {name, f"{name}.svc.cluster.local"}
        rules = self.found.get(name) or next(
            (
                self.found[pattern]
                for pattern in sorted(self.found, key=len, reverse=True)
                if pattern.startswith("*") and any(n.endswith(pattern[1:]) for n in names)
            ),
            None,
        )
        if rules is None:
            return None
        first, spec = rules[0]
        for other, _ in rules[1:]:
            other.problem(f"{host} already has a DestinationRule: {first}", "spec", "host")
        first.use()
        return first, spec

    def is_limited_again(self, rule: Rule, subset: SubsetModel | None, port: int | None) -> bool:
        """Whether the limit of this is another destination's as well."""
        key = rule[0].key, subset.name if subset else "", port
        if key in self.limited:
            return True
        self.limited.add(key)
        return False


def policy(rule: Rule | None, subset: SubsetModel | None, port: int | None) -> DestinationPolicy:
    """What a rule says of connections to a subset (None = the whole host) and a port of it."""
    if rule is None:
        return _made(PoolModel(), LoadBalancer(), OutlierDetection())
    resource, spec = rule
    layers = [_at_port(resource, spec.trafficPolicy, port, "spec")]
    if subset is not None:
        index = spec.subsets.index(subset)
        layers.append(_at_port(resource, subset.trafficPolicy, port, "spec", "subsets", index))
    # As a whole: what a pool of a subset leaves out is the default, not what the host's pool says.
    pool, balancer, outliers = (_last(key, layers) for key in Layer._fields)
    made = _made(pool or PoolModel(), balancer or LoadBalancer(), outliers or OutlierDetection())
    # portLevelSettings do not have it, and leave it as it is.
    inner = subset.trafficPolicy.proxyProtocol if subset is not None else None
    header = inner or spec.trafficPolicy.proxyProtocol
    return replace(made, send_proxy=SendProxy(int(header.version[1:]) if header else 0))


class Layer(NamedTuple):
    """Of a host, or of a subset. `...` = nothing is said, so what is around it holds."""

    pool: Any
    balancer: Any
    outliers: Any


def _last(key: str, layers: Sequence[Layer]) -> Any:
    said = [value for layer in layers if (value := getattr(layer, key)) is not ...]
    return said[-1] if said else None


def _at_port(
    resource: Resource, policy: TrafficPolicy, port: int | None, *inside: str | int
) -> Layer:
    """With the settings of that port, which replace all others."""
    here = (*inside, "trafficPolicy")
    for index, value in enumerate(policy.portLevelSettings):
        place = (*here, "portLevelSettings", index)
        number = value.get("port", {}).get("number") if _is_policy(value) else None
        if number is not None and number != port and port is not None:
            resource.harmless("no route uses that port", *place)
            continue
        if port is None:
            resource.changes("the route does not say which port: name it there", *place)
            continue
        found = read_value(resource, PortPolicy, value, place)
        resource.mapped("", *place)
        if found is not None:
            _check_balancer(resource, found.loadBalancer, *place)
            return Layer(found.connectionPool, found.loadBalancer, found.outlierDetection)
    _check_balancer(resource, policy.loadBalancer, *here)
    said = policy.connectionPool, policy.loadBalancer, policy.outlierDetection
    return Layer(*(... if value is None else value for value in said))


def _is_policy(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("port", {}), dict)


def _check_balancer(resource: Resource, balancer: LoadBalancer | None, *inside: str | int) -> None:
    simple = balancer.simple if balancer else None
    if simple is not None and simple not in BALANCES:
        needs = "original destinations" if simple == "PASSTHROUGH" else "this balancing policy"
        note = f"{simple} is not supported yet: tcpmux uses round robin"
        resource.changes(note, *inside, "loadBalancer", "simple", needs=needs)


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)


def _made(pool: PoolModel, balancer: LoadBalancer, outliers: OutlierDetection) -> DestinationPolicy:
    plain, tcp = DestinationPolicy(), pool.tcp
    alive = tcp.tcpKeepalive or TcpKeepalive()
    balance = BALANCES.get(balancer.simple or "", "round_robin")
    hashed, warmup = balancer.consistentHash, balancer.warmup
    if hashed is not None and hashed.useSourceIp:
        balance = "maglev" if hashed.maglev is not None else "source_hash"
    return DestinationPolicy(
        connect_timeout=_first(tcp.connectTimeout, plain.connect_timeout) or 0.0,
        idle_timeout=_first(tcp.idleTimeout, plain.idle_timeout) or 0.0,
        balance=balance,
        max_connections=min(tcp.maxConnections or 0, MAX_CONNECTIONS),
        panic_threshold=outliers.minHealthPercent or 0,
        slow_start=SlowStart(
            warmup.duration if warmup else balancer.warmupDurationSecs or 0.0,
            max(1, (warmup and warmup.minimumPercent) or plain.slow_start.floor),
        ),
        passive=_passive(outliers),
        max_connection_duration=Lifetime(tcp.maxConnectionDuration or 0.0),
        keepalive=Keepalive(
            round(alive.time or plain.keepalive.idle) or 1,
            round(alive.interval or plain.keepalive.interval) or 1,
            alive.probes or plain.keepalive.count,
        ),
    )


def _passive(of: OutlierDetection) -> Passive:
    """A connection that fails is a failure of local origin, or else counts for both others: the
    lower limit is reached first."""
    if of.splitExternalLocalOriginErrors:
        errors = _first(of.consecutiveLocalOriginFailures, OUTLIERS.errors)
    else:
        most = _first(of.consecutive5xxErrors, of.consecutiveErrors, OUTLIERS.errors)
        errors = min(filter(None, (most, of.consecutiveGatewayErrors)), default=0)
    most = OUTLIERS.most_ejected if of.maxEjectionPercent is None else of.maxEjectionPercent
    return Passive(
        min(errors or 0, 1000),
        of.interval or OUTLIERS.interval,
        of.baseEjectionTime or OUTLIERS.ejection_time,
        most,
    )
