"""`python -m bench.slow_prefaces`: what clients cost that never finish what is read of them.

Half of them send a part of a PROXY header, half a part of a ClientHello, and then a byte now and
then. Measured before, with and after them, in one run: the memory of tcpmux's processes; how long
another client of a route beside takes to connect, ask and be answered; and when the last of them is
gone, after the moment at which it has to be. Exit codes: 0 measured, 1 some are left, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bench.environment import raise_file_limit
from bench.instance import Instance, free_ports, route, running
from bench.measure import private_bytes
from tcpmux.control.client import Client

PROXY = b"PROXY TCP4 198.51.100.1 192.0.2.1 "
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)
MORE = b"1"  # goes on with either
PROBES = 400


def echo(listener: socket.socket) -> None:
    """Answers what each connection says, and ends it."""
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.sendall(client.recv(100))


def probe(port: int, count: int) -> dict[str, float]:
    """ms of connecting, asking and being answered, one after the other."""
    taken = []
    for _ in range(count):
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        taken.append((time.monotonic() - begun) * 1e3)
    taken.sort()
    places = {"p50": len(taken) // 2, "p99": len(taken) * 99 // 100, "max": -1}
    return {name: round(taken[at], 2) for name, at in places.items()}


@contextmanager
def dribbling(clients: list[socket.socket]) -> Iterator[None]:
    """A byte more from one after the other, each twice a minute at the most."""
    over = threading.Event()

    def work() -> None:
        for client in clients[: len(clients) // 2] * 100:
            if over.wait(0.001):
                return
            with suppress(OSError):
                client.send(MORE)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def active(instance: Instance) -> int:
    """Open connections of all routes."""
    routes = Client(str(instance.admin)).status()["routes"]
    return sum(each["connections_active"] for each in routes)


def memory(instance: Instance) -> int:
    """Bytes of tcpmux's processes."""
    return private_bytes([process.pid for process in instance.program.family()])


def measure(instance: Instance, ports: list[int], options: argparse.Namespace) -> dict[str, Any]:
    beside, header, hello = ports
    found: dict[str, Any] = {"clients": options.clients, "timeout_s": options.timeout}
    found["beside_ms"] = {"alone": probe(beside, PROBES)}
    before = memory(instance)
    clients = []
    begun = time.monotonic()
    for number in range(options.clients):
        client = socket.create_connection(("127.0.0.1", (header, hello)[number % 2]), 30)
        client.sendall((PROXY, HELLO)[number % 2])
        clients.append(client)
    last = time.monotonic()
    found["opened_in_s"] = round(last - begun, 1)
    with dribbling(clients):
        found["beside_ms"]["with"] = probe(beside, PROBES)
        found["active"] = active(instance)
        after = memory(instance)
    found["bytes_each"] = (after - before) // options.clients
    while active(instance) and time.monotonic() < last + options.timeout + 60:
        time.sleep(0.05)
    found["gone_after_deadline_s"] = round(time.monotonic() - last - options.timeout, 2)
    found["left"] = active(instance)
    for client in clients:
        client.close()
    found["beside_ms"]["after"] = probe(beside, PROBES)
    found["ends"] = {
        f"{each['name']}: {reason}": count
        for each in Client(str(instance.admin)).status()["routes"]
        for reason, count in each["closed"].items()
        if count and each["name"] != "beside"
    }
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measures; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.slow_prefaces", description=__doc__)
    parser.add_argument("--clients", type=int, default=10000, metavar="N")
    parser.add_argument("--timeout", type=int, default=30, metavar="S", help="of either preface")
    options = parser.parse_args(arguments)
    raise_file_limit()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    ports = free_ports(3)
    endpoint = [listener.getsockname()[1]]
    parts = [
        route(n, p, endpoint, [1])
        for n, p in zip(("beside", "header", "hello"), ports, strict=True)
    ]
    for part in parts:
        part["source"] = {"max_connections": 100000}
    parts[1]["accept_proxy"] = {"from": ["127.0.0.1"], "timeout": f"{options.timeout}s"}
    parts[2]["preread"] = {"timeout": f"{options.timeout}s"}
    with running({"workers": 2, "routes": parts}) as instance:
        found = measure(instance, ports, options)
    print(json.dumps(found, indent=1))
    return int(found["left"] > 0)


if __name__ == "__main__":
    sys.exit(main())
