"""Routes from the Gateway API's Gateway and TCPRoute."""

from __future__ import annotations

from collections.abc import Sequence

from tcpmux.config.address import Address, Endpoint
from tcpmux.config.gateway_specs import (
    ApiGatewaySpec,
    BackendRef,
    ListenerModel,
    ParentRef,
    TcpRouteSpec,
)
from tcpmux.config.hosts import Hosts, NoEndpoints
from tcpmux.config.model import Destination, Route
from tcpmux.config.resources import GATEWAY_API, Resource
from tcpmux.config.settings import RoutePolicy
from tcpmux.config.specs import (
    read,
)

Gateways = dict[tuple[str, str], tuple[Resource, ApiGatewaySpec]]


def gateway_api_routes(resources: Sequence[Resource], hosts: Hosts) -> list[tuple[Route, Resource]]:
    """A route for each TCPRoute, on all the listeners that it is attached to."""
    gateways: Gateways = {}
    for resource in resources:
        if (resource.group, resource.kind) == (GATEWAY_API, "Gateway"):
            spec = read(resource, ApiGatewaySpec)
            if spec is not None:
                _check_protocols(resource, spec)
                gateways[resource.namespace, resource.name] = resource, spec
    found = []
    routes = [r for r in resources if (r.group, r.kind) == (GATEWAY_API, "TCPRoute")]
    names = [resource.name for resource in routes]
    for resource in routes:
        route = read(resource, TcpRouteSpec)
        if route is None:
            continue
        listen = [
            address
            for at, parent in enumerate(route.parentRefs)
            for address in _attached(resource, at, parent, gateways)
        ]
        destinations = _destinations(resource, route.rules[0].backendRefs, hosts)
        if listen:
            name = resource.name
            if names.count(name) > 1:
                name = f"{resource.namespace}.{name}"
            made = Route(
                name,
                tuple(dict.fromkeys(listen)),
                destinations,
                str(resource),
                RoutePolicy(on_unavailable="reject"),  # the specification demands it
            )
            found.append((made, resource))
    return found


def _check_protocols(resource: Resource, spec: ApiGatewaySpec) -> None:
    for index, listener in enumerate(spec.listeners):
        if listener.protocol != "TCP" and listener.tls is None:
            resource.problem(
                f"tcpmux relays TCP: expected TCP, got {listener.protocol}",
                *("spec", "listeners", index, "protocol"),
            )


def _attached(resource: Resource, at: int, parent: ParentRef, gateways: Gateways) -> list[Address]:
    """The addresses of the listeners that one parentRef means."""
    here = ("spec", "parentRefs", at)
    if (parent.group, parent.kind) != (GATEWAY_API, "Gateway"):
        resource.warn(f"a {parent.kind} as parent is ignored", *here)
        return []
    found = gateways.get((parent.namespace or resource.namespace, parent.name))
    if found is None:
        known = ", ".join(name for _, name in gateways) or "none"
        resource.problem(
            f"no Gateway {parent.name} in the files; there are: {known}", *here, "name"
        )
        return []
    gateway, spec = found
    listeners = [
        listener
        for listener in spec.listeners
        if parent.sectionName in (None, listener.name) and parent.port in (None, listener.port)
    ]
    if not listeners:
        known = ", ".join(f"{listener.name} (port {listener.port})" for listener in spec.listeners)
        resource.problem(f"no listener of {parent.name} matches; there are: {known}", *here)
        return []
    allowed = [one for one in listeners if _allows(one, gateway, resource)]
    if not allowed:
        resource.problem(
            f"no listener of {parent.name} allows a TCPRoute of namespace {resource.namespace}",
            *here,
        )
    addresses = []
    for listener in allowed:
        hosts = [address.value for address in spec.addresses] or [""]
        for host in hosts:
            try:
                text = f"[{host}]" if ":" in host else host
                addresses.append(Address.parse(f"{text}:{listener.port}"))
            except ValueError as error:
                gateway.problem(f"{error}, got {host}", "spec", "addresses")
    return addresses


def _allows(listener: ListenerModel, gateway: Resource, route: Resource) -> bool:
    kinds = listener.allowedRoutes.kinds
    namespaces = listener.allowedRoutes.namespaces.from_
    return (not kinds or any(kind.kind == "TCPRoute" for kind in kinds)) and (
        namespaces != "Same" or gateway.namespace == route.namespace
    )


def _destinations(
    resource: Resource, backends: Sequence[BackendRef], hosts: Hosts
) -> tuple[Destination, ...]:
    names = [backend.name for backend in backends]
    found = []
    for at, backend in enumerate(backends):
        name = backend.name
        if names.count(name) > 1:
            name = f"{name}-{backend.port}"
        endpoints = _endpoints(resource, at, backend, hosts)
        found.append(Destination(name, backend.weight, endpoints))
    if not any(destination.weight for destination in found):
        resource.warn(
            "all weights are 0: every connection is reset until one has weight",
            *("spec", "rules", 0, "backendRefs"),
        )
    if len({destination.name for destination in found}) < len(found):
        resource.problem("the same backend is listed twice", "spec", "rules", 0, "backendRefs")
    return tuple(found)


def _endpoints(
    resource: Resource, at: int, backend: BackendRef, hosts: Hosts
) -> tuple[Endpoint, ...]:
    """None for a backend that can't be used: its share of connections is reset, as the
    specification demands (TCPRouteRule.backendRefs)."""
    here = ("spec", "rules", 0, "backendRefs", at)
    namespace = backend.namespace or resource.namespace
    why = ""
    if (backend.group, backend.kind) != ("", "Service"):
        why = f"a {backend.kind} as backend is not supported"
    elif not hosts.is_known(backend.name, namespace):
        why = f"no Service {backend.name} in the files, and no --endpoint {backend.name}=IP:port"
    else:
        try:
            return hosts.endpoints(backend.name, namespace, backend.port)
        except NoEndpoints as error:
            why = str(error)
    resource.warn(f"{why}: its share of connections is reset", *here)
    return ()
