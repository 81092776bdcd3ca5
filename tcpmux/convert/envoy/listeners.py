"""Listeners, each of which is a route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tcpmux.config.address import Address
from tcpmux.config.preread import Preread
from tcpmux.config.rows import DAY
from tcpmux.config.settings import Clients, RoutePolicy
from tcpmux.convert.decisions import Decided
from tcpmux.convert.draft import Branch, Draft, Pool, Shares
from tcpmux.convert.envoy.chains import NONE, Chain, Unclear, chain_of, decided_at
from tcpmux.convert.envoy.clusters import Clusters
from tcpmux.convert.envoy.filters import Filters, filters_of, rate_of
from tcpmux.convert.envoy.headers import TIMEOUT, accept_proxy_of, is_header_filter
from tcpmux.convert.envoy.values import CHANGES, HARMLESS, listen_address, network, seconds, type_of
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
INSPECTOR = (
    "tcpmux resets clients whose ClientHello is malformed, and goes on with the first byte that is "
    "not of TLS, where Envoy waits for five"
)
# Of Linux, by level and name: TCP_NODELAY, SO_REUSEADDR, SO_REUSEPORT.
_OPTIONS = {(6, 1), (1, 2), (1, 15)}


def drafts_of(node: Node, clusters: Clusters) -> list[Draft]:
    """None: its port is not opened. Several: its addresses have different filter chains."""
    node.name_section(f"listener {node['name'].text() or node.key}")
    if node.place is None:
        return []
    if "api_listener" in node.fields or "udp_listener_config" in node.fields:
        node.changes("tcpmux relays TCP: its port is not opened", "UDP")
        return []
    node.sort_out(_CLASSES)
    chains, allow, listens = _by_chain(node)
    if not listens:
        for chain in chains:  # for mistakes in them
            filters_of(chain["filters"], clusters, has_header=False)
        return []
    used = {index for to in listens for index in _indexes(to)}
    for index, chain in enumerate(chains):
        if index not in used:
            chain.harmless("no connection gets this filter chain")
    found = [_draft(node, chains, allow, to, listen, clusters) for to, listen in listens.items()]
    drafts = [draft for draft in found if draft]
    if drafts:
        _socket_options(node)
        if node["bind_to_port"] and not node["bind_to_port"].flag(True):
            node["bind_to_port"].changes("tcpmux opens its port", "original destinations")
    for draft in drafts if len(drafts) > 1 else ():
        draft.name = f"{draft.name}-{draft.listen[0].port or 'unix'}"
    return drafts


def _by_chain(
    node: Node,
) -> tuple[list[Node], list[Clients], dict[Decided[int], list[Address]]]:
    """Its chains; the clients that all of them are for, none = everybody; and its addresses, by the
    chains that connections there get."""
    only = _only_chain(node)
    every = [] if only else _chains(node)
    listen = _listen(node) if only or every else []
    if only:
        chain, allow = only
        return [chain], allow, {Decided((), 0): listen} if listen else {}
    return [chain.node for chain in every], [], _decided(node, every, listen)


def _draft(
    node: Node,
    chains: Sequence[Node],
    allow: list[Clients],
    to: Decided[int],
    listen: list[Address],
    clusters: Clusters,
) -> Draft | None:
    name = node["name"].text() or str(listen[0])
    header = next((entry for entry in node["listener_filters"] if is_header_filter(entry)), None)
    found: dict[int, Filters] = {}
    for index in _indexes(to):
        _transport(chains[index]["transport_socket"])
        filters = filters_of(chains[index]["filters"], clusters, has_header=header is not None)
        if not list(chains[index]["filters"]):
            chains[index].mapped("without filters Envoy closes its connections; tcpmux resets them")
        elif filters is None:
            chains[index].changes("it has no TCP proxy: its connections are reset")
        else:
            found[index] = filters
    at = node.place
    if not _indexes(to):
        node.changes(f"no filter chain matches connections to {listen[0]}: it is not opened")
        return None
    if not found or at is None:
        is_empty = not any(list(chains[index]["filters"]) for index in _indexes(to))
        why = (
            "Envoy closes each connection, as it has no filters"
            if is_empty
            else "it has no TCP proxy"
        )
        node.changes(f"{why}: its port is not opened")
        return None
    for filters in found.values():
        filters.narrow(allow)
        _listener_filters(node["listener_filters"], filters, reads_hello=_reads_hello(to))
    shares = _shares(name, found)
    policy = _policy_of(chains, found)
    if header is not None:
        policy = replace(policy, accept_proxy=accept_proxy_of(node, header, listen))
    if _reads_hello(to):
        policy = replace(policy, preread=_preread(node))
    rest = shares.get(to.rest, [])
    if len(rest) > 1 or to.rules:  # Envoy chooses a cluster before it looks for servers in it
        policy = replace(policy, on_unavailable="reject")
    sections = {at.section}
    sections |= {c.section for filters in found.values() for c, _ in filters.proxy.clusters}
    branches = [Branch(when, shares.get(of, [])) for when, of in to.rules]
    return Draft(name, listen, rest, at, policy=policy, sections=sections, branches=branches)


def _indexes(to: Decided[int]) -> list[int]:
    """Of the chains that are used."""
    return [*dict.fromkeys(of for of in (to.rest, *(of for _, of in to.rules)) if of != NONE)]


def _shares(name: str, found: dict[int, Filters]) -> dict[int, Shares]:
    """By chain. A cluster that is the same in several is one pool."""
    pools: list[Pool] = []
    shares: dict[int, Shares] = {}
    for index, filters in found.items():
        shares[index] = []
        for pool, share in filters.shares(name):
            same = next((one for one in pools if one == pool), pool)
            pools += [pool] if same is pool else []
            shares[index].append((same, share))
    return shares


def _reads_hello(to: Decided[int]) -> bool:
    return any(when.reads_hello for when, _ in to.rules)


def _policy_of(chains: Sequence[Node], found: dict[int, Filters]) -> RoutePolicy:
    """Of the first; the others must not differ."""
    (_, first), *others = found.items()
    policy = first.policy()
    for index, filters in others:
        if filters.policy() != policy:
            note = "a route has limits, retries and lists of clients for all its filter chains"
            chains[index]["filters"].changes(note, "limits of filter chains")
    return policy


def _preread(node: Node) -> Preread:
    """What Envoy's tls_inspector does."""
    wait = node["listener_filters_timeout"]
    goes_on = node["continue_on_listener_filters_timeout"].flag(False)
    timeout = seconds(wait, TIMEOUT, zero=True)
    if not timeout:
        wait.mapped("tcpmux waits for a ClientHello for at most a day")
    return Preread(True, timeout or DAY, silent="default" if goes_on else "reject")


