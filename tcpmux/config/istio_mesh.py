"""Where tcpmux listens instead of the sidecars of a mesh."""

from __future__ import annotations

from collections.abc import Sequence

from tcpmux.config.address import Address
from tcpmux.config.hosts import Hosts
from tcpmux.config.istio_specs import VirtualServiceSpec
from tcpmux.config.problems import Location
from tcpmux.config.resources import Resource

MESH = "mesh"  # the gateway of the sidecars


def mesh_listens(
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
