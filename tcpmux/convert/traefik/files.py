"""The static and the dynamic file as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from tcpmux.config.rows import DAY
from tcpmux.convert.kinds import Input, Result
from tcpmux.convert.report import Report
from tcpmux.convert.seconds import limited
from tcpmux.convert.traefik.choosing import draft_of
from tcpmux.convert.traefik.headers import accept_proxy_of
from tcpmux.convert.traefik.routers import EntryPoint, decide, drafts_of, router_of
from tcpmux.convert.traefik.services import Services
from tcpmux.convert.traefik.values import (
    CHANGES,
    HARMLESS,
    duration,
    entry_point_address,
)
from tcpmux.convert.tree import Node, read_tree

GRACE = 10.0  # s; Traefik's default
_HTTP = "applies to HTTP only"
_TOP = {
    "api": (HARMLESS, "tcpmux has its own page and API", ""),
    "log": (HARMLESS, "logs", ""),
    "accesslog": (HARMLESS, "logs: see `access_log` of tcpmux", ""),
    "metrics": (HARMLESS, "metrics", ""),
    "tracing": (HARMLESS, "tracing", ""),
    "ping": (HARMLESS, "applies to HTTP only", ""),
    "global": (HARMLESS, "affects the process, not its connections", ""),
    "serverstransport": (HARMLESS, _HTTP, ""),
    "certificatesresolvers": (HARMLESS, "certificates: reported where they are used", ""),
    "tls": (HARMLESS, "certificates: reported where they are used", ""),
    "hostresolver": (HARMLESS, _HTTP, ""),
    "ocsp": (HARMLESS, "certificates", ""),
    "udp": (CHANGES, "tcpmux relays TCP: its ports are not opened", "UDP"),
}
_ENTRY_POINT = {
    "forwardedheaders": (HARMLESS, _HTTP, ""),
    "http": (HARMLESS, _HTTP, ""),
    "http2": (HARMLESS, _HTTP, ""),
    "http3": (HARMLESS, _HTTP, ""),
    "observability": (HARMLESS, "logs, metrics and tracing", ""),
    "allowacmebypass": (HARMLESS, _HTTP, ""),
    "reuseport": (HARMLESS, "tcpmux listens with SO_REUSEPORT", ""),
    "udp": (HARMLESS, "applies to UDP only", ""),
}
_TRANSPORT = {
    "respondingtimeouts": (HARMLESS, _HTTP, ""),
    "keepalivemaxtime": (HARMLESS, _HTTP, ""),
    "keepalivemaxrequests": (HARMLESS, _HTTP, ""),
}


def read(files: Sequence[Input], report: Report) -> Result:
    roots = [root for file in files for root in read_tree(file, report, str.lower)]
    names = {PurePath(file.name).name for file in files}
    entry_points: dict[str, EntryPoint] = {}
    middlewares: dict[str, Node] = {}
    default = Node((), exists=False)
    for root in roots:
        root.sort_out(_TOP)
        _others(root, names)
        for node in root["entrypoints"].fields.values():
            _entry_point(node, entry_points)
        for node in root["tcp"]["middlewares"].fields.values():
            middlewares[node.key] = node
        default = root["tcpserverstransport"] or default
    _defaults(entry_points)
    services = Services(default)
    for root in roots:
        services.add(root["tcp"])
    routers = [
        router_of(node, entry_points)
        for root in roots
        for node in root["tcp"]["routers"].fields.values()
    ]
    for entry_point in entry_points.values():
        decide(entry_point)
        served = any(entry_point in router.serves for router in entry_point.routers)
        if served or entry_point.is_by_rule:
            entry_point.accept_proxy = accept_proxy_of(entry_point.node)
    drafts = [one for router in routers for one in drafts_of(router, services, middlewares)]
    for entry_point in entry_points.values():
        made = draft_of(entry_point, services, middlewares) if entry_point.is_by_rule else None
        drafts += [made] if made else []
    services.finish()
    for node in middlewares.values():
        if node.is_unread:
            node.harmless("no TCP router uses it")
    return Result(drafts, {"drain_timeout": _grace(entry_points)})


def _others(root: Node, names: set[str]) -> None:
    for part in ("udp", "http"):
        node = root[part]
        if node["routers"].fields:
            told = "HTTP" if part == "http" else "UDP"
            node.changes(
                f"tcpmux relays TCP: the {told} traffic of these routers is not served", told
            )
        else:
            node.harmless(f"it has no {part.upper()} router")
    for name, node in root["providers"].fields.items():
        if name == "providersthrottleduration":
            node.harmless("affects only when Traefik reloads")
        elif name == "file":
            _file_provider(node, names)
        else:
            node.changes("the files do not contain what it provides", "providers other than files")


def _file_provider(node: Node, names: set[str]) -> None:
    node["watch"].harmless("tcpmux does not watch its files: use `tcpmux reload`")
    node["debugloggeneratedtemplate"].harmless("logs")
    for key in ("filename", "directory"):
        place = PurePath(node[key].text())
        if key == "directory" or place.name not in names:
            node[key].changes("tcpmux convert does not read it: name these files with -c as well")
    if len(names) > 1:
        node["directory"].mapped("its files are those named with -c")


def _entry_point(node: Node, found: dict[str, EntryPoint]) -> None:
    name = node.key
    node.name_section(f"entry point {name}")
    node.sort_out(_ENTRY_POINT)
    node["transport"].sort_out(_TRANSPORT)
    if node.value is None and node.statement is not None:
        node.mapped()
    address, wrong = entry_point_address(node["address"].text())
    is_default = node["asdefault"].flag()
    made = EntryPoint(name, node, address, is_default)
    if name.lower() in found:
        node.problem(f"an entry point named {name} already exists")
    found[name.lower()] = made
    if wrong == "udp":
        node.changes("tcpmux relays TCP: its port is not opened", "UDP")
    elif wrong:
        node["address"].changes(f"{wrong}: its port is not opened")


def _defaults(entry_points: dict[str, EntryPoint]) -> None:
    """Without asDefault anywhere, all of TCP are, but for the dashboard's."""
    if not any(one.is_default for one in entry_points.values()):
        for name, one in entry_points.items():
            one.is_default = name != "traefik" and one.address is not None


def _grace(entry_points: dict[str, EntryPoint]) -> float:
    """How long open connections may last when Traefik stops."""
    longest = None
    for one in entry_points.values():
        if not one.routers:
            if one.name.lower() == "traefik":
                one.node.harmless("belongs to the dashboard")
            elif one.address is not None:
                one.node.changes("no TCP router uses it: its port is not opened")
            continue
        cycle = one.node["transport"]["lifecycle"]
        place = cycle["gracetimeout"]
        given = duration(place)
        grace = GRACE if given is None else limited(place, given, GRACE, 0, 7 * DAY)
        if longest is not None and longest != grace:
            place.changes("tcpmux has one drain_timeout for all routes")
        longest = max(longest or 0.0, grace)
        if duration(cycle["requestacceptgracetimeout"]):
            cycle["requestacceptgracetimeout"].changes("tcpmux stops accepting at once")
    return GRACE if longest is None else longest
