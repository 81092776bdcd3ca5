"""The servers of a cluster: its load_assignment."""

from __future__ import annotations

from dataclasses import dataclass, field

from tcpmux.config.address import HostName
from tcpmux.convert.draft import Server
from tcpmux.convert.envoy.values import HARMLESS, endpoint, enum
from tcpmux.convert.tree import Node

OVERPROVISIONING = 140  # %; Envoy's default
_MOST_PRIORITIES = 128
_NO_CONTROL_PLANE = "the file does not contain what a control plane would send"
# What a type of cluster does, that tcpmux does not; "" = nothing.
_TYPES = {
    "STATIC": "",
    "STRICT_DNS": "",
    "LOGICAL_DNS": "",
    "EDS": f"it has no servers: {_NO_CONTROL_PLANE}",
    "ORIGINAL_DST": "it has no servers: each connection goes to its original destination",
}
_NEEDS = {"EDS": "a control plane", "ORIGINAL_DST": "original destinations"}
_NUMBERS = {"0": "STATIC", "1": "STRICT_DNS", "2": "LOGICAL_DNS", "3": "EDS", "4": "ORIGINAL_DST"}
_LEFT_OUT = ("UNHEALTHY", "DRAINING", "TIMEOUT", "2", "3", "4")
_ENDPOINT_CLASSES = {
    "metadata": (HARMLESS, "labels", ""),
}


@dataclass(slots=True)
class Level:
    """The servers of one priority, which several localities may have."""

    servers: list[Server] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Servers:
    """levels: by priority, without empty ones. overprovisioning: %. check_ports: where each is
    checked, 0 = on its own port. hostnames: that checks by HTTP name."""

    all: list[Server] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    overprovisioning: int = OVERPROVISIONING
    check_ports: set[int] = field(default_factory=set)
    hostnames: set[str] = field(default_factory=set)


def servers_of(cluster: Node) -> Servers:
    found = Servers()
    dns = _type(cluster)
    assignment = cluster["load_assignment"]
    assignment["cluster_name"].harmless("only a name")
    factor = assignment["policy"]["overprovisioning_factor"]
    found.overprovisioning = factor.integer(OVERPROVISIONING)
    levels: dict[int, Level] = {}
    for locality in assignment["endpoints"] if assignment else ():
        rank = locality["priority"].integer(0, 0, _MOST_PRIORITIES)
        level = levels.setdefault(rank, Level())
        level.nodes.append(locality)
        locality["locality"].harmless("has no effect without a control plane that reports zones")
        locality["load_balancing_weight"].harmless(
            "has no effect without locality_weighted_lb_config"
        )
        for node in locality["lb_endpoints"]:
            server = _server(node, found)
            if server is not None:
                level.servers.append(server)
    found.levels = [levels[rank] for rank in sorted(levels) if levels[rank].servers]
    found.all = [server for level in found.levels for server in level.servers]
    if dns:
        _names(cluster, found, dns)
    elif enum(cluster["type"], "STATIC") in ("STATIC", "0"):
        for server in found.all:
            if isinstance(server.endpoint, HostName):
                assignment.problem(f"{server.endpoint} is a name, but the cluster has type STATIC")
    return found


def _type(cluster: Node) -> str:
    """That which looks names up, else ""."""
    node = cluster["type"]
    text = enum(node, "STATIC")
    kind = _NUMBERS.get(text, text)
    if kind not in _TYPES:
        node.problem(f"expected {', '.join(_TYPES)}, got {text}")
    elif _TYPES[kind]:
        node.changes(_TYPES[kind], _NEEDS[kind])
    return kind if kind.endswith("DNS") else ""


def _server(node: Node, found: Servers) -> Server | None:
    node.sort_out(_ENDPOINT_CLASSES)
    at = node["endpoint"]
    made = endpoint(at["address"])
    if made is None:
        return None
    if "additional_addresses" in at.fields:
        at["additional_addresses"].changes("tcpmux uses only the first address of a server")
    name = at["hostname"].text()
    check = at["health_check_config"]
    found.check_ports.add(check["port_value"].integer(0, 0, 65535))
    found.hostnames.add(check["hostname"].text() or name)
    if "address" in check.fields:
        check["address"].changes(
            "tcpmux checks the server's own address", "checks at another address"
        )
    if check["disable_active_health_check"].flag():
        check["disable_active_health_check"].changes("tcpmux checks it like the others")
    status = node["health_status"]
    if enum(status, "UNKNOWN") in _LEFT_OUT:
        status.changes(
            "tcpmux leaves it out, and does not count it as unhealthy",
            "endpoints disabled in the file",
        )
        return None
    if enum(status, "UNKNOWN") not in ("UNKNOWN", "HEALTHY", "0", "1"):
        status.changes("tcpmux uses it as much as the others", "endpoints of last resort")
    weight = node["load_balancing_weight"].integer(1, 1)
    return Server(made, weight)


def _names(cluster: Node, found: Servers, kind: str) -> None:
    """What differs where a name has several addresses."""
    by_name = [server for server in found.all if isinstance(server.endpoint, HostName)]
    family = cluster["dns_lookup_family"]
    wanted = enum(family, "AUTO")
    if not by_name:
        return
    if wanted in ("V4_ONLY", "V6_ONLY", "1", "2"):
        family.changes(
            "tcpmux uses a name's IPv4 and IPv6 addresses",
            "one family of addresses",
        )
    elif wanted not in ("ALL", "4"):
        cluster["type"].remark(
            "tcpmux uses all addresses of a name; Envoy prefers one family unless "
            "dns_lookup_family is ALL"
        )
    if kind == "LOGICAL_DNS":
        cluster["type"].remark("Envoy uses only the first address of a name; tcpmux uses all")
