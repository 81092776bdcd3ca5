"""`python -m bench.headers`: what a header of the PROXY protocol costs, in and out, and what a
ClientHello that is read: us of CPU of the worker for each connection, beside a route without.

The routes take turns, a few hundred connections each time: one client, one connection at a time,
which sends a few bytes, gets a few and is closed. Of each route, the median over all turns of what
it costs more than the one without. Exit codes: 0 measured, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.environment import choose_cpus
from bench.instance import Instance, free_ports, route, running
from tests.client_hellos import hello

V1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\xc0\0\2\1\xdc\x04\1\xbb"
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


KINDS = {
    "none": Kind(),
    "in, v1": Kind(V1, keys=ACCEPTING),
    "in, v2": Kind(V2, keys=ACCEPTING),
    "out, v1": Kind(sent=1),
    "out, v2": Kind(sent=2),
    "out, v2 with TLVs": Kind(sent=LONG),
    "in and out, v2": Kind(V2, 2, ACCEPTING),
    "ClientHello": Kind(HELLO),
    "ClientHello, read": Kind(HELLO, keys={"preread": {}}, than="ClientHello"),
    "ClientHello, a rule by name": Kind(HELLO, keys=BY_NAME, than="ClientHello"),
}
LAST = b"\xff"  # of what a client sends, and nowhere in a header


def serve(listener: socket.socket) -> None:
    """Answers each connection once. What the endpoint's process runs."""
    while True:
        client, _ = listener.accept()
        with client:
            got = b""
            while not got.endswith(LAST):
                part = client.recv(4096)
                if not part:
                    break
                got = part
            else:
                client.sendall(b"y")


def exchange(port: int, first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(first + LAST)
        if client.recv(16) != b"y" or client.recv(16):
            raise RuntimeError("a connection was not answered")


def cpu_ns(pid: int) -> int:
    """Of all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def measure(instance: Instance, ports: list[int], rounds: int, count: int) -> dict[str, Any]:
    """us of each connection: of the route without, and what the others cost more."""
    from tcpmux.control.client import Client

    (worker,) = Client(str(instance.admin)).status()["workers"]
    costs: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(rounds + 1):
        for port, (name, kind) in zip(ports, KINDS.items(), strict=True):
            before = cpu_ns(worker["pid"])
            for _ in range(count):
                exchange(port, kind.first)
            costs[name].append((cpu_ns(worker["pid"]) - before) / count / 1000)
    found = {}
    for name, kind in KINDS.items():
        its, others = costs[name][1:], costs[kind.than][1:]  # the first round warms up
        if kind == Kind():
            found[name] = round(statistics.median(its), 2)
        else:
            more = [value - other for value, other in zip(its, others, strict=True)]
            found[f"{name}: more than {kind.than}"] = round(statistics.median(more), 2)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measures; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.headers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    parser.add_argument("--count", type=int, default=300, metavar="N", help="of a turn")
    options = parser.parse_args(arguments)
    load, proxy = choose_cpus(None)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = multiprocessing.Process(target=serve, args=(listener,), daemon=True)
    server.start()
    ports = free_ports(len(KINDS))
    made = []
    for number, (port, kind) in enumerate(zip(ports, KINDS.values(), strict=True)):
        one = route(f"r{number}", port, [listener.getsockname()[1]], [1])
        one["destinations"][0]["send_proxy"] = kind.sent
        made.append({**one, **kind.keys})
    if load is not None:
        os.sched_setaffinity(0, {load})
    with running({"workers": 1, "routes": made}, proxy) as instance:
        print(json.dumps(measure(instance, ports, options.rounds, options.count), indent=2))
    server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
