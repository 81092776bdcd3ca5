"""What several suites share: waiting for a condition, and servers to stand behind the proxy."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from tcpmux.frames import Inbox, Message

T = TypeVar("T")
# On a machine that is slower by far, an emulated one for example: TCPMUX_TEST_PATIENCE=10.
PATIENCE = float(os.environ.get("TCPMUX_TEST_PATIENCE", "1"))


def patient(seconds: float) -> float:
    """A time limit, in seconds: after so long what is waited for would be too late. Every limit
    of a second and more goes through here; tests/unit/test_limits_of_tests.py looks."""
    return seconds * PATIENCE


DEADLINE = patient(15)  # generous: these machines are shared


def wait_for(condition: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """The first true value of `condition`; fails, saying what was waited for, after `deadline`.

    Looks the less often the longer it has waited, which costs a tenth of that at most: to look
    is to ask a process for its status, most of the time, and others wait for the same CPUs."""
    start = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - start
        if waited >= deadline:
            raise AssertionError(f"waited {deadline:g} s in vain for {what}; last: {value!r}")
        time.sleep(min(max(0.002, waited / 10), 0.1))


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory for socket files, with a name that leaves room in a UNIX address; a worker that
    runs as another user may look into it."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


TOKEN = "s3cret-" * 3


def write_token(path: Path, token: str = TOKEN) -> Path:
    """As admin.token_file and --token-file have it."""
    path.write_text(f"{token}\n")
    path.chmod(0o600)
    return path


DEMO_PORTS = (31400, 9001, 9002)  # tcpmux/demo/demo.yaml
_given_out: set[int] = set(DEMO_PORTS)


def _beside_the_ephemeral() -> range:
    """The wider part of what is left of the ports by those that the kernel gives to outgoing
    connections: one of those is free now and somebody's a moment later."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    low, high = (int(word) for word in text.split())
    return max(range(5000, low), range(high + 1, 65536), key=len)


def free_port() -> int:
    """A TCP port that was free a moment ago, on every address: what a test listens on through
    the proxy, which takes no port 0. Never the same one twice."""
    while True:
        port = random.choice(_beside_the_ephemeral())
        if port in _given_out:
            continue
        with socket.socket() as sock:
            try:
                sock.bind(("", port))
            except OSError:
                continue
        _given_out.add(port)
        return port


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses connections and that nobody else gets: bound, not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def listening(port: int) -> bool:
    """Whether somebody accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def will_reset(sock: socket.socket) -> None:
    """Its close sends an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class EchoServer:
    """Answers every line with `prefix + " " + line`, as Istio's tcp-echo does; without a
    prefix it sends back every byte. One thread a connection; half-close friendly. Servers that
    answer otherwise have a _serve of their own, and are whole before they call __init__."""

    def __init__(self, prefix: str = "", family: int = socket.AF_INET, path: str = "") -> None:
        self.prefix = prefix.encode()
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_UNIX:
            self._sock.bind(path)
            Path(path).chmod(0o666)  # tcpmux may be another user
        else:
            self._sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self._sock.listen(4096)
        self.path = path
        self.port: int = 0 if path else self._sock.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = self._sock.getsockname()[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def close(self) -> None:
        with suppress(OSError):  # wakes the accepting thread
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.prefix:
                with client.makefile("rb") as lines:
                    for line in lines:
                        client.sendall(self.prefix + b" " + line)
                return
            while data := client.recv(1 << 18):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)


def shut_write(sock: socket.socket) -> None:
    """Half-closes. Raises ConnectionResetError if it has been reset, for which the kernel says
    ENOTCONN here."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        raise ConnectionResetError(*error.args) from error


def ask(address: tuple[str, int], line: str = "hello", timeout: float = DEADLINE) -> str:
    """One connection: sends a line, half-closes, and returns the whole answer.

    Raises ConnectionResetError or BrokenPipeError for a reset, whenever it comes.
    """
    with socket.create_connection(address, timeout=timeout) as sock:
        sock.sendall(line.encode() + b"\n")
        shut_write(sock)
        return read_all(sock).decode()


async def next_message(sock: socket.socket, inbox: Inbox) -> Message:
    """The next one that the other end of a link sends. Raises EOFError at its end."""
    loop = asyncio.get_running_loop()
    while (message := inbox.take()) is None:
        readable = asyncio.Event()
        loop.add_reader(sock, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(sock)
        if not inbox.receive(sock):
            raise EOFError
    return message


def receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes; fewer at the end of input. Raises ConnectionResetError for a reset."""
    got = b""
    while len(got) < size and (more := sock.recv(size - len(got))):
        got += more
    return got


def read_all(sock: socket.socket) -> bytes:
    """Everything until the end of input. Raises ConnectionResetError for a reset."""
    parts = []
    while data := sock.recv(1 << 18):
        parts.append(data)
    return b"".join(parts)
