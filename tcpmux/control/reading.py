"""What can be read of an instance: the operations that change nothing. See operations.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tcpmux.control.limits import MAX_CONNECTIONS, MAX_EVENTS, MAX_FILES, MAX_NAME
from tcpmux.control.operation import (
    Call,
    Command,
    Role,
    Row,
    another_method_of,
    closed_object,
    operation,
)
from tcpmux.control.schema import (
    GROUP_KEYS,
    Access,
    ConnectionGroups,
    ConnectionList,
    Difference,
    Event,
    EventList,
    Explanation,
    FleetDocuments,
    FleetEntry,
    FleetHistory,
    FleetStatus,
    GroupKey,
    GroupOrder,
    History,
    NameList,
    Order,
    RolloutList,
    RolloutStatus,
    RouteNames,
    RouteStatus,
    Status,
)

_TEXT = {"type": "string"}
_DURATION = {"type": "string", "examples": ["10m"]}
_TEXTS = {"type": "array", "items": _TEXT}
_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
# Which connections.
_FILTERS: dict[str, dict[str, Any]] = {
    "route": _TEXT,
    "destination": _TEXT,
    "endpoint": _TEXT,
    "rule": _TEXT,
    "client": _TEXT,
    "older": _DURATION,
    "idle": _DURATION,
}
_LIMIT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": MAX_CONNECTIONS}


def _milliseconds(seconds: float) -> str | None:
    return f"{round(seconds * 1000)}ms" if seconds else None


def stream_call(route: str | None, *, rules: bool) -> Call[Any]:
    return Call(query={"route": route, "rules": "true" if rules else None})


def _filters(
    route: str | None,
    destination: str | None,
    endpoint: str | None,
    rule: str | None,
    client: str | None,
    older: float,
    idle: float,
) -> dict[str, str | None]:
    return {
        "route": route,
        "destination": destination,
        "endpoint": endpoint,
        "rule": rule,
        "client": client,
        "older": _milliseconds(older),
        "idle": _milliseconds(idle),
    }


def _status(answer: Any) -> Status:
    assert isinstance(answer["routes"], list)
    found: Status = answer
    return found


class Reading:
    """Those of a client that read."""

    @operation(
        Row(
            "POST",
            "/v1/diff",
            Role.OPERATOR,
            Difference,
            body=closed_object(
                ["files"],
                files={
                    "type": "array",
                    "items": closed_object(["name", "content"], name=_NAME, content=_TEXT),
                    "minItems": 1,
                    "maxItems": MAX_FILES,
                },
                variables={"type": "object", "additionalProperties": _TEXT},
                endpoints=_TEXTS,
            ),
            example='{"files": [{"name": "routes.yaml", "content": "..."}], "variables": {}, '
            '"endpoints": []}',
            largest_body=8 << 20,
            commands=(
                Command("diff", "Show what would change if the running instance read these files."),
            ),
        )
    )
    def diff(
        self,
        files: Sequence[tuple[str, str]],
        endpoints: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> Call[list[str]]:
        """What a reload of these files would change, one line for each route. files: the name (for
        messages) and the content of each. variables: the values of ${NAME} in them."""
        return Call(
            body={
                "files": [{"name": name, "content": content} for name, content in files],
                "variables": dict(variables or {}),
                "endpoints": list(endpoints),
            },
            unpack=lambda answer: list(answer["changes"]),
        )

    @operation(
        Row(
            "GET",
            "/v1/status",
            Role.VIEWER,
            Status,
            commands=(
                Command(
                    "status",
                    "Show what is wrong, the workers, the routes and how connections were split.",
                ),
                Command(
                    "routes",
                    "Show the routes: where they listen, and the share of each destination.",
                    "readings.routes",
                ),
                Command(
                    "stats",
                    "Show the counters of every destination, including why connections ended, "
                    "and of every worker.",
                    "readings.stats",
                ),
            ),
        )
    )
    def status(self) -> Call[Status]:
        """State, workers, routes and their counters."""
        return Call(unpack=_status)

    @another_method_of(status)
    def routes(self) -> Call[list[RouteStatus]]:
        """The routes of status()."""
        return Call(unpack=lambda answer: list(answer["routes"]))

    @operation(
        Row(
            "GET",
            "/v1/routes/{route}/explanation",
            Role.VIEWER,
            Explanation,
            query={
                "source": _TEXT,
                "port": _TEXT,
                "sni": _TEXT,
                "alpn": _TEXTS,
                "tls": {"enum": ["true", "false"]},
                "tlv": _TEXTS,
            },
            commands=(
                Command("explain", "Tell which destinations a connection would get, and why."),
            ),
        )
    )
    def explain(
        self,
        route: str,
        *,
        source: str | None = None,
        port: str | None = None,
        sni: str | None = None,
        alpn: Sequence[str] = (),
        tls: bool | None = None,
        tlvs: Sequence[str] = (),
    ) -> Call[Explanation]:
        """Which rule of a route a connection would meet, and the share of each destination. source:
        its client, an address or unix. port: a port, or an address of listen. sni, alpn: of its
        ClientHello; tls: whether it begins with one. tlvs: those of its PROXY header, such as
        0xEA=vpce-123. What is not said is not met by any rule that asks for it."""
        return Call(
            {"route": route},
            {
                "source": source,
                "port": port,
                "sni": sni,
                "alpn": list(alpn) or None,
                "tls": None if tls is None else str(tls).lower(),
                "tlv": list(tlvs) or None,
            },
        )

    @operation(Row("GET", "/v1/names", Role.VIEWER, NameList))
    def names(self) -> Call[list[RouteNames]]:
        """The names of all routes, destinations and rules, and the addresses of endpoints."""
        return Call(unpack=lambda answer: list(answer["routes"]))

    @operation(
        Row(
            "GET",
            "/v1/connections",
            Role.VIEWER,
            ConnectionList,
            query={
                **_FILTERS,
                "sort": {"type": "string", "examples": ["-bytes_in"]},
                "limit": _LIMIT,
            },
            commands=(Command("conns", "List the live connections."),),
        )
    )
    def connections(
        self,
        *,
        route: str | None = None,
        destination: str | None = None,
        endpoint: str | None = None,
        rule: str | None = None,
        client: str | None = None,
        older: float = 0.0,
        idle: float = 0.0,
        sort: Order = "age",
        limit: int = 1000,
    ) -> Call[ConnectionList]:
        """The open connections. endpoint: an address. rule: that they have met. client: an
        address or a network. older, idle: at least so many seconds. sort: age, idle, bytes_in,
        bytes_out or client, greatest first; with a "-" before it, least first. limit: 0..20000
        rows; `total` counts all."""
        return Call(
            query={
                **_filters(route, destination, endpoint, rule, client, older, idle),
                "sort": sort,
                "limit": limit,
            }
        )

    @operation(
        Row(
            "GET",
            "/v1/connections/groups",
            Role.VIEWER,
            ConnectionGroups,
            query={
                "by": {"enum": list(GROUP_KEYS)},
                **_FILTERS,
                "sort": {"type": "string", "examples": ["-bytes_in"]},
                "limit": _LIMIT,
            },
        )
    )
    def connection_groups(
        self,
        by: GroupKey,
        *,
        route: str | None = None,
        destination: str | None = None,
        endpoint: str | None = None,
        rule: str | None = None,
        client: str | None = None,
        older: float = 0.0,
        idle: float = 0.0,
        sort: GroupOrder = "connections",
        limit: int = 1000,
    ) -> Call[ConnectionGroups]:
        """Numbers of open connections and their bytes, grouped. by: route, destination, endpoint
        or client. sort: connections, bytes_in, bytes_out or age. Everything else as for
        connections()."""
        return Call(
            query={
                "by": by,
                **_filters(route, destination, endpoint, rule, client, older, idle),
                "sort": sort,
                "limit": limit,
            }
        )

    @operation(
        Row(
            "GET",
            "/v1/events",
            Role.VIEWER,
            EventList,
            query={"since": {"type": "integer", "minimum": 0, "maximum": MAX_EVENTS}},
            commands=(
                Command(
                    "events",
                    "Show events: reloads, weight changes, deaths, with who caused them and when.",
                    "events.events",
                ),
            ),
        )
    )
    def events(self, since: int = 0) -> Call[list[Event]]:
        """The events after number `since`, the oldest first; at most the last 1,000."""
        return Call(query={"since": since}, unpack=lambda answer: list(answer["events"]))

    @operation(Row("GET", "/v1/history", Role.VIEWER, History, query={"route": _TEXT}))
    def history(self, route: str | None = None) -> Call[History]:
        """The last hour of a route's destinations, with the events in it. Without a route, only
        the events."""
        return Call(query={"route": route})

    @operation(Row("GET", "/v1/rollouts", Role.VIEWER, RolloutList, query={"route": _TEXT}))
    def rollouts(self, route: str | None = None) -> Call[list[RolloutStatus]]:
        """The rollouts of all routes that have, or had, one, with those that are over; or of one
        route."""
        return Call(query={"route": route}, unpack=lambda answer: list(answer["rollouts"]))

    @operation(
        Row(
            "GET",
            "/v1/fleet",
            Role.VIEWER,
            FleetStatus,
            commands=(Command("fleet", "Show the fleet, or change all its hosts at once."),),
        )
    )
    def fleet(self) -> Call[FleetStatus]:
        """The fleet that this instance is in: its hosts, documents and weights."""
        return Call()

    @operation(Row("GET", "/v1/fleet/documents", Role.VIEWER, FleetDocuments))
    def fleet_documents(self) -> Call[FleetDocuments]:
        """The documents of the fleet, as they were written."""
        return Call()

    @operation(Row("GET", "/v1/fleet/history", Role.VIEWER, FleetHistory))
    def fleet_history(self) -> Call[list[FleetEntry]]:
        """The last 100 changes of the fleet: who, when, why and what."""
        return Call(unpack=lambda answer: list(answer["entries"]))

    # Of many answers: each client has a method of its own for it, which calls stream_call().
    stream_row = Row(
        "GET",
        "/v1/stream",
        Role.VIEWER,
        str,
        media="text/event-stream",
        query={"route": _TEXT, "rules": {"type": "boolean"}},
        commands=(Command("top", "Watch the split, the rates and the connections, live."),),
        name="stream",
        help="Counters every second, as server-sent events.",
    )

    @operation(Row("GET", "/healthz", Role.ANYONE, str, media="text/plain"))
    def healthz(self) -> Call[str]:
        """`ok` if the instance serves; 503 if no worker runs. Needs no token."""
        return Call()

    @operation(Row("GET", "/readyz", Role.ANYONE, str, media="text/plain"))
    def readyz(self) -> Call[str]:
        """`ok` if the instance accepts new connections. Otherwise 503 with a line for each reason:
        it drains, no worker runs, every route is down, or a route that is not down does not listen.
        Needs no token."""
        return Call()

    @operation(Row("GET", "/v1/access", Role.VIEWER, Access))
    def access(self) -> Call[Access]:
        """What the caller may do: `operator`, everything; `viewer`, read."""
        return Call()

    @operation(Row("GET", "/v1/openapi.json", Role.VIEWER, dict))
    def openapi(self) -> Call[dict[str, Any]]:
        """The OpenAPI document of the admin API."""
        return Call()

    @operation(Row("GET", "/metrics", Role.VIEWER, str, media="text/plain"))
    def metrics(self) -> Call[str]:
        """The metrics, in the format of Prometheus."""
        return Call()
