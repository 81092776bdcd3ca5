"""What no single value of `mirror` can tell. Private to the package."""

from __future__ import annotations

from tcpmux.config.document import Document
from tcpmux.config.problems import Location, describe
from tcpmux.config.schema import RouteModel
from tcpmux.config.tls_clients import why_tls

# Of `converge.protocol`: those whose connections begin with a number that no other one has, which
# the client's answer depends on.
NONCES = {
    "mysql": "its server sends a nonce, and the client's password is hashed with it",
    "postgres": "with SCRAM or MD5 its server sends a nonce, and the client's proof depends on it",
}
STORES = ("postgres", "mysql", "redis", "memcached", "mqtt")


def check_mirror(route: RouteModel, document: Document, at: Location) -> None:
    """Adds what is wrong with it, and where it can't work."""
    if route.mirror is None:
        return
    names = [destination.name for destination in route.destinations]
    if route.mirror.to not in names:
        document.problem(
            (*at, "to"), f"expected one of {', '.join(names)}, got {describe(route.mirror.to)}"
        )
        return
    if names == [route.mirror.to]:
        document.warn(
            at, "has no effect: only connections to other destinations are mirrored, and there is "
            "none"
        )  # fmt: skip
    tls = why_tls(route)
    if tls:
        document.warn(
            at,
            f"what is encrypted for one endpoint is noise to another one, and {tls}: connections "
            "that begin with TLS get no shadow",
        )
    protocol = route.converge.made().protocol if route.converge else "none"
    if protocol in NONCES:
        document.warn(
            at,
            f"{protocol}: {NONCES[protocol]}: the shadow's login fails where the client's does "
            "not, unless the server asks for no password or one in clear text",
        )
    shared = _shared_endpoints(route)
    if shared or protocol in STORES:
        why = f"it has {shared[0]} in common with others" if shared else f"{protocol} has writes"
        document.warn(
            (*at, "to"),
            f"{why}: what clients write there is written twice, so {route.mirror.to} needs a store "
            "of its own, or clients that only read",
        )


def _shared_endpoints(route: RouteModel) -> list[str]:
    """Those of the shadow's destination that others have as well."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for destination in route.destinations:
        is_shadow = route.mirror is not None and destination.name == route.mirror.to
        found[is_shadow] |= {str(endpoint.address) for endpoint in destination.endpoints}
    return sorted(found[True] & found[False])
