"""Endpoints by name: resolved here, reported to the master. Runs in control."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

from tcpmux.config import Address, HostName
from tcpmux.config.address import parse_endpoint
from tcpmux.control.condition_rules import NameTrouble
from tcpmux.control.master_link import MasterLink
from tcpmux.control.tasks import Tasks
from tcpmux.errors import TcpmuxError

log = logging.getLogger("tcpmux.control")

LOOKUP_TIME = 5.0  # s, for all new names of a reload
MAX_TROUBLES = 50  # told to the page each second


class _Sender:
    """Tells the master what names mean: one request at a time, with all that is known by then. With
    a thousand routes one takes a second, and after an outage a thousand names are back at once."""

    def __init__(self, request: Callable[..., Awaitable[Any]]) -> None:
        self._request = request
        self._one_at_a_time = asyncio.Lock()
        self._waiting: dict[str, list[str]] = {}
        self._sending: asyncio.Task[dict[str, TcpmuxError]] | None = None  # what waits

    async def send(self, name: str, addresses: list[str]) -> None:
        """Raises TcpmuxError if the master does not take them."""
        self._waiting[name] = addresses
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_waiting())
        refused = await asyncio.shield(self._sending)
        if name in refused:
            raise refused[name]

    async def _send_waiting(self) -> dict[str, TcpmuxError]:
        async with self._one_at_a_time:
            found, self._waiting, self._sending = self._waiting, {}, None
            return await self._send(found)

    async def _send(self, found: dict[str, list[str]]) -> dict[str, TcpmuxError]:
        """Returns those that are refused. One that is must not take others with it."""
        try:
            await self._request("addresses", found=found)
        except TcpmuxError as error:
            if len(found) == 1:
                return dict.fromkeys(found, error)
            names = list(found)
            half = len(names) // 2
            first = await self._send({name: found[name] for name in names[:half]})
            return first | await self._send({name: found[name] for name in names[half:]})
        return {}


class HostNames:
    """The names in use. aiodns is loaded with the first of them: most have none."""

    def __init__(self) -> None:
        self._master: MasterLink | None = None
        self._sender: _Sender | None = None
        self._watch: Any = None  # NameWatch
        self._tasks = Tasks()
        self._following = asyncio.Lock()
        self._used: dict[tuple[str, str], list[HostName]] = {}  # by route and destination

    def start(self, master: MasterLink, tell: Callable[[str], object] = lambda _: None) -> None:
        """tell: gets a line for each fault in here."""
        self._master = master
        self._sender = _Sender(master.request)
        self._tasks = Tasks(tell)

    async def close(self) -> None:
        await self._tasks.close()
        if self._watch is not None:
            await self._watch.close()

    # --- for people -------------------------------------------------------------------------

    def detail(self, route: str, destination: str) -> list[dict[str, Any]]:
        """What the status shows of the names of a destination."""
        return [
            {"name": str(name), **self._watch.detail(name)}
            for name in self._used.get((route, destination), ())
        ]

    def failing(self) -> dict[tuple[str, str], list[NameTrouble]]:
        """The names that can't be looked up, by route and destination."""
        if self._watch is None:
            return {}
        wrong: dict[HostName, NameTrouble] = self._watch.failing()
        found: dict[tuple[str, str], list[NameTrouble]] = {}
        for key, names in self._used.items() if wrong else ():
            for name in names:
                if name in wrong:
                    found.setdefault(key, []).append(wrong[name])
        return found

    def troubles(self) -> list[dict[str, Any]]:
        """Names that can't be looked up, at most MAX_TROUBLES: as Health.troubles()."""
        found: list[dict[str, Any]] = []
        for (route, destination), names in self._used.items():
            for name in names:
                detail = self._watch.detail(name)
                if detail["error"]:
                    found.append(
                        {
                            "route": route,
                            "destination": destination,
                            "address": str(name),
                            "health": "unresolved",
                            "slow_start_percent": 100,
                            "ramp": 100,
                            "health_reason": detail["error"],
                            "health_since": detail["since"],
                            "next_try": detail["next_look"],
                            "check": "off",
                            "suspected": False,
                        }
                    )
                    if len(found) == MAX_TROUBLES:
                        return found
        return found

    # --- the master -------------------------------------------------------------------------

    def pushed(self, message: dict[str, Any]) -> None:
        """Of what the master says unasked, {"push": "names", ...} and {"push": "reload"}."""
        act = self._reload_quietly() if message["push"] == "reload" else self._follow(message)
        self._tasks.once("host names", act)

    async def reload(
        self, by: str, verb: Literal["reload", "fleet"] = "reload", **what: object
    ) -> dict[str, Any]:
        """Asks the master for a reload, once the new names of its files have been looked up.
        Raises what MasterLink.request() raises. by: who asked for it. verb, what: it is of what
        the fleet says."""
        assert self._master is not None
        answer = await self._master.request(verb, look_up=True, by=by, **what)
        if "unknown" not in answer:
            return answer
        from tcpmux.control.resolver import look_up_all, parse_name

        names = [parse_name(text) for text in answer["unknown"]]
        results = await look_up_all(names, answer["servers"], LOOKUP_TIME)
        warnings: list[str] = []
        for name, found in results.items():
            addresses: Sequence[Address] = ()
            if isinstance(found, str):
                notes = [f"can't resolve {name} ({found})"]
            else:
                addresses = found.addresses
                notes = [f"{name}: {note}" for note in found.notes]
            for note in notes:
                await self._report(logging.WARNING, note)
            warnings += notes
            await self._send(name, addresses)
        answer = await self._master.request(verb, by=by, **what)
        return {**answer, "warnings": [*warnings[:MAX_TROUBLES], *answer["warnings"]]}

    async def _reload_quietly(self) -> None:
        with suppress(TcpmuxError):  # the master's log says why it refuses
            await self.reload("SIGHUP")

    async def _send(self, name: HostName, addresses: Sequence[Address]) -> None:
        """Raises TcpmuxError if the master does not take them."""
        assert self._sender is not None
        await self._sender.send(str(name), list(map(str, addresses)))

    async def _report(self, level: int, text: str) -> None:
        """In the master's log, and so among the events; without a master in our own."""
        assert self._master is not None
        try:
            await self._master.request("addresses", found={}, level=level, text=text)
        except TcpmuxError:
            log.log(level, "%s", text)

    async def _follow(self, message: dict[str, Any]) -> None:
        if self._watch is None and not message["names"]:
            return
        from tcpmux.control.name_watch import NameWatch
        from tcpmux.control.resolver import parse_name

        if self._watch is None:
            self._watch = NameWatch(self._send, self._report, self._tasks)
        known = {
            parse_name(name): tuple(map(Address.parse, addresses))
            for name, addresses in message["names"].items()
        }
        self._used = {
            (route, destination): [name for name in map(parse_endpoint, names) if name in known]
            for route, destination, names in message["used"]
        }
        async with self._following:  # one message after the other
            await self._watch.watch(known, message["servers"])
