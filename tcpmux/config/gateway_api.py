"""Routes from the Gateway API's Gateway, TCPRoute and ReferenceGrant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tcpmux.config.address import Address, Endpoint
from tcpmux.config.gateway_specs import (
    ApiGatewaySpec,
    BackendRef,
    ListenerModel,
    ParentRef,
    ReferenceGrantSpec,
    TcpRouteSpec,
)
from tcpmux.config.hosts import Hosts, NoEndpoints
from tcpmux.config.model import Attachment, Destination, Route
from tcpmux.config.resources import CORE, GATEWAY_API, Made, Resource, known_names
from tcpmux.config.settings import RoutePolicy
from tcpmux.config.specs import read

ONLY_DESTINATION = 100  # weight of a destination that stands for no backend
# Protocols of listeners that are not opened, and what they would need.
NOT_OPENED = {"HTTP": "HTTP", "HTTPS": "HTTP", "TLS": "TLS", "UDP": "UDP"}


@dataclass(frozen=True, slots=True)
class _Gateway:
    """listeners: those that tcpmux opens."""

    resource: Resource
    spec: ApiGatewaySpec
    listeners: Sequence[ListenerModel]

    def addresses(self, listener: ListenerModel) -> Iterator[Address]:
        hosts = [address.value for address in self.spec.addresses if address.value]
        for host in hosts or [""]:
            try:
                text = f"[{host}]" if ":" in host else host
                yield Address.parse(f"{text}:{listener.port}")
            except ValueError as error:
                self.resource.problem(f"{error}, got {host}", "spec", "addresses")


class _NotResolved(Exception):
    """Why a backend can't be used: the specification's reason, and words for the user."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class _Cluster:
    """What the routes of all files need to know of each other."""

    hosts: Hosts
    gateways: dict[tuple[str, str], _Gateway] = field(default_factory=dict)
    grants: list[tuple[Resource, ReferenceGrantSpec]] = field(default_factory=list)
    namespaces: dict[str, Resource] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Sequence[Resource], hosts: Hosts) -> _Cluster:
        found = cls(hosts)
        for resource in resources:
            kind = resource.group, resource.kind
            if kind == (GATEWAY_API, "Gateway") and (gateway := _gateway(resource)):
                found.gateways[resource.namespace, resource.name] = gateway
            elif kind == (GATEWAY_API, "ReferenceGrant"):
                grant = read(resource, ReferenceGrantSpec)
                if grant is not None:
                    found.grants.append((resource, grant))
            elif kind == (CORE, "Namespace"):
                found.namespaces[resource.name] = resource
        return found

    def labels_of(self, namespace: str) -> Mapping[str, str]:
        """Of a namespace; each has its name as a label, whether it is in the files or not."""
        found = self.namespaces.get(namespace)
        if found is not None:
            found.use()
        return {"kubernetes.io/metadata.name": namespace, **(found.labels if found else {})}

    def permits(self, route: Resource, backend: BackendRef, namespace: str) -> bool:
        """Whether a ReferenceGrant lets the route use a backend of another namespace."""
        for resource, grant in self.grants:
            if resource.namespace != namespace:
                continue
            is_from = any(
                (one.group, one.kind, one.namespace) == (GATEWAY_API, "TCPRoute", route.namespace)
                for one in grant.from_
            )
            is_to = any(
                (one.group, one.kind) == (backend.group, backend.kind)
                and one.name in (None, "", backend.name)
                for one in grant.to
            )
            if is_from and is_to:
                resource.use()
                return True
        return False


