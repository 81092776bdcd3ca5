"""`python -m bench.headers`: what a header of the PROXY protocol costs, in and out, and what a
ClientHello that is read: us of CPU of the worker for each connection, beside a route without.

The routes take turns, a connection at a time: clients send a few bytes, get one and are closed.
Each is compared with clients of a plain route that send as many bytes, together: what their arrival
costs is not the header's. What is told is the difference of the medians of thousands of turns, so
that what else runs on the host matters little, and its standard error, by eight parts of them.

A worker that polls for events (`busy_poll`) is charged for the time it does, so the wait for a
client is in what it costs: `--busy-poll off` leaves that out. `--at-once 32` has so many clients at
a time, and `--late` has them send only once the worker has accepted them all and looked for their
bytes. `--calls` counts the system calls of the worker instead of its CPU, with strace.

Exit codes: 0 measured, 1 no strace, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.environment import choose_cpus
from bench.instance import Instance, free_ports, route, running
from tests.client_hellos import hello

V1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\xc0\0\2\1\xdc\x04\1\xbb"
CHECKED = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13" + V2[16:] + b"\3\0\4\x93\xed\x7c\xbb"
LONG = {"version": 2, "crc32c": True, "unique_id": True, "decision": "0xE0"}
HELLO = hello("shop.example", ("h2", "http/1.1"), 517)
ACCEPTING = {"accept_proxy": {"from": ["127.0.0.1"]}}
BY_NAME = {"rules": [{"sni": "shop.example", "to": "v0"}]}


@dataclass(frozen=True)
class Kind:
    """first: what clients send first. sent: send_proxy. than: whom it is compared with."""

    first: bytes = b""
    sent: Any = 0
    keys: Mapping[str, Any] = field(default_factory=dict)
    than: str = "none"

    @property
    def is_plain(self) -> bool:
        return not self.sent and not self.keys


KINDS = {
    "none": Kind(),
    "bytes of v1": Kind(b"x" * len(V1)),
    "in, v1": Kind(V1, keys=ACCEPTING, than="bytes of v1"),
    "bytes of v2": Kind(b"x" * len(V2)),
    "in, v2": Kind(V2, keys=ACCEPTING, than="bytes of v2"),
    "in, v2 with CRC32C": Kind(CHECKED, keys=ACCEPTING, than="bytes of v2"),
    "out, v1": Kind(sent=1),
    "out, v2": Kind(sent=2),
    "out, v2 with TLVs": Kind(sent=LONG),
    "in and out, v2": Kind(V2, 2, ACCEPTING, than="bytes of v2"),
    "ClientHello": Kind(HELLO),
    "ClientHello, read": Kind(HELLO, keys={"preread": {}}, than="ClientHello"),
    "ClientHello, a rule by name": Kind(HELLO, keys=BY_NAME, than="ClientHello"),
}
LAST = b"\xff"  # of what a client sends, and nowhere in a header
PARTS = 8
WAITS = "epoll_wait"  # how many there are is a matter of time


def serve(listener: socket.socket) -> None:
    """Answers each connection once. What the endpoint's process runs."""
    events = selectors.DefaultSelector()
    events.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in events.select():
            if key.fileobj is listener:
                events.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            client = key.fileobj
            assert isinstance(client, socket.socket)
            got = client.recv(4096)
            if got and not got.endswith(LAST):
                continue
            if got:
                client.sendall(b"y")
            events.unregister(client)
            client.close()


