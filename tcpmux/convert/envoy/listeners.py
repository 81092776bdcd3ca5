"""Listeners, each of which is a route."""

from __future__ import annotations

from dataclasses import replace

from tcpmux.config.address import Address
from tcpmux.config.settings import Clients
from tcpmux.convert.draft import Draft
from tcpmux.convert.envoy.clusters import Clusters
from tcpmux.convert.envoy.filters import Filters, filters_of, rate_of
from tcpmux.convert.envoy.headers import accept_proxy_of, is_header_filter
from tcpmux.convert.envoy.values import CHANGES, HARMLESS, listen_address, network, type_of
from tcpmux.convert.tree import Node

_CLASSES = {
    "stat_prefix": (HARMLESS, "metrics", ""),
    "metadata": (HARMLESS, "labels", ""),
    "access_log": (HARMLESS, "logs: see `access_log` of tcpmux", ""),
    "traffic_direction": (HARMLESS, "labels", ""),
    "connection_balance_config": (HARMLESS, "affects only which thread serves a connection", ""),
    "per_connection_buffer_limit_bytes": (HARMLESS, "buffers", ""),
    "tcp_backlog_size": (HARMLESS, "tcpmux uses the longest backlog that the system allows", ""),
    "enable_reuse_port": (HARMLESS, "affects only which thread serves a connection", ""),
    "reuse_port": (HARMLESS, "affects only which thread serves a connection", ""),
    "max_connections_to_accept_per_socket_event": (HARMLESS, "threads", ""),
    "drain_type": (HARMLESS, "applies only when Envoy's own configuration changes", ""),
    "listener_filters_timeout": (
        HARMLESS,
        "tcpmux connects without waiting for the client's data",
        "",
    ),
    "continue_on_listener_filters_timeout": (
        HARMLESS,
        "tcpmux connects without waiting for the client's data",
        "",
    ),
    "tcp_fast_open_queue_length": (HARMLESS, "saves only a round trip", ""),
    "transparent": (
        CHANGES,
        "tcpmux does not accept connections to other addresses",
        "source addresses",
    ),
    "freebind": (CHANGES, "tcpmux cannot listen on an address that the host does not have yet", ""),
    "use_original_dst": (
        CHANGES,
        "tcpmux does not pass connections to another listener",
        "original destinations",
    ),
    "ignore_global_conn_limit": (HARMLESS, "tcpmux has no such limit", ""),
    "bypass_overload_manager": (HARMLESS, "tcpmux has no overload manager", ""),
}
_CHAIN_CLASSES = {
    "name": (HARMLESS, "only a name", ""),
    "metadata": (HARMLESS, "labels", ""),
    "transport_socket_connect_timeout": (HARMLESS, "applies to TLS only", ""),
}
_NEEDS = {  # of filter_chain_match
    "server_names": "rules by SNI",
    "application_protocols": "rules by SNI",
    "transport_protocol": "rules by SNI",
    "destination_port": "rules by port",
    "prefix_ranges": "original destinations",
}
# Of Linux, by level and name: TCP_NODELAY, SO_REUSEADDR, SO_REUSEPORT.
_OPTIONS = {(6, 1), (1, 2), (1, 15)}


def draft_of(node: Node, clusters: Clusters) -> Draft | None:
    """None: its port is not opened."""
    name = node["name"].text()
    section = f"listener {name or node.key}"
    node.name_section(section)
    at = node.place
    if at is None:
        return None
    if "api_listener" in node.fields or "udp_listener_config" in node.fields:
        node.changes("tcpmux relays TCP: its port is not opened", "UDP")
        return None
    node.sort_out(_CLASSES)
    chain, allow = _chain(node)
    if chain is None:
        return None
    listen = _listen(node)
    header = next((entry for entry in node["listener_filters"] if is_header_filter(entry)), None)
    found = filters_of(chain["filters"], clusters, has_header=header is not None)
    if found is None:
        node.changes("it has no TCP proxy: its port is not opened")
        return None
    found.narrow(allow)
    _listener_filters(node["listener_filters"], found)
    _socket_options(node)
    if node["bind_to_port"] and not node["bind_to_port"].flag(True):
        node["bind_to_port"].changes("tcpmux opens its port", "original destinations")
    if not listen:
        return None
    shares = found.shares(name or str(listen[0]))
    policy = found.policy()
    if header is not None:
        policy = replace(policy, accept_proxy=accept_proxy_of(node, header, listen))
    if len(shares) > 1:  # Envoy chooses a cluster before it looks for servers in it
        policy = replace(policy, on_unavailable="reject")
    sections = {section, *(cluster.section for cluster, _ in found.proxy.clusters)}
    return Draft(name or str(listen[0]), listen, shares, at, policy=policy, sections=sections)


