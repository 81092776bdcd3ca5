"""What a command is about: a destination or an endpoint, as people name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcpmux.cli.output import print_applied
from tcpmux.errors import TcpmuxError
from tcpmux.nearest import did_you_mean

if TYPE_CHECKING:
    from tcpmux.control.client import Client, RouteStatus


@dataclass(frozen=True, slots=True)
class Target:
    """endpoint None: the whole destination."""

    route: str
    destination: str
    endpoint: str | None = None

    def as_json(self) -> dict[str, str]:
        """As the API wants it."""
        found = {"route": self.route, "destination": self.destination}
        return found if self.endpoint is None else {**found, "endpoint": self.endpoint}

    def __str__(self) -> str:
        whole = f"{self.route}/{self.destination}"
        return f"{whole}/{self.endpoint}" if self.endpoint else whole


def find(routes: Sequence[RouteStatus], text: str) -> list[Target]:
    """DESTINATION, ROUTE/DESTINATION, ROUTE/DESTINATION/ADDRESS or ADDRESS: an address means all
    endpoints with it. Raises TcpmuxError if there is none, or a destination is in several routes.
    """
    known: dict[str, list[Target]] = {}

    def add(name: str, target: Target) -> None:
        known.setdefault(name, []).append(target)

    endpoints: dict[str, list[Target]] = {}
    for route in routes:
        for destination in route["destinations"]:
            whole = Target(route["name"], destination["name"])
            add(whole.destination, whole)
            add(str(whole), whole)
            for endpoint in destination["endpoints"]:
                one = Target(whole.route, whole.destination, endpoint["address"])
                add(str(one), one)
                endpoints.setdefault(endpoint["address"], []).append(one)
    if text in endpoints:
        return endpoints[text]
    found = known.get(text)
    if found is None:
        near = did_you_mean(text, [*known, *endpoints])
        hint = near or "`tcpmux status --json` lists them all"
        raise TcpmuxError(f"there is no destination or endpoint {text!r}: {hint}")
    if len(found) > 1:
        listed = ", ".join(map(str, found[:10]))
        raise TcpmuxError(f"{text} is in {len(found)} routes: say which: {listed}")
    return found


STATES = {"drain": "draining", "disable": "disabled", "enable": "ready", "ready": "ready"}


def change(
    instance: Client, found: Sequence[Target], verb: str, *, force: bool, seconds: float = 0.0
) -> None:
    """Does it for all of them or for none, and says what changed. verb: of STATES. Raises
    TcpmuxError."""
    applied = instance.set_states(
        [target.as_json() for target in found], STATES[verb], force=force, seconds=seconds
    )
    names = ", ".join(map(str, found))
    print_applied(applied, f"{names}: it is already like that")


def active(routes: Sequence[RouteStatus], targets: Sequence[Target]) -> int:
    """How many connections they have open."""
    count = 0
    for route in routes:
        for destination in route["destinations"]:
            for target in targets:
                if (target.route, target.destination) != (route["name"], destination["name"]):
                    continue
                if target.endpoint is None:
                    count += destination["connections_active"]
                else:
                    count += sum(
                        endpoint["connections_active"]
                        for endpoint in destination["endpoints"]
                        if endpoint["address"] == target.endpoint
                    )
    return count
