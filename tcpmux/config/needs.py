"""What has to be read of a connection before its destination is picked, as some of the route's keys
depend on it. One function for each; what depends on it adds its condition there."""

from __future__ import annotations

from tcpmux.config.model import Route


def needs_client_hello(route: Route) -> bool:
    """Whether a TLS ClientHello is waited for and read."""
    return route.policy.preread.is_asked or any(rule.reads_hello for rule in route.rules)
