"""`python -m bench.upgrade`: how long connections wait while tcpmux becomes another build.

One connection on each worker is echoed every millisecond during `kill -USR2`; the longest time
without an answer is how long that worker's connections were held. Prints each round, and medians.
Exit codes: 0 measured, 1 an upgrade failed.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from bench.instance import Instance, free_ports, route, running
from bench.processes import wait_for
from tcpmux.shm._live import Live

INTERVAL = 0.001  # s between two messages on a connection
UPGRADE_SECONDS = 30.0
SETTLE_SECONDS = 1.5  # s before each round: control is started anew by the round before
MAX_TRIES = 500  # connections opened, to have one on each worker
# What an upgrade's stages end with, in the log.
STAGES = {
    "checked": "the new build takes over",
    "loaded": ": replacing",
    "replaced": ": done",
}


def _serve(listener: socket.socket) -> None:
    """Sends back what comes, until it is killed."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(sock, selectors.EVENT_READ)
                continue
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(65536)
            if data:
                key.fileobj.sendall(data)
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b".")
    assert sock.recv(1) == b"."
    return sock


def _have(lives: Sequence[Live], connections: int) -> bool:
    return sum(live.connections for live in lives) == connections


def one_on_each(instance: Instance, workers: int) -> list[socket.socket]:
    """A connection on every worker."""
    lives = instance.lives()
    found: list[socket.socket] = []
    for _ in range(MAX_TRIES):
        before = [live.connections for live in lives]
        sock = _connect(instance.port)
        if [
            now for now, was in zip(lives, before, strict=True) if now.connections > was and not was
        ]:
            found.append(sock)
        else:
            sock.close()
            wait_for(partial(_have, lives, len(found)), 1.0)
        if len(found) == workers:
            return found
    raise RuntimeError("no connection on each worker")


@dataclass(slots=True)
class Echo:
    """A connection, with one message under way at most."""

    sock: socket.socket
    sent: float = 0.0  # monotonic; 0 = nothing is under way
    due: float = 0.0
    longest: float = 0.0


def _turn(
    echoes: Sequence[Echo], selector: selectors.BaseSelector, *, ending: bool = False
) -> None:
    """Sends what is due, unless it is ending, and takes what has come."""
    now = time.monotonic()
    for echo in echoes:
        if not (echo.sent or ending) and now >= echo.due:
            echo.sent = now
            echo.sock.send(b".")
    due = min((echo.due for echo in echoes if not echo.sent), default=now + INTERVAL)
    for key, _ in selector.select(max(0.0, due - time.monotonic())):
        echo = key.data
        if echo.sock.recv(16) != b".":
            raise RuntimeError("a connection ended")
        echo.longest = max(echo.longest, time.monotonic() - echo.sent)
        echo.due, echo.sent = echo.sent + INTERVAL, 0.0


def upgrade_once(instance: Instance, socks: Sequence[socket.socket]) -> dict[str, list[float]]:
    """In ms: the longest wait of each connection, and how long each stage and all took."""
    log = instance.program.log
    start = log.stat().st_size
    echoes = [Echo(sock) for sock in socks]
    took: dict[str, list[float]] = {}
    with selectors.DefaultSelector() as selector:
        for echo in echoes:
            selector.register(echo.sock, selectors.EVENT_READ, echo)
        begun = last = time.monotonic()
        os.kill(instance.pid, signal.SIGUSR2)
        while "replaced" not in took:
            _turn(echoes, selector)
            now = time.monotonic()
            text = log.read_text()[start:]
            for name, words in STAGES.items():
                if name not in took and words in text:
                    took[name], last = [now - last], now
            if now - begun > UPGRADE_SECONDS:
                raise RuntimeError(f"the upgrade failed:\n{instance.program.log_tail()}")
        took["all"] = [last - begun]
        while any(echo.sent for echo in echoes):
            _turn(echoes, selector, ending=True)
    took["held"] = [echo.longest for echo in echoes]
    return {name: [1000 * one for one in times] for name, times in took.items()}


def _told(took: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {statistics.median(times):.0f}" for name, times in took.items())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.upgrade", description=__doc__)
    parser.add_argument("--workers", type=int, default=4, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    server = os.fork()
    if server == 0:
        _serve(listener)
    every: dict[str, list[float]] = {}
    try:
        (port,) = free_ports(1)
        routes = [route("bench", port, [listener.getsockname()[1]], [1])]
        with running({"workers": options.workers, "routes": routes}) as instance:
            socks = one_on_each(instance, options.workers)
            for number in range(options.rounds):
                time.sleep(SETTLE_SECONDS)
                took = upgrade_once(instance, socks)
                for name, times in took.items():
                    every.setdefault(name, []).extend(times)
                print(f"round {number + 1}: ms: {_told(took)}", flush=True)
        print(f"medians: ms: {_told(every)}; longest held {max(every['held']):.0f}")
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
