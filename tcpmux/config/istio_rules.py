"""What Istio's DestinationRules say of connections to a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tcpmux.config.hosts import Hosts
from tcpmux.config.istio_specs import (
    DestinationRuleSpec,
    OutlierDetection,
    TcpKeepalive,
    TrafficPolicy,
)
from tcpmux.config.resources import ISTIO, Resource
from tcpmux.config.rows import MAX_CONNECTIONS
from tcpmux.config.settings import DestinationPolicy, Keepalive, Lifetime, Passive, SlowStart
from tcpmux.config.specs import read

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
    """DestinationRules by host, short and long."""

    hosts: Hosts
    found: dict[str, list[Rule]]

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

    def of_host(self, host: str, namespace: str, subset: str | None) -> Rule | None:
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
            other.problem(f"{host} has a DestinationRule already: {first}", "spec", "host")
        if not first.is_used:
            first.use()
            _check_policy(first, spec.trafficPolicy, "spec")
        for index, one in enumerate(spec.subsets):
            if one.name == subset:
                _check_policy(first, one.trafficPolicy, "spec", "subsets", index)
        return first, spec


def _check_policy(resource: Resource, policy: TrafficPolicy, *inside: str | int) -> None:
    simple = policy.loadBalancer.simple
    if simple is not None and simple not in BALANCES:
        where = (*inside, "trafficPolicy", "loadBalancer", "simple")
        needs = "original destinations" if simple == "PASSTHROUGH" else "its way to balance"
        resource.changes(f"{simple} is not supported yet: using round robin", *where, needs=needs)


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)


def policy(*policies: TrafficPolicy) -> DestinationPolicy:
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