def _listen(node: Node) -> list[Address]:
    found = []
    for place in (node["address"], *(more["address"] for more in node["additional_addresses"])):
        address = listen_address(place) if place else None
        if address is not None:
            found.append(address)
    return found


# --- filter chains -------------------------------------------------------------------------------


def _only_chain(node: Node) -> tuple[Node, list[Clients]] | None:
    """The only one, if it is for all connections or for some clients: with these."""
    chains, default = list(node["filter_chains"]), node["default_filter_chain"]
    for chain in [*chains, default] if default else chains:
        chain.sort_out(_CHAIN_CLASSES)
    if len(chains) != 1 or default:
        return None
    match = chains[0]["filter_chain_match"]
    if not match.fields:
        match.mapped()
        return chains[0], []
    if {*match.fields} != {"source_prefix_ranges"}:
        return None
    found = [network(entry) for entry in match["source_prefix_ranges"]]
    return chains[0], [clients for clients in found if clients is not None]


def _chains(node: Node) -> list[Chain]:
    """Those that tcpmux can tell; the default one is the last."""
    found = [chain for entry in node["filter_chains"] if (chain := chain_of(entry))]
    default = node["default_filter_chain"]
    if default:
        default["filter_chain_match"].harmless("Envoy ignores it here")
        found.append(Chain(default))
    if not found:
        node.changes("no filter chain matches every connection: its port is not opened")
    return found


def _decided(
    node: Node, chains: list[Chain], listen: Sequence[Address]
) -> dict[Decided[int], list[Address]]:
    """An address that it is unclear for is not opened."""
    has_default = bool(node["default_filter_chain"])
    matching = chains[:-1] if has_default else chains
    found: dict[Decided[int], list[Address]] = {}
    for address in listen:
        try:
            to = decided_at(matching, len(matching) if has_default else NONE, address)
        except Unclear as error:
            note = f"{error}: {address} is not opened"
            node["filter_chains"].changes(note, error.needs)
        else:
            found.setdefault(to, []).append(address)
    return found


def _transport(node: Node) -> None:
    if node and "raw_buffer" in node["name"].text():
        node.mapped()
    elif node:
        node.changes("tcpmux relays what clients send as it is, still encrypted", "TLS")


# --- what comes before the filter chains ---------------------------------------------------------


def _listener_filters(filters: Node, found: Filters, *, reads_hello: bool) -> None:
    for entry in filters:
        config = entry["typed_config"]
        kind = type_of(config) if config else entry["name"].text().rpartition(".")[2]
        if kind in ("TlsInspector", "tls_inspector", "HttpInspector", "http_inspector"):
            if reads_hello and kind.lower().startswith("tls"):
                entry.mapped(INSPECTOR)
            else:
                entry.harmless("only detects names for filter chains, of which none needs them")
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