def _listen(node: Node) -> list[Address]:
    found = []
    for place in (node["address"], *(more["address"] for more in node["additional_addresses"])):
        address = listen_address(place) if place else None
        if address is not None:
            found.append(address)
    return found


# --- filter chains -------------------------------------------------------------------------------


def _chain(node: Node) -> tuple[Node | None, list[Clients]]:
    """The one that all connections get, and the clients that it is for; none = everybody."""
    chains = list(node["filter_chains"])
    default = node["default_filter_chain"]
    every = [*chains, default] if default else chains
    for chain in every:
        chain.sort_out(_CHAIN_CLASSES)
    plain = [chain for chain in chains if not chain["filter_chain_match"].fields]
    if len(every) == 1 and not plain:
        allow = _sources(every[0]["filter_chain_match"])
        if allow is not None:
            return every[0], allow
    main = next(iter(plain), default) if every else None
    for chain in every:
        if chain is not main:
            _not_taken(chain)
        elif chain["filter_chain_match"]:
            chain["filter_chain_match"].mapped()
    if not main:
        node.changes("no filter chain matches every connection: its port is not opened")
        return None, []
    _transport(main["transport_socket"])
    return main, []


def _not_taken(chain: Node) -> None:
    needs = next(
        (_NEEDS[key] for key in chain["filter_chain_match"].fields if key in _NEEDS),
        "rules by source",
    )
    chain.changes("tcpmux sends these connections where all others go", needs)


def _sources(match: Node) -> list[Clients] | None:
    """The clients that a match is for, if it says nothing else."""
    if set(match.fields) != {"source_prefix_ranges"}:
        return None
    found = [network(entry) for entry in match["source_prefix_ranges"]]
    return [clients for clients in found if clients is not None]


def _transport(node: Node) -> None:
    if node and "raw_buffer" in node["name"].text():
        node.mapped()
    elif node:
        node.changes("tcpmux relays what clients send as it is, still encrypted", "TLS")


# --- what comes before the filter chains ---------------------------------------------------------


def _listener_filters(filters: Node, found: Filters) -> None:
    for entry in filters:
        config = entry["typed_config"]
        kind = type_of(config) if config else entry["name"].text().rpartition(".")[2]
        if kind in ("TlsInspector", "tls_inspector", "HttpInspector", "http_inspector"):
            entry.harmless("only detects names for rules by SNI")
        elif is_header_filter(entry):
            pass  # it has been read
        elif kind in ("OriginalDst", "original_dst"):
            entry.changes(
                "tcpmux does not pass connections to another listener", "original destinations"
            )
        elif kind in ("OriginalSrc", "original_src"):
            entry.changes("servers see the address of tcpmux", "source addresses")
        elif kind == "LocalRateLimit":
            entry["name"].mapped()
            config["stat_prefix"].harmless("metrics")
            found.rate = rate_of(config) or found.rate
        else:
            entry.changes("tcpmux has no such filter")


def _socket_options(node: Node) -> None:
    for option in node["socket_options"]:
        option["description"].harmless("only a description")
        key = (option["level"].integer(), option["name"].integer())
        if key in _OPTIONS:
            option.harmless("tcpmux sets it where needed")
        else:
            option.changes("tcpmux does not set it", "socket options")
