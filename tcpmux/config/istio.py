"""Routes from Istio's Gateway, VirtualService and DestinationRule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tcpmux.config.address import Address
from tcpmux.config.hosts import Hosts, NoEndpoints
from tcpmux.config.istio_rules import Rules, policy
from tcpmux.config.istio_specs import (
    GatewaySpec,
    Server,
    TcpRule,
    VirtualServiceSpec,
    WeightedTarget,
)
from tcpmux.config.model import Destination, Route
from tcpmux.config.problems import Location
from tcpmux.config.resources import ISTIO, Made, Resource, known_names
from tcpmux.config.specs import read

ONLY_DESTINATION = 100  # its weight says nothing
MESH = "mesh"  # the gateway of the sidecars
# Protocols of a server whose connections are relayed as they are, and what others would need.
OPENED = ("TCP", "MONGO", "MYSQL", "REDIS")
NOT_OPENED = {
    "HTTP": "HTTP",
    "HTTP2": "HTTP",
    "HTTPS": "HTTP",
    "GRPC": "HTTP",
    "GRPC-WEB": "HTTP",
    "TLS": "TLS",
    "UDP": "UDP",
}


@dataclass(frozen=True, slots=True)
class _Gateway:
    """opened: indexes of its servers that tcpmux listens for."""

    resource: Resource
    spec: GatewaySpec
    opened: frozenset[int]

    def listens(self, to: Resource, wanted: VirtualServiceSpec) -> Iterator[tuple[int, Address]]:
        """Port and address of each server that takes a VirtualService."""
        for index, server in enumerate(self.spec.servers):
            if index not in self.opened or not self._takes(server, to, wanted):
                continue
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
            yield server.port.number, address

    def _takes(self, server: Server, to: Resource, wanted: VirtualServiceSpec) -> bool:
        """Some host of both is the same, and its namespace may use it."""
        for text in server.hosts:
            namespace, slash, host = text.rpartition("/")
            mine = {"*": to.namespace, ".": self.resource.namespace}.get(namespace, namespace)
            if slash and mine != to.namespace:
                continue
            if any(_overlap(host, other) for other in wanted.hosts or ["*"]):
                return True
        return False


def _overlap(one: str, other: str) -> bool:
    """Whether a host is of both names, each of which may begin with `*`."""
    one, other = one.lower(), other.lower()
    if one.startswith("*") and other.startswith("*"):
        return one[1:].endswith(other[1:]) or other[1:].endswith(one[1:])
    if one.startswith("*"):
        return other.endswith(one[1:])
    return one == other or (other.startswith("*") and one.endswith(other[1:]))


def istio_routes(resources: Sequence[Resource], hosts: Hosts) -> list[Made]:
    """A route for each rule of a VirtualService that some port of a Gateway comes to."""
    gateways = {
        (resource.namespace, resource.name): gateway
        for resource in resources
        if (resource.group, resource.kind) == (ISTIO, "Gateway")
        and (gateway := _gateway(resource)) is not None
    }
    rules = Rules.of(resources, hosts)
    found: list[Made] = []
    served: set[tuple[str, str]] = set()
    for resource in resources:
        if (resource.group, resource.kind) != (ISTIO, "VirtualService"):
            continue
        spec = read(resource, VirtualServiceSpec)
        if spec is None:
            continue
        resource.use()
        for part, (index, rule, listen) in enumerate(
            _used(resource, spec, gateways, served, hosts)
        ):
            made = _route(resource, index, rule, hosts, rules)
            if made is not None:
                route = replace(made, listen=tuple(listen), source=str(resource))
                found.append(Made(route, resource, f"-{listen[0].port or part}" if part else ""))
    for key in gateways.keys() - served:
        gateways[key].resource.warn("no VirtualService uses it: its ports are not opened")
    return found


def _gateway(resource: Resource) -> _Gateway | None:
    spec = read(resource, GatewaySpec)
    if spec is None:
        return None
    resource.use()
    opened = set()
    for index, server in enumerate(spec.servers):
        here = ("spec", "servers", index)
        protocol, number = server.port.protocol.upper(), server.port.number
        if protocol in OPENED and server.tls is None:
            opened.add(index)
        elif protocol in OPENED or protocol == "TLS":
            note = f"TLS is not supported yet: port {number} is not opened"
            resource.beside(note, *here, needs="TLS")
        elif protocol in NOT_OPENED:
            note = f"tcpmux relays TCP, not {protocol}: port {number} is not opened"
            resource.beside(note, *here, needs=NOT_OPENED[protocol])
        else:
            known = ", ".join((*OPENED, *NOT_OPENED))
            resource.problem(
                f"expected one of {known}, got {server.port.protocol}", *here, "port", "protocol"
            )
    return _Gateway(resource, spec, frozenset(opened))


def _used(
    resource: Resource,
    spec: VirtualServiceSpec,
    gateways: dict[tuple[str, str], _Gateway],
    served: set[tuple[str, str]],
    hosts: Hosts,
) -> list[tuple[int, TcpRule, list[Address]]]:
    """The rules to which some listener comes, with these. The first that matches is the one."""
    names = spec.gateways or [MESH]
    if not spec.tcp:
        served.update(_key(resource, name) for name in names)
        if spec.http is None and spec.tls is None:
            resource.problem("tcp is missing", "spec")
        else:
            resource.changes(
                "tcpmux relays TCP, but it has no tcp rules: tcpmux serves nothing of it"
            )
        return []
    listens: dict[int, list[Address]] = {}
    is_told = False
    for at, name in enumerate(names):
        if name == MESH:
            where = ("spec", "gateways", at) if len(names) > 1 else ()
            found, is_told = _mesh_listens(resource, spec, hosts, where)
        else:
            found = [*_gateway_listens(resource, spec, at, gateways, served)]
        for port, address in found:
            index = _matching(spec, port, name)
            if index is not None and address not in listens.setdefault(index, []):
                listens[index].append(address)
    if listens:
        _tell_unused(resource, spec, listens)
    elif not is_told and not resource.document.problems:
        _tell_unreachable(resource, spec, names, gateways)
    return [(index, spec.tcp[index], listens[index]) for index in sorted(listens)]


def _tell_unused(
    resource: Resource, spec: VirtualServiceSpec, listens: Mapping[int, Sequence[Address]]
) -> None:
    """Of rules that no listener comes to."""
    for index, rule in enumerate(spec.tcp):
        here = ("spec", "tcp", index)
        if index in listens:
            continue
        if all(match.is_whole for match in rule.match):
            resource.warn("no connection can reach this rule", *here)
        else:
            note = "tcpmux can't distinguish its connections: the rules after it apply to them"
            resource.changes(note, *here)


def _tell_unreachable(
    resource: Resource,
    spec: VirtualServiceSpec,
    names: Sequence[str],
    gateways: dict[tuple[str, str], _Gateway],
) -> None:
    if not all(match.is_whole for rule in spec.tcp for match in rule.match):
        return  # they have been told
    keys = [_key(resource, name) for name in names]
    if any(gateways[key].opened for key in keys if key in gateways):
        resource.problem("no port of its gateways matches any of these rules", "spec", "tcp")
    else:
        resource.changes("none of its gateways has an open port: tcpmux serves nothing of it")


def _key(resource: Resource, gateway: str) -> tuple[str, str]:
    namespace, slash, name = gateway.rpartition("/")
    return (namespace if slash and namespace != "." else resource.namespace), name


def _gateway_listens(
    resource: Resource,
    spec: VirtualServiceSpec,
    at: int,
    gateways: dict[tuple[str, str], _Gateway],
    served: set[tuple[str, str]],
) -> Iterator[tuple[int, Address]]:
    name = (spec.gateways or ())[at]
    key = _key(resource, name)
    served.add(key)
    if key not in gateways:
        known = known_names(gateways, resource.namespace)
        resource.problem(
            f"no Gateway {name} in the files; there are: {known}", "spec", "gateways", at
        )
        return
    yield from gateways[key].listens(resource, spec)


def _mesh_listens(
    resource: Resource, spec: VirtualServiceSpec, hosts: Hosts, where: Location
) -> tuple[list[tuple[int, Address]], bool]:
    """Ports and addresses instead of those that sidecars take over; whether it was told that there
    is none. where: what in the resource asks for them."""
    found: list[tuple[int, Address]] = []
    is_meant = False
    for host in spec.hosts:
        ip = hosts.mesh_address(host, resource.namespace)
        is_meant = is_meant or ip is not None
        for port in _mesh_ports(host, resource, spec, hosts) if ip is not None else ():
            found.append((port, Address.parse(f"{ip}:{port}")))
    if not is_meant:
        what = "without gateways, it applies to" if not where else "mesh stands for"
        note = f"{what} sidecars: use --mesh to listen on the ports of its hosts"
        resource.changes(note, *where)
    elif not found:
        resource.changes("the ports of its hosts are unknown: add their Service", *where)
    return found, not found


def _mesh_ports(
    host: str, resource: Resource, spec: VirtualServiceSpec, hosts: Hosts
) -> Sequence[int]:
    """Those of the host; if no file knows it, those that the rules speak of."""
    known = hosts.ports(host, resource.namespace)
    if known is not None:
        return known
    ports: list[int] = []
    for rule in spec.tcp:
        matched = [match.port for match in rule.match if match.port]
        sent = [target.destination.port for target in rule.route]
        ports += matched or [port.number for port in sent[:1] if port]
    return list(dict.fromkeys(ports))


def _matching(spec: VirtualServiceSpec, port: int, gateway: str) -> int | None:
    for index, rule in enumerate(spec.tcp):
        if not rule.match or any(
            match.is_whole
            and match.port in (None, port)
            and (match.gateways is None or gateway in match.gateways)
            for match in rule.match
        ):
            return index
    return None


def _route(
    resource: Resource, index: int, rule: TcpRule, hosts: Hosts, rules: Rules
) -> Route | None:
    """Without a name and listeners; None if something is wrong with it."""
    here = ("spec", "tcp", index, "route")
    if len(rule.route) > 1 and not any(target.weight for target in rule.route):
        resource.problem("expected at least one weight above 0", *here)
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
    rules: Rules,
) -> Destination | None:
    to = target.destination
    rule = rules.of_host(to.host, resource.namespace)
    labels, subset = {}, None
    if to.subset is not None:
        subsets = {subset.name: subset for subset in rule[1].subsets} if rule else {}
        if to.subset not in subsets:
            known = ", ".join(subsets) or "none"
            resource.problem(
                f"no DestinationRule defines subset {to.subset} of {to.host}; there are: {known}",
                *(*here, "subset"),
            )
            return None
        subset = subsets[to.subset]
        labels = subset.labels
    port = to.port.number if to.port else None
    try:
        endpoints = hosts.endpoints(
            to.host,
            resource.namespace,
            port,
            to.subset or "",
            labels,
            in_namespace=resource.has_namespace,
        )
    except NoEndpoints as error:
        resource.problem(str(error), *here)
        return None
    made = policy(rule, subset, port)
    if rule and made.max_connections and rules.is_limited_again(rule, subset, port):
        note = f"its limit, {made.max_connections} connections, applies to each route on its own"
        resource.changes(note, *here, needs="limits across routes")
    if made.send_proxy.version and any(isinstance(one, Address) and one.path for one in endpoints):
        note = "tcpmux sends no PROXY header to UNIX sockets"
        resource.changes(note, *here, needs="the PROXY protocol")
    return Destination("", 0, endpoints, made)
