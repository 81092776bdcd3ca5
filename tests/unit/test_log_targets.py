"""Where the diagnostic log goes, and as what: sockets stand in for the journal and /dev/log."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tcpmux.errors import TcpmuxError
from tcpmux.levels import Where
from tcpmux.log_file import why_not as why_no_file
from tcpmux.log_formats import FORMATTERS, MAX_LINE, utc
from tcpmux.log_style import FORMATS, LEVELS, TARGETS, LogStyle
from tcpmux.log_targets import PACKETS, why_not
from tcpmux.logs import LogHandler
from tcpmux.master.own_log import open_file
from tcpmux.privileges import User

HOSTILE = "a\nMESSAGE=forged\x1b[31m\x7f\u202e\ud800"


def record(text: str = "a line", level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("tcpmux.control", level, "f", 1, "%s", (text,), extra.pop("exc", None))
    vars(made).update(extra)
    return made


def fault() -> Any:
    try:
        int(HOSTILE)
    except ValueError:
        return sys.exc_info()
    return None


class Listener:
    """A datagram socket that is in the place of a target's."""

    def __init__(self, target: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = str(path)
        monkeypatch.setattr(type(PACKETS[target]), "path", self.path)
        self.sock: socket.socket | None = None

    def open(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(self.path)

    def close(self) -> None:
        assert self.sock is not None
        self.sock.close()
        os.unlink(self.path)

    def received(self) -> list[bytes]:
        assert self.sock is not None
        found = []
        try:
            while True:
                found.append(self.sock.recv(1 << 20))
        except BlockingIOError:
            return found


@pytest.fixture
def stderr() -> Iterator[tuple[int, int]]:
    """The ends of a pipe: what can be read, and what is standard error."""
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    yield ends
    for fd in ends:
        os.close(fd)


def read(fd: int) -> list[str]:
    try:
        return os.read(fd, 1 << 20).decode().splitlines()
    except BlockingIOError:
        return []


def entry(packet: bytes) -> dict[str, str]:
    """A packet of the journal's protocol, systemd's JOURNAL_NATIVE_PROTOCOL.md."""
    found = {}
    while packet:
        line, _, packet = packet.partition(b"\n")
        key, is_text, value = line.partition(b"=")
        if not is_text:
            (size,) = struct.unpack("<Q", packet[:8])
            value, packet = packet[8 : 8 + size], packet[8 + size :]
            assert packet[:1] == b"\n"
            packet = packet[1:]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]*", key)
        assert key.decode() not in found
        found[key.decode()] = value.decode()
    return found


def test_a_style_is_a_number_and_what_is_none_is_the_default() -> None:
    styles = [LogStyle(a, b, c) for a in LEVELS for b in FORMATS for c in TARGETS]
    assert len({style.number for style in styles}) == len(styles)
    assert [LogStyle.from_number(style.number) for style in styles] == styles
    assert LogStyle.from_number(0xFFFFFFFF) == ("info", "text", "stderr")


def test_times_are_utc_and_say_so() -> None:
    assert utc(0.9996) == "1970-01-01T00:00:00.999Z"
    text = FORMATTERS["text"][0].format(record())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z tcpmux INFO a line", text)


def test_a_line_of_json_is_one_line_of_ascii_whatever_is_in_it() -> None:
    full, short = FORMATTERS["json"]
    where = Where("r", "v1", "127.0.0.1:1")
    made = record(HOSTILE, by=HOSTILE, event="names", where=where, exc=fault(), created=1.5)
    line = full.format(made)
    assert line == short.format(made)
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert found.pop("message").startswith("a\\nMESSAGE=forged\\x1b")
    assert found.pop("by").isprintable()
    assert "ValueError" in found.pop("traceback")
    assert found == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "info",
        "process": "control",
        "event": "names",
        "route": "r",
        "destination": "v1",
        "endpoint": "127.0.0.1:1",
        "pid": os.getpid(),
    }
    found = json.loads(full.format(record("x" * 10**6)))
    assert len(found["message"]) < MAX_LINE + 50
    assert "traceback" not in found
    assert [found[key] for key in ("event", "by", "route", "destination", "endpoint")] == [None] * 5


def test_the_journal_gets_a_priority_and_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Listener("journal", tmp_path / "journal", monkeypatch)
    journal.open()
    handler = LogHandler(LogStyle("info", "text", "journal"))
    where = Where("r", "v1", "127.0.0.1:1")
    handler.handle(record("down", logging.WARNING, where=where, by="uid 0\nPRIORITY=0"))
    handler.handle(record(HOSTILE, logging.ERROR, exc=fault()))
    first, second = map(entry, journal.received())
    journal.close()
    assert first == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "tcpmux",
        "SYSLOG_PID": str(os.getpid()),
        "TCPMUX_PROCESS": "control",
        "TCPMUX_ROUTE": "r",
        "TCPMUX_DESTINATION": "v1",
        "TCPMUX_ENDPOINT": "127.0.0.1:1",
        "TCPMUX_BY": "uid 0\\nPRIORITY=0",
        "MESSAGE": "WARNING down [uid 0\\nPRIORITY=0]",
    }
    assert second["PRIORITY"] == "3"
    head, *lines = second["MESSAGE"].split("\n")
    assert head.startswith("ERROR a\\nMESSAGE=forged")
    assert lines
    assert all(line.startswith("    ") for line in lines)


