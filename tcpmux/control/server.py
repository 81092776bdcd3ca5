"""The admin API over HTTP. Runs in control.

    GET  /v1/status                    what is, read from shared memory
    POST /v1/reload                    the files again
    POST /v1/diff                      {"files": [...], "endpoints": [...]}: what would change
    PUT  /v1/routes/NAME/weights       {"v1": 50, "v2": 50}
    PUT  /v1/workers                   {"count": 4}
    POST /v1/upgrade                   the build that is installed now
    POST /v1/stop                      {} drains, {"now": true} does not

What changes the table is asked of the master; nothing is changed here. Every answer is
JSON, errors are {"error": "one line"}.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from tcpmux.control.master_link import MasterGone, MasterLink, MasterRefused, MasterSilent

if TYPE_CHECKING:
    from tcpmux.control.names import HostNames
    from tcpmux.control.orphans import OrphanedWorkers

log = logging.getLogger("tcpmux.control")

LARGEST_BODY = 1024 * 1024  # bytes
BODY_TIME = 10.0  # s
# By kind of refusal.
HTTP_STATUS = {"invalid": 400, "not_found": 404, "refused": 409, "bad_file": 422}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StatusSource(Protocol):
    """tcpmux.shm.stats.StatusReader, or what a test puts in its place."""

    def read(self) -> dict[str, Any]:
        """The status object without version, config and admin."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What status says of the instance that is not in shared memory."""

    version: str
    config: Sequence[str]  # paths
    admin: str  # path of the socket


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
    except MasterRefused as error:
        return _error(HTTP_STATUS[error.kind], str(error))
    except MasterGone as error:
        return _error(
            503,
            f"{error}: traffic goes on as it is, nothing can be changed; "
            "start tcpmux again with the same file, and it takes over",
        )
    except MasterSilent as error:
        return _error(504, str(error))
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return _error(500, f"a fault in tcpmux: {error!r}; its log has the details")


async def _json_object(request: web.Request) -> dict[str, Any]:
    """The request's body; no body counts as {}. Raises MasterRefused for anything else."""
    try:
        body = await asyncio.wait_for(request.read(), BODY_TIME)
    except asyncio.TimeoutError:
        raise web.HTTPRequestTimeout(text="the body of the request did not arrive") from None
    try:
        value = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise MasterRefused("invalid", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MasterRefused("invalid", "the body is not a JSON object")
    return value


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


class AdminApi:
    """The handlers. app() gives the application to serve."""

    def __init__(
        self,
        source: StatusSource,
        identity: Identity,
        master: MasterLink,
        orphans: OrphanedWorkers,
        names: HostNames,
    ) -> None:
        self._names = names
        self._source = source
        self._identity = identity
        self._master = master
        self._orphans = orphans

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_errors_as_json], client_max_size=LARGEST_BODY)
        app.router.add_get("/v1/status", self._status, allow_head=False)
        app.router.add_post("/v1/reload", self._reload)
        app.router.add_post("/v1/diff", self._diff)
        app.router.add_put("/v1/routes/{route}/weights", self._set_weights)
        app.router.add_put("/v1/workers", self._set_workers)
        app.router.add_post("/v1/upgrade", self._upgrade)
        app.router.add_post("/v1/stop", self._stop)
        return app

    async def _status(self, _request: web.Request) -> web.Response:
        status = {
            **self._source.read(),
            "version": self._identity.version,
            "config": list(self._identity.config),
            "admin": self._identity.admin,
        }
        if self._master.gone:
            status["state"] = "orphaned"
        return web.json_response(status)

    async def _reload(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._names.reload())

    async def _diff(self, request: web.Request) -> web.Response:
        body = await _json_object(request)
        files, endpoints = body.pop("files", None), body.pop("endpoints", [])
        if body or not files or not _is_texts(files) or not _is_texts(endpoints):
            raise MasterRefused("invalid", 'the body is {"files": ["/path"], "endpoints": []}')
        return web.json_response(
            await self._master.request("diff", files=files, endpoints=endpoints)
        )

    async def _set_weights(self, request: web.Request) -> web.Response:
        weights = await _json_object(request)  # what is in it is for the master to judge
        route = request.match_info["route"]
        return web.json_response(
            await self._master.request("set_weights", route=route, weights=weights)
        )

    async def _set_workers(self, request: web.Request) -> web.Response:
        body = await _json_object(request)
        count = body.pop("count", None)
        if body or type(count) is not int:
            raise MasterRefused("invalid", 'the body is {"count": N}')
        return web.json_response(await self._master.request("set_workers", count=count))

    async def _upgrade(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._master.request("upgrade"), status=202)

    async def _stop(self, request: web.Request) -> web.Response:
        body = await _json_object(request)
        now = body.pop("now", False)
        if body or not isinstance(now, bool):
            raise MasterRefused("invalid", 'the body is {} or {"now": true}')
        try:
            answer = await self._master.request("stop", now=now)
        except MasterGone:
            # Control is what ends last now: its end is what the client waits for.
            self._orphans.end(now=now)
            answer = {"pid": os.getpid()}
        return web.json_response(answer, status=202)
