"""The echo server of the demo, and the demo's care for ports and children."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tcpmux.config import Address
from tcpmux.demo.echo import LISTENING, MAX_LINE, main, start_echo_server
from tcpmux.demo.processes import Child, DemoFailed, check_free
from tests.support import patient

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = patient(10)  # s


async def exchange(path: Path, *pieces: bytes) -> bytes:
    """Sends the pieces and FIN; returns everything that comes back until FIN."""
    server = await start_echo_server("one", Address("", 0, str(path)))
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), DEADLINE)
        writer.close()
        await writer.wait_closed()
        return answer
    finally:
        server.close()


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ([b"hello\n"], b"one hello\n"),
        ([b"a\nb\n"], b"one a\none b\n"),
        ([b"hel", b"lo\n"], b"one hello\n"),
        ([b"no newline"], b"one no newline"),
        ([b"\n"], b"one \n"),
        ([], b""),
    ],
)
def test_each_line_comes_back_with_the_prefix_even_after_fin(
    tmp_path: Path, pieces: list[bytes], answer: bytes
) -> None:
    assert asyncio.run(exchange(tmp_path / "echo.sock", *pieces)) == answer


def test_a_line_without_end_is_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "echo.sock"
        server = await start_echo_server("one", Address("", 0, str(path)))
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"x" * (3 * MAX_LINE))
        with pytest.raises(ConnectionError):  # closed with data unread
            await asyncio.wait_for(reader.read(), DEADLINE)
        writer.close()
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["one"], 2), (["one=:no"], 2)])
def test_wrong_arguments_end_it(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_as_a_process_it_says_when_it_listens_and_ends_on_sigterm(tmp_path: Path) -> None:
    path = tmp_path / "two.sock"
    child = Child("the echo servers", "tcpmux.demo.echo", [f"two=unix:{path}"], tmp_path / "log")
    try:
        child.await_line(LISTENING, DEADLINE)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(path))
            sock.sendall(b"hello\n")
            assert sock.recv(100) == b"two hello\n"
    finally:
        assert child.end() == []
    assert (tmp_path / "log").read_text() == ""


def test_a_child_that_does_not_start_is_reported(tmp_path: Path) -> None:
    child = Child("the echo servers", "tcpmux.demo.echo", ["two=nonsense"], tmp_path / "log")
    try:
        with pytest.raises(DemoFailed, match="the echo servers did not start"):
            child.await_line(LISTENING, DEADLINE)
        with pytest.raises(DemoFailed, match="here: the echo servers ended with code 2"):
            child.await_condition("here", lambda: False, DEADLINE)
    finally:
        assert child.end() == []


def test_a_child_without_manners_is_killed_with_its_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr("tcpmux.demo.processes.END_TIME", 0.1)
    child = Child("stubborn", "stubborn", [], tmp_path / "log")
    with pytest.raises(DemoFailed):
        child.await_line("never this", DEADLINE)
    faults = child.end()
    assert len(faults) == 2
    assert f"stubborn (pid {child.pid}) had to be killed" in faults
    assert "a process of stubborn was left" in faults[1]


def test_a_busy_port_is_named_with_its_holder() -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        address = Address("127.0.0.1", sock.getsockname()[1], "")
        with pytest.raises(DemoFailed, match=rf"{address} is in use by .* \(pid {os.getpid()}\)"):
            check_free([address])
    check_free([address])


def test_sigterm_to_the_process_is_not_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with subprocess.Popen(
        [sys.executable, "-m", "tcpmux.demo.echo", f"x=unix:{path}"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{LISTENING}\n".encode()
        process.terminate()
        assert process.wait(DEADLINE) == 0