def gateway_api_routes(
    resources: Sequence[Resource], hosts: Hosts
) -> tuple[list[Made], list[Attachment]]:
    """A route for each TCPRoute, on all the listeners that it is attached to, and what became of
    each of its parents."""
    cluster = _Cluster.of(resources, hosts)
    found, attachments = [], []
    for resource in resources:
        if (resource.group, resource.kind) != (GATEWAY_API, "TCPRoute"):
            continue
        spec = read(resource, TcpRouteSpec)
        if spec is None:
            continue
        resource.use()
        listen: list[Address] = []
        told = []
        for at, parent in enumerate(spec.parentRefs):
            addresses, attachment = _attached(resource, at, parent, cluster)
            listen += addresses
            told += [attachment] if attachment else []
        if not listen:
            resource.harmless("no listener accepts it, so it has no effect")
            attachments += told
            continue
        destinations, reason, why = _destinations(resource, spec.rules[0].backendRefs, cluster)
        for one in told:
            message = ". ".join(filter(None, (one.message, why)))
            attachments.append(Attachment(one.route, one.parent, one.accepted, reason, message))
        route = Route(
            "",
            tuple(dict.fromkeys(listen)),
            destinations,
            str(resource),
            RoutePolicy(on_unavailable="reject"),  # the specification demands it
        )
        found.append(Made(route, resource))
    return found, attachments


def _gateway(resource: Resource) -> _Gateway | None:
    spec = read(resource, ApiGatewaySpec)
    if spec is None:
        return None
    resource.use()
    opened = []
    for index, listener in enumerate(spec.listeners):
        here = ("spec", "listeners", index)
        protocol, port = listener.protocol, listener.port
        if protocol == "TCP" and listener.tls is None:
            opened.append(listener)
        elif protocol in ("TCP", "TLS"):
            note = f"TLS is not supported yet: port {port} is not opened"
            resource.beside(note, *here, needs="TLS")
        elif protocol in NOT_OPENED or "/" in protocol:
            note = f"tcpmux relays TCP, not {protocol}: port {port} is not opened"
            resource.beside(note, *here, needs=NOT_OPENED.get(protocol, "other protocols"))
        else:
            known = ", ".join(("TCP", *NOT_OPENED))
            resource.problem(f"expected one of {known}, got {protocol}", *here, "protocol")
    return _Gateway(resource, spec, opened)


# --- parents --------------------------------------------------------------------------------------


def _attached(
    resource: Resource, at: int, parent: ParentRef, cluster: _Cluster
) -> tuple[list[Address], Attachment | None]:
    """The addresses of the listeners that one parentRef means; None for a parent that is nobody's
    who reads TCPRoutes of Gateways."""
    here = ("spec", "parentRefs", at)
    if (parent.group, parent.kind) != (GATEWAY_API, "Gateway"):
        resource.changes(f"a {parent.kind} as parent is ignored", *here, needs="meshes")
        return [], None
    namespace = parent.namespace or resource.namespace
    name = f"Gateway {namespace}/{parent.name}"
    name += f", listener {parent.sectionName}" if parent.sectionName else ""
    name += f", port {parent.port}" if parent.port else ""
    route = f"TCPRoute {resource.namespace}/{resource.name}"
    gateway = cluster.gateways.get((namespace, parent.name))
    if gateway is None:
        known = known_names(cluster.gateways, namespace)
        resource.problem(
            f"no Gateway {parent.name} in the files; there are: {known}", *here, "name"
        )
        return [], None
    found, reason, why = _listeners(resource, parent, gateway, cluster)
    if reason != "Accepted":
        resource.warn(f"{reason}: {why}", *here)
    addresses = [address for listener in found for address in gateway.addresses(listener)]
    return addresses, Attachment(route, name, reason, message=why)


def _listeners(
    route: Resource, parent: ParentRef, gateway: _Gateway, cluster: _Cluster
) -> tuple[list[ListenerModel], str, str]:
    """Those that take the route, or the reason why none does."""
    meant = [
        listener
        for listener in gateway.spec.listeners
        if parent.sectionName in (None, listener.name) and parent.port in (None, listener.port)
    ]
    if not meant:
        known = ", ".join(f"{one.name} (port {one.port})" for one in gateway.spec.listeners)
        why = f"no listener of {parent.name} matches; there are: {known}"
        return [], "NoMatchingParent", why
    opened = [listener for listener in meant if listener in gateway.listeners]
    found = [listener for listener in opened if _allows(listener, gateway, route, cluster)]
    if found:
        return found, "Accepted", ""
    what = f"a TCPRoute of namespace {route.namespace}" if opened else "a TCPRoute"
    return [], "NotAllowedByListeners", f"no listener of {parent.name} allows {what}"


