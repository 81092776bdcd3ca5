"""Names in use: looked up again and again, told to a master that may refuse."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import pytest

from tcpmux.config import Address, HostName
from tcpmux.control import name_watch
from tcpmux.control.master_link import MasterRefused
from tcpmux.control.name_watch import NameWatch
from tcpmux.control.resolver import Found, LookupFailed, Memory
from tests.support import patient

SHOP = HostName("shop.test", 80)
ONE, TWO = (Address.parse(f"192.0.2.{n}:80") for n in (1, 2))
DEADLINE = patient(10)  # s


class World:
    """The resolver, the master and the log, as the watch sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[Found | Exception] = []  # one a lookup; the last again and again
        self.refusals = 0  # to come
        self.told: list[tuple[Address, ...]] = []  # and taken
        self.said: list[tuple[int, str]] = []
        self.asked = 0
        self._moved = asyncio.Event()
        self.watch = NameWatch(self._tell, self._say)
        monkeypatch.setattr(name_watch, "FIRST_RETRY", 0.001)
        monkeypatch.setattr(name_watch, "LAST_RETRY", 0.004)
        monkeypatch.setattr(name_watch, "Resolver", lambda _: self)

    async def look_up(self, _name: HostName, _memory: Memory) -> Found:
        self.asked += 1
        self._moved.set()
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        pass

    async def _tell(self, _name: HostName, addresses: Sequence[Address]) -> None:
        self._moved.set()
        if self.refusals:
            self.refusals -= 1
            raise MasterRefused("refused", "full")
        self.told.append(tuple(addresses))

    async def _say(self, level: int, text: str) -> None:
        self.said.append((level, text))
        self._moved.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async def look() -> None:
            while not condition():
                self._moved.clear()
                await self._moved.wait()

        await asyncio.wait_for(look(), DEADLINE)


def test_what_the_master_refused_is_sent_again_and_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        world = World(monkeypatch)
        world.answers = [Found((ONE, TWO), 3600.0)]
        world.refusals = 5
        await world.watch.watch({SHOP: (ONE,)}, ())
        await world.until(lambda: world.refusals == 2)
        detail = world.watch.detail(SHOP)
        assert detail["error"] == "its new addresses are rejected: full"
        assert detail["since"] is not None
        await world.until(lambda: len(world.said) == 2)
        assert world.told == [(ONE, TWO)]
        assert world.said == [
            (
                logging.ERROR,
                "shop.test:80: its 2 new addresses are rejected, it keeps 192.0.2.1:80: full",
            ),
            (logging.INFO, "shop.test:80 resolves again"),
        ]
        assert world.asked == 6
        await asyncio.sleep(0)
        assert world.watch.detail(SHOP)["error"] == ""
        await world.watch.close()

    asyncio.run(run())


def test_what_is_known_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        world = World(monkeypatch)
        world.answers = [Found((ONE,), 0.001)]
        await world.watch.watch({SHOP: (ONE,)}, ())
        await world.until(lambda: world.asked == 5)
        assert not world.told
        assert not world.said
        await world.watch.close()

    asyncio.run(run())


def test_a_fault_in_a_lookup_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        world = World(monkeypatch)
        world.answers = [RuntimeError("of the library"), Found((ONE,), 3600.0)]
        await world.watch.watch({SHOP: ()}, ())
        await world.until(lambda: world.told == [(ONE,)])
        await world.watch.close()

    asyncio.run(run())
    assert "internal error in looking up shop.test:80" in caplog.text


@pytest.mark.parametrize("kept", [(), (ONE,)])
def test_a_failure_is_said_once(monkeypatch: pytest.MonkeyPatch, kept: tuple[Address, ...]) -> None:
    """By whoever handed the name over, if it had no address then."""

    async def run() -> None:
        world = World(monkeypatch)
        world.answers = [LookupFailed("no such name")]
        await world.watch.watch({SHOP: kept}, ())
        await world.until(lambda: world.asked == 4)
        text = "can't resolve shop.test:80 (no such name): it keeps 192.0.2.1:80"
        assert world.said == ([(logging.WARNING, text)] if kept else [])
        assert world.watch.detail(SHOP)["error"] == "no such name"
        await world.watch.close()

    asyncio.run(run())


def test_notes_are_said_when_they_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        world = World(monkeypatch)
        found = Found((ONE,), 0.001, ("port 0",))
        world.answers = [found, found, Found((ONE,), 0.001, ("port 0", "too many"))]
        await world.watch.watch({SHOP: (ONE,)}, ())
        await world.until(lambda: world.asked == 5)
        assert world.said == [
            (logging.WARNING, "shop.test:80: port 0"),
            (logging.WARNING, "shop.test:80: too many"),
        ]
        await world.watch.close()

    asyncio.run(run())


def test_a_reload_has_a_lost_name_looked_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it would have waited."""

    async def run() -> None:
        world = World(monkeypatch)
        monkeypatch.setattr(name_watch, "FIRST_RETRY", 3600.0)
        world.answers = [LookupFailed("no such name"), Found((ONE,), 3600.0)]
        await world.watch.watch({SHOP: (TWO,)}, ())
        await world.until(lambda: world.said)
        await asyncio.sleep(0)
        await world.watch.watch({SHOP: (TWO,)}, ())
        await world.until(lambda: world.told == [(ONE,)])
        await world.watch.close()

    asyncio.run(run())
