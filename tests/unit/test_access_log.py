"""Lines of the access log: whatever is in them, each is one line, and means what it says."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpmux.config.log_format import KEYS
from tcpmux.logger.__main__ import Log
from tcpmux.logger.lines import Clock, Line, closed_by, writer
from tcpmux.logger.source import Batch
from tcpmux.logger.targets import Bytes, Datagrams, Stream, open_target
from tcpmux.shm._beat import Beat
from tcpmux.shm._declared import CLOSE_REASONS
from tcpmux.shm.counters import FLAGS

EVERYTHING = "".join(map(chr, range(256))) + "\u2028\u2029\ud800\U0001f600"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("template", ["json", "{KEY} {event} x", '"{KEY}"\t[{event}]'])
def test_no_character_can_forge_or_split_a_line(key: str, template: str) -> None:
    line: Line = {**dict.fromkeys(KEYS, "y"), key: EVERYTHING}
    text = writer(template.replace("KEY", key))(line)
    assert all(" " <= character <= "~" for character in text.replace("\\t", ""))
    if template == "json":
        assert json.loads(text) == line


def test_a_template_is_filled_in() -> None:
    line: Line = {**dict.fromkeys(KEYS), "route": "r", "duration": 12, "destination": ""}
    text = writer('{{{route}}} "{duration}" {destination} {upstream_host}')(line)
    assert text == '{r} "12" - -'


def test_every_reason_has_a_flag_and_somebody_who_did_it() -> None:
    assert FLAGS.keys() == set(CLOSE_REASONS)
    assert {closed_by(reason) for reason in CLOSE_REASONS} == {
        "both",
        "client",
        "endpoint",
        "proxy",
    }


def test_times_are_utc_with_milliseconds() -> None:
    assert Clock(1_700_000_000.0).text(0.1234) == "2023-11-14T22:13:20.123Z"
    assert Clock(0.0).text(59.9996) == "1970-01-01T00:01:00.000Z"


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    target = open_target(str(path))
    target.write(["a"])
    path.rename(tmp_path / "old")
    target.write(["b"])
    target.reopen()
    target.write(["c", "d"])
    assert (tmp_path / "old").read_text() == "a\nb\n"
    assert path.read_text() == "c\nd\n"


def test_syslog_and_the_journal_get_a_packet_a_line(tmp_path: Path) -> None:
    import socket

    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(path)
        syslog, journal = Datagrams(path, journal=False), Datagrams(path, journal=True)
        syslog.write(["one", "two"])
        journal.write(["one"])
        assert reader.recv(1000) == f"<30>tcpmux[{os.getppid()}]: one".encode()
        assert reader.recv(1000) == f"<30>tcpmux[{os.getppid()}]: two".encode()
        assert reader.recv(1000) == b"MESSAGE=one\nPRIORITY=6\nSYSLOG_IDENTIFIER=tcpmux\n"
        syslog.reopen()
        journal.reopen()


@pytest.mark.parametrize("at_once", [16, 4096])
def test_lines_on_a_pipe_stay_whole_and_wait_for_room(at_once: int) -> None:
    """What is written and what is left make up all of it, whatever the sizes are."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    chance = random.Random(at_once)
    given = [str(n) * chance.choice((1, 10, 3000, 30_000)) for n in range(200)]
    target, done, got = Bytes(at_once), 0, b""
    while done < len(given):
        done += target.write(write_end, given[done:])
        got += os.read(read_end, chance.randrange(1, 100_000))
    while target.write(write_end, ["the end"]) == 0:
        got += os.read(read_end, 1 << 20)
    os.close(write_end)
    with open(read_end, "rb") as reader:
        got += reader.read()
    assert got.decode().splitlines() == [*given, "the end"]


def beat() -> Beat:
    return Beat.attach(os.dup(Beat.create().fd))


class FakeSource:
    counted_dropped = 0

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.lost = 0

    def batches(self) -> Iterator[Batch]:
        yield Batch(list(self.lines), self._release)

    def _release(self, count: int) -> None:
        del self.lines[:count]

    def end_interval(self) -> None:
        """Nothing comes at intervals."""

    def unwritten(self) -> int:
        return len(self.lines)

    def dropped(self) -> int:
        lost, self.lost = self.lost, 0
        return lost

    def open_connections(self) -> list[Line]:
        return []


def test_what_finds_no_room_is_written_later_and_not_twice() -> None:
    """It stays where the workers have it; a reader that comes back gets all."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    source = FakeSource()
    log = Log(source, Stream(writer), str, 0.0, beat())  # type: ignore[arg-type]
    source.lines = [{"event": f"{n:05}"} for n in range(10_000)]
    assert 0 < log.step() < 10_000
    assert log.step() == 0
    assert 0 < source.unwritten() < 10_000
    got = b""
    while source.unwritten():
        got += os.read(reader, 1 << 20)
        log.step()
    got += os.read(reader, 1 << 20)
    os.close(reader)
    os.close(writer)
    assert got.decode().splitlines() == [str({"event": f"{n:05}"}) for n in range(10_000)]


def test_what_cant_be_written_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    source = FakeSource()
    full = os.open("/dev/full", os.O_WRONLY)
    log = Log(source, open_target("/log", full), str, 0.0, beat())  # type: ignore[arg-type]
    source.lines = [{"event": "end"}] * 3
    source.lost = 4
    assert log.step() == 3
    assert [r.getMessage() for r in caplog.records] == [
        "can't write the access log: No space left on device; "  # noqa: ISC004
        "lines are dropped, traffic is not affected",
        "7 lines of the access log were dropped",
    ]
    os.close(full)


def test_a_disk_that_gets_full_in_a_line_costs_none_but_those_that_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whenever there is room again, after however many tries: the line that was begun is ended, and
    the next is a line of its own."""
    room = 0

    def write_now(fd: int, data: bytes | memoryview) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, data[:room])
        room -= written
        return written

    monkeypatch.setattr("tcpmux.logger.targets.write_now", write_now)
    monkeypatch.setattr("tcpmux.logger.__main__.SAY_EVERY", 0.0)
    path = tmp_path / "log"
    source, number = FakeSource(), 0
    log = Log(source, open_target(str(path)), json.dumps, 0.0, beat())  # type: ignore[arg-type]
    for found in (70, 0, 0, 1, 0, 45, 0, 1 << 20):
        room = found
        source.lines = [{"event": f"{number + n:02}"} for n in range(5)]
        number += len(source.lines)
        while source.unwritten():
            log.step()
    lines = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    lost = sum(r.args[0] for r in caplog.records if r.msg.startswith("%d lines"))  # type: ignore[index,misc]
    assert len(lines) + lost == number
    assert lines == sorted(set(lines))
    assert lines[-5:] == ["35", "36", "37", "38", "39"]


def test_the_last_file_that_was_handed_over_is_written(tmp_path: Path) -> None:
    """Signals that come together are one, so several may wait."""
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    files = [tmp_path / name for name in ("first", "second", "third")]
    fds = [os.open(file, os.O_CREAT | os.O_WRONLY) for file in files]
    with ours, theirs:
        target = open_target("/nowhere/log", fds[0], theirs)
        target.write(["a"])
        target.reopen()  # nothing has come
        target.write(["b"])
        before = len(os.listdir("/proc/self/fd"))
        for fd in fds[1:]:
            socket.send_fds(ours, [b"file"], [fd])
        target.reopen()
        target.write(["c"])
        assert len(os.listdir("/proc/self/fd")) == before  # the first one is closed
    assert [file.read_text() for file in files] == ["a\nb\n", "", "c\n"]
    for fd in fds[1:]:
        os.close(fd)
