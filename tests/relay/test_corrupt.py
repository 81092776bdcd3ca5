"""Any one word of shared memory is corrupt: the next incarnation loses at most one connection by
it, and other readers lose nothing.

TCPMUX_FUZZ_SECONDS: how long to try (default 4). To repeat a run, set TCPMUX_TEST_SEED to the seed
it printed. `make fuzz` does this for longer, with all C and Cython code under sanitizers.
"""

from __future__ import annotations

import mmap
import os
import random
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tcpmux.shm._declared import fields_of
from tcpmux.shm._live import Live
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import FAMILIES, Link, RelayWorker
from tests.support import DEADLINE, wait_for

LIVE_FIELDS, RECORD_FIELDS = fields_of("tm_live"), fields_of("tm_conn")
HALVES = ("tm_conn", "tm_cold")  # of a record
OPEN = range(1, 8)  # enum tm_conn_state: TM_ACCEPTED to TM_RESETTING
SECONDS = float(os.environ.get("TCPMUX_FUZZ_SECONDS", "4"))
LINKS = 9
TOKEN = bytes(range(200))
PATTERN = b"".join(number.to_bytes(4, "little") for number in range(1 << 14)) * 2
PIECES = ((700, 30000), (1 << 16, 1 << 16), (100, 100))  # bytes of one send, either way


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("TCPMUX_TEST_SEED", random.randrange(1 << 32)))
    print(f"TCPMUX_TEST_SEED={seed}")
    return random.Random(seed)


@dataclass(slots=True)
class Word:
    """A place in a region that is about to be corrupt."""

    memory: mmap.mmap
    offset: int
    size: int

    def read(self) -> int:
        return int.from_bytes(self.memory[self.offset : self.offset + self.size], "little")

    def write(self, value: int) -> None:
        value &= (1 << 8 * self.size) - 1
        self.memory[self.offset : self.offset + self.size] = value.to_bytes(self.size, "little")


def odd_value(chance: random.Random, was: int, size: int) -> int:
    top = (1 << 8 * size) - 1
    return chance.choice(
        [0, top, top >> 1, was + 1, was - 1, was ^ 1 << chance.randrange(8 * size),
         chance.randrange(300), chance.randrange(top)]
    )  # fmt: skip


def start_and_size(live: Live, half: str) -> tuple[int, int]:
    """Of the halves of all records: where the first one begins, and the size of one, in bytes."""
    offset = live.record_offset if half == "tm_conn" else live.cold_offset
    return offset(0), offset(1) - offset(0)


def half_of(live: Live, offset: int) -> tuple[str, int, int] | None:
    """Which half of a record it is, of which one, and how far into that; None: of none."""
    for half in HALVES:
        first, size = start_and_size(live, half)
        if first <= offset < first + live.capacity * size:
            return half, (offset - first) // size, (offset - first) % size
    return None


