"""What names mean, told to the master: many at once, and one that is refused alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tcpmux.config import Address, HostName
from tcpmux.control.master_link import MasterRefused
from tcpmux.control.names import HostNames

COUNT = 100


class Master:
    """Takes what is told once it is let go on. refuses: names."""

    def __init__(self, *refuses: str) -> None:
        self.told: list[dict[str, list[str]]] = []
        self.known: dict[str, list[str]] = {}
        self.go_on = asyncio.Event()
        self._refuses = set(refuses)

    async def request(self, verb: str, *, found: dict[str, list[str]]) -> dict[str, Any]:
        assert verb == "addresses"
        self.told.append(found)
        await self.go_on.wait()
        if self._refuses & found.keys():
            raise MasterRefused("refused", "full")
        self.known |= found
        return {}


def name(number: int) -> HostName:
    return HostName(f"n{number}.test", 80)


async def told(master: Master) -> list[BaseException | None]:
    """What came of telling COUNT names at the same time, the first of them before the others."""
    names = HostNames()
    names.start(master)  # type: ignore[arg-type]
    address = Address.parse("192.0.2.1:80")
    first = asyncio.create_task(names._send(name(0), [address]))
    while not master.told:
        await asyncio.sleep(0)
    others = [asyncio.create_task(names._send(name(n), [address])) for n in range(1, COUNT)]
    await asyncio.sleep(0)
    master.go_on.set()
    return list(await asyncio.gather(first, *others, return_exceptions=True))


def test_what_comes_while_the_master_is_busy_is_told_in_one_request() -> None:
    """Each makes a generation of all routes: one a name is minutes for a thousand of them."""

    async def run() -> None:
        master = Master()
        assert await told(master) == [None] * COUNT
        assert [len(found) for found in master.told] == [1, COUNT - 1]
        assert master.known == {str(name(n)): ["192.0.2.1:80"] for n in range(COUNT)}

    asyncio.run(run())


def test_one_that_is_refused_takes_no_others_with_it() -> None:
    async def run() -> None:
        bad = str(name(37))
        master = Master(bad)
        results = await told(master)
        assert [n for n, result in enumerate(results) if result is not None] == [37]
        assert isinstance(results[37], MasterRefused)
        assert master.known.keys() == {str(name(n)) for n in range(COUNT)} - {bad}

    asyncio.run(run())


def test_who_no_longer_waits_does_not_stop_the_others() -> None:
    """A name that a reload takes away while it is told of."""

    async def run() -> None:
        master = Master()
        names = HostNames()
        names.start(master)  # type: ignore[arg-type]
        address = Address.parse("192.0.2.1:80")
        gone = asyncio.create_task(names._send(name(0), [address]))
        stays = asyncio.create_task(names._send(name(1), [address]))
        while not master.told:
            await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        master.go_on.set()
        await stays
        assert master.known.keys() == {str(name(0)), str(name(1))}

    asyncio.run(run())
