"""What is wrong now, worst first: what it is, why, since when, and what to do about it. Runs in
control.

A cause is told once, of the largest thing that it makes unusable: a route that is down, and not
each of its destinations and endpoints as well.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tcpmux.control.condition import BY_URGENCY, DEGRADED, DOWN, HEALTHY, Condition
from tcpmux.control.condition_rules import (
    loses_clients,
    rules_lost,
    share_of,
    takes_connections,
)
from tcpmux.errors import plural
from tcpmux.shm._declared import ABSENT, ORDER_RETIRE, PRESENT, UPGRADE_STATES
from tcpmux.shm.serving import serves, shift_elsewhere
from tcpmux.shm.stats import is_any_at_work, programs

if TYPE_CHECKING:
    from tcpmux.control.schema import LastReload
    from tcpmux.control.schema import Problem as ProblemJson
    from tcpmux.shm._live import Live
    from tcpmux.shm.image import DestinationRow, RouteRow
    from tcpmux.shm.view import View

MAX_PROBLEMS = 200  # told
SEVERITIES = ERROR, WARNING = "error", "warning"  # clients lose by it now; redundancy is lost


@dataclass(frozen=True, slots=True)
class DestinationConditions:
    """endpoints: by address; names: those of its host names that are in trouble."""

    own: Condition
    endpoints: Mapping[str, Condition]
    names: Mapping[str, Condition]


class Problem(NamedTuple):
    """text: what and why; action: what to do. Both one line. None: it is not about one."""

    severity: str
    route: str | None
    destination: str | None
    endpoint: str | None
    condition: str
    text: str
    since: float | None
    action: str

    def as_json(self) -> ProblemJson:
        return self._asdict()  # type: ignore[return-value]

    @property
    def order(self) -> tuple[object, ...]:
        """The worst first, then the oldest."""
        place = (self.route, self.destination, self.endpoint)
        return (
            self.severity != ERROR,
            BY_URGENCY.index(self.condition),
            sum(part is not None for part in place),
            self.since or 0.0,
            *(part or "" for part in place),
        )


def worst(problems: Iterable[Problem]) -> list[Problem]:
    """At most MAX_PROBLEMS of them, in order."""
    return heapq.nsmallest(MAX_PROBLEMS, problems, key=lambda problem: problem.order)


# --- of a route ---------------------------------------------------------------------------------


def problems_of_route(
    route: RouteRow, own: Condition, destinations: Mapping[str, DestinationConditions]
) -> list[Problem]:
    """Those of a route and of what belongs to it. destinations: by name."""
    if own.word == HEALTHY and all(
        at.own.word == HEALTHY and not at.names for at in destinations.values()
    ):
        return []  # most
    return list(_of_route(route, own, destinations))


def _of_route(
    route: RouteRow, own: Condition, destinations: Mapping[str, DestinationConditions]
) -> Iterator[Problem]:
    lost = own.word not in (HEALTHY, DEGRADED)
    if lost:
        yield Problem(
            ERROR,
            route.name,
            None,
            None,
            own.word,
            own.reason,
            own.since,
            _route_action(route, own, destinations),
        )
    elif route.pick_rules:
        yield from _of_some_clients(route, own, [at.own for at in destinations.values()])
    for row in route.destinations:
        at = destinations[row.name]
        if lost and row.weight:
            continue  # the route's own problem covers it
        yield from _of_destination(route, row, at)


def _of_some_clients(
    route: RouteRow, own: Condition, destinations: Sequence[Condition]
) -> Iterator[Problem]:
    """Of a route that serves others: of those of a rule, or of those that meet none."""
    lost = rules_lost(route, destinations)
    weights: Sequence[int] = [row.weight for row in route.destinations]
    if lost:
        path, weights = f"{route.name}/{lost[0].name}", lost[0].weights
    elif any(weights) and not takes_connections(route, destinations):
        path = route.name
    else:
        return
    pairs = list(zip(route.destinations, weights, strict=True))
    other = next((row.name for row, _ in pairs if serves(row)), "DESTINATION")
    zeros = (f" {row.name}=0" for row, weight in pairs if weight and row.name != other)
    action = f"Shift to {other}: tcpmux weight {path} {other}=100{''.join(zeros)}"
    yield Problem(ERROR, route.name, None, None, own.word, own.reason, own.since, action)


def _route_action(
    route: RouteRow, own: Condition, destinations: Mapping[str, DestinationConditions]
) -> str:
    name = route.name
    if own.word != DOWN:
        return f"Put a destination back: tcpmux enable {name}/{route.destinations[0].name}"
    if not any(row.weight for row in route.destinations):
        first = route.destinations[0].name if route.destinations else "DESTINATION"
        return f"Give a destination weight: tcpmux weight {name} {first}=100"
    weighted = [row for row in route.destinations if row.weight]
    other, command = shift_elsewhere(route)
    if other:
        return f"Shift to {other}: {command}"
    if len(weighted) == 1:
        (row,) = weighted
        return _destination_action(route, row, destinations[row.name])
    return f"Repair its endpoints: `tcpmux status {name}` lists them"


def _of_destination(
    route: RouteRow, row: DestinationRow, at: DestinationConditions
) -> Iterator[Problem]:
    own = at.own
    if own.word == DOWN:
        loses = bool(row.weight) and loses_clients(row)
        share = share_of(route, row) if row.weight else _without_weight(route, row)
        yield Problem(
            ERROR if loses else WARNING,
            route.name,
            row.name,
            None,
            DOWN,
            f"{own.reason}; {share}",
            own.since,
            _shift_away(route, row) if loses else _destination_action(route, row, at),
        )
        return
    if row.panic:
        yield Problem(
            WARNING,
            route.name,
            row.name,
            None,
            own.word,
            own.reason,
            own.since,
            f"Repair those that are down: `tcpmux status {route.name}` lists them",
        )
    for address, endpoint in at.endpoints.items():
        if endpoint.word in (DOWN, DEGRADED):
            yield Problem(
                WARNING,
                route.name,
                row.name,
                address,
                endpoint.word,
                endpoint.reason,
                endpoint.since,
                _endpoint_action(address, endpoint),
            )
    for name, trouble in at.names.items():
        yield Problem(
            WARNING,
            route.name,
            row.name,
            name,
            trouble.word,
            trouble.reason,
            trouble.since,
            NAME_ACTION,
        )


def _without_weight(route: RouteRow, row: DestinationRow) -> str:
    at = route.destinations.index(row)
    named = [rule.name for rule in route.pick_rules if rule.weights[at]]
    more = f" (and {len(named) - 1} more)" if len(named) > 1 else ""
    return f"it has weight in rule {named[0]}{more}" if named else "it has weight 0"


NAME_ACTION = "Correct the name, its DNS record or `dns`; it is looked up again by itself"


def _shift_away(route: RouteRow, row: DestinationRow) -> str:
    return f"Take its share away: tcpmux drain {route.name}/{row.name}; then repair it"


def _destination_action(route: RouteRow, row: DestinationRow, at: DestinationConditions) -> str:
    if not row.is_meant_to_serve:
        return "Give it an endpoint in the configuration, and reload"
    if at.names and not at.endpoints:
        return NAME_ACTION
    addresses = list(at.endpoints)
    if len(addresses) == 1:
        return _endpoint_action(addresses[0], at.endpoints[addresses[0]])
    return f"Repair its endpoints: `tcpmux status {route.name}` lists them"


def _endpoint_action(address: str, at: Condition) -> str:
    what = "Start or repair the server" if at.word == DOWN else "Examine the server"
    return f"{what} at {address}"


# --- of the instance ----------------------------------------------------------------------------


def last_reload(view: View) -> LastReload:
    """As the status has it. Before the first one: the start, which has read the files."""
    time, error = view.table.last_reload
    return {"ok": not error, "time": float(time) if time else None, "error": error}


def problems_of_instance(
    view: View,
    *,
    master_gone: bool,
    behind: Iterable[tuple[int, float]],
    master_silent: float | None = None,
) -> Iterator[Problem]:
    """Those of no route. behind: workers that use an older route table, and since when.
    master_silent: since when a master that runs has answered nothing."""
    if master_gone:
        yield _of_instance(
            WARNING,
            "the master has ended: connections are served, but nothing can be changed",
            "Start tcpmux again with the same files: it takes over",
        )
    if master_silent is not None:
        pid = view.table.master_pid
        yield _of_instance(
            WARNING,
            "the master is stopped or hangs: connections are served, but nothing can be changed",
            f"Continue it: kill -CONT {pid}; if it stays silent, kill -KILL {pid} and start tcpmux "
            "again with the same files: it takes over",
            master_silent,
        )
    yield from _of_processes(view)
    reload = last_reload(view)
    if not reload["ok"]:
        text = "the last reload was refused; the previous configuration is in force"
        then = "Correct the files (tcpmux check), then: tcpmux reload"
        yield _of_instance(WARNING, f"{text}: {reload['error']}", then, reload["time"])
    _, state, error = view.table.upgrade
    if UPGRADE_STATES[state] == "failed":
        text = f"the last upgrade failed; the previous build is running: {error}"
        yield _of_instance(WARNING, text, "Remove the cause, then: tcpmux upgrade")
    for worker, since in behind:
        text = f"worker {worker} uses an older route table than the one in force"
        then = "If this persists, see `tcpmux workers` and the log"
        yield _of_instance(WARNING, text, then, since)


def _of_processes(view: View) -> Iterator[Problem]:
    lives = [live for live in view.lives if live.guardian_pid]
    serves = is_any_at_work(lives)
    if not serves:
        text = "no worker runs: new connections wait"
        yield _of_instance(ERROR, text, "See the log for the reason")
    for live in lives:
        if live.presence in (PRESENT, ABSENT):
            continue
        count = live.connections
        follows = [f"its {plural(count, 'connection')} wait"] if count else []
        follows += ["others accept for it"] if serves else []
        text = f"worker {live.worker} is stopped or hangs: {', '.join(follows)}".removesuffix(": ")
        then = "It is replaced within seconds; the log says why"
        yield _of_instance(ERROR if count else WARNING, text, then)
    yield from _of_limits(lives)
    for program in programs(view.table):
        if not program.is_at_work and program.name != "control":  # this is control
            text = f"the {program.name} process is stopped, hangs or has ended: the access log "
            text += "may lose lines"
            yield _of_instance(WARNING, text, "It is started again by itself; the log says why")


def _of_limits(lives: list[Live]) -> Iterator[Problem]:
    """Workers that have as many connections as they have room for, of those that accept."""
    accepting = [
        live for live in lives if live.presence == PRESENT and not live.orders & ORDER_RETIRE
    ]
    full = [live for live in accepting if live.connections >= live.capacity]
    if full:
        others = len(full) < len(accepting)
        names = ", ".join(str(live.worker) for live in full)
        text = f"at the limit of {full[0].capacity} connections: worker {names}; "
        text += "others accept for it" if others else "new clients wait"
        then = "Raise the limit of descriptors (ulimit -n, LimitNOFILE=), then restart"
        yield _of_instance(WARNING if others else ERROR, text, then)


def _of_instance(severity: str, text: str, action: str, since: float | None = None) -> Problem:
    word = DOWN if severity == ERROR else DEGRADED
    return Problem(severity, None, None, None, word, text, since, action)
