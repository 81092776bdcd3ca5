"""Routes from the Gateway API's Gateway, TCPRoute, TLSRoute and ReferenceGrant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tcpmux.config.gateway_backends import destinations_of
from tcpmux.config.gateway_cluster import Cluster
from tcpmux.config.gateway_parents import parents_of, with_backends
from tcpmux.config.gateway_specs import TcpRouteSpec
from tcpmux.config.gateway_tls import Tls
from tcpmux.config.hosts import Hosts
from tcpmux.config.model import Attachment, Route
from tcpmux.config.resources import GATEWAY_API, Made, Resource
from tcpmux.config.settings import RoutePolicy
from tcpmux.config.specs import read

POLICY = RoutePolicy(on_unavailable="reject")  # the specification demands it


def gateway_api_routes(
    resources: Sequence[Resource], hosts: Hosts
) -> tuple[list[Made], list[Attachment]]:
    """A route for each TCPRoute, on all the listeners that it is attached to, one for the TLSRoutes
    of each port, and what became of each of their parents."""
    cluster = Cluster.of(resources, hosts)
    tls = Tls(cluster)
    found: list[Made] = []
    attachments: list[Attachment] = []
    for resource in resources:
        if (resource.group, resource.kind) == (GATEWAY_API, "TLSRoute"):
            attachments += tls.take(resource)
        elif (resource.group, resource.kind) == (GATEWAY_API, "TCPRoute"):
            route, told = _tcp_route(resource, cluster)
            found += [Made(route, resource)] if route else []
            attachments += told
    found += [replace(made, route=replace(made.route, policy=POLICY)) for made in tls.made()]
    return found, attachments


def _tcp_route(resource: Resource, cluster: Cluster) -> tuple[Route | None, list[Attachment]]:
    spec = read(resource, TcpRouteSpec)
    if spec is None:
        return None, []
    resource.use()
    parents = parents_of(resource, spec.parentRefs, cluster)
    told = [one for _, one in parents if one]
    listen = [
        at for found, _ in parents for gateway, listener in found
        for at in gateway.addresses(listener)
    ]  # fmt: skip
    if not listen:
        resource.harmless("no listener accepts it, so it has no effect")
        return None, told
    destinations, reason, why = destinations_of(resource, 0, spec.rules[0].backendRefs, cluster)
    told = [with_backends(one, reason, why) for one in told]
    listens = tuple(dict.fromkeys(listen))
    return Route("", listens, destinations, str(resource), POLICY), told
