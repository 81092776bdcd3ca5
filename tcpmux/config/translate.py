"""From resources of Istio and of the Gateway API to routes."""

from __future__ import annotations

from collections.abc import Sequence

from tcpmux.config.gateway_api import gateway_api_routes
from tcpmux.config.hosts import Hosts
from tcpmux.config.istio import istio_routes
from tcpmux.config.model import Route
from tcpmux.config.resources import Given, Resource, latest


def translate(resources: Sequence[Resource], given: Given) -> list[tuple[Route, Resource]]:
    """The routes, each with the resource it is made of. Mistakes are noted in the documents."""
    current = latest(resources)
    hosts = Hosts.of(current, given)
    return [*istio_routes(current, hosts), *gateway_api_routes(current, hosts)]
