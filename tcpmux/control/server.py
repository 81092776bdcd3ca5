"""The admin API over HTTP, and the page. Runs in control.

operations.py lists all operations. The master is asked for whatever changes something; nothing is
changed here. Answers of the API are JSON.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from tcpmux.control import openapi, pages
from tcpmux.control.acceptor import Acceptor, add_headers
from tcpmux.control.access import Caller, Rules
from tcpmux.control.converge_request import settings_asked
from tcpmux.control.error_answers import error_answer, errors_as_json
from tcpmux.control.fleet_request import weights_asked
from tcpmux.control.kills import Kills
from tcpmux.control.limits import MAX_EVENTS
from tcpmux.control.master_link import MasterGone, MasterLink, MasterRefused, MasterSilent
from tcpmux.control.metrics import OPEN_METRICS, TEXT, Metrics
from tcpmux.control.operations import OPERATIONS
from tcpmux.control.request_values import body_values, query_flags
from tcpmux.control.schema import GROUP_SORT_KEYS
from tcpmux.control.slices import Slices, json_parts
from tcpmux.control.timeouts import within

if TYPE_CHECKING:
    from tcpmux.control.conditions import Conditions
    from tcpmux.control.connections import Connections
    from tcpmux.control.convergences import Convergences
    from tcpmux.control.event_log import EventLog
    from tcpmux.control.fleet.changes import FleetChanges
    from tcpmux.control.health import Health
    from tcpmux.control.history import History
    from tcpmux.control.names import HostNames
    from tcpmux.control.operation import Row
    from tcpmux.control.orphans import OrphanedWorkers
    from tcpmux.control.readiness import Readiness
    from tcpmux.control.rollouts import Rollouts
    from tcpmux.control.stream import Stream
    from tcpmux.messages import Verb

JSON = "application/json; charset=utf-8"
PROBED = ("/healthz", "/readyz")  # with HEAD as well, as many load balancers do
EVENTS_TIME = 2.0  # s for the master to tell what has happened lately


class StatusSource(Protocol):
    """tcpmux.shm.stats.StatusReader, or what a test puts in its place."""

    def in_parts(self) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """The status object without version, config, admin and routes; and each of the routes."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What control reads of the instance, without asking anybody."""

    status: StatusSource
    connections: Connections
    events: EventLog
    metrics: Metrics
    stream: Stream
    health: Health
    names: HostNames
    slices: Slices
    conditions: Conditions
    readiness: Readiness
    history: History
    convergences: Convergences
    rollouts: Rollouts
    fleet: FleetChanges | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What status says of the instance that is not in shared memory."""

    version: str
    config: Sequence[str]  # names of its sources
    admin: str  # path of the socket
    rules: Rules
    build: str = ""  # tcpmux.build


def _yes_or_no(reasons: Sequence[str]) -> web.Response:
    """reasons: why not, a line each."""
    return web.Response(status=503 if reasons else 200, text="\n".join(reasons or ["ok"]) + "\n")


class AdminApi:
    """The handlers. app() gives the application to serve."""

    def __init__(
        self,
        readings: Readings,
        identity: Identity,
        master: MasterLink,
        orphans: OrphanedWorkers,
    ) -> None:
        self._readings = readings
        self._identity = identity
        self._master = master
        self._orphans = orphans
        self._acceptor = Acceptor(identity.rules)
        self._one_diff = asyncio.Lock()  # the master does one at a time
        self._kills = Kills(readings.connections, readings.slices, master)
        self._files = pages.load()

    @property
    def acceptor(self) -> Acceptor:
        return self._acceptor

    def app(self) -> web.Application:
        app = web.Application(
            middlewares=[self._acceptor.middleware, errors_as_json],
            client_max_size=0,  # the acceptor knows what may come
        )
        app.on_response_prepare.append(add_headers)
        app.on_shutdown.append(self._end_streams)
        for row in OPERATIONS:
            app.router.add_route(row.method, row.path, self._handler(row))
            if row.path in PROBED:
                app.router.add_route("HEAD", row.path, self._handler(row))
        app.router.add_get("/", self._page, allow_head=False)
        app.router.add_get("/static/{path:.+}", self._file, allow_head=False)
        return app

    def _handler(self, row: Row) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Gets the parameters of the path, flags of the query and the keys of the body, as the row
        has them; it returns the answer's JSON, or an answer that is already one."""
        method = getattr(self, f"_{row.name}")

        async def handle(request: web.Request) -> web.StreamResponse:
            self._caller(request).check(row.role)
            values = {**request.match_info, **query_flags(row, request.query)}
            if row.body is not None:
                # It is here: client_connection.py passes on whole requests.
                body = body_values(row, await request.read())
                values |= {"body": body} if row.checked_by_master else body
            answer = await method(request, **values)
            if isinstance(answer, web.StreamResponse):
                return answer
            return web.json_response(answer, status=row.status)

        return handle

    def _caller(self, request: web.Request) -> Caller:
        return self._acceptor.connection(request).caller

    def _who(self, request: web.Request) -> str:
        return self._caller(request).name

    async def _ask(self, request: web.Request, verb: Verb, **arguments: object) -> dict[str, Any]:
        return await self._master.request(verb, by=self._who(request), **arguments)

    # --- reading ----------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.StreamResponse:
        conditions = self._readings.conditions
        await conditions.look(self._readings.slices)
        overview, routes = self._readings.status.in_parts()
        status = {
            **overview,
            **conditions.overview(),
            "version": self._identity.version,
            "build": self._identity.build,
            "config": list(self._identity.config),
            "admin": self._identity.admin,
        }
        if self._master.gone:
            status["state"] = "orphaned"
        status["fleet"] = None
        if self._readings.fleet is not None:
            fleet = self._readings.fleet.agent
            status["fleet"] = fleet.overview()
            found = fleet.problems()
            status["problems"] = [*found, *status["problems"]]
            status["problems_total"] += len(found)
        converging = map(self._readings.convergences.shown, map(conditions.annotated, routes))
        shown = map(self._readings.rollouts.annotated, converging)
        return await self._in_slices(request, json_parts(status, "routes", shown))

    async def _connections(self, request: web.Request) -> web.StreamResponse:
        connections = self._readings.connections
        query = {key: request.query.getone(key) for key in request.query}
        wanted = connections.filter(query)
        total, rows = await connections.rows(wanted, self._readings.slices)
        head = {"time": time.time(), "total": total}
        return await self._in_slices(request, json_parts(head, "connections", rows))

    async def _connection_groups(self, request: web.Request) -> web.StreamResponse:
        connections = self._readings.connections
        query = {key: request.query.getone(key) for key in request.query}
        by = query.pop("by", "")
        wanted = connections.filter(query, GROUP_SORT_KEYS)
        total, count, groups = await connections.groups(by, wanted, self._readings.slices)
        head = {"time": time.time(), "total": total, "groups_total": count}
        return await self._in_slices(request, json_parts(head, "groups", groups))

    async def _explain(self, request: web.Request, route: str) -> dict[str, Any]:
        conditions = self._readings.conditions
        await conditions.look(self._readings.slices)
        query = {key: request.query.getall(key) for key in request.query}
        return self._readings.connections.explanation(
            route, query, lambda destination: conditions.word(route, destination)
        )

    async def _names(self, request: web.Request) -> web.StreamResponse:
        return await self._in_slices(
            request, json_parts({}, "routes", self._readings.connections.names())
        )

    async def _in_slices(
        self, request: web.Request, parts: Iterator[str], kind: str = JSON
    ) -> web.StreamResponse:
        """Answers with a text that may be long, made and sent in parts."""
        made = await self._readings.slices.encoded(parts)
        response = web.StreamResponse(headers={"Content-Type": kind})
        response.content_length = sum(map(len, made))
        await response.prepare(request)
        for part in made:
            await response.write(part)
            await asyncio.sleep(0)  # it is not waited for as long as there is group
        return response

    async def _events(self, request: web.Request) -> dict[str, Any]:
        since = request.query.get("since", "0")
        if not (since.isascii() and since.isdecimal()) or int(since[:20]) > MAX_EVENTS:
            raise MasterRefused("invalid", f"since: expected the number of an event, got {since!r}")
        await self._update_events()
        return {"events": self._readings.events.after(int(since))}

    async def _update_events(self) -> None:
        """As far as the master tells: what is known is shown without it as well."""
        if self._master.gone or self._master.silent_since is not None:
            return
        with suppress(MasterGone, MasterSilent, asyncio.TimeoutError):
            async with within(EVENTS_TIME):
                await self._readings.events.update(self._master)

    async def _history(self, request: web.Request) -> web.StreamResponse:
        await self._update_events()
        parts = self._readings.history.parts(request.query.get("route"))
        return await self._in_slices(request, parts)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        wanted = "application/openmetrics-text" in request.headers.get("Accept", "")
        await self._readings.conditions.look(self._readings.slices)
        parts = self._readings.metrics.parts(open_metrics=wanted)
        return await self._in_slices(request, parts, OPEN_METRICS if wanted else TEXT)

    async def _healthz(self, _request: web.Request) -> web.Response:
        reasons = [] if self._readings.readiness.is_alive() else ["no worker runs"]
        return _yes_or_no(reasons)

    async def _readyz(self, request: web.Request) -> web.Response:
        """Over TCP anybody may ask, who is told no names."""
        await self._readings.conditions.look(self._readings.slices)
        is_local = self._acceptor.connection(request).group is self._acceptor.local
        return _yes_or_no(list(self._readings.readiness.reasons(with_names=is_local)))

    async def _access(self, request: web.Request) -> dict[str, Any]:
        return {"role": self._caller(request).role.word}

    async def _openapi(self, _request: web.Request) -> dict[str, Any]:
        return openapi.document(OPERATIONS, self._identity.version)

    async def _stream(self, request: web.Request, *, rules: bool) -> web.StreamResponse:
        group = self._acceptor.connection(request).group
        if group.streams >= group.max_streams:
            return error_answer(503, f"{group.max_streams} streams are open already: close one")
        group.streams += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await self._update_events()
            with suppress(ConnectionError):  # the client has gone, which is how it ends
                route = request.query.get("route")
                await self._readings.stream.send(response.write, route, rules=rules)
            return response
        finally:
            group.streams -= 1

    async def _end_streams(self, _app: web.Application) -> None:
        self._readings.stream.end()

    async def _page(self, request: web.Request) -> web.Response:
        return self._answer_file(request, "index.html")

    async def _file(self, request: web.Request) -> web.Response:
        return self._answer_file(request, request.match_info["path"])

    def _answer_file(self, request: web.Request, name: str) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        if request.headers.get("If-None-Match") == file.headers["ETag"]:
            return web.Response(status=304, headers=file.headers)
        return web.Response(body=file.content, headers=file.headers)

    # --- changing ---------------------------------------------------------------------------

    async def _reload(self, request: web.Request) -> dict[str, Any]:
        return await self._readings.names.reload(self._who(request))

    async def _diff(
        self,
        request: web.Request,
        files: list[dict[str, str]],
        endpoints: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Of contents, and never of paths: what is read is what the client has read."""
        if (
            self._one_diff.locked()
            and self._acceptor.connection(request).group is self._acceptor.remote
        ):
            # Who asks over TCP has nobody wait who is on this host.
            raise MasterRefused("refused", "another diff is in progress: try again")
        async with self._one_diff:
            return await self._ask(
                request,
                "diff",
                files=files,
                variables=dict(variables),
                endpoints=list(endpoints),
            )

    async def _set_weights(
        self, request: web.Request, route: str, body: dict[str, Any], *, force: bool
    ) -> dict[str, Any]:
        return await self._ask(request, "set_weights", route=route, weights=body, force=force)

    async def _undo(self, request: web.Request, route: str, *, force: bool) -> dict[str, Any]:
        return await self._ask(request, "undo", route=route, force=force)

    async def _set_mirror(
        self, request: web.Request, route: str, percent: float, to: str = ""
    ) -> dict[str, Any]:
        return await self._ask(request, "set_mirror", route=route, percent=percent, to=to)

    async def _note_saved_weights(
        self, request: web.Request, route: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        return await self._ask(request, "saved_weights", route=route, weights=body)

    async def _set_rule_weights(
        self, request: web.Request, route: str, rule: str, body: dict[str, Any], *, force: bool
    ) -> dict[str, Any]:
        return await self._set_weights(request, f"{route}/{rule}", body, force=force)

    async def _undo_rule(
        self, request: web.Request, route: str, rule: str, *, force: bool
    ) -> dict[str, Any]:
        return await self._undo(request, f"{route}/{rule}", force=force)

    async def _note_saved_rule_weights(
        self, request: web.Request, route: str, rule: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        return await self._note_saved_weights(request, f"{route}/{rule}", body)

    async def _set_state(
        self,
        request: web.Request,
        route: str,
        destination: str,
        endpoint: str | None = None,
        **wish: Any,
    ) -> dict[str, Any]:
        target = {"route": route, "destination": destination}
        if endpoint is not None:
            target["endpoint"] = endpoint
        return await self._set_states(request, [target], **wish)

    async def _set_states(
        self,
        request: web.Request,
        targets: list[dict[str, str]],
        state: str,
        *,
        force: bool = False,
        seconds: float = 0,
    ) -> dict[str, Any]:
        return await self._ask(
            request, "set_states", targets=targets, state=state, force=force, seconds=seconds
        )

    async def _kill(
        self,
        request: web.Request,
        ids: list[str],
        rate: float | None = None,
        *,
        dry_run: bool = False,
    ) -> dict[str, int] | web.StreamResponse:
        wanted = list(dict.fromkeys(ids))
        found = await self._readings.connections.open_among(wanted, self._readings.slices)
        gone = len(wanted) - len(found)
        if dry_run:
            return {"killed": 0, "gone": gone, "left": len(found)}
        by = self._who(request)
        if rate is None:
            return await self._kills.at_once(found, gone, by)
        return await self._kills.slowly(request, found, gone, rate, by)

    async def _converge(
        self, request: web.Request, route: str, *, dry_run: bool = False, **wanted: Any
    ) -> dict[str, Any]:
        settings = settings_asked(wanted)
        convergences = self._readings.convergences
        plan = await convergences.preview(self._readings.connections.route(route), settings)
        if not dry_run:
            await self._ask(request, "start_convergence", route=route, settings=settings)
        return {**plan, "started": not dry_run}

    async def _stop_converging(self, request: web.Request, route: str) -> dict[str, Any]:
        return await self._ask(request, "end_convergence", route=route)

    async def _rollouts(self, request: web.Request) -> dict[str, Any]:
        return self._readings.rollouts.statuses(request.query.get("route"))

    async def _start_rollout(
        self, request: web.Request, route: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        return await self._readings.rollouts.begin(route, body, self._who(request))

    async def _change_rollout(
        self, request: web.Request, route: str, action: str, *, full: bool = False
    ) -> dict[str, Any]:
        return await self._readings.rollouts.change(route, action, self._who(request), full=full)

    def _of_fleet(self) -> FleetChanges:
        """Raises MasterRefused."""
        if self._readings.fleet is None:
            raise MasterRefused("refused", "this instance is in no fleet: its file has no `fleet`")
        return self._readings.fleet

    async def _fleet(self, _request: web.Request) -> dict[str, Any]:
        return await self._of_fleet().status()

    async def _fleet_documents(self, _request: web.Request) -> dict[str, Any]:
        return await self._of_fleet().documents()

    async def _fleet_history(self, _request: web.Request) -> dict[str, Any]:
        return await self._of_fleet().history()

    async def _put_fleet_documents(self, request: web.Request, **wish: Any) -> dict[str, Any]:
        return await self._of_fleet().put(self._who(request), **wish)

    async def _set_fleet_weights(
        self, request: web.Request, body: dict[str, Any]
    ) -> dict[str, Any]:
        return await self._of_fleet().weights(self._who(request), **weights_asked(body))

    async def _change_fleet(self, request: web.Request, **wish: Any) -> dict[str, Any]:
        return await self._of_fleet().act(self._who(request), **wish)

    async def _set_workers(self, request: web.Request, count: int) -> dict[str, Any]:
        return await self._ask(request, "set_workers", count=count)

    async def _set_log_level(self, request: web.Request, level: str) -> dict[str, Any]:
        return await self._ask(request, "log_level", level=level)

    async def _upgrade(self, request: web.Request) -> dict[str, Any]:
        return await self._ask(request, "upgrade")

    async def _stop(self, request: web.Request, *, now: bool = False) -> dict[str, Any]:
        try:
            return await self._ask(request, "stop", now=now)
        except MasterGone:
            # Control is what ends last now: its end is what the client waits for.
            self._orphans.end(now=now)
            return {"pid": os.getpid()}