def test_syslog_gets_what_its_daemons_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of syslog(3), a packet for each line of a traceback."""
    syslog = Listener("syslog", tmp_path / "log", monkeypatch)
    syslog.open()
    handler = LogHandler(LogStyle("info", "text", "syslog"))
    handler.handle(record("down", logging.WARNING))
    handler.handle(record(HOSTILE, logging.ERROR, exc=fault()))
    first, *others = syslog.received()
    syslog.close()
    assert first == f"<28>tcpmux[{os.getpid()}]: WARNING down".encode()
    assert len(others) > 3
    assert all(one.startswith(f"<27>tcpmux[{os.getpid()}]: ".encode()) for one in others)
    assert not any(b"\n" in one for one in others)


@pytest.mark.parametrize("target", PACKETS)
def test_a_target_that_is_away_costs_no_line(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: tuple[int, int]
) -> None:
    """They go to standard error, which is told of it once, until it is there again."""
    listener = Listener(target, tmp_path / "socket", monkeypatch)
    reader, writer = stderr
    assert "No such file" in why_not(PACKETS[target])
    handler = LogHandler(LogStyle("info", "text", target), writer)
    for number in range(3):
        handler.handle(record(f"line {number}"))
    said = read(reader)
    assert f"WARNING can't log to {target}: {listener.path}: No such file" in said[0]
    assert [line.split()[-1] for line in said[1:]] == ["0", "1", "2"]
    listener.open()
    assert why_not(PACKETS[target]) == ""
    handler.handle(record("line 3"))
    assert len(listener.received()) == 1
    assert f"INFO the log goes to {target} again" in read(reader)[0]
    listener.close()
    handler.handle(record("line 4"))
    assert len(read(reader)) == 2
    assert handler.dropped == 0


@pytest.mark.parametrize("target", PACKETS)
def test_a_target_that_does_not_read_costs_lines_which_are_counted(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it."""
    listener = Listener(target, tmp_path / "socket", monkeypatch)
    listener.open()
    handler = LogHandler(LogStyle("info", "text", target))
    sent = 0
    while not handler.dropped:
        handler.handle(record("x" * 1000))
        sent += 1
    handler.handle(record("one more"))
    assert handler.dropped == 2
    assert len(listener.received()) == sent - 1
    handler.handle(record("the next"))
    lost, following = listener.received()
    listener.close()
    assert b"WARNING 2 lines of this log were dropped" in lost
    assert b"the next" in following


def test_where_standard_error_is_the_journal_each_line_has_its_priority(
    monkeypatch: pytest.MonkeyPatch, stderr: tuple[int, int]
) -> None:
    """And no time, which the journal notes. Another descriptor is none, whatever the environment
    says."""
    reader, writer = stderr
    found = os.fstat(writer)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
    handler = LogHandler(fd=writer)
    handler.handle(record("down", logging.WARNING))
    assert read(reader)[0].endswith("Z tcpmux WARNING down")
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    handler.handle(record("down", logging.WARNING))
    handler.handle(record("m", logging.ERROR, exc=fault()))
    first, *others = read(reader)
    assert first == "<4>WARNING down"
    assert len(others) > 3
    assert all(line.startswith("<3>") for line in others)


def test_what_a_check_can_see_of_a_file(tmp_path: Path) -> None:
    assert why_no_file(str(tmp_path / "new")) == ""
    assert not (tmp_path / "new").exists()
    assert "no directory" in why_no_file(str(tmp_path / "none" / "log"))
    (tmp_path / "link").symlink_to("new")
    assert "not a regular file" in why_no_file(str(tmp_path / "link"))
    (tmp_path / "there").touch()
    assert why_no_file(str(tmp_path / "there")) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_file_in_a_directory_of_the_user_is_opened_by_the_user() -> None:
    """What that user could put there is opened with no more rights than its own."""
    nobody = User(65534, 65534)
    with TemporaryDirectory() as name:  # elsewhere a parent may be closed to it
        parent = Path(name)
        parent.chmod(0o755)
        directory = parent / "own"
        directory.mkdir()
        os.chown(directory, 65534, 65534)
        fd = open_file(str(directory / "log"), nobody)
        assert os.fstat(fd).st_uid == 65534
        os.write(fd, b"x")
        os.close(fd)
        assert (directory / "log").read_bytes() == b"x"
        (parent / "secret").write_text("root's")
        (parent / "secret").chmod(0o600)
        (directory / "link").symlink_to(parent / "secret")
        with pytest.raises(TcpmuxError, match=r"log\.file .*symbolic link"):
            open_file(str(directory / "link"), nobody)
        directory.chmod(0o777)  # now others could put something there as well
        with pytest.raises(
            TcpmuxError, match=r"log\.file .*: name a file in a directory that only"
        ):
            open_file(str(directory / "log"), nobody)
