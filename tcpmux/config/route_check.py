"""What no single value of a route can tell: names given twice, names that nobody has, and settings
that have no effect beside the others."""

from __future__ import annotations

from tcpmux.config.document import Document
from tcpmux.config.duration import format_duration
from tcpmux.config.mirror_check import check_mirror
from tcpmux.config.policy import FallbackModel
from tcpmux.config.preread import Preread
from tcpmux.config.problems import Location, describe
from tcpmux.config.rule_check import check_rules, clientele_of, takes_all
from tcpmux.config.schema import DefaultsModel, RouteModel
from tcpmux.config.tls_clients import why_tls
from tcpmux.config.validation import Names


def check_route(
    route: RouteModel, defaults: DefaultsModel, document: Document, here: Location
) -> None:
    """Adds what is wrong with it to the document. here: its place there."""
    _check_destinations(route, document, here)
    _check_fallback(route, document, here)
    check_mirror(route, document, (*here, "mirror"))
    check_rules(route, document, here)
    _check_weights(route, document, here)
    _check_sticky(route, document, (*here, "sticky"))
    _check_wait(route, defaults, document, here)
    _warn_of_tls(route, document, here)
    _check_rollout(route, document, here)


def _check_destinations(route: RouteModel, document: Document, here: Location) -> None:
    names = Names("a destination named")
    for d, destination in enumerate(route.destinations):
        names.add(destination.name, document, (*here, "destinations", d, "name"))
        endpoints = Names("the endpoint")
        for e, endpoint in enumerate(destination.endpoints):
            endpoints.add(endpoint.address, document, (*here, "destinations", d, "endpoints", e))


def _check_fallback(route: RouteModel, document: Document, here: Location) -> None:
    if not isinstance(route.on_unavailable, FallbackModel):
        return
    names = [destination.name for destination in route.destinations]
    if route.on_unavailable.fallback not in names:
        document.problem(
            (*here, "on_unavailable", "fallback"),
            f"expected one of {', '.join(names)}, got {describe(route.on_unavailable.fallback)}",
        )


def _check_weights(route: RouteModel, document: Document, here: Location) -> None:
    has_weight = any(destination.weight for destination in route.destinations)
    if not has_weight and not takes_all(route):
        which = "every connection that meets no rule" if route.rules else "every connection"
        document.warn(
            (*here, "destinations"), f"all weights are 0: {which} is reset until one has weight"
        )


def _check_sticky(route: RouteModel, document: Document, at: Location) -> None:
    if route.sticky is None:
        return
    by, _ = route.sticky.by
    proxy = route.accept_proxy
    if by == "source" and not clientele_of(route).addresses:
        document.warn(
            at,
            "no client has an address, as each comes by a UNIX socket: connections are split as "
            "without sticky",
        )
    if by == "tlv" and proxy is not None and 2 not in proxy.versions:
        document.warn(
            at,
            "no client has a TLV, as accept_proxy.versions leaves out 2: connections are split as "
            "without sticky",
        )
    if by != "source" and "prefix" in route.sticky.model_fields_set:
        document.warn(
            (*at, "prefix"), f"has no effect: it is of addresses, and sticky goes by {by}"
        )


def _check_wait(
    route: RouteModel, defaults: DefaultsModel, document: Document, here: Location
) -> None:
    """Nobody expects that clients wait for the sake of a TLV in a header that is sent."""
    by = route.sticky.by[0] if route.sticky else ""
    if route.preread or by == "sni" or any(rule.made().reads_hello for rule in route.rules):
        return
    for d, destination in enumerate(route.destinations):
        sent = destination.made((destination, route, defaults)).send_proxy
        asked = [key for key in ("authority", "alpn") if getattr(sent, key)]
        if asked:
            document.warn(
                (*here, "destinations", d),
                f"send_proxy.{asked[0]}: each connection waits up to "
                f"{format_duration(Preread().timeout)} for its client's first bytes, as its "
                "ClientHello has the value: leave this out where the server speaks first, or say "
                "preread: {silent: default} if that is meant",
            )
            return


def _warn_of_tls(route: RouteModel, document: Document, here: Location) -> None:
    """Where clients encrypt, nothing can be understood."""
    if route.converge is None or route.converge.made().protocol == "none":
        return
    reason = why_tls(route)
    if reason:
        document.warn(
            (*here, "converge", "protocol"),
            f"what is encrypted is not understood, and {reason}: connections with TLS stay until "
            "the deadline",
        )


def _check_rollout(route: RouteModel, document: Document, here: Location) -> None:
    if route.rollout is None:
        return
    names = [destination.name for destination in route.destinations]
    if route.rollout.to not in names:
        document.problem(
            (*here, "rollout", "to"),
            f"no destination of this route is named {route.rollout.to!r}: there are "
            f"{', '.join(names)}",
        )
    elif len(names) == 1:
        document.problem(
            (*here, "rollout", "to"),
            "the route has no other destination, which this one could be compared with",
        )
