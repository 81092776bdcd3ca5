"""Resolves the names in use periodically. Runs in control."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from tcpmux.config import Address, HostName
from tcpmux.control.condition_rules import NameTrouble
from tcpmux.control.resolver import LookupFailed, Memory, Resolver
from tcpmux.control.tasks import Tasks, end_all
from tcpmux.control.timeouts import within
from tcpmux.errors import TcpmuxError, listed

if TYPE_CHECKING:
    from tcpmux.control.resolver import Found

FIRST_RETRY, LAST_RETRY = 1.0, 30.0  # s

Addresses = tuple[Address, ...]
Send = Callable[[HostName, Sequence[Address]], Awaitable[None]]  # raises TcpmuxError: not taken
Report = Callable[[int, str], Awaitable[None]]  # a level of logging, and what is to be in the log


@dataclass(slots=True, eq=False)
class _Name:
    """What is known of one. known: the addresses that the master uses."""

    name: HostName
    known: Addresses
    task: asyncio.Task[None] | None = None
    memory: Memory = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_said: bool = False  # that it can't be looked up
    error: str = ""  # why it can't be looked up, or why the master does not take what was found
    since: float = field(default_factory=time.time)  # Unix time, s, of error
    is_refused: bool = False  # the master does not take what was found
    next_lookup: float = 0.0  # monotonic
    retry: float = field(default_factory=lambda: FIRST_RETRY)  # s
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def failed(self, error: str, *, is_refused: bool = False) -> bool:
        """Whether that is new."""
        is_new = not self.error
        self.is_refused = is_refused
        if is_new:
            self.since = time.time()
        self.error = error
        return is_new


class NameWatch:
    """Keeps the addresses of the names in use up to date. tell() gets every change, say() what
    people should know; a fault in a lookup is told as tasks do."""

    def __init__(self, send: Send, report: Report, tasks: Tasks | None = None) -> None:
        self._tasks = tasks or Tasks()
        self._send = send
        self._report = report
        self._servers: tuple[str, ...] = ()
        self._resolver: Resolver | None = None
        self._names: dict[HostName, _Name] = {}

    async def watch(self, known: Mapping[HostName, Addresses], servers: Sequence[str]) -> None:
        """From now on these names, with the addresses in force, and no others. Those that could
        not be looked up are tried at once."""
        if tuple(servers) != self._servers or self._resolver is None:
            await self.close()
            self._servers = tuple(servers)
            self._resolver = Resolver(servers)
        for name in self._names.keys() - known.keys():
            task = self._names.pop(name).task
            assert task is not None
            task.cancel()
        for name, addresses in known.items():
            one = self._names.get(name)
            if one is None:
                # Whoever hands a name over without an address has said so, and why.
                one = self._names[name] = _Name(name, addresses, is_said=not addresses)
                follow = partial(self._follow, one, self._resolver)
                one.task = self._tasks.keep(f"looking up {name}", follow)
            one.known = addresses
            if one.error:
                one.retry = FIRST_RETRY
                one.hurry.set()

    async def close(self) -> None:
        await end_all({one.task for one in self._names.values() if one.task is not None})
        self._names.clear()
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None

    def detail(self, name: HostName) -> dict[str, Any]:
        """What the status shows of a name; error "" = none. since, next_look: Unix time, s."""
        one = self._names.get(name)
        if one is None:
            return {"error": "", "since": None, "next_look": None}
        wait = one.next_lookup - time.monotonic()
        return {
            "error": one.error,
            "since": one.since if one.error else None,
            "next_look": time.time() + wait if one.error and wait > 0 else None,
        }

    def failing(self) -> dict[HostName, NameTrouble]:
        """Those with an error."""
        return {
            name: NameTrouble(str(name), _in_words(one), one.since, bool(one.known))
            for name, one in self._names.items()
            if one.error
        }

    async def _follow(self, one: _Name, resolver: Resolver) -> None:
        while True:
            try:
                pause = await self._look_up(one, resolver)
            except Exception as error:
                # Whatever it is, ending here would leave the name as it is for ever.
                self._tasks.fault(f"looking up {one.name}", error, "it is tried again")
                pause = LAST_RETRY
            one.next_lookup = time.monotonic() + pause
            one.hurry.clear()
            with suppress(asyncio.TimeoutError):
                async with within(pause):
                    await one.hurry.wait()

    async def _look_up(self, one: _Name, resolver: Resolver) -> float:
        """Returns for how many s that will do."""
        try:
            found = await resolver.look_up(one.name, one.memory)
        except LookupFailed as error:
            if one.failed(str(error)) and not one.is_said:
                await self._say_lost(one)
            return self._later(one)
        one.is_said = False
        await self._say_notes(one, found)
        if found.addresses != one.known:
            try:
                await self._send(one.name, found.addresses)
            except TcpmuxError as error:
                if one.failed(f"its new addresses are rejected: {error}", is_refused=True):
                    await self._report(
                        logging.ERROR,
                        f"{one.name}: its {len(found.addresses)} new addresses are rejected, it "
                        f"keeps {_shown(one.known) or 'none'}: {error}",
                    )
                return self._later(one)
            one.known = found.addresses
        if one.error:
            await self._report(logging.INFO, f"{one.name} resolves again")
        one.error, one.retry = "", FIRST_RETRY
        return found.ttl

    @staticmethod
    def _later(one: _Name) -> float:
        pause, one.retry = one.retry, min(one.retry * 2, LAST_RETRY)
        return pause

    async def _say_lost(self, one: _Name) -> None:
        kept = _shown(one.known)
        then = f"it keeps {kept}" if kept else "it has no address until it resolves"
        await self._report(logging.WARNING, f"can't resolve {one.name} ({one.error}): {then}")

    async def _say_notes(self, one: _Name, found: Found) -> None:
        level = logging.WARNING if found.addresses else logging.ERROR
        before, one.notes = one.notes, found.notes
        for note in found.notes:
            if note not in before:
                await self._report(level, f"{one.name}: {note}")


def _in_words(one: _Name) -> str:
    if one.is_refused:
        return one.error
    kept = _shown(one.known)
    return f"does not resolve ({one.error})" + (f", {kept} in use" if kept else "")


def _shown(addresses: Sequence[Address], most: int = 5) -> str:
    return listed([str(address) for address in dict.fromkeys(addresses)], most)
