"""Endpoints by name: looked up here, told to the master. Runs in control."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tcpmux.config import Address, HostName
from tcpmux.control.master_link import MasterLink
from tcpmux.control.tasks import Tasks
from tcpmux.errors import TcpmuxError

log = logging.getLogger("tcpmux.control")

LOOKUP_TIME = 5.0  # s, for all new names of a reload


class HostNames:
    """The names in use. aiodns is loaded with the first of them: most have none."""

    def __init__(self) -> None:
        self._master: MasterLink | None = None
        self._watch: Any = None  # NameWatch
        self._tasks = Tasks()

    def start(self, master: MasterLink, tell: Callable[[str], object] = lambda _: None) -> None:
        """tell: gets a line for each fault in here."""
        self._master = master
        self._tasks = Tasks(tell)

    async def close(self) -> None:
        await self._tasks.close()
        if self._watch is not None:
            await self._watch.close()

    def pushed(self, message: dict[str, Any]) -> None:
        """Of what the master says unasked, {"push": "names", ...} and {"push": "reload"}."""
        act = self._reload_quietly() if message["push"] == "reload" else self._follow(message)
        self._tasks.once("host names", act)

    async def reload(self, by: str) -> dict[str, Any]:
        """Asks the master for a reload, once the new names of its files have been looked up.
        Raises what MasterLink.request() raises. by: who asked for it."""
        assert self._master is not None
        answer = await self._master.request("reload", look_up=True, by=by)
        if "unknown" not in answer:
            return answer
        from tcpmux.control.resolver import look_up_all, parse_name

        names = [parse_name(text) for text in answer["unknown"]]
        for name, found in (await look_up_all(names, answer["servers"], LOOKUP_TIME)).items():
            if isinstance(found, str):
                log.error(
                    "%s can't be looked up (%s): its share of connections is reset", name, found
                )
            await self._tell(name, () if isinstance(found, str) else found)
        return await self._master.request("reload", by=by)

    async def _reload_quietly(self) -> None:
        with suppress(TcpmuxError):  # the master's log says why it refuses
            await self.reload("SIGHUP")

    async def _tell(self, name: HostName, addresses: Sequence[Address]) -> None:
        assert self._master is not None
        try:
            await self._master.request("addresses", found={str(name): list(map(str, addresses))})
        except TcpmuxError as error:
            log.warning("the master does not take the addresses of %s: %s", name, error)

    async def _follow(self, message: dict[str, Any]) -> None:
        if self._watch is None and not message["names"]:
            return
        from tcpmux.control.resolver import NameWatch, parse_name

        if self._watch is None:
            self._watch = NameWatch(self._tell)
        known = {
            parse_name(name): tuple(map(Address.parse, addresses))
            for name, addresses in message["names"].items()
        }
        await self._watch.watch(known, message["servers"])
