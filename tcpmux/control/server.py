"""The admin API over HTTP, and the page. Runs in control.

operations.py lists all operations. The master is asked for whatever changes something; nothing is
changed here. Answers of the API are JSON, errors are {"error": "one line"}.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from tcpmux.control import openapi, pages
from tcpmux.control.door import Door, Rules, add_headers
from tcpmux.control.head import Refused
from tcpmux.control.master_link import MasterGone, MasterLink, MasterRefused, MasterSilent
from tcpmux.control.metrics import OPEN_METRICS, TEXT, Metrics
from tcpmux.control.operations import (
    LONGEST_NAME,
    MOST_EVENTS,
    MOST_FILES,
    MOST_RATE,
    MOST_SECONDS,
    MOST_TARGETS,
    OPERATIONS,
)
from tcpmux.errors import TcpmuxError

if TYPE_CHECKING:
    from tcpmux.control.connections import Connections
    from tcpmux.control.event_log import EventLog
    from tcpmux.control.health import Health
    from tcpmux.control.names import HostNames
    from tcpmux.control.orphans import OrphanedWorkers
    from tcpmux.control.stream import Stream

log = logging.getLogger("tcpmux.control")

LARGEST_BODY = 8 << 20  # bytes
LARGEST_WEIGHTS = 64 * 1024  # bytes; those of a route with 64 destinations take 6 KiB
BODY_TIME = 10.0  # s
MOST_STREAMS = 64
IDS_AT_ONCE = 1000  # in one request to the master
SIGN_OF_LIFE = 1.0  # s
KILL_TIME = 1.0  # s to see them gone
LOOK_EVERY = 0.02  # s
# By kind of refusal.
HTTP_STATUS = {"invalid": 400, "not_found": 404, "refused": 409, "bad_file": 422}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StatusSource(Protocol):
    """tcpmux.shm.stats.StatusReader, or what a test puts in its place."""

    def read(self) -> dict[str, Any]:
        """The status object without version, config and admin."""


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


@dataclass(frozen=True, slots=True)
class Identity:
    """What status says of the instance that is not in shared memory."""

    version: str
    config: Sequence[str]  # paths
    admin: str  # path of the socket
    rules: Rules


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        allow = error.headers.get("Allow")
        what = {404: f"nothing at {request.path}", 405: f"{request.method}: use {allow}"}
        response = _error(error.status, what.get(error.status) or error.text or error.reason)
        if allow:
            response.headers["Allow"] = allow
        return response
    except Refused as error:
        return _error(error.status, str(error))
    except MasterRefused as error:
        return _error(HTTP_STATUS[error.kind], str(error))
    except (MasterGone, MasterSilent) as error:
        gone = (
            ": traffic goes on as it is, nothing can be changed; "
            "start tcpmux again with the same file, and it takes over"
        )
        is_gone = isinstance(error, MasterGone)
        return _error(503 if is_gone else 504, f"{error}{gone if is_gone else ''}")
    except ConnectionError:  # the client has gone
        raise
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return _error(500, f"a fault in tcpmux: {error!r}; its log has the details")


async def _json_object(request: web.Request) -> dict[str, Any]:
    """The request's body; no body counts as {}. Raises MasterRefused for anything else."""
    body = await request.read()  # it is here: see guest.py
    try:
        value = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise MasterRefused("invalid", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MasterRefused("invalid", "the body is not a JSON object")
    return value


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_text(value: object) -> bool:
    """JSON has half characters, and nothing else does."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _is_files(value: object) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MOST_FILES
        and all(
            isinstance(file, dict)
            and file.keys() == {"name", "content"}
            and _is_texts(list(file.values()))
            and 0 < len(file["name"]) <= LONGEST_NAME
            for file in value
        )
    )


def _is_variables(value: object) -> bool:
    return isinstance(value, dict) and _is_texts(list(value.values()))


def _is_target(value: dict[str, Any]) -> bool:
    return {"route", "destination"} <= value.keys() <= {"route", "destination", "endpoint"} and all(
        isinstance(name, str) for name in value.values()
    )


def _is_forced(request: web.Request) -> bool:
    """Raises MasterRefused."""
    force = request.query.get("force", "false")
    if force not in ("true", "false"):
        raise MasterRefused("invalid", f"force: expected true or false, got {force!r}")
    return force == "true"


async def _no_body(request: web.Request) -> None:
    if await _json_object(request):
        raise MasterRefused("invalid", "the body is {}, or none")


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
        self._door = Door(identity.rules)
        self._one_diff = asyncio.Lock()  # the master does one at a time
        self._files = pages.load()

    @property
    def door(self) -> Door:
        return self._door

    def app(self) -> web.Application:
        app = web.Application(
            middlewares=[self._door.middleware, _errors_as_json],
            client_max_size=0,  # the door knows what may come
        )
        app.on_response_prepare.append(add_headers)
        for operation in OPERATIONS:
            handler = getattr(self, f"_{operation.handler}")
            app.router.add_route(operation.method, operation.path, handler)
        app.router.add_get("/", self._page, allow_head=False)
        app.router.add_get("/static/{path:.+}", self._file, allow_head=False)
        return app

    def _who(self, request: web.Request) -> str:
        return self._door.guest(request).by

    async def _ask(self, request: web.Request, verb: str, **arguments: object) -> dict[str, Any]:
        return await self._master.request(verb, by=self._who(request), **arguments)

    # --- reading ----------------------------------------------------------------------------

    async def _status(self, _request: web.Request) -> web.Response:
        status = {
            **self._readings.status.read(),
            "version": self._identity.version,
            "config": list(self._identity.config),
            "admin": self._identity.admin,
        }
        if self._master.gone:
            status["state"] = "orphaned"
        return web.json_response(status)

    async def _connections(self, request: web.Request) -> web.Response:
        connections = self._readings.connections
        query = {key: request.query.getone(key) for key in request.query}
        return web.json_response(connections.rows(connections.filter(query)))

    async def _events(self, request: web.Request) -> web.Response:
        since = request.query.get("since", "0")
        if not (since.isascii() and since.isdecimal()) or int(since[:20]) > MOST_EVENTS:
            raise MasterRefused("invalid", f"since: expected the number of an event, got {since!r}")
        events = self._readings.events
        if not self._master.gone:
            await events.update(self._master)
        return web.json_response({"events": events.after(int(since))})

    async def _metrics(self, request: web.Request) -> web.Response:
        wanted = "application/openmetrics-text" in request.headers.get("Accept", "")
        text = self._readings.metrics.text(open_metrics=wanted)
        kind = OPEN_METRICS if wanted else TEXT
        return web.Response(body=text.encode(), headers={"Content-Type": kind})

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.json_response(openapi.document(OPERATIONS, self._identity.version))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        room = self._door.guest(request).room
        if room.streams >= room.most_streams:
            return _error(503, f"{room.most_streams} streams are open already: close one")
        room.streams += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            if not self._master.gone:
                await self._readings.events.update(self._master)
            with suppress(ConnectionError):  # the client has gone, which is how it ends
                await self._readings.stream.send(response.write, request.query.get("route"))
            return response
        finally:
            room.streams -= 1

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

    async def _reload(self, request: web.Request) -> web.Response:
        await _no_body(request)
        return web.json_response(await self._readings.names.reload(self._who(request)))

    async def _diff(self, request: web.Request) -> web.Response:
        """Of contents, and never of paths: what is read is what the client has read."""
        body = await _json_object(request)
        files, endpoints = body.pop("files", None), body.pop("endpoints", [])
        variables = body.pop("variables", {})
        if body or not _is_files(files) or not _is_texts(endpoints) or not _is_variables(variables):
            raise MasterRefused(
                "invalid",
                'the body is {"files": [{"name": "routes.yaml", "content": "..."}], '
                '"variables": {}, "endpoints": []}',
            )
        if self._one_diff.locked() and self._door.guest(request).room is self._door.remote:
            # Who asks over TCP has nobody wait who is on this host.
            raise MasterRefused("refused", "another diff is being worked out: try again")
        async with self._one_diff:
            answer = await self._ask(
                request, "diff", files=files, variables=variables, endpoints=endpoints
            )
        return web.json_response(answer)

    async def _set_weights(self, request: web.Request) -> web.Response:
        weights = await _json_object(request)  # what is in it is for the master to judge
        size = len(await request.read())
        if size > LARGEST_WEIGHTS:
            raise MasterRefused("invalid", f"the request is too large: {size} bytes")
        route, force = request.match_info["route"], _is_forced(request)
        answer = await self._ask(request, "set_weights", route=route, weights=weights, force=force)
        return web.json_response(answer)

    async def _undo(self, request: web.Request) -> web.Response:
        await _no_body(request)
        route, force = request.match_info["route"], _is_forced(request)
        answer = await self._ask(request, "undo", route=route, force=force)
        return web.json_response(answer)

    async def _set_state(self, request: web.Request) -> web.Response:
        body = await _json_object(request)
        target = {name: request.match_info[name] for name in ("route", "destination")}
        endpoint = body.pop("endpoint", None)
        if endpoint is not None:
            target["endpoint"] = endpoint
        example = '{"state": "draining", "endpoint": "...", "force": false}'
        return await self._put_states(request, body, [target], example)

    async def _set_states(self, request: web.Request) -> web.Response:
        body = await _json_object(request)
        targets = body.pop("targets", None)
        example = '{"state": "draining", "targets": [{"route": "...", "destination": "..."}]}'
        if not isinstance(targets, list) or not 1 <= len(targets) <= MOST_TARGETS:
            raise MasterRefused("invalid", f"the body is {example}")
        return await self._put_states(request, body, targets, example)

    async def _put_states(
        self, request: web.Request, body: dict[str, Any], targets: list[Any], example: str
    ) -> web.Response:
        state = body.pop("state", None)
        force, seconds = body.pop("force", False), body.pop("seconds", 0)
        if body or not isinstance(state, str) or not isinstance(force, bool):
            raise MasterRefused("invalid", f"the body is {example}")
        if type(seconds) not in (int, float) or not 0 <= seconds <= MOST_SECONDS:
            raise MasterRefused("invalid", f"seconds: expected a number up to {MOST_SECONDS}")
        for target in targets:
            if not isinstance(target, dict) or not _is_target(target):
                raise MasterRefused(
                    "invalid",
                    "a target has a route, a destination and perhaps an endpoint, as the status "
                    "has them",
                )
        answer = await self._ask(
            request, "set_states", targets=targets, state=state, force=force, seconds=seconds
        )
        return web.json_response(answer)

    async def _kill(self, request: web.Request) -> web.StreamResponse:
        body = await _json_object(request)
        paced = "rate" in body
        ids, rate = body.pop("ids", None), body.pop("rate", None)
        dry_run = body.pop("dry_run", False)
        if body or not _is_texts(ids) or not isinstance(dry_run, bool):
            raise MasterRefused("invalid", 'the body is {"ids": ["0-17-4"], "rate": 10}')
        if paced and (type(rate) not in (int, float) or not 0 < rate <= MOST_RATE):
            raise MasterRefused("invalid", f"rate: expected a number up to {MOST_RATE}, per second")
        wanted = list(dict.fromkeys(ids))
        found = self._readings.connections.open_among(wanted)
        gone = len(wanted) - len(found)
        if dry_run:
            return web.json_response({"killed": 0, "gone": gone, "left": len(found)})
        by = self._who(request)
        if not paced:
            left = await self._reset(found, by)
            killed = len(found) - len(left)
            return web.json_response({"killed": killed, "gone": gone, "left": len(left)})
        return await self._kill_slowly(request, found, gone, rate, by)

    async def _reset(self, ids: list[str], by: str, told: int | None = None) -> list[str]:
        """Returns those that are there even so. told: how many the events are to speak of."""
        for at in range(0, len(ids), IDS_AT_ONCE):
            part = ids[at : at + IDS_AT_ONCE]
            number = (len(ids) if at == 0 else 0) if told is None else told
            await self._master.request("kill", ids=part, by=by, told=number)
        left = ids
        for _ in range(int(KILL_TIME / LOOK_EVERY)):
            left = self._readings.connections.open_among(left)
            if not left:
                break
            await asyncio.sleep(LOOK_EVERY)
        return left

    async def _kill_slowly(
        self, request: web.Request, ids: list[str], gone: int, rate: float, by: str
    ) -> web.StreamResponse:
        """Ends when the client goes. Blanks, which JSON allows, say that it goes on."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        step = max(1, int(rate / 10))
        start = loop.time()
        left: list[str] = []
        try:
            for at in range(0, len(ids), step):
                while (pause := start + at / rate - loop.time()) > 0:
                    await asyncio.sleep(min(pause, SIGN_OF_LIFE))
                    await response.write(b" ")
                left += await self._reset(ids[at : at + step], by, len(ids) if at == 0 else 0)
            killed = len(ids) - len(left)
            answer: dict[str, Any] = {"killed": killed, "gone": gone, "left": len(left)}
        except TcpmuxError as error:  # the head has been sent
            answer = {"error": str(error)}
        await response.write(json.dumps(answer).encode())
        return response

    async def _set_workers(self, request: web.Request) -> web.Response:
        body = await _json_object(request)
        count = body.pop("count", None)
        if body or type(count) is not int:
            raise MasterRefused("invalid", 'the body is {"count": N}')
        return web.json_response(await self._ask(request, "set_workers", count=count))

    async def _set_log_level(self, request: web.Request) -> web.Response:
        body = await _json_object(request)
        level = body.pop("level", None)
        if body or not isinstance(level, str):
            raise MasterRefused("invalid", 'the body is {"level": "debug"}')
        return web.json_response(await self._ask(request, "log_level", level=level))

    async def _upgrade(self, request: web.Request) -> web.Response:
        await _no_body(request)
        return web.json_response(await self._ask(request, "upgrade"), status=202)

    async def _stop(self, request: web.Request) -> web.Response:
        body = await _json_object(request)
        now = body.pop("now", False)
        if body or not isinstance(now, bool):
            raise MasterRefused("invalid", 'the body is {} or {"now": true}')
        try:
            answer = await self._ask(request, "stop", now=now)
        except MasterGone:
            # Control is what ends last now: its end is what the client waits for.
            self._orphans.end(now=now)
            answer = {"pid": os.getpid()}
        return web.json_response(answer, status=202)
