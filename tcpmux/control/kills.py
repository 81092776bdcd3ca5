"""Connections that an operator has reset, at once or at a rate. Runs in control."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tcpmux.errors import TcpmuxError

if TYPE_CHECKING:
    from tcpmux.control.connections import Connections
    from tcpmux.control.master_link import MasterLink
    from tcpmux.control.slices import Slices

IDS_AT_ONCE = 1000  # in one request to the master
SIGN_OF_LIFE = 1.0  # s
KILL_TIME = 1.0  # s to see them gone
CHECK_EVERY = 0.02  # s


class Kills:
    """Asks the master to have connections reset, and sees whether they are."""

    def __init__(self, connections: Connections, slices: Slices, master: MasterLink) -> None:
        self._connections = connections
        self._slices = slices
        self._master = master

    async def at_once(self, ids: list[str], gone: int, by: str) -> dict[str, int]:
        left = await self._reset(ids, by)
        return {"killed": len(ids) - len(left), "gone": gone, "left": len(left)}

    async def slowly(
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

    async def _reset(self, ids: list[str], by: str, told: int | None = None) -> list[str]:
        """Returns those that are there even so. told: how many the events are to speak of."""
        for at in range(0, len(ids), IDS_AT_ONCE):
            part = ids[at : at + IDS_AT_ONCE]
            number = (len(ids) if at == 0 else 0) if told is None else told
            await self._master.request("kill", ids=part, by=by, told=number)
        left = ids
        for _ in range(int(KILL_TIME / CHECK_EVERY)):
            left = await self._connections.open_among(left, self._slices)
            if not left:
                break
            await asyncio.sleep(CHECK_EVERY)
        return left
