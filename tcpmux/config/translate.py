"""From resources of Istio and of the Gateway API to routes."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tcpmux.config.deliveries import with_rollouts
from tcpmux.config.gateway_api import gateway_api_routes
from tcpmux.config.hosts import Hosts
from tcpmux.config.istio import istio_routes
from tcpmux.config.model import Destination, Route
from tcpmux.config.resources import Given, Made, Resource, Translation, latest

MAX_NAME = 63  # characters of a route's or a destination's name


def translate(resources: Sequence[Resource], given: Given) -> Translation:
    """Mistakes are noted in the documents."""
    current = latest(resources)
    hosts = Hosts.of(current, given)
    istio = istio_routes(current, hosts)
    gateway_api, attachments = gateway_api_routes(current, hosts)
    made = with_rollouts([*istio, *gateway_api], current)
    return Translation(_named(made), attachments)


def _named(found: Sequence[Made]) -> list[tuple[Route, Resource]]:
    """A route has its resource's name; with as much of its namespace and kind as it takes to tell
    it from others."""
    forms = (
        lambda r: r.name,
        lambda r: f"{r.namespace}.{r.name}",
        lambda r: f"{r.kind.lower()}.{r.namespace}.{r.name}",
    )
    resources = {made.resource.key: made.resource for made in found}
    taken = [Counter(form(resource) for resource in resources.values()) for form in forms]
    routes = []
    for made in found:
        names = [form(made.resource) for form in forms]
        name = next((n for n, count in zip(names, taken, strict=True) if count[n] == 1), names[-1])
        route = replace(
            made.route,
            name=plain_name(name + made.tail),
            destinations=tuple(map(_plain_destination, made.route.destinations)),
        )
        routes.append((route, made.resource))
    return routes


def _plain_destination(destination: Destination) -> Destination:
    return replace(destination, name=plain_name(destination.name))


def plain_name(text: str) -> str:
    """A name of tcpmux's that differs from that of any other text, short of a miracle."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text, flags=re.ASCII).strip("-._")
    if name == text and len(name) <= MAX_NAME:
        return name
    tail = f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
    return f"{name[: MAX_NAME - 9].rstrip('-._')}-{tail}".lstrip("-")
