"""Network filters: the TCP proxy, and those before it that limit or refuse clients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from tcpmux.config.rows import DAY, MAX_CONNECTIONS
from tcpmux.config.settings import Clients, Lifetime, Rate, Retry, RoutePolicy
from tcpmux.convert.clients import (
    EVERYBODY,
    ClientRule,
    TooManyNetworks,
    allow_and_deny,
    allow_and_deny_by_all,
)
from tcpmux.convert.draft import Pool
from tcpmux.convert.envoy.clusters import Cluster, Clusters
from tcpmux.convert.envoy.rbac import rules_of
from tcpmux.convert.envoy.values import CHANGES, HARMLESS, runtime_value, seconds, type_of
from tcpmux.convert.tree import Node

IDLE_TIMEOUT = 3600.0  # s; Envoy's default
_MAX_RATE, _MIN_RATE, _MAX_BURST = 1_000_000, Fraction(1, 3600), 1_000_000
_PROXY_CLASSES = {
    "stat_prefix": (HARMLESS, "metrics", ""),
    "access_log": (HARMLESS, "logs: see `access_log` of tcpmux", ""),
    "access_log_flush_interval": (HARMLESS, "logs", ""),
    "flush_access_log_on_connected": (HARMLESS, "logs", ""),
    "access_log_options": (HARMLESS, "logs", ""),
    "tunneling_config": (
        CHANGES,
        "tcpmux sends data to servers as it is, without an HTTP tunnel",
        "tunnels",
    ),
    "metadata_match": (CHANGES, "tcpmux uses all servers of the cluster", "subsets"),
    "on_demand": (
        CHANGES,
        "the file does not contain what a control plane would send",
        "a control plane",
    ),
}


@dataclass(slots=True)
class TcpProxy:
    """at: what says where connections go. clusters: with their parts of them, of any sum."""

    at: Node
    clusters: list[tuple[Cluster, Fraction]]
    idle: float
    lifetime: Lifetime
    attempts: int
    is_by_client: bool


@dataclass(slots=True)
class Filters:
    proxy: TcpProxy
    most: int = 0
    rate: Rate | None = None
    rules: list[list[ClientRule]] = field(default_factory=list)  # each of which must accept
    places: list[Node] = field(default_factory=list)  # of rules

    def narrow(self, allow: list[Clients]) -> None:
        """Only these clients; none given = everybody."""
        if allow:
            self.rules.append([ClientRule(accepts=True, clients=clients) for clients in allow])

    def shares(self, route: str) -> list[tuple[Pool, Fraction]]:
        """The pools as this route has them."""
        found: dict[str, tuple[Cluster, Fraction]] = {}
        for cluster, share in self.proxy.clusters:
            before = found.get(cluster.pool.name, (cluster, Fraction(0)))[1]
            found[cluster.pool.name] = cluster, before + share
        made = []
        for cluster, share in found.values():
            if route not in cluster.uses:
                cluster.uses.append(route)
            policy = replace(
                cluster.pool.policy,
                idle_timeout=self.proxy.idle,
                max_connection_duration=self.proxy.lifetime,
            )
            if cluster.balancing.is_by_client and not self.proxy.is_by_client:
                policy = replace(policy, balance="round_robin")
                cluster.balancing.at.remark(
                    "without a hash_policy Envoy chooses at random; tcpmux uses round robin"
                )
            made.append((replace(cluster.pool, policy=policy), share))
        return made

    def policy(self) -> RoutePolicy:
        attempts = self.proxy.attempts
        retry = Retry(attempts=1) if attempts == 1 else Retry(attempts, 100, _MAX_BURST)
        allow, deny = self._clients()
        return RoutePolicy(
            max_connections=self.most, rate=self.rate, retry=retry, allow=allow, deny=deny
        )

    def _clients(self) -> tuple[tuple[Clients, ...], tuple[Clients, ...]]:
        if not self.rules:
            return (), ()
        try:
            if len(self.rules) == 1:
                return allow_and_deny(self.rules[0], otherwise=not self.rules[0][-1].accepts)
            return allow_and_deny_by_all((each, not each[-1].accepts) for each in self.rules)
        except TooManyNetworks as error:
            for place in self.places:
                place.changes(str(error))
            return (), EVERYBODY


def filters_of(filters: Node, clusters: Clusters, *, has_header: bool) -> Filters | None:
    """None: the last of them is no TCP proxy whose cluster is in the file. has_header: clients are
    those that a PROXY header names."""
    entries = list(filters)
    kinds = [type_of(entry["typed_config"]) for entry in entries]
    if "TcpProxy" not in kinds:
        return None
    at = entries[kinds.index("TcpProxy")]
    proxy = _proxy(at["typed_config"], clusters)
    at["name"].mapped()
    found = Filters(proxy)
    for entry, kind in zip(entries, kinds, strict=True):
        config = entry["typed_config"]
        if entry is at:
            continue
        entry["name"].mapped()
        config["stat_prefix"].harmless("metrics")
        if kind == "ConnectionLimit":
            found.most = _connection_limit(config)
        elif kind == "LocalRateLimit":
            found.rate = rate_of(config)
        elif kind == "RBAC":
            rules = rules_of(config, has_header=has_header)
            if rules:
                found.rules.append(rules)
                found.places.append(entry)
        else:
            entry.changes("tcpmux has no such filter")
    return found


def _proxy(node: Node, clusters: Clusters) -> TcpProxy:
    node.sort_out(_PROXY_CLASSES)
    at = node["weighted_clusters"] or node["cluster"]
    targets: list[tuple[Node, Fraction]] = []
    if node["weighted_clusters"]:
        for entry in node["weighted_clusters"]["clusters"]:
            weight = entry["weight"]
            targets.append((entry["name"], Fraction(weight.integer(0, 1))))
            if "metadata_match" in entry.fields:
                entry["metadata_match"].changes("tcpmux uses all servers of the cluster", "subsets")
    elif node["cluster"]:
        targets.append((node["cluster"], Fraction(1)))
    else:
        node.problem("expected cluster or weighted_clusters")
    found = []
    for name, share in targets:
        cluster = clusters.find(name.text())
        if cluster is None:
            name.changes("no such cluster in the file: tcpmux resets these connections")
            cluster = Cluster.missing(name)
        found.append((cluster, share))
    attempts = node["max_connect_attempts"]
    count = attempts.integer(1, 1)
    if count > 255:
        attempts.changes("it is above 255, tcpmux's maximum")
    elif attempts and count > 1:
        attempts.mapped("tcpmux tries each server at most once")
    return TcpProxy(
        at,
        found,
        seconds(node["idle_timeout"], IDLE_TIMEOUT, high=30 * DAY, zero=True),
        Lifetime(seconds(node["max_downstream_connection_duration"], 0.0, high=30 * DAY)),
        min(count, 255),
        _is_by_client(node["hash_policy"]),
    )


def _is_by_client(node: Node) -> bool:
    found = False
    for entry in node or ():
        if "source_ip" in entry.fields:
            entry["source_ip"].mapped()
            found = True
        else:
            entry.changes("tcpmux chooses by the client's address only", "sticky sessions")
    return found


# --- limits --------------------------------------------------------------------------------------


def _is_on(node: Node) -> bool:
    """runtime_enabled"""
    return runtime_value(node["runtime_enabled"]).flag(True) if node["runtime_enabled"] else True


def _connection_limit(node: Node) -> int:
    node["stat_prefix"].harmless("metrics")
    most = node["max_connections"].integer(0, 1, 2**53)
    if node["delay"]:
        node["delay"].harmless("tcpmux rejects clients without a delay")
    if not _is_on(node):
        node["max_connections"].harmless("it is disabled")
        return 0
    if most > MAX_CONNECTIONS:
        node["max_connections"].changes(f"it is above {MAX_CONNECTIONS}, tcpmux's maximum")
        return 0
    return most


def rate_of(node: Node) -> Rate | None:
    bucket = node["token_bucket"]
    burst = bucket["max_tokens"].integer(1, 1)
    fill = bucket["tokens_per_fill"].integer(1, 1)
    every = Fraction(str(seconds(bucket["fill_interval"], 1.0, high=30 * DAY)))
    rate = fill / every
    if "share_key" in node.fields:
        node["share_key"].changes("each route has its own rate", "limits across routes")
    if not _is_on(node):
        bucket.harmless("it is disabled")
        return None
    if not _MIN_RATE <= rate <= _MAX_RATE or burst > _MAX_BURST:
        bucket.changes(
            "it is outside tcpmux's range: rates of 1/h..1000000/s, bursts up to 1000000"
        )
        return None
    if (rate * 1_000_000).denominator == 1:
        return Rate(float(rate), burst)
    if (rate * 3600).denominator == 1:
        return Rate(float(rate * 3600) / 3600, burst)
    bucket["fill_interval"].mapped("tcpmux rounds the rate to millionths per second")
    return Rate(round(rate * 1_000_000) / 1_000_000, burst)
