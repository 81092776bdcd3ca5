"""The client of the admin API for programs with an event loop: `from tcpmux import AsyncClient`.
Never in the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tcpmux.control.client import TIMEOUT, Client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tcpmux.control.schema import (
        Applied,
        ConnectionList,
        Event,
        Killed,
        RouteStatus,
        Status,
        Stopping,
    )


class AsyncClient:
    """As Client, for programs with an event loop: each request waits in a thread of its own."""

    def __init__(self, path: str | Path | None = None, timeout: float = TIMEOUT) -> None:
        self._client = Client(path, timeout)

    @property
    def path(self) -> str:
        return self._client.path

    async def status(self) -> Status:
        return await asyncio.to_thread(self._client.status)

    async def routes(self) -> list[RouteStatus]:
        return await asyncio.to_thread(self._client.routes)

    async def connections(self, **filters: Any) -> ConnectionList:
        """filters: as of Client.connections()."""
        return await asyncio.to_thread(self._client.connections, **filters)

    async def kill(self, ids: Sequence[str], rate: float | None = None) -> Killed:
        return await asyncio.to_thread(self._client.kill, ids, rate)

    async def events(self, since: int = 0) -> list[Event]:
        return await asyncio.to_thread(self._client.events, since)

    async def set_weights(
        self, route: str, weights: Mapping[str, int | str], *, force: bool = False
    ) -> Applied:
        return await asyncio.to_thread(self._client.set_weights, route, weights, force=force)

    async def undo(self, route: str, *, force: bool = False) -> Applied:
        return await asyncio.to_thread(self._client.undo, route, force=force)

    async def drain(
        self,
        route: str,
        destination: str,
        endpoint: str | None = None,
        *,
        force: bool = False,
        seconds: float = 0.0,
    ) -> Applied:
        return await asyncio.to_thread(
            self._client.drain, route, destination, endpoint, force=force, seconds=seconds
        )

    async def disable(
        self,
        route: str,
        destination: str,
        endpoint: str | None = None,
        *,
        force: bool = False,
        seconds: float = 0.0,
    ) -> Applied:
        return await asyncio.to_thread(
            self._client.disable, route, destination, endpoint, force=force, seconds=seconds
        )

    async def enable(self, route: str, destination: str, endpoint: str | None = None) -> Applied:
        return await asyncio.to_thread(self._client.enable, route, destination, endpoint)

    async def reload(self) -> Applied:
        return await asyncio.to_thread(self._client.reload)

    async def set_workers(self, count: int) -> Applied:
        return await asyncio.to_thread(self._client.set_workers, count)

    async def stop(self, *, now: bool = False) -> Stopping:
        return await asyncio.to_thread(self._client.stop, now=now)
