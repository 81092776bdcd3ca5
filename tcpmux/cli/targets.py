"""What a command is about: a route, a destination or an endpoint, as people name them.

    ROUTE
    ROUTE/DESTINATION
    ROUTE/DESTINATION/ADDRESS
    DESTINATION, ADDRESS      where only one thing has that name; an address: every endpoint with it

A name may be followed by a slash, so that `web/` is the route where a destination is called web as
well. Names are compared as a whole, since an address such as unix:/run/a.sock has slashes, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tcpmux.cli.output import print_applied
from tcpmux.control.asking import Refused
from tcpmux.errors import TcpmuxError, listed, printable
from tcpmux.nearest import did_you_mean

if TYPE_CHECKING:
    from tcpmux.control.client import Client, DestinationStatus, RouteNames, RouteStatus
    from tcpmux.control.schema import AdminState, StateTarget

MAX_LISTED = 10  # that a name could stand for
MAX_NAMED = 20  # that there are
NOT_FOUND = 404  # HTTP status


@dataclass(frozen=True, slots=True)
class Target:
    """destination None: the whole route. endpoint None: the whole destination."""

    route: str
    destination: str | None = None
    endpoint: str | None = None

    def as_json(self) -> dict[str, str]:
        """As the API wants it, without what is None."""
        parts = {"route": self.route, "destination": self.destination, "endpoint": self.endpoint}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def whole(self) -> Target | None:
        """What it is a part of."""
        if self.destination is None:
            return None
        return Target(self.route, self.destination if self.endpoint is not None else None)

    def covers(self, other: Target) -> bool:
        """Whether the other is the same, or a part of it."""
        whole = other.whole
        return other == self or (whole is not None and self.covers(whole))

    @property
    def last_name(self) -> str:
        """Without what it is a part of."""
        return self.endpoint or self.destination or self.route

    def __str__(self) -> str:
        return "/".join(filter(None, (self.route, self.destination, self.endpoint)))


def names(instance: Client) -> Sequence[RouteNames | RouteStatus]:
    """Of all routes, destinations and endpoints. Raises AdminError."""
    try:
        return instance.names()
    except Refused as error:
        if error.status != NOT_FOUND:
            raise
        return instance.routes()  # a running instance of a build before this one


def find_in(instance: Client, text: str) -> list[Target]:
    """As find(), in a running instance."""
    return find(names(instance), text)


def find_all(routes: Sequence[RouteNames | RouteStatus], texts: Sequence[str]) -> list[Target]:
    """As find(), of several names: each target once."""
    return list(dict.fromkeys(target for text in texts for target in find(routes, text)))


def find(routes: Sequence[RouteNames | RouteStatus], text: str) -> list[Target]:
    """What a name stands for: one target, or every endpoint with that address. Raises TcpmuxError
    if there is none, or several that it could be."""
    every = list(dict.fromkeys(each(routes)))
    found = [target for target in every if str(target) == text.removesuffix("/")]
    if not text.endswith("/") and all(target.destination is None for target in found):
        others = [t for t in every if t.destination is not None and t.last_name == text]
        # The only destination of a route that has its name: for its clients the two are the same.
        found += [] if found and others == parts(routes, found) else others
    if not found:
        raise _rule_instead(routes, text) or _unknown(every, text)
    if len(found) > 1 and not all(target.endpoint for target in found):
        raise _ambiguous(text, found)
    return found


def each(routes: Sequence[RouteNames | RouteStatus]) -> Iterator[Target]:
    """Every target, each followed by its parts."""
    for route in routes:
        yield Target(route["name"])
        for destination in route["destinations"]:
            yield Target(route["name"], destination["name"])
            for endpoint in destination["endpoints"]:
                yield Target(route["name"], destination["name"], _address(endpoint))


def _address(endpoint: Any) -> str:
    """Of one in a RouteNames or in a RouteStatus."""
    return endpoint if isinstance(endpoint, str) else str(endpoint["address"])


def rules_of(route: RouteNames | RouteStatus) -> list[str]:
    """The names of its rules; an older build does not tell."""
    found: Sequence[Any] = route.get("rules", ())
    return [rule if isinstance(rule, str) else str(rule["name"]) for rule in found]


def parts(routes: Sequence[RouteNames | RouteStatus], found: Sequence[Target]) -> list[Target]:
    """The same with the destinations of a route instead of the route, as changes need it."""
    made: list[Target] = []
    for target in found:
        if target.destination is None:
            route = next(route for route in routes if route["name"] == target.route)
            made += (Target(target.route, d["name"]) for d in route["destinations"])
        else:
            made.append(target)
    return made


def _ambiguous(text: str, found: Sequence[Target]) -> TcpmuxError:
    routes = [f"{target}/ (the route)" for target in found if target.destination is None]
    others = [str(target) for target in found if target.destination is not None]
    those = printable(listed([*routes, *others], MAX_LISTED))
    return TcpmuxError(f"{text!r} is ambiguous: use one of {those}")


def _rule_instead(routes: Sequence[RouteNames | RouteStatus], text: str) -> TcpmuxError | None:
    """What to do about it, if it is the name of a rule."""
    for route in routes:
        name = text.removeprefix(f"{route['name']}/")
        if name != text and name in rules_of(route):
            return TcpmuxError(
                f"{text!r} is a rule of route {route['name']}, and this is about destinations: "
                f"rules have weights (`tcpmux weight {text} DESTINATION=WEIGHT`) and connections "
                f"(`tcpmux conns --rule {name}`)"
            )
    return None


def _unknown(every: Sequence[Target], text: str) -> TcpmuxError:
    """In the words in which an instance refuses an unknown name."""
    whole = max(
        (t for t in every if t.endpoint is None and text.startswith(f"{t}/")),
        key=lambda target: len(str(target)),
        default=None,
    )
    if whole is None:
        # Endpoints may be many, and to compare with all of them takes long.
        alike = [t for t in every if t.endpoint is None or ":" in text]
        known = list(dict.fromkeys(name for t in alike for name in (t.last_name, str(t))))
        hint = did_you_mean(text, known) or "`tcpmux routes` lists them"
        return TcpmuxError(f"no route, destination or endpoint named {text!r}: {hint}")
    name = text.removeprefix(f"{whole}/")
    inside = [t.last_name for t in every if t.whole == whole]
    hint = did_you_mean(name, inside) or f"there are {', '.join(inside[:MAX_NAMED]) or 'none'}"
    what = "destination of route" if whole.destination is None else "endpoint of"
    return TcpmuxError(f"no {what} {whole} named {name!r}: {hint}")


STATES: dict[str, AdminState] = {
    "drain": "draining",
    "disable": "disabled",
    "enable": "ready",
    "ready": "ready",
}


def change(
    instance: Client, found: Sequence[Target], verb: str, *, force: bool, seconds: float = 0.0
) -> None:
    """Does it for all of them or for none, and says what changed. found: no whole routes, see
    parts(). verb: of STATES. Raises TcpmuxError."""
    applied = instance.set_states(
        [cast("StateTarget", target.as_json()) for target in found],
        STATES[verb],
        force=force,
        seconds=seconds,
    )
    print_applied(applied, f"nothing changed: {', '.join(map(str, found))} already {STATES[verb]}")


def narrowed(routes: Sequence[RouteStatus], wanted: Sequence[Target]) -> list[RouteStatus]:
    """What they cover, in the order in which their routes are first named: of a route that is not
    wanted itself some destinations, of such a destination some endpoints."""
    by_name = {route["name"]: route for route in routes}
    found: list[RouteStatus] = []
    for name in dict.fromkeys(target.route for target in wanted):
        route = by_name[name].copy()
        if Target(name) not in wanted:
            own = [target for target in wanted if target.route == name]
            destinations = [
                _part_of(d, Target(name, d["name"]), own) for d in route["destinations"]
            ]
            route["destinations"] = [d for d in destinations if d is not None]
        found.append(route)
    return found


def _part_of(
    destination: DestinationStatus, target: Target, wanted: Sequence[Target]
) -> DestinationStatus | None:
    inside = {one.endpoint for one in wanted if target.covers(one)}
    if not inside or None in inside:  # None: the whole of it
        return destination if inside else None
    part = destination.copy()
    part["endpoints"] = [e for e in destination["endpoints"] if e["address"] in inside]
    return part


def active(routes: Sequence[RouteStatus], targets: Sequence[Target]) -> int:
    """How many connections they have open. targets: no whole routes."""
    wanted = set(targets)
    count = 0
    for route in routes:
        for destination in route["destinations"]:
            if Target(route["name"], destination["name"]) in wanted:
                count += destination["connections_active"]
                continue
            for endpoint in destination["endpoints"]:
                if Target(route["name"], destination["name"], endpoint["address"]) in wanted:
                    count += endpoint["connections_active"]
    return count
