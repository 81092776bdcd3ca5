"""`python -m bench.stalled`: what clients that never read pin, and what a neighbour has of it.

Many clients with the smallest receive buffer ask for endless answers through tcpmux and read
nothing. Measured before, with and after them, in one run: the memory of all TCP sockets
(/proc/net/sockstat), of the peers' own among them, of the pipes and of tcpmux's processes; and the
rate of one healthy client through the same route. The endpoint is bounded (SO_SNDBUF), as
its queues are on another host otherwise. Exit codes: 0 measured, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import selectors
import socket
import statistics
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from fcntl import ioctl
from multiprocessing.connection import Connection
from pathlib import Path
from termios import FIONREAD
from typing import Any

from bench.environment import raise_file_limit
from bench.instance import Instance, free_ports, route, running
from bench.measure import private_bytes

SO_MEMINFO = 55  # asm-generic/socket.h
PAGE = os.sysconf("SC_PAGE_SIZE")
BLOCK = bytes(1 << 18)
STALLING, READING = b"s", b"r"  # what the two kinds of clients say
SETTLED = 0.3  # s between two looks that must be alike


class Endpoint:
    """Answers each connection without end. A process of its own; tells, when it is asked, what its
    sockets hold. buffer: SO_SNDBUF for those that stall, 0 = the kernel's way."""

    def __init__(self, listener: socket.socket, buffer: int, report: Connection) -> None:
        """Ready to serve."""
        self.buffer, self.report, self.listener = buffer, report, listener
        self.sockets: set[socket.socket] = set()
        self.selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        self.selector.register(report, selectors.EVENT_READ, self._tell)

    def serve(self) -> None:
        """Until it is killed."""
        while True:
            for key, events in self.selector.select():
                key.data(key.fileobj, events)

    def _accept(self, *_: object) -> None:
        accepted, _address = self.listener.accept()
        accepted.setblocking(False)
        self.sockets.add(accepted)
        self.selector.register(accepted, selectors.EVENT_READ, self._answer)

    def _tell(self, *_: object) -> None:
        self.report.recv()
        self.report.send(held(list(self.sockets)))

    def _answer(self, sock: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                asked = sock.recv(64)
                if not asked:
                    raise ConnectionError
                if self.buffer and asked == STALLING:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffer)
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                self.selector.modify(sock, both, self._answer)
            sock.send(BLOCK)
        except BlockingIOError:
            pass
        except OSError:
            self.selector.unregister(sock)
            self.sockets.discard(sock)
            sock.close()


def serve(listener: socket.socket, buffer: int, report: Connection) -> None:
    """What the endpoint's process runs."""
    Endpoint(listener, buffer, report).serve()


def held(sockets: Sequence[socket.socket]) -> int:
    """Bytes of kernel memory in their queues (SK_MEMINFO_RMEM_ALLOC, _WMEM_QUEUED)."""
    total = 0
    for sock in sockets:
        words = struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
        total += words[0] + words[5]
    return total


def tcp_memory() -> int:
    """Bytes of all TCP sockets of the machine."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * PAGE
    raise AssertionError("no TCP in sockstat")


def piped(pids: Sequence[int]) -> int:
    """Bytes in the pipes of these processes, each pipe once."""
    found: dict[str, int] = {}
    for pid in pids:
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    name = os.readlink(entry)
                    if name.startswith("pipe:") and name not in found:
                        fd = os.open(entry, os.O_RDONLY | os.O_NONBLOCK)
                        found[name] = struct.unpack("i", ioctl(fd, FIONREAD, bytes(4)))[0]
                        os.close(fd)
    return sum(found.values())


def rate(port: int, seconds: float) -> float:
    """Bytes per second of a client that reads."""
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(READING)
        count, begin = 0, time.monotonic()
        until = begin + seconds
        while (now := time.monotonic()) < until:
            count += client.recv_into(buffer)
        return count / (now - begin)


def stall(port: int, count: int, stack: ExitStack, taste: int) -> list[socket.socket]:
    """Clients that ask and do not read, once they have read `taste` bytes."""
    clients = []
    for _ in range(count):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        client.sendall(STALLING)
        clients.append(client)
    for client in clients:
        left = taste
        with suppress(OSError):
            while left > 0:
                left -= len(client.recv(left)) or left
    return clients


def settle(longest: float) -> None:
    """Until the memory of sockets no longer changes much."""
    until = time.monotonic() + longest
    before = -1
    while time.monotonic() < until:
        now = tcp_memory()
        if abs(now - before) < (1 << 20):
            return
        before = now
        time.sleep(SETTLED)


def measure(instance: Instance, options: argparse.Namespace, report: Any) -> dict[str, Any]:
    def pids() -> list[int]:
        return [process.pid for process in instance.program.family()]

    def memory(clients: Sequence[socket.socket]) -> dict[str, int]:
        report.send(None)
        return {
            "sockets": tcp_memory(),
            "peers": report.recv() + held(clients),
            "pipes": piped(pids()),
            "processes": private_bytes(pids()),
        }

    rates: dict[str, list[float]] = {"alone": [], "with": []}
    rows = []
    for _ in range(options.rounds):
        rates["alone"].append(rate(instance.port, options.seconds))
        settle(3)
        before = memory([])
        with ExitStack() as stack:
            clients = stall(instance.port, options.clients, stack, options.taste)
            settle(10)
            after = memory(clients)
            rates["with"].append(rate(instance.port, options.seconds))
        row = {name: after[name] - before[name] for name in after}
        # The peers' processes and tcpmux's; what these take for themselves is in `processes`.
        row["all"] = row["sockets"] + row["pipes"] + after["processes"]
        rows.append(row)
    ratios = [w / a for w, a in zip(rates["with"], rates["alone"], strict=True)]
    return {
        "clients": options.clients,
        "memory_mb": {n: round(statistics.median(r[n] for r in rows) / 1e6, 1) for n in rows[0]},
        "neighbour_gb_per_s": {n: [round(x / 1e9, 2) for x in v] for n, v in rates.items()},
        "neighbour_ratio": round(statistics.median(ratios), 3),
        "ends": reasons(instance),
    }


def reasons(instance: Instance) -> dict[str, int]:
    """Why connections ended."""
    from tcpmux.control.client import Client

    (found,) = Client(str(instance.admin)).status()["routes"]
    return {reason: count for reason, count in found["closed"].items() if count}


def main(arguments: list[str] | None = None) -> int:
    """Measures; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.stalled", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="of each rate")
    parser.add_argument(
        "--taste", type=int, default=0, metavar="BYTES", help="read before stalling"
    )
    parser.add_argument("--send-buffer", type=int, default=8192, metavar="BYTES", help="0 = any")
    parser.add_argument("--buffers", default="", metavar="JSON", help="the key `buffers`")
    options = parser.parse_args(arguments)
    raise_file_limit()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    report, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(
        target=serve, args=(listener, options.send_buffer, theirs), daemon=True
    )
    server.start()
    part = route("r", free_ports(1)[0], [listener.getsockname()[1]], [1])
    config: dict[str, Any] = {"workers": 2, "routes": [part]}
    if options.buffers:
        config["buffers"] = json.loads(options.buffers)
    with running(config) as instance:
        print(json.dumps(measure(instance, options, report), indent=1))
    server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
