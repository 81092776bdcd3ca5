"""What control may ask of the master: one method a verb. Runs in the master.

    reload       look_up            the files again
    diff         files, variables, endpoints
                                    what that would change: contents, and what ${NAME} stands for
    addresses    found, level, text what host names mean now, and what is to be said of them
    set_weights  route, weights, force, rollback
                                    numbers, or steps such as "+5"; rollback: of a rollout
    undo         route, force       the weights before the last change
    set_mirror   route, percent, to
    saved_weights  route, weights  the files have these now
    set_states   targets, state, force, seconds
                                    each target has a route, a destination, perhaps an endpoint
    conditions   conditions, texts  [route, destination, endpoint or null, health, percent], ...;
                                    [level, line for the log], ...
    checks       first              how endpoints are to be watched, from that destination on
    set_workers  count
    kill         ids, told          resets connections; the events speak of so many
    rehome       moves, quiet_ms, ordered_ms
                                    id of a connection and slot of the destination that it is to go
                                    on with, each, when it is quiet; as of converge
    converge     ids, quiet_ms, late, ordered_ms
                                    closes those that are quiet now; late: resets them; decided at
                                    that monotonic ms, and good for a second
    convergence_says   route, text, level
                                    a line for the log and the events
    start_convergence  route, settings
                                    live connections follow the weights: control chooses them
    end_convergence    route, began_ms, text, level
                                    no longer; text: what control has to say of it, at that level
    rollout_plan route              what the files say of one, with its hooks
    fleet_now                       what it has said that is in force
    fleet_check  state              what that would change: as FleetState has it
    fleet        state, look_up, again
                                    puts it in force, as a reload; again: whose weights replace
                                    those that were set here
    fleet_weights route, weights, base, force
                                    all weights of a route as set_weights would have them, where
                                    the fleet has those of base; none is set
    fleet_place  place              of this host among those of the fleet
    fleet_says   text, level        a line for the log and the events
    rollout_says route, text, level, running
                                    a line for the log and the events; running: the routes whose
                                    rollouts are under way. The answer: those that were, and are
                                    not any more (over)
    events       since              what has happened after that number
    fault        text               of control itself: an event
    log_level    level
    upgrade
    stop         now

Each may say `by`: who asked for it. A request is carried out as a whole or refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tcpmux.config import Config, Text, checks, load_texts
from tcpmux.config.checks import Watch
from tcpmux.config.fleet import FleetState
from tcpmux.connection_id import parse_id
from tcpmux.errors import plural, printable
from tcpmux.levels import Line, Where, level_from, where_from
from tcpmux.log_style import LEVELS
from tcpmux.master.answers import Answer, Later, Refusal
from tcpmux.master.aside import Aside
from tcpmux.master.change import Change, Done, Places, unknown
from tcpmux.master.changes import Changes
from tcpmux.master.convergence import EndConvergence, StartConvergence
from tcpmux.master.events import MAX_TEXT, Events
from tcpmux.master.fleet import HostFleet
from tcpmux.master.helper_programs import HelperPrograms
from tcpmux.master.line import Line as WorkerLine
from tcpmux.master.mirror import SetMirror
from tcpmux.master.names import from_request
from tcpmux.master.observed import SetAddresses, SetConditions
from tcpmux.master.reloads import Reloads
from tcpmux.master.rollouts import RollBack, RolloutWatch
from tcpmux.master.states import SetStates
from tcpmux.master.stopping import Stopping
from tcpmux.master.upgrade import Upgrade
from tcpmux.master.weights import SavedWeights, SetWeights, Split, UndoWeights
from tcpmux.master.workers import Workers
from tcpmux.messages import Verb
from tcpmux.rollout.plan import in_file_as_json
from tcpmux.shm.serving import Condition
from tcpmux.shm.slots import Key
from tcpmux.worker.messages import CONVERGE, KILL, REHOME

log = logging.getLogger("tcpmux.master")

Request = dict[str, Any]
CHECKS_AT_ONCE = 1000  # destinations
CHECKS_SIZE = 1 << 20  # bytes, about
LOW = (1 << 32) - 1


class Parts(Protocol):
    """What they are carried out on: a master."""

    aside: Aside
    changes: Changes
    events: Events
    fleet: HostFleet
    helpers: HelperPrograms
    reloads: Reloads
    rollouts: RolloutWatch
    stopping: Stopping
    upgrade: Upgrade
    workers: Workers

    @property
    def draining(self) -> bool: ...
    def set_workers(self, count: object, by: str) -> Done: ...
    def denied(self, config: Config) -> list[str]: ...
    def begin_upgrade(self) -> None: ...


class Requests:
    """Carries them out for one master."""

    def __init__(self, master: Parts) -> None:
        self._master = master
        self._watches: tuple[Config | None, list[tuple[str, str, Watch]]] = (None, [])
        self._verbs: dict[Verb, Callable[[Request], Answer]] = {
            "reload": self._reload,
            "diff": self._diff,
            "addresses": self._addresses,
            "set_weights": self._set_weights,
            "undo": self._undo,
            "set_mirror": self._set_mirror,
            "saved_weights": self._saved_weights,
            "set_states": self._set_states,
            "conditions": self._conditions,
            "checks": self._checks,
            "set_workers": self._set_workers,
            "kill": self._kill,
            "converge": self._converge,
            "rehome": self._rehome,
            "convergence_says": self._convergence_says,
            "start_convergence": self._start_convergence,
            "end_convergence": self._end_convergence,
            "fleet_now": self._fleet_now,
            "fleet_check": self._fleet_check,
            "fleet": self._fleet,
            "fleet_weights": self._fleet_weights,
            "fleet_place": self._fleet_place,
            "fleet_says": self._fleet_says,
            "rollout_plan": self._rollout_plan,
            "rollout_says": self._rollout_says,
            "log_level": self._log_level,
            "upgrade": self._upgrade,
        }

    def answer(self, request: Request) -> Answer:
        """Raises TcpmuxError to refuse."""
        verb = request.get("verb", "")
        if verb == "events":
            events = self._master.events.after(request["since"])
            return {"events": [event.as_json() for event in events]}
        if verb == "fault":
            text = printable(str(request.get("text")))[:MAX_TEXT]
            log.error("control: %s", text, extra={"event": "control"})
            return {}
        if verb == "stop":
            self._master.stopping.begin(
                "stop requested", by=request.get("by", ""), at_once=bool(request.get("now"))
            )
            return {"pid": os.getpid()}
        if self._master.draining:
            raise Refusal("refused", "tcpmux is draining and accepts no changes")
        if verb not in self._verbs:
            raise Refusal("invalid", f"unknown verb {verb!r}")
        return self._verbs[verb](request)

    # --- the files --------------------------------------------------------------------------

    def _reload(self, request: Request) -> dict[str, Any]:
        """With look_up, names that nobody has looked up come back instead: to be told as
        `addresses` first."""
        done = self._master.reloads.asked(_by(request), look_up=bool(request.get("look_up")))
        if isinstance(done, Done):
            changes = self._master.changes
            changes.log_late_workers()
            denied = self._master.denied(done.after.config)
            return changes.applied(done.changes, [*done.warnings, *changes.loops(), *denied])
        config, unknown = done
        return {
            "unknown": list(map(str, unknown)),
            "servers": list(map(str, config.dns_servers)),
        }

    def _diff(self, request: Request) -> Later:
        """Whoever may ask may send anything, so it is read by a child that can do nothing else."""
        variables = {str(name): str(value) for name, value in request["variables"].items()}
        texts = [
            Text(printable(str(file["name"])), str(file["content"]), variables)
            for file in request["files"]
        ]
        endpoints = [str(endpoint) for endpoint in request["endpoints"]]
        reloads, tokens = self._master.reloads, self._master.helpers.look_at_tokens()
        fleet = self._master.fleet.state

        def work() -> dict[str, Any]:
            config = load_texts(texts, endpoints, fleet)
            return {"changes": [*reloads.preview(config), *tokens.changes(config.admin)]}

        return self._master.aside.start(work)

    # --- run time ---------------------------------------------------------------------------

    def _set_weights(self, request: Request) -> dict[str, Any]:
        kind = RollBack if request.get("rollback") else SetWeights
        return self._asked(
            kind(
                route=request["route"],
                weights=request["weights"],
                force=bool(request.get("force")),
                by=_by(request),
            )
        )

    def _undo(self, request: Request) -> dict[str, Any]:
        force = bool(request.get("force"))
        return self._asked(UndoWeights(route=request["route"], force=force, by=_by(request)))

    def _saved_weights(self, request: Request) -> dict[str, Any]:
        return self._asked(
            SavedWeights(route=request["route"], weights=request["weights"], by=_by(request))
        )

    def _set_mirror(self, request: Request) -> dict[str, Any]:
        percent, to = request["percent"], str(request.get("to") or "")
        change = SetMirror(route=request["route"], percent=percent, to=to, by=_by(request))
        return self._asked(change)

    def _set_states(self, request: Request) -> dict[str, Any]:
        targets = [(t["route"], t["destination"], t.get("endpoint")) for t in request["targets"]]
        return self._asked(
            SetStates(
                targets=targets,
                state=request["state"],
                force=bool(request.get("force")),
                seconds=float(request.get("seconds") or 0.0),
                by=_by(request),
            )
        )

    def _asked(self, change: Change) -> dict[str, Any]:
        changes = self._master.changes
        return changes.applied(changes.ask(change).changes)

    # --- what control has found out ---------------------------------------------------------

    def _addresses(self, request: Request) -> dict[str, Any]:
        """text: what control has to say of names, for the log and the events."""
        if request.get("text"):
            text = printable(str(request["text"]))[:MAX_TEXT]
            level = level_from(request["level"])
            where = Places(self._master.changes.in_force.image).of(text)
            log.log(level, "%s", text, extra={"event": "names", "by": "", "where": where})
        if not request["found"]:
            return {}
        changes = self._master.changes
        done = changes.apply(SetAddresses(found=from_request(request["found"])))
        return changes.applied(done.changes)

    def _conditions(self, request: Request) -> dict[str, Any]:
        conditions: dict[Key, Condition] = {}
        for route, destination, endpoint, health, percent in request["conditions"]:
            key = (route, destination) if endpoint is None else (route, destination, endpoint)
            conditions[key] = health, percent
        lines = [
            Line(level_from(level), str(text)[:MAX_TEXT], where_from(where))
            for level, text, where in request["texts"]
        ]
        done = self._master.changes.apply(SetConditions(conditions=conditions, lines=lines))
        return {"generation": done.generation}

    def _checks(self, request: Request) -> dict[str, Any]:
        """A part of them, so that no turn of the loop is long; next: where the rest begins. What
        many destinations have in common is told once: watches, and each destination's by index."""
        rows = self._watched()
        first = request["first"]
        at, size = first, 0
        told: dict[Watch, int] = {}
        listed = []
        while at < len(rows) and at - first < CHECKS_AT_ONCE and size < CHECKS_SIZE:
            route, name, watch = rows[at]
            if watch not in told:
                told[watch] = len(told)
                size += 2 * len(watch.check.send + watch.check.expect) if watch.check else 0
            listed.append((route, name, told[watch]))
            size += len(route) + len(name)
            at += 1
        return {
            "watches": list(map(checks.to_message, told)),
            "checks": listed,
            "next": at if at < len(rows) else None,
        }

    def _watched(self) -> list[tuple[str, str, Watch]]:
        config = self._master.changes.in_force.config
        if self._watches[0] is not config:
            rows = [
                (route.name, destination.name, checks.watch_of(destination.policy))
                for route in config.routes
                for destination in route.destinations
            ]
            self._watches = config, rows
        return self._watches[1]

    def _set_workers(self, request: Request) -> dict[str, Any]:
        done = self._master.set_workers(request["count"], _by(request))
        return self._master.changes.applied(done.changes)

    def _kill(self, request: Request) -> dict[str, Any]:
        """Orders only: a connection that has ended by then, or moved to another worker, is left
        alone. Whoever asks looks again."""
        orders = self._orders(request["ids"])
        for line, index, generation in orders:
            line.post(KILL, index, value=generation)
        if request["told"]:  # of many, in several requests, the first tells
            extra = {"event": "kill", "by": request.get("by", "")}
            log.info("resetting %s", plural(request["told"], "connection"), extra=extra)
        return {"ordered": len(orders)}

    def _converge(self, request: Request) -> dict[str, Any]:
        """Orders only, as of kill: a worker that finds the connection busy does nothing."""
        ids, late = request["ids"], bool(request["late"])
        return self._order(CONVERGE, request, [(number, late) for number in ids])

    def _rehome(self, request: Request) -> dict[str, Any]:
        """Orders only, as of converge. What the slot is of, the worker looks up in what is in
        force there: it has to be a destination of the connection's route."""
        moves = [(str(number), int(slot) & LOW) for number, slot in request["moves"]]
        return self._order(REHOME, request, moves)

    def _order(
        self, kind: int, request: Request, wanted: Sequence[tuple[str, int]]
    ) -> dict[str, Any]:
        """wanted: ids of connections, and what the message has as `shared`."""
        quiet, ordered = request["quiet_ms"], request["ordered_ms"] & LOW
        if not 0 <= quiet <= LOW:
            raise Refusal("invalid", f"quiet_ms: {quiet} is not a number of ms below 2^32")
        orders = self._orders([number for number, _ in wanted])
        for (line, index, generation), (_, shared) in zip(orders, wanted, strict=True):
            order = ordered << 32 | generation & LOW
            line.post(kind, index, first=quiet, shared=shared, value=order)
        return {"ordered": len(orders)}

    def _convergence_says(self, request: Request) -> dict[str, Any]:
        text = printable(str(request["text"]))[:MAX_TEXT]
        where = Where(str(request["route"]))
        extra = {"event": "converge", "by": "", "where": where}
        log.log(level_from(request["level"]), "%s", text, extra=extra)
        return {}

    def _start_convergence(self, request: Request) -> dict[str, Any]:
        return self._asked(
            StartConvergence(route=request["route"], settings=request["settings"], by=_by(request))
        )

    def _end_convergence(self, request: Request) -> dict[str, Any]:
        change = EndConvergence(
            route=request["route"],
            began_ms=int(request.get("began_ms", 0)),
            text=printable(str(request.get("text", "")))[:MAX_TEXT],
            level=level_from(request.get("level", logging.INFO)),
            by=_by(request),
        )
        return self._asked(change)

    def _rollout_plan(self, request: Request) -> dict[str, Any]:
        routes = self._master.changes.in_force.config.routes
        for route in routes:
            if route.name == request["route"]:
                return in_file_as_json(route.rollout)
        raise unknown("route", request["route"], [route.name for route in routes])

    def _rollout_says(self, request: Request) -> dict[str, Any]:
        """Of none, only which are under way."""
        over = self._master.rollouts.running(map(str, request["running"]))
        if request["text"]:
            text = printable(str(request["text"]))[:MAX_TEXT]
            where = Where(str(request["route"]))
            extra = {"event": "rollout", "by": _by(request), "where": where}
            log.log(level_from(request["level"]), "%s", text, extra=extra)
        return {"over": over}

    # --- the fleet --------------------------------------------------------------------------

    def _fleet_now(self, _request: Request) -> dict[str, Any]:
        fleet = self._master.fleet
        return {"state": fleet.state.as_json(), "problem": fleet.problem}

    def _fleet_check(self, request: Request) -> Later:
        """As diff: what comes from outside is parsed by a child that can do nothing else."""
        wanted = _fleet_state(request)
        return self._master.aside.start(self._master.reloads.preview_of_fleet(wanted))

    def _fleet(self, request: Request) -> dict[str, Any]:
        reloads, look_up = self._master.reloads, bool(request.get("look_up"))
        again = frozenset(map(str, request.get("again", ())))
        state = _fleet_state(request)
        done = reloads.of_fleet(state, _by(request), look_up=look_up, again=again)
        if isinstance(done, Done):
            self._master.fleet.problem = ""
            return self._master.changes.applied(done.changes, done.warnings)
        config, unknown = done
        servers = list(map(str, config.dns_servers))
        return {"unknown": list(map(str, unknown)), "servers": servers}

    def _fleet_weights(self, request: Request) -> dict[str, Any]:
        now, route = self._master.changes.in_force, request["route"]
        split = Split.of(now.image, route)
        base = {**split.file_weights, **request["base"]}
        base = {name: base[name] for name in split.weights}
        if any(base.values()):  # steps are from what the fleet has, whatever was set here alone
            now = SetWeights(route=route, weights=base, force=True).plan(now)
        change = SetWeights(
            route=route, weights=request["weights"], force=bool(request.get("force"))
        )
        after = change.plan(now)
        of_fleet = route.partition("/")[0] in now.config.fleet_routes
        return {"weights": Split.of(after.image, route).weights, "of_fleet": of_fleet}

    def _fleet_place(self, request: Request) -> dict[str, Any]:
        changes = self._master.changes
        now = changes.in_force
        changes.place.take(int(request["place"]), now.image, now.config.fleet_routes)
        return {}

    def _fleet_says(self, request: Request) -> dict[str, Any]:
        text = printable(str(request["text"]))[:MAX_TEXT]
        extra = {"event": "fleet", "by": _by(request)}
        log.log(level_from(request["level"]), "%s", text, extra=extra)
        return {}

    def _orders(self, ids: list[str]) -> list[tuple[WorkerLine, int, int]]:
        """(line of its worker, record, generation) of each."""
        lines = {worker.id: worker.line for worker in self._master.workers}
        orders = []
        for text in ids:
            found = parse_id(text)
            if found is None or found[0] not in lines:
                raise Refusal("invalid", f"{text!r} is not the id of a connection")
            number, index, generation = found
            orders.append((lines[number], index, generation))
        return orders

    # --- the rest ---------------------------------------------------------------------------

    def _log_level(self, request: Request) -> dict[str, Any]:
        level = request["level"]
        if level not in LEVELS:
            raise Refusal("invalid", f"level: expected one of {', '.join(LEVELS)}")
        extra = {"event": "log_level", "by": request.get("by", "")}
        log.info("log level %s", level, extra=extra)
        self._master.helpers.set_log_level(level)
        return {"level": level}

    def _upgrade(self, _request: Request) -> dict[str, Any]:
        self._master.begin_upgrade()
        return {"pid": os.getpid(), "count": self._master.upgrade.number}


def _fleet_state(request: Request) -> FleetState:
    """Raises Refusal."""
    try:
        return FleetState.from_json(request["state"])
    except ValueError as error:
        raise Refusal("invalid", f"what the fleet says: {error}") from None


def _by(request: Request) -> str:
    """Who asked for it."""
    by = request.get("by", "")
    return by if isinstance(by, str) else ""
