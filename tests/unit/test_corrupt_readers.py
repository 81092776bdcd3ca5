"""Whoever reads workers' regions gets something out of any bytes: no error, no end to wait for, and
no more rows than there are records."""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import time
from array import array
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from tcpmux.config import Address, Config, Route
from tcpmux.config.model import Admin, Destination
from tcpmux.control.connections import Connections
from tcpmux.control.metrics import Metrics
from tcpmux.control.slices import Slices
from tcpmux.logger.lines import writer
from tcpmux.logger.source import Source
from tcpmux.master.balance import plan_moves
from tcpmux.shm._commons import Commons
from tcpmux.shm._connections import SORT_KEYS, connections, is_open
from tcpmux.shm._declared import CLOSE_REASONS, MAX_SHARDS, fields_of
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._readings import failed_connects, read_log
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.slots import Names
from tcpmux.shm.stats import StatusReader
from tcpmux.shm.view import View
from tests.unit.watching import conditions_of

CAPACITY = 64
LIVE = fields_of("tm_live")
LISTEN = Address("127.0.0.1", 31400, "")


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("TCPMUX_TEST_SEED", random.randrange(1 << 32)))
    print(f"TCPMUX_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def view() -> Iterator[View]:
    destinations = (Destination("v1", 80, (Address("127.0.0.1", 9001, ""),)),)
    config = Config(None, None, Admin("/x"), 45.0, (Route("r", (LISTEN,), destinations),))
    table, commons = Table.create(2, 2, os.getpid(), 1_700_000_000), Commons.create()
    lives = [Live.create(number, CAPACITY) for number in range(2)]
    names = Names.new(lambda _: True)
    publish_image(table, build_image(config, {}, names, {LISTEN: 0}, 1, {}))
    yield View(table.fd, [live.fd for live in lives], commons_fd=commons.fd, writable=True)
    for region in (table, commons, *lives):
        region.close()


def noise(chance: random.Random, size: int) -> bytes:
    """Bytes of which every kind of number is made: small, huge, all ones, none."""
    made = b""
    while len(made) < size:
        made += chance.choice([b"\0" * 8, b"\xff" * 8, chance.randbytes(8), b"\1\0\0\0\2\0\0\0"])
    return made[:size]


def spoil(live: Live, chance: random.Random) -> None:
    """All of a region that is not too long to be written again and again."""
    with mmap.mmap(live.fd, live.size) as memory:
        first = live.record_offset(0)
        size = live.size - first
        memory[: LIVE["slots"][0]] = noise(chance, LIVE["slots"][0])
        memory[first : first + size] = noise(chance, size)
        for name, length in (
            ("slots", 4096),
            ("listening", 4096),
            ("times", 4096),
            ("log", 1 << 16),
        ):
            start = LIVE[name][0]
            memory[start : start + length] = noise(chance, length)
        state = fields_of("tm_conn")["state"][0]
        for index in range(CAPACITY):  # most are in use
            memory[live.record_offset(index) + state] = chance.choice([1, 4, 6, 6, 7, 77])
            if chance.randrange(2):
                own_an_annex(live, memory, index)


def own_an_annex(live: Live, memory: mmap.mmap, index: int) -> None:
    """The record and one full of noise name each other."""
    records, sizes = live.record_offset(0), [size_of(name) for name in ("tm_conn", "tm_cold")]
    cold = records + CAPACITY * sizes[0] + index * sizes[1] + fields_of("tm_cold")["annex"][0]
    annex = records + CAPACITY * sum(sizes) + index * size_of("tm_annex")
    generation = live.record_offset(index) + fields_of("tm_conn")["generation"][0]
    memory[cold : cold + 4] = (index + 1).to_bytes(4, "little")
    memory[annex : annex + 4] = index.to_bytes(4, "little")
    memory[annex + 4 : annex + 8] = memory[generation : generation + 4]


def size_of(struct: str) -> int:
    """Of those without padding at their end."""
    return max(offset + size for offset, size in fields_of(struct).values())


def spoil_commons(view: View, chance: random.Random) -> None:
    slots = fields_of("tm_commons")["slots"][0]
    with mmap.mmap(view.commons.fd, view.commons.size) as memory:
        memory[slots : slots + 4096] = noise(chance, 4096)


def read_all(view: View) -> None:
    StatusReader(view).read()
    Metrics(view, "1.0", conditions_of(view)).text()
    for key in SORT_KEYS:
        count, rows = connections(view.lives, sort=key, network=ip_network("0.0.0.0/0"))
        assert len(rows) <= count <= 2 * CAPACITY
    reader, slices = Connections(view), Slices()
    _, shown = asyncio.run(reader.rows(reader.filter({}), slices))
    asyncio.run(reader.open_among([row["id"] for row in shown], slices))
    source = Source(view, 0)
    source.dropped()
    for template in ("json", "{start_time} {duration} {route} {upstream_host}"):
        text = writer(template)
        batches = [line for batch in source.batches() for line in batch.lines]
        for line in (*batches, *source.open_connections()):
            assert "\n" not in text(line)
    assert len(failed_connects(view.lives, [0] * len(view.lives))) <= 64 * len(view.lives)
    view.counters.closed(array("I", range(4)), CLOSE_REASONS)
    view.commons.all_failures(array("I", range(4)))
    for slot in range(4):
        view.counters.connects(array("I", [slot]))
        view.commons.failed_with(slot)
        view.commons.connections(slot)
        view.commons.failures(slot)
        view.commons.avoided_until(slot)
        view.waiting(slot)


def read_as_master(view: View) -> None:
    for number, live in enumerate(view.lives):
        assert live.worker == number
        assert live.capacity == CAPACITY
        assert live.connections <= CAPACITY
        assert live.records_used <= CAPACITY
        assert all(identity < 4096 and shard < MAX_SHARDS for identity, shard in live.listening)
        assert live.orders & ~3 == 0
        for other in range(MAX_SHARDS + 1):
            live.has_line(other)
            live.gives_to(other)
        live.counters()
        live.slot_active(0)
        is_open(live, (1 << 32) - 1, 1)
    plan_moves({live.worker: live.connections for live in view.lives})


def test_any_bytes_can_be_read(view: View, chance: random.Random) -> None:
    end = time.monotonic() + float(os.environ.get("TCPMUX_FUZZ_SECONDS", "2"))
    rounds = 0
    while time.monotonic() < end or rounds < 5:
        for live in view.lives:
            spoil(live, chance)
        spoil_commons(view, chance)
        read_all(view)
        read_as_master(view)
        rounds += 1
    print(f"{rounds} rounds")


def test_a_corrupt_log_goes_on_behind_what_is_lost(view: View) -> None:
    """Instead of ending the process that writes it, again and again."""
    written = LIVE["log"][0]
    with mmap.mmap(view.lives[0].fd, view.lives[0].size) as memory:
        memory[written : written + 8] = (1 << 60).to_bytes(8, "little")
    assert read_log(view.lives[0], 100) == []
    with mmap.mmap(view.lives[0].fd, view.lives[0].size) as memory:
        memory[written : written + 8] = ((1 << 60) + 2).to_bytes(8, "little")
    assert len(read_log(view.lives[0], 100)) == 2
