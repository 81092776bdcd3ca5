"""Backends of a route of the Gateway API as destinations."""

from __future__ import annotations

from collections.abc import Sequence

from tcpmux.config.address import Endpoint
from tcpmux.config.gateway_cluster import Cluster
from tcpmux.config.gateway_specs import BackendRef
from tcpmux.config.hosts import NoEndpoints
from tcpmux.config.model import Destination
from tcpmux.config.resources import CORE, Resource

ONLY_DESTINATION = 100  # weight of a destination that stands for no backend


class _NotResolved(Exception):
    """Why a backend can't be used: the specification's reason, and words for the user."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def destinations_of(
    resource: Resource, rule: int, backends: Sequence[BackendRef], cluster: Cluster
) -> tuple[tuple[Destination, ...], str, str]:
    """Those of a rule of a route, and what is to be told of its condition ResolvedRefs."""
    here = ("spec", "rules", rule, "backendRefs")
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


def _endpoints(resource: Resource, backend: BackendRef, cluster: Cluster) -> tuple[Endpoint, ...]:
    """Raises _NotResolved: then its share of connections is reset, as the specification demands
    (TCPRouteRule.backendRefs and TLSRouteRule.backendRefs)."""
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
