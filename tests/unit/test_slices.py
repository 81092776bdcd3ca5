"""Long reads of shared memory leave the event loop to others in between."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tcpmux.config import Address, Config, Route
from tcpmux.config.model import Admin, Destination
from tcpmux.control import slices as module
from tcpmux.control.connections import Connections
from tcpmux.control.metrics import Metrics
from tcpmux.control.slices import Slices, json_parts
from tcpmux.shm._commons import Commons
from tcpmux.shm._connections import STEP, connections
from tcpmux.shm._declared import fields_of
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.slots import Names
from tcpmux.shm.stats import StatusReader
from tcpmux.shm.view import View
from tests.unit.watching import conditions_of

ROUTES, WORKERS, RECORDS = 60, 2, 10_500
RELAYING = 6  # enum tm_conn_state
STATE, ACCEPTED = fields_of("tm_conn")["state"][0], fields_of("tm_cold")["accepted_at_us"][0]


def fill(live: Live) -> None:
    """Connections, the oldest anywhere among them."""
    now = int(time.monotonic() * 1e6)
    with mmap.mmap(live.fd, live.size) as memory:
        used = fields_of("tm_live")["records_used"][0]
        memory[used : used + 4] = struct.pack("I", RECORDS)
        for index in range(RECORDS):
            memory[live.record_offset(index) + STATE] = RELAYING
            accepted = live.cold_offset(index) + ACCEPTED
            age = index * 7919 % RECORDS
            memory[accepted : accepted + 8] = struct.pack("Q", now - age * 1000)


@pytest.fixture(scope="module")
def view() -> Iterator[View]:
    listen = [Address("127.0.0.1", 20_000 + i, "") for i in range(ROUTES)]
    routes = tuple(
        Route(
            f"r{i}",
            (address,),
            (Destination("v1", 1, (Address("127.0.0.1", 9001, ""),)),),
        )
        for i, address in enumerate(listen)
    )
    config = Config(None, None, Admin("/x"), 45.0, routes)
    table, commons = Table.create(WORKERS, WORKERS, os.getpid(), 1), Commons.create()
    lives = [Live.create(number, RECORDS) for number in range(WORKERS)]
    for live in lives:
        fill(live)
    sockets = {address: i for i, address in enumerate(listen)}
    publish_image(table, build_image(config, {}, Names.new(lambda _: True), sockets, 1, {}))
    yield View(table.fd, [live.fd for live in lives], commons_fd=commons.fd)
    for region in (table, commons, *lives):
        region.close()


@pytest.fixture(autouse=True)
def each_step_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 0.0)


async def turns_during(work: Any) -> tuple[Any, int]:
    """What it returns, and how often something else had its turn meanwhile."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        return await work, turns
    finally:
        counting.cancel()


def test_a_scan_of_all_connections_is_no_single_step(view: View) -> None:
    async def scenario() -> None:
        reader = Connections(view)
        wanted = reader.filter({"limit": "500"})
        (total, rows), turns = await turns_during(reader.rows(wanted, Slices()))
        assert total == WORKERS * RECORDS
        assert turns > WORKERS * RECORDS / STEP + 500 / 2
        ages = [row["age"] for row in rows]
        assert len(ages) == 500
        assert ages == sorted(ages, reverse=True)
        ids = [row["id"] for row in rows]
        found, turns = await turns_during(reader.open_among(ids, Slices()))
        assert found == ids
        assert turns > len(ids) / 2

    asyncio.run(scenario())


@pytest.mark.parametrize("ascending", [False, True])
def test_the_order_is_that_of_all_records_together(view: View, ascending: bool) -> None:
    total, rows = connections(view.lives, sort="age", ascending=ascending)
    ages = [row[8] for row in rows]
    assert total == len(ages) == WORKERS * RECORDS
    assert ages == sorted(ages, reverse=not ascending)
    _, first = connections(view.lives, sort="age", ascending=ascending, limit=100)
    assert [row[0] for row in first] == [row[0] for row in rows[:100]]


def test_a_scrape_and_a_status_are_no_single_step(view: View) -> None:
    async def scenario() -> None:
        metrics = Metrics(view, "1", conditions_of(view))
        parts, turns = await turns_during(Slices().all(metrics.parts()))
        assert "".join(parts) == metrics.text()
        assert turns > 30 * ROUTES  # every line of every route can be the last of a slice
        _, turns = await turns_during(metrics.note_change(Slices()))
        assert turns < 10  # it is prepared
        overview, routes = StatusReader(view).in_parts()
        work = Slices().all(json_parts(overview, "routes", routes))
        parts, turns = await turns_during(work)
        assert turns > ROUTES / 2
        assert json.loads("".join(parts))["routes"] == StatusReader(view).read()["routes"]

    asyncio.run(scenario())


def test_of_many_at_once_one_has_a_slice_in_a_turn() -> None:
    """However many ask, others wait for one slice, and the first to come is not the last served."""

    async def scenario() -> None:
        slices = Slices()
        order: list[int] = []

        def steps(name: int) -> Iterator[int]:
            for _ in range(3):
                order.append(name)
                yield name

        turn = 0
        seen: dict[int, list[int]] = {}

        def note(name: int) -> Iterator[int]:
            for step in steps(name):
                seen.setdefault(turn, []).append(name)
                yield step

        async def count() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await asyncio.gather(*(slices.all(note(name)) for name in range(20)))
        counting.cancel()
        assert max(map(len, seen.values())) <= 2  # the last step and an end may share a turn
        assert order[:20] == list(range(20))

    asyncio.run(scenario())


def test_who_gives_up_holds_up_nobody() -> None:
    async def scenario() -> None:
        slices = Slices()
        endless = asyncio.create_task(slices.all(iter(lambda: 0, 1)))
        await asyncio.sleep(0)
        endless.cancel()
        assert await slices.all([1, 2]) == [1, 2]
        assert endless.cancelled()

    asyncio.run(scenario())


def test_a_fault_in_a_step_is_told_to_who_waits_for_it() -> None:
    def steps() -> Iterator[int]:
        yield 1
        raise ValueError("torn")

    async def scenario() -> None:
        slices = Slices()
        with pytest.raises(ValueError, match="torn"):
            await slices.all(steps())
        assert await slices.all([1]) == [1]

    asyncio.run(scenario())


@pytest.mark.parametrize("items", [[], [1], [{"a": "é"}, None, [1.5]]])
@pytest.mark.parametrize("head", [{}, {"x": 1}, {"x": "]}", "y": []}])
def test_parts_are_the_json_of_the_whole(head: dict[str, Any], items: list[Any]) -> None:
    assert json.loads("".join(json_parts(head, "items", items))) == {**head, "items": items}
