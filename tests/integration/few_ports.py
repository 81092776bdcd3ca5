"""A tcpmux with few ephemeral ports to connect from, in the network namespace that this process
was started in. Prints what came of it, as JSON.

    unshare --net python -m tests.integration.few_ports DIRECTORY
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.relay.harness import reset
from tests.support import DEADLINE, EchoServer, patient, wait_for

RANGE = (32768, 32787)
PORTS = RANGE[1] - RANGE[0] + 1
LISTEN = 20000
CLIENT_PORTS = iter(range(20001, 30000))  # outside of the range


def talks(client: socket.socket) -> bool:
    """Whether it is answered; False if it was reset."""
    try:
        client.sendall(b"hello\n")
        return client.recv(100) == b"one hello\n"
    except ConnectionError:
        return False


def connect() -> socket.socket | None:
    try:
        client = socket.create_connection(
            ("127.0.0.1", LISTEN),
            timeout=DEADLINE,
            source_address=("127.0.0.1", next(CLIENT_PORTS)),
        )
    except ConnectionResetError:  # a worker may be that fast
        return None
    if talks(client):
        return client
    client.close()
    return None


def observe(proxy: Proxy) -> dict[str, Any]:
    """Clients come until ports are used up, and once more when they are free again."""
    inside: list[socket.socket] = []
    refused = 0
    while refused < 10:
        client = connect()
        if client:
            inside.append(client)
        else:
            refused += 1
    go_on = sum(talks(client) for client in inside)
    (full,) = proxy.status()["routes"]
    for client in inside[:5]:
        reset(client)
    wait_for(lambda: proxy.active() == len(inside) - 5, "the places to come free")
    again = [client for client in (connect() for _ in range(5)) if client]
    (destination,) = full["destinations"]
    found = {
        "inside": len(inside),
        "go_on": go_on,
        "again": len(again),
        "local_error": full["closed"].get("local_error", 0),
        "blamed": [of["connect_failures_total"] for of in destination["endpoints"]],
        "starts": [worker["starts"] for worker in proxy.status()["workers"]],
    }
    for client in [*inside[5:], *again]:
        client.close()
    return found


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=patient(10))
    server = EchoServer("one")
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{RANGE[0]} {RANGE[1]}")
    proxy = Proxy(Path(sys.argv[1]), routes(route("r", LISTEN, v1=(1, server.address)), workers=2))
    try:
        found = observe(proxy)
    except BaseException:
        proxy.signal(signal.SIGQUIT)  # at once: its complaints would hide this one
        proxy.process.wait(DEADLINE)
        raise
    proxy.stop()
    server.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