def _allows(listener: ListenerModel, gateway: _Gateway, route: Resource, cluster: _Cluster) -> bool:
    kinds = listener.allowedRoutes.kinds
    if kinds and (GATEWAY_API, "TCPRoute") not in [(kind.group, kind.kind) for kind in kinds]:
        return False
    namespaces = listener.allowedRoutes.namespaces
    if namespaces.from_ == "Selector" and namespaces.selector is not None:
        return namespaces.selector.selects(cluster.labels_of(route.namespace))
    same = namespaces.from_ == "Same" and gateway.resource.namespace == route.namespace
    return same or namespaces.from_ == "All"


# --- backends -------------------------------------------------------------------------------------


def _destinations(
    resource: Resource, backends: Sequence[BackendRef], cluster: _Cluster
) -> tuple[tuple[Destination, ...], str, str]:
    """Those of a route, and what is to be told of its condition ResolvedRefs."""
    here = ("spec", "rules", 0, "backendRefs")
    if not backends:
        resource.warn("it has no backendRefs: tcpmux resets every connection", *here[:-1])
        return (Destination("none", ONLY_DESTINATION, ()),), "ResolvedRefs", ""
    names = _names(resource, backends)
    found, first = [], None
    for at, (name, backend) in enumerate(zip(names, backends, strict=True)):
        endpoints: tuple[Endpoint, ...] = ()
        try:
            endpoints = _endpoints(resource, backend, cluster)
        except _NotResolved as error:
            first = first or error
            told = f"{error.reason}: {error}: tcpmux resets its share of connections"
            if error.reason == "RefNotPermitted":  # whoever serves these files resets it as well
                resource.mapped(told, *here, at, told=True)
            else:
                resource.changes(told, *here, at, needs=_NEEDS.get(error.reason, ""))
        found.append(Destination(name, backend.weight, endpoints))
    if not any(destination.weight for destination in found):
        resource.warn("all weights are 0: every connection is reset until one has weight", *here)
    return tuple(found), first.reason if first else "ResolvedRefs", str(first or "")


_NEEDS = {"InvalidKind": "backends of other kinds"}


def _names(resource: Resource, backends: Sequence[BackendRef]) -> list[str]:
    """As short as they can be told apart; a backend that is listed again is NAME-2."""
    forms = (
        lambda b: b.name,
        lambda b: f"{b.name}-{b.port}",
        lambda b: f"{b.name}.{b.namespace or resource.namespace}",
        lambda b: f"{b.name}.{b.namespace or resource.namespace}-{b.port}",
        lambda b: f"{b.kind.lower()}.{b.name}.{b.namespace or resource.namespace}-{b.port}",
    )
    names = []
    for backend in backends:
        others = [other for other in backends if _key(other) != _key(backend)]
        found = (form(backend) for form in forms if form(backend) not in map(form, others))
        names.append(next(found, forms[-1](backend)))
    return [
        f"{name}-{again}" if (again := names[: at + 1].count(name)) > 1 else name
        for at, name in enumerate(names)
    ]


def _key(backend: BackendRef) -> tuple[str | int | None, ...]:
    return backend.group, backend.kind, backend.namespace, backend.name, backend.port


def _endpoints(resource: Resource, backend: BackendRef, cluster: _Cluster) -> tuple[Endpoint, ...]:
    """Raises _NotResolved: then its share of connections is reset, as the specification demands
    (TCPRouteRule.backendRefs)."""
    hosts, name = cluster.hosts, backend.name
    namespace = backend.namespace or resource.namespace
    if (backend.group, backend.kind) != (CORE, "Service"):
        raise _NotResolved("InvalidKind", f"a {backend.kind} as backend is not supported")
    if namespace != resource.namespace and not cluster.permits(resource, backend, namespace):
        raise _NotResolved(
            "RefNotPermitted", f"no ReferenceGrant of namespace {namespace} permits Service {name}"
        )
    if not hosts.is_known(name, namespace):
        raise _NotResolved(
            "BackendNotFound", f"no Service {name} in the files, and no --endpoint {name}=IP:port"
        )
    in_namespace = resource.has_namespace or backend.namespace is not None
    try:
        return hosts.endpoints(name, namespace, backend.port, in_namespace=in_namespace)
    except NoEndpoints as error:
        raise _NotResolved("BackendNotFound", str(error)) from None
