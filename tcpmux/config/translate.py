"""From resources of Istio and of the Gateway API to routes."""

from __future__ import annotations

from collections.abc import Sequence

from tcpmux.config.gateway_api import gateway_api_routes
from tcpmux.config.hosts import Hosts
from tcpmux.config.istio import istio_routes
from tcpmux.config.model import Route
from tcpmux.config.problems import Problem
from tcpmux.config.resources import Given, Resource, latest


def translate(
    resources: Sequence[Resource], given: Given, problems: list[Problem]
) -> list[tuple[Route, Resource]]:
    """The routes, each with the resource it is made of. Mistakes are noted in the documents."""
    current = latest(resources)
    hosts = Hosts.of(current, given)
    found = [*istio_routes(current, hosts), *gateway_api_routes(current, hosts)]
    faulty = any(resource.document.problems for resource in current)
    if not found and not faulty and not problems:
        first = resources[0]
        first.problem("no route comes of these files: expected a VirtualService or a TCPRoute")
    return found
