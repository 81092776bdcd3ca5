"""The log of a process: whoever reads it, or does not, it is never waited for."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpmux import output
from tcpmux.log_formats import LogFormatter
from tcpmux.logs import LogHandler
from tests.support import patient, wait_for

PIPE = 4 * 4096  # bytes


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE)
    yield ends
    for fd in ends:
        os.close(fd)


def logger(fd: int) -> tuple[logging.Logger, LogHandler]:
    handler = LogHandler(fd=fd)
    handler.full = LogFormatter("%(message)s")
    log = logging.Logger("test")
    log.addHandler(handler)
    return log, handler


def drained(fd: int) -> str:
    """All that is there to read now."""
    data = b""
    os.set_blocking(fd, False)
    try:
        while more := os.read(fd, 1 << 20):
            data += more
    except BlockingIOError:
        pass
    return data.decode()


def check_lines(log: logging.Logger, handler: LogHandler, reader: int) -> None:
    """Writes more than there is room for, then reads: whole lines, and how many are missing."""
    count = 0
    while not handler.dropped:
        count += 1
        log.info("%d %s", count, "x" * 100)
    for _ in range(9):
        count += 1
        log.info("%d %s", count, "x" * 100)
    lost = handler.dropped
    assert lost == 10
    text = drained(reader)
    log.info("the next one")
    text += drained(reader)
    lines = text.splitlines()
    assert text.endswith("\n")
    lost_line = f"{lost} lines of this log were dropped: nobody took them"
    assert lines[-2:] == [lost_line, "the next one"]
    assert lines[:-2] == [f"{n} {'x' * 100}" for n in range(1, count - lost + 1)]
    assert handler.dropped == 0


def test_a_full_pipe_costs_lines_which_are_counted(pipe: tuple[int, int]) -> None:
    """With an open file of its own: the one that others write to blocks as before."""
    reader, writer = pipe
    theirs = os.dup(writer)
    output.never_block(writer)
    assert os.get_blocking(theirs)
    os.close(theirs)
    check_lines(*logger(writer), reader)


def test_where_no_file_of_its_own_can_be_had_it_does_not_wait_either(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    assert os.get_blocking(writer)
    check_lines(*logger(writer), reader)


def test_a_full_stream_socket_costs_lines() -> None:
    """As the journal's is."""
    reader, writer = socket.socketpair()
    with reader, writer:
        output.never_block(writer.fileno())
        check_lines(*logger(writer.fileno()), reader.fileno())
        assert writer.getblocking()


def test_a_terminal_that_is_held_up() -> None:
    """By Ctrl-S, or by nobody who reads the other end."""
    master, terminal = pty.openpty()
    output.never_block(terminal)
    log, handler = logger(terminal)
    while not handler.dropped:
        log.info("x" * 100)
    os.close(terminal)
    os.close(master)


def test_a_line_of_which_a_part_fits_is_finished_later(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    output.never_block(writer)
    log, handler = logger(writer)
    for word in ("first", "second", "third"):
        log.info("%s %s", word, "\u00fc" * 3000)  # more than PIPE_BUF: may be written in part
    assert handler.dropped == 0
    log.info("lost")
    assert handler.dropped == 1
    text = drained(reader)
    log.info("last")
    text += drained(reader)
    assert [line.split()[0] for line in text.splitlines()] == [
        "first",
        "second",
        "third",
        "1",
        "last",
    ]


def test_a_reader_that_has_gone_and_a_full_disk(pipe: tuple[int, int]) -> None:
    """Nothing is raised, and all is counted."""
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    for fd in (writer, full):
        log, handler = logger(fd)
        for _ in range(3):
            log.info("a line")
        assert handler.dropped == 3
        os.close(fd)


def test_a_message_that_does_not_fit_its_arguments_is_shown_as_it_is(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log, _ = logger(writer)
    log.info("%d", "word")
    assert "can't be shown" in drained(reader)


def test_without_standard_error_no_file_is_taken_for_it(tmp_path: Path) -> None:
    """Started with it closed: what is opened first must not get the log."""
    program = (
        "import os, logging\n"
        "from tcpmux.logs import begin_log\n"
        "begin_log()\n"
        "file = os.open('file', os.O_WRONLY | os.O_CREAT)\n"
        "logging.getLogger('tcpmux').error('a line')\n"
        "os._exit(0 if file > 2 else 1)\n"
    )
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, timeout=patient(60), check=False)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_a_process_ends_with_its_own_code_however_its_log_is_read(pipe: tuple[int, int]) -> None:
    """Also if the pipe is full to the end."""
    _, writer = pipe
    program = (
        "import logging, sys\n"
        "from tcpmux.logs import begin_log\n"
        "begin_log()\n"
        "for _ in range(1000): logging.getLogger('tcpmux').error('a line')\n"
        "sys.exit(7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=writer)
    wait_for(lambda: process.poll() is not None, "the end")
    assert process.returncode == 7


def test_who_is_no_program_logs_as_the_others_do() -> None:
    """A guardian or a worker, in the style that the route table has then."""
    program = (
        "from tcpmux.log_style import LogStyle\n"
        "from tcpmux.logs import follow, say\n"
        "styles = [LogStyle('error', 'json'), LogStyle('error', 'text')]\n"
        "follow(lambda: styles[0].number)\n"
        "say('guardian 3', 'first\\n')\n"
        "del styles[0]\n"
        "say('worker 0', 'second')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=patient(60), check=True
    )
    first, second = done.stderr.decode().splitlines()
    found = json.loads(first)
    assert (found["process"], found["level"]) == ("guardian 3", "error")
    assert found["message"] == "guardian 3: first\\n"
    assert second.endswith(" tcpmux ERROR worker 0: second")
