"""What control may ask of the master: one method a verb. Runs in the master.

    reload       look_up            the files again
    diff         files, variables, endpoints
                                    what that would change: contents, and what ${NAME} stands for
    addresses    found, level, text what host names mean now, and what is to be said of them
    set_weights  route, weights, force
                                    numbers, or steps such as "+5"
    undo         route, force       the weights before the last change
    set_states   targets, state, force, seconds
                                    each target has a route, a destination, perhaps an endpoint
    conditions   conditions, texts  [route, destination, endpoint or null, health, ramp], ...;
                                    [level, line for the log], ...
    checks       first              how endpoints are to be watched, from that destination on
    set_workers  count
    kill         ids, told          resets connections; the events speak of so many
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
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tcpmux.config import Config, HostName, Text, checks, load_texts
from tcpmux.config.checks import Watch
from tcpmux.errors import TcpmuxError, one_line, printable
from tcpmux.levels import Line, level_from
from tcpmux.master.control import Answer, Later, Refusal
from tcpmux.master.events import LONGEST_TEXT
from tcpmux.master.instance import wanted_workers
from tcpmux.master.names import from_request
from tcpmux.master.reload import MOST_CHANGES
from tcpmux.master.staff import LOG_LEVELS
from tcpmux.master.steering import consequences
from tcpmux.master.workers import WorkersBusy
from tcpmux.shm.routes import Condition, Key
from tcpmux.worker.process import KILL

if TYPE_CHECKING:
    from tcpmux.master.process import Master

log = logging.getLogger("tcpmux.master")

Request = dict[str, Any]
CHECKS_AT_ONCE = 1000  # destinations
CHECKS_SIZE = 1 << 20  # bytes, about
_CONNECTION = re.compile(r"(\d{1,4})-(\d{1,9})-(\d{1,10})", re.ASCII)


class Requests:
    """Carries them out for one master."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._watches: tuple[Config | None, list[tuple[str, str, Watch]]] = (None, [])
        self._verbs: dict[str, Callable[[Request], Answer]] = {
            "reload": self._reload,
            "diff": self._diff,
            "addresses": self._addresses,
            "set_weights": self._set_weights,
            "undo": self._undo,
            "set_states": self._set_states,
            "conditions": self._conditions,
            "checks": self._checks,
            "set_workers": self._set_workers,
            "kill": self._kill,
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
            text = printable(str(request.get("text")))[:LONGEST_TEXT]
            log.error("control: %s", text, extra={"event": "control"})
            return {}
        if verb == "stop":
            self._master.drain(
                "stop asked for", by=request.get("by", ""), now=bool(request.get("now"))
            )
            return {"pid": os.getpid()}
        if self._master.draining:
            raise Refusal("refused", "tcpmux is draining and takes no changes")
        if verb not in self._verbs:
            raise Refusal("invalid", f"unknown verb {verb!r}")
        return self._verbs[verb](request)

    # --- the files --------------------------------------------------------------------------

    def _reload(self, request: Request) -> dict[str, Any]:
        """With look_up, names that nobody has looked up come back instead: to be told as
        `addresses` first."""
        master = self._master
        unknown: list[HostName] = []

        def reload() -> list[str]:
            config = master.routing.read(master.sources)
            unknown.extend(master.routing.unknown_names(config) if request.get("look_up") else ())
            return [] if unknown else master.change_to(config)

        def counted() -> list[str]:
            with master.reloading():
                return reload()

        changes = self._changed(counted, "reload", request, quiet=lambda: bool(unknown))
        if unknown:
            servers = master.routing.read(master.sources).dns_servers
            return {"unknown": list(map(str, unknown)), "servers": list(map(str, servers))}
        return master.routing.applied(changes)

    def _diff(self, request: Request) -> Later:
        """Whoever may ask may send anything, so it is read by a child that can do nothing else."""
        variables = {str(name): str(value) for name, value in request["variables"].items()}
        texts = [
            Text(printable(str(file["name"])), str(file["content"]), variables)
            for file in request["files"]
        ]
        endpoints = [str(endpoint) for endpoint in request["endpoints"]]
        return self._master.aside.start(lambda: self._difference(load_texts(texts, endpoints)))

    def _difference(self, config: Config) -> dict[str, Any]:
        master = self._master
        changes = master.routing.difference(config)
        before = master.workers.count
        count = wanted_workers(config, master.table.shard_count)
        if count != before:
            changes = [*changes, f"workers {before}->{count}"]
        return {"changes": changes[:MOST_CHANGES]}

    def _addresses(self, request: Request) -> dict[str, Any]:
        """text: what control has to say of names, for the log and the events."""
        routing = self._master.routing
        if request.get("text"):
            text = printable(str(request["text"]))[:LONGEST_TEXT]
            level = level_from(request["level"])
            log.log(level, "%s", text, extra={"event": "names", "by": ""})
        if not request["found"]:
            return {}
        before = routing.image
        changes = routing.set_addresses(from_request(request["found"]))
        if changes:
            self._master.log_changes(changes, "names", "")
        self._say_health(consequences(before, routing.image))
        return routing.applied(changes)

    # --- steering ---------------------------------------------------------------------------

    def _set_weights(self, request: Request) -> dict[str, Any]:
        steering = self._master.steering
        return self._steered(
            lambda: steering.set_weights(
                request["route"], request["weights"], force=bool(request.get("force"))
            ),
            "weights",
            request,
        )

    def _undo(self, request: Request) -> dict[str, Any]:
        steering = self._master.steering
        force = bool(request.get("force"))
        return self._steered(
            lambda: steering.undo(request["route"], force=force), "weights", request
        )

    def _set_states(self, request: Request) -> dict[str, Any]:
        steering = self._master.steering
        targets = [(t["route"], t["destination"], t.get("endpoint")) for t in request["targets"]]
        return self._steered(
            lambda: steering.set_states(
                targets,
                request["state"],
                force=bool(request.get("force")),
                seconds=float(request.get("seconds") or 0.0),
            ),
            "state",
            request,
        )

    # --- health -----------------------------------------------------------------------------

    def _conditions(self, request: Request) -> dict[str, Any]:
        conditions: dict[Key, Condition] = {}
        for route, destination, endpoint, health, ramp in request["conditions"]:
            key = (route, destination) if endpoint is None else (route, destination, endpoint)
            conditions[key] = health, ramp
        consequences = self._master.steering.set_conditions(conditions)
        told = (
            Line(level_from(level), str(text)[:LONGEST_TEXT]) for level, text in request["texts"]
        )
        self._say_health((*told, *consequences))
        return {"generation": self._master.table.generation}

    @staticmethod
    def _say_health(lines: Iterable[Line]) -> None:
        for line in lines:
            log.log(line.level, "%s", line, extra={"event": "health", "by": ""})

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
        config = self._master.routing.config
        if self._watches[0] is not config:
            rows = [
                (route.name, destination.name, checks.watch_of(destination.policy))
                for route in config.routes
                for destination in route.destinations
            ]
            self._watches = config, rows
        return self._watches[1]

    def _steered(
        self, change: Callable[[], list[str]], kind: str, request: Request
    ) -> dict[str, Any]:
        return self._master.routing.applied(self._changed(change, kind, request))

    def _set_workers(self, request: Request) -> dict[str, Any]:
        by = request.get("by", "")
        return self._master.routing.applied(self._master.change_workers(request["count"], by))

    def _kill(self, request: Request) -> dict[str, Any]:
        """Orders only: a connection that has ended by then, or moved to another worker, is left
        alone. Whoever asks looks again."""
        workers = {worker.id: worker for worker in self._master.workers}
        orders = []
        for text in request["ids"]:
            found = _CONNECTION.fullmatch(text) if isinstance(text, str) else None
            if found is None or int(found[1]) not in workers:
                raise Refusal("invalid", f"{text!r} is not the id of a connection")
            orders.append(tuple(map(int, found.groups())))
        for number, index, generation in orders:
            workers[number].line.post(KILL, index, value=generation)
        if request["told"]:  # of many, in several requests, the first tells
            extra = {"event": "kill", "by": request.get("by", "")}
            log.info("%d connections are to be reset", request["told"], extra=extra)
        return {"ordered": len(orders)}

    # --- the rest ---------------------------------------------------------------------------

    def _log_level(self, request: Request) -> dict[str, Any]:
        level = request["level"]
        if level not in LOG_LEVELS:
            raise Refusal("invalid", f"level: expected one of {', '.join(LOG_LEVELS)}")
        extra = {"event": "log_level", "by": request.get("by", "")}
        log.info("log level %s", level, extra=extra)
        self._master.staff.set_log_level(level)
        return {"level": level}

    def _upgrade(self, _request: Request) -> dict[str, Any]:
        self._master.begin_upgrade()
        return {"pid": os.getpid(), "count": self._master.upgrade.number}

    def _changed(
        self,
        change: Callable[[], list[str]],
        kind: str,
        request: Request,
        quiet: Callable[[], bool] = lambda: False,
    ) -> list[str]:
        by = request.get("by", "")
        try:
            changes = change()
        except TcpmuxError as error:
            extra = {"event": "refused", "by": by}
            # Then what is in force is not what the files say, until somebody mends them.
            level = logging.ERROR if kind == "reload" else logging.WARNING
            log.log(level, "refused, nothing changed: %s", one_line(error), extra=extra)
            raise
        if quiet():
            return changes
        self._master.log_changes(changes, kind, by)
        try:
            self._master.routing.await_workers()
        except WorkersBusy as error:  # in force even so; the answer says in which workers
            log.warning("%s", error)
        return changes