@dataclass(frozen=True)
class Load:
    """late: the port of a plain route; 0 = clients send at once."""

    count: int
    at_once: int
    late: int

    def run(self, port: int, first: bytes) -> int:
        """A turn. Returns how many connections it was."""
        groups = -(-self.count // self.at_once)
        for _ in range(groups):
            exchange(port, first, self.at_once, self.late)
        return groups * self.at_once


def exchange(port: int, first: bytes, clients: int, late: int) -> None:
    with ExitStack() as stack:
        every = []
        for _ in range(clients):
            client = socket.create_connection(("127.0.0.1", port), timeout=10)
            every.append(stack.enter_context(client))
            if not late:
                client.sendall(first + LAST)
        if late:
            # Events are handled in turn: once this one is answered, those have been accepted.
            exchange(late, b"", 1, 0)
            for client in every:
                client.sendall(first + LAST)
        for client in every:
            if client.recv(16) != b"y" or client.recv(16):
                raise RuntimeError("a connection was not answered")
            client.close()


def cpu_ns(pid: int) -> int:
    """Of all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def measure(pid: int, ports: list[int], rounds: int, load: Load) -> dict[str, Any]:
    """us of each connection: of plain routes, and what the others cost more."""
    costs: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(rounds):
        for port, (name, kind) in zip(ports, KINDS.items(), strict=True):
            before = cpu_ns(pid)
            count = load.run(port, kind.first)
            costs[name].append((cpu_ns(pid) - before) / count / 1000)
    found = {}
    for name, kind in KINDS.items():
        if kind.is_plain:
            found[name] = f"{statistics.median(costs[name]):.2f}"
        else:
            found[f"{name}: more than {kind.than}"] = difference(costs[name], costs[kind.than])
    return found


def difference(its: list[float], others: list[float]) -> str:
    each = [
        statistics.median(its[part::PARTS]) - statistics.median(others[part::PARTS])
        for part in range(PARTS)
    ]
    error = statistics.stdev(each) / PARTS**0.5
    return f"{statistics.median(its) - statistics.median(others):.2f} +- {error:.2f}"


# --- system calls -----------------------------------------------------------------------------


def calls_of(pid: int, load: Load, port: int, first: bytes) -> Counter[str]:
    """Of a worker while it has these clients: 1,000 times what a connection has."""
    with tempfile.NamedTemporaryFile("r", prefix="calls-") as table:
        command = ["strace", "-c", "-f", "-p", str(pid), "-o", table.name]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr
            said = strace.stderr.readline()
            if "attached" not in said:
                raise RuntimeError(said)
            count = load.run(port, first)
            strace.send_signal(signal.SIGINT)
        rows = [line.split() for line in table.read().splitlines()]
    found = {row[-1]: int(row[3]) for row in rows if len(row) > 4 and row[3].isdigit()}
    return Counter({name: round(1000 * n / count) for name, n in found.items() if name != "total"})


def count_calls(pid: int, ports: list[int], load: Load) -> dict[str, Any]:
    """Calls of each connection: of plain routes, and how many more the others have, and which."""
    calls = {}
    for port, (name, kind) in zip(ports, KINDS.items(), strict=True):
        load.run(port, kind.first)
        calls[name] = calls_of(pid, load, port, kind.first)
    found: dict[str, Any] = {}
    for name, kind in KINDS.items():
        if kind.is_plain:
            found[name] = told({c: n for c, n in calls[name].items() if c != WAITS})
        else:
            its, others = calls[name], calls[kind.than]
            more = {call: its[call] - others[call] for call in its | others if call != WAITS}
            found[f"{name}: more than {kind.than}"] = told(more)
    return found


def told(calls: Mapping[str, int]) -> dict[str, float]:
    each = {name: round(n / 1000, 2) for name, n in sorted(calls.items())}
    return {"all": round(sum(each.values()), 2), **{n: c for n, c in each.items() if abs(c) > 0.02}}


# --- all --------------------------------------------------------------------------------------


def routes_to(endpoint: int, ports: list[int]) -> list[dict[str, Any]]:
    made = []
    for number, (port, kind) in enumerate(zip(ports, KINDS.values(), strict=True)):
        one = route(f"r{number}", port, [endpoint], [1])
        one["destinations"][0]["send_proxy"] = kind.sent
        made.append({**one, **kind.keys})
    return made


def worker_of(instance: Instance) -> int:
    from tcpmux.control.client import Client

    (worker,) = Client(str(instance.admin)).status()["workers"]
    return int(worker["pid"])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.headers", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--rounds", type=int, default=2000, metavar="N")
    made.add_argument("--count", type=int, default=1, metavar="N", help="connections of a turn")
    made.add_argument("--at-once", type=int, default=1, metavar="N", help="clients at a time")
    made.add_argument("--busy-poll", default="auto", choices=("auto", "off"))
    made.add_argument("--late", action="store_true", help="bytes come after the accept")
    made.add_argument("--calls", action="store_true", help="counts system calls, with strace")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measures; gives the exit code."""
    made = parser()
    options = made.parse_args(arguments)
    if options.rounds < 2 * PARTS or options.count < 1 or options.at_once < 1:
        made.error(f"at least {2 * PARTS} rounds, of one connection, one at a time")
    if options.calls and not shutil.which("strace"):
        print("bench.headers: no strace: install it, or leave --calls out", file=sys.stderr)
        return 1
    load_cpu, proxy_cpu = choose_cpus(None)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = multiprocessing.Process(target=serve, args=(listener,), daemon=True)
    server.start()
    ports = free_ports(len(KINDS))
    config = {"workers": 1, "routes": routes_to(listener.getsockname()[1], ports)}
    config["busy_poll"] = options.busy_poll
    load = Load(options.count, options.at_once, ports[0] if options.late else 0)
    if load_cpu is not None:
        os.sched_setaffinity(0, {load_cpu})
    with running(config, proxy_cpu) as instance:
        pid = worker_of(instance)
        if options.calls:
            found = count_calls(pid, ports, load)
        else:
            found = measure(pid, ports, options.rounds, load)
        print(json.dumps(found, indent=2))
    server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
