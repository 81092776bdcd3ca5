"""What a host writes of itself into etcd, and with which lease."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from tcpmux.control.fleet.contents import Keys
from tcpmux.control.fleet.etcd import Etcd, Range
from tcpmux.control.fleet.hosts import HostKeys


class Member:
    """etcd that has forgotten each lease at the next beat, and answers ranges when it is told."""

    def __init__(self) -> None:
        self.leases: list[int] = []  # of what was put
        self.answers = asyncio.Event()
        self._granted = 0

    async def keep_alive(self, _lease: int) -> bool:
        return False

    async def grant(self, _seconds: int) -> int:
        await asyncio.sleep(0)
        self._granted += 1
        return self._granted

    async def range(self, *_: Any) -> Range:
        await self.answers.wait()
        return Range([], 1, "x")

    async def change(self, *given: Any) -> int:
        self.leases.append(given[3])
        return 5


def test_nothing_is_written_without_a_lease_while_it_is_renewed() -> None:
    """Such a key would stay for ever, as of a host that lags."""

    async def work() -> list[int]:
        member = Member()
        etcd, own = cast(Etcd, member), HostKeys(Keys("/f/"), "a", "0" * 16)
        await own.beat(etcd)
        writing = asyncio.create_task(own.write(etcd, {"epoch": 1}))
        beating = asyncio.create_task(own.beat(etcd))
        for _ in range(10):
            await asyncio.sleep(0)
        member.answers.set()
        await asyncio.gather(writing, beating)
        await own.write(etcd, {"epoch": 2})
        return member.leases

    assert asyncio.run(work()) == [1, 1, 2, 2]
