"""Clusters, each of which is a destination."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tcpmux.config.rows import HOUR, MAX_CONNECTIONS
from tcpmux.config.settings import DestinationPolicy, EndpointPolicy, Keepalive, Passive, SendProxy
from tcpmux.convert.draft import Pool
from tcpmux.convert.envoy.balancing import Balancing, balancing_of
from tcpmux.convert.envoy.checks import check_of
from tcpmux.convert.envoy.headers import mark_sent, send_proxy_of
from tcpmux.convert.envoy.outliers import passive_of
from tcpmux.convert.envoy.servers import Servers, servers_of
from tcpmux.convert.envoy.values import CHANGES, HARMLESS, enum, percent, seconds
from tcpmux.convert.tree import Node

CONNECT_TIMEOUT = 5.0  # s; Envoy's default
MAX_CONNECTIONS_DEFAULT = 1024  # of a cluster, where no circuit breaker says another number
PANIC_THRESHOLD = 50  # %
_HTTP = "applies to HTTP only"
_CLASSES = {
    "alt_stat_name": (HARMLESS, "metrics", ""),
    "track_timeout_budgets": (HARMLESS, "metrics", ""),
    "track_cluster_stats": (HARMLESS, "metrics", ""),
    "metadata": (HARMLESS, "labels", ""),
    "per_connection_buffer_limit_bytes": (HARMLESS, "buffers", ""),
    "dns_refresh_rate": (HARMLESS, "tcpmux resolves names again when their TTL expires", ""),
    "dns_jitter": (HARMLESS, "tcpmux resolves names again when their TTL expires", ""),
    "dns_failure_refresh_rate": (HARMLESS, "affects only when names are resolved again", ""),
    "respect_dns_ttl": (HARMLESS, "tcpmux resolves names again when their TTL expires", ""),
    "wait_for_warm_on_init": (HARMLESS, "affects only the start", ""),
    "http_protocol_options": (HARMLESS, _HTTP, ""),
    "http2_protocol_options": (HARMLESS, _HTTP, ""),
    "common_http_protocol_options": (HARMLESS, _HTTP, ""),
    "upstream_http_protocol_options": (HARMLESS, _HTTP, ""),
    "typed_extension_protocol_options": (
        HARMLESS,
        "applies to HTTP, or to connections opened in advance",
        "",
    ),
    "protocol_selection": (HARMLESS, _HTTP, ""),
    "max_requests_per_connection": (HARMLESS, _HTTP, ""),
    "connection_pool_per_downstream_connection": (HARMLESS, _HTTP, ""),
    "eds_cluster_config": (HARMLESS, "applies to type EDS: see there", ""),
    "upstream_bind_config": (
        CHANGES,
        "servers see the source address that the system chooses",
        "source addresses",
    ),
    "transport_socket_matches": (CHANGES, "tcpmux does not encrypt connections to servers", "TLS"),
    "lb_subset_config": (CHANGES, "tcpmux uses the servers of every subset", "subsets"),
    "close_connections_on_host_health_failure": (
        CHANGES,
        "connections to a server stay open when its check fails",
        "closing open connections",
    ),
}


@dataclass(slots=True)
class Cluster:
    """node: in the file. limit: of max_connections, if it is written. uses: routes that have it."""

    node: Node
    pool: Pool
    limit: Node
    balancing: Balancing
    uses: list[str] = field(default_factory=list)

    @classmethod
    def missing(cls, name: Node) -> Cluster:
        """One that is named and not there."""
        return cls(name, Pool(name.text()), Node((), exists=False), Balancing(name))

    @property
    def section(self) -> str:
        return _section(self.pool.name)


def _section(name: str) -> str:
    return f"cluster {name}"


class Clusters:
    """By name; each is read when a listener first asks for it."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._read: dict[str, Cluster] = {}

    def add(self, node: Node) -> None:
        name = node["name"].text()
        if not name:
            node.problem("expected a name")
        elif name in self._nodes:
            node["name"].problem(f"a cluster named {name} already exists")
        self._nodes.setdefault(name, node)
        node.name_section(_section(name))

    def find(self, name: str) -> Cluster | None:
        if name not in self._read and name in self._nodes:
            self._read[name] = _cluster(name, self._nodes[name])
        return self._read.get(name)

    def finish(self) -> None:
        """What can be said of clusters only once all routes are known."""
        for cluster in self._read.values():
            if len(cluster.uses) < 2:
                continue
            routes = " and ".join(cluster.uses)
            if cluster.limit:
                cluster.limit.changes(
                    f"the limit applies to each of the routes {routes}, not to their total",
                    "limits across routes",
                )
            else:
                cluster.node["name"].remark(
                    f"its limit, {MAX_CONNECTIONS_DEFAULT} connections, applies to each of {routes}"
                )
        for name, node in self._nodes.items():
            if name not in self._read:
                node.harmless("no TCP listener uses it")


