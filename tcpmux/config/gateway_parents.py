"""Which listeners of Gateways take a route of the Gateway API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tcpmux.config.gateway_cluster import KINDS, Cluster, Gateway
from tcpmux.config.gateway_specs import ListenerModel, ParentRef
from tcpmux.config.model import Attachment
from tcpmux.config.resources import GATEWAY_API, Resource, known_names

Found = list[tuple[Gateway, ListenerModel]]


def attached(
    resource: Resource, at: int, parent: ParentRef, cluster: Cluster
) -> tuple[Found, Attachment | None]:
    """The listeners that one parentRef means; None for a parent that is nobody's who reads routes
    of Gateways."""
    here = ("spec", "parentRefs", at)
    if (parent.group, parent.kind) != (GATEWAY_API, "Gateway"):
        resource.changes(f"a {parent.kind} as parent is ignored", *here, needs="meshes")
        return [], None
    namespace = parent.namespace or resource.namespace
    name = f"Gateway {namespace}/{parent.name}"
    name += f", listener {parent.sectionName}" if parent.sectionName else ""
    name += f", port {parent.port}" if parent.port else ""
    route = f"{resource.kind} {resource.namespace}/{resource.name}"
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
    return [(gateway, listener) for listener in found], Attachment(route, name, reason, message=why)


def _listeners(
    route: Resource, parent: ParentRef, gateway: Gateway, cluster: Cluster
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
    opened = [
        listener
        for listener in meant
        if listener in gateway.listeners and KINDS[listener.protocol] == route.kind
    ]
    found = [listener for listener in opened if _allows(listener, gateway, route, cluster)]
    if found:
        return found, "Accepted", ""
    what = f"a {route.kind} of namespace {route.namespace}" if opened else f"a {route.kind}"
    return [], "NotAllowedByListeners", f"no listener of {parent.name} allows {what}"


def _allows(listener: ListenerModel, gateway: Gateway, route: Resource, cluster: Cluster) -> bool:
    kinds = listener.allowedRoutes.kinds
    if kinds and (GATEWAY_API, route.kind) not in [(kind.group, kind.kind) for kind in kinds]:
        return False
    namespaces = listener.allowedRoutes.namespaces
    if namespaces.from_ == "Selector" and namespaces.selector is not None:
        return namespaces.selector.selects(cluster.labels_of(route.namespace))
    same = namespaces.from_ == "Same" and gateway.resource.namespace == route.namespace
    return same or namespaces.from_ == "All"


def parents_of(
    resource: Resource, parents: Sequence[ParentRef], cluster: Cluster
) -> list[tuple[Found, Attachment | None]]:
    """The listeners of each parent that take a route, and what became of the parent."""
    return [attached(resource, at, parent, cluster) for at, parent in enumerate(parents)]


def with_backends(of: Attachment, reason: str, why: str) -> Attachment:
    """reason, why: what is to be told of its condition ResolvedRefs."""
    return replace(of, resolved=reason, message=". ".join(filter(None, (of.message, why))))
