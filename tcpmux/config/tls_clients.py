"""Which routes have clients that speak TLS. Private to the package."""

from __future__ import annotations

from tcpmux.config.schema import RouteModel


def why_tls(route: RouteModel) -> str:
    """What tells that clients speak TLS; "" = nothing does."""
    starttls = route.preread.made().starttls if route.preread else "none"
    if starttls != "none":
        return f"preread.starttls is {starttls}"
    if any(rule.made().reads_hello for rule in route.rules):
        return "rules go by the TLS ClientHello"
    if route.sticky and route.sticky.made().by == "sni":
        return "sticky is by sni"
    return ""