def any_word(chance: random.Random, worker: RelayWorker, live: mmap.mmap) -> Word:
    """Of all the region, and more often of what an incarnation begins with."""
    size = chance.choice([1, 4, 4, 8])
    where = chance.random()
    if where < 0.55:
        start, record = start_and_size(worker.live, chance.choice(HALVES))
        length = max(1, worker.live.records_used) * record
    elif where < 0.85:
        start, length = 0, LIVE_FIELDS["slots"][0]
    elif where < 0.95:
        start, length = LIVE_FIELDS["listening"][0], 6 * 16
    else:
        start, length = 0, len(live)
    return Word(live, start + chance.randrange(length // size) * size, size)


def name_of(worker: RelayWorker, word: Word) -> str:
    """Which field that is."""
    fields, offset = LIVE_FIELDS, word.offset
    half = half_of(worker.live, offset)
    if half is not None:
        fields, offset = fields_of(half[0]), half[2]
    elif offset >= worker.live.record_offset(0):
        return f"an annex, {word.size} bytes at {word.offset}"
    at, name = max((at, name) for name, (at, _) in fields.items() if at <= offset)
    return f"{name} + {offset - at}, {word.size} bytes at {word.offset}"


def is_alive(link: Link) -> bool:
    """Both ways, byte for byte. Bytes that were never sent fail the test."""
    try:
        for sender, receiver in ((link.client, link.server), (link.server, link.client)):
            sender.sendall(TOKEN)
            got = b""
            while len(got) < len(TOKEN):
                part = receiver.recv(len(TOKEN) - len(got))
                if not part:
                    return False
                got += part
            assert got == TOKEN, f"other bytes: {got.hex()}"
    except OSError:
        return False
    return True


@dataclass(slots=True)
class Bench:
    """A worker with connections of every kind, and what has become of them."""

    worker: RelayWorker
    endpoints: list[socket.socket]
    memory: mmap.mmap
    links: list[Link] = field(default_factory=list)
    records: list[int] = field(default_factory=list)  # of the links
    done: list[str] = field(default_factory=list)
    tainted: set[int] = field(default_factory=set)  # records that may end at any time by now

    def used(self) -> set[int]:
        live, (at, _) = self.worker.live, RECORD_FIELDS["state"]
        return {
            index
            for index in range(live.records_used)
            if self.memory[live.record_offset(index) + at] in OPEN
        }

    def fill(self) -> None:
        self.worker.give_listeners()
        while len(self.links) < LINKS:
            client = self.worker.connect(FAMILIES[len(self.links) % 3])
            ready, _, _ = select.select(self.endpoints, [], [], DEADLINE)
            assert ready, f"a new connection is not served after {self.done[-5:]}"
            server = self.worker.own(ready[0].accept()[0])
            server.settimeout(DEADLINE)
            link = Link(client, server)
            assert is_alive(link)
            (record,) = self.used() - set(self.records)
            self.links.append(link)
            self.records.append(record)
            self.tainted.discard(record)

    def lost(self) -> list[int]:
        """Records of those that are gone since the last call, which are closed."""
        gone = [n for n, link in enumerate(self.links) if not is_alive(link)]
        records = [self.records[n] for n in gone]
        for number in reversed(gone):
            self.links.pop(number).close()
            del self.records[number]
        # The worker's record has to be over before it can be another's.
        wait_for(lambda: not self.used() - set(self.records), "the worker to end what is lost")
        return records

    def record_of(self, word: Word) -> int | None:
        half = half_of(self.worker.live, word.offset)
        return half[1] if half is not None else None

    def check(self, word: Word, starts: int, what: str) -> int:
        """After an incarnation began with a corrupt word; how many connections that cost."""
        own = self.record_of(word)
        self.done.append(what)
        known = self.tainted - {own}
        lost = [record for record in self.lost() if record not in known]
        assert self.worker.live.starts == starts, f"died of {self.done[-5:]}"
        assert len(lost) <= 1, f"records {lost} were lost by {what}"
        if own is not None:
            self.tainted.add(own)  # a deadline that can't be told from a true one, for example
        return len(lost)


def memory_of(live: Live) -> mmap.mmap:
    return mmap.mmap(live.fd, live.size)


def test_one_corrupt_word_costs_at_most_one_connection(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, chance: random.Random
) -> None:
    """At a moment when nothing moves: all words of the region, any value."""
    endpoints = [open_endpoint(family) for family in FAMILIES]
    worker = start_worker(*endpoints, capacity=64)
    live = memory_of(worker.live)
    bench = Bench(worker, endpoints, live)
    end = time.monotonic() + SECONDS
    tried = lost = 0
    starts_at, awake = LIVE_FIELDS["starts"][0], LIVE_FIELDS["awake"][0]
    while time.monotonic() < end:
        bench.fill()
        wait_for(lambda: live[awake] == 0, "the worker to have done what is under way")
        worker.send_signal(signal.SIGSTOP)
        word = any_word(chance, worker, live)
        was = word.read()
        value = odd_value(chance, was, word.size)
        what = f"{name_of(worker, word)}: {was:#x} -> {value:#x}"
        pid = worker.live.pid
        if word.offset < starts_at + 4 and starts_at < word.offset + word.size:
            os.kill(pid, signal.SIGCONT)
            continue  # what this test counts by
        word.write(value)
        starts = worker.live.starts
        os.kill(pid, signal.SIGKILL)
        worker.await_incarnation(starts + 1)
        lost += bench.check(word, starts + 1, what)
        tried += 1
        if worker.live.at_fault:
            worker.live.at_fault = False
    print(f"{tried} words, {lost} connections lost")
    assert tried > 3
    live.close()
    worker.abandon()


@dataclass(slots=True)
class Stream:
    """Numbered words without an end, one way."""

    sender: socket.socket
    receiver: socket.socket
    piece: int
    sent: int = 0  # bytes
    received: int = 0

    def step(self) -> bool:
        """False: its connection is over. Fails if a byte comes that was not sent there."""
        start = self.sent % (1 << 16)
        try:
            with suppress(BlockingIOError):
                self.sent += self.sender.send(PATTERN[start : start + self.piece])
            with suppress(BlockingIOError):
                got = self.receiver.recv(1 << 16)
                start = self.received % (1 << 16)
                assert got == PATTERN[start : start + len(got)], f"at byte {self.received}"
                self.received += len(got)
                return bool(got)
        except OSError:
            return False
        return True


@dataclass(slots=True)
class Busy:
    """Connections over TCP with bytes on their way both ways."""

    worker: RelayWorker
    endpoint: socket.socket
    streams: list[tuple[Link, Stream, Stream]] = field(default_factory=list)

    def fill(self) -> None:
        self.worker.give_listeners()
        while len(self.streams) < 6:
            link = self.worker.link(self.endpoint)
            link.client.setblocking(False)
            link.server.setblocking(False)
            small, large = PIECES[len(self.streams) % len(PIECES)]
            up = Stream(link.client, link.server, large)
            self.streams.append((link, up, Stream(link.server, link.client, small)))

    def step(self, seconds: float) -> int:
        """Moves bytes for so long; how many connections are over."""
        lost = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for entry in list(self.streams):
                link, up, down = entry
                if not (up.step() and down.step()):
                    lost += 1
                    self.streams.remove(entry)
                    link.close()
        return lost


def test_one_corrupt_word_under_traffic(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, chance: random.Random
) -> None:
    """At any moment, in the midst of an operation: what goes on has lost and doubled no byte."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint, capacity=32)
    live = memory_of(worker.live)
    busy = Busy(worker, endpoint)
    buffer, size = LIVE_FIELDS["buffer"]
    starts_at = LIVE_FIELDS["starts"][0]
    end = time.monotonic() + SECONDS
    tried = lost = 0
    while time.monotonic() < end:
        busy.fill()
        lost += busy.step(chance.uniform(0, 0.01))
        worker.send_signal(signal.SIGSTOP)
        word = any_word(chance, worker, live)
        pid, starts = worker.live.pid, worker.live.starts
        if buffer <= word.offset < buffer + size or (
            word.offset < starts_at + 4 and starts_at < word.offset + word.size
        ):
            os.kill(pid, signal.SIGCONT)
            continue  # bytes of a client; what this test counts by
        was = word.read()
        value = odd_value(chance, was, word.size)
        word.write(value)
        os.kill(pid, signal.SIGKILL)
        worker.await_incarnation(starts + 1)
        tried += 1
        what = f"{name_of(worker, word)}: {was:#x} -> {value:#x}"
        print(what)
        lost += busy.step(0.01)
        assert worker.live.starts == starts + 1, f"died of {what}"
        assert lost <= tried, f"{lost} connections were lost by {tried} words, the last {what}"
    print(f"{tried} words, {lost} connections lost")
    assert tried > 3
    live.close()
    worker.abandon()