def _cluster(name: str, node: Node) -> Cluster:
    node.sort_out(_CLASSES)
    send_proxy = _transport(node["transport_socket"])
    found = servers_of(node)
    balancing = balancing_of(node)
    check = check_of(node["health_checks"], name, found)
    if send_proxy.version:
        mark_sent(node["transport_socket"], check)
    if check is not None:
        check = replace(check, proxy=send_proxy.version)
    policy = DestinationPolicy(
        send_proxy=send_proxy,
        connect_timeout=seconds(node["connect_timeout"], CONNECT_TIMEOUT, high=HOUR),
        balance=balancing.balance,
        slow_start=balancing.slow_start,
        check=check,
        passive=Passive(errors=0),
        panic_threshold=_panic(node["common_lb_config"]),
        keepalive=_keepalive(node["upstream_connection_options"]["tcp_keepalive"]),
    )
    outliers = node["outlier_detection"]
    if outliers:
        policy = replace(policy, passive=passive_of(outliers, found))
    limit = _limit(node["circuit_breakers"])
    most = limit.integer(MAX_CONNECTIONS_DEFAULT)
    if not 1 <= most <= MAX_CONNECTIONS:
        limit.changes(f"it is outside tcpmux's range, 1..{MAX_CONNECTIONS}")
        most = 0
    policy = replace(policy, max_connections=most)
    policy = _prioritised(found, policy)
    servers = found.all
    if not balancing.has_weights:
        servers = [replace(server, weight=1) for server in servers]
    return Cluster(node, Pool(name, servers, policy), limit, balancing)


def _transport(node: Node) -> SendProxy:
    """The PROXY header that it sends."""
    if not node:
        return SendProxy()
    name = node["name"].text()
    if "raw_buffer" in name:
        node.mapped()
    elif "proxy_protocol" in name:
        _transport(node["typed_config"]["transport_socket"])
        return send_proxy_of(node)
    else:
        node.changes("tcpmux does not encrypt connections to servers", "TLS")
    return SendProxy()


def _keepalive(node: Node) -> Keepalive:
    """Off unless it is there: the system's defaults are 9 questions, 2h and 75s."""
    if not node:
        return Keepalive(idle=0)
    node.mapped("tcpmux also probes clients")
    return Keepalive(
        node["keepalive_time"].integer(7200, 1, 32767),
        node["keepalive_interval"].integer(75, 1, 32767),
        node["keepalive_probes"].integer(9, 1, 127),
    )


def _panic(node: Node) -> int:
    node["update_merge_window"].harmless("affects only when changes of health take effect")
    node["zone_aware_lb_config"].harmless(
        "has no effect without a control plane that reports zones"
    )
    if "locality_weighted_lb_config" in node.fields:
        node["locality_weighted_lb_config"].changes(
            "tcpmux ignores locality weights and uses each server's own weight", "localities"
        )
    return percent(node["healthy_panic_threshold"], PANIC_THRESHOLD)


def _limit(breakers: Node) -> Node:
    """max_connections of the thresholds that TCP connections have."""
    found = Node((), exists=False)
    if "per_host_thresholds" in breakers.fields:
        breakers["per_host_thresholds"].changes(
            "Envoy closes a connection whose server is full; tcpmux sends it to another server"
        )
    for entry in breakers["thresholds"] if breakers else ():
        if enum(entry["priority"], "DEFAULT") not in ("DEFAULT", "0"):
            entry.harmless("TCP connections have priority DEFAULT")
            continue
        found = entry["max_connections"]
        most = found.integer(MAX_CONNECTIONS_DEFAULT)
        for key in ("max_requests", "max_retries", "retry_budget"):
            entry[key].harmless("applies to HTTP only")
        entry["track_remaining"].harmless("metrics")
        pending = entry["max_pending_requests"]
        if pending.integer(1024) >= most:
            pending.harmless("it is not below max_connections, so it is never reached")
        elif pending:
            pending.changes(
                "tcpmux has no limit on pending connections", "limits on pending connections"
            )
    return found


def _prioritised(found: Servers, policy: DestinationPolicy) -> DestinationPolicy:
    """Priorities as tcpmux has them, if that comes to the same."""
    levels = found.levels
    if len(levels) < 2:
        return policy
    watched = policy.check is not None or policy.passive.errors > 0
    if not watched:
        for level in levels[1:]:
            for part in level.nodes:
                part["priority"].mapped(
                    "never used: no check or outlier detection finds that higher priorities fail"
                )
        found.all = list(levels[0].servers)
        return policy
    panic = policy.panic_threshold
    decisive = levels if panic else levels[:-1]
    if any(len(level.servers) * 100 > found.overprovisioning for level in decisive):
        for level in levels[1:]:
            for part in level.nodes:
                part["priority"].changes(
                    "tcpmux uses these servers only when no server of a higher priority is "
                    "usable; Envoy gives them a share as soon as some of those fail",
                    "shares by health",
                )
    found.all = [
        replace(server, policy=EndpointPolicy(priority=rank))
        for rank, level in enumerate(levels)
        for server in level.servers
    ]
    return replace(policy, panic_threshold=min(panic, 1))
