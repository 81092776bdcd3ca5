"""ClientHellos of several sizes to a tcpmux whose sockets can hold little, in the network namespace
that this process was started in. Prints what came of each, as JSON.

    unshare --net python -m tests.integration.small_buffers DIRECTORY BYTES
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.client_hellos import hello
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.support import DEADLINE, EchoServer, patient

LISTEN = 20000
SIZES = (500, 1800, 9000, 40000)
PIECES = (100, 65536)


def passes(size: int, piece: int) -> bool:
    """Whether all of it is passed on; False if its client is reset."""
    sent = hello("shop.example", size=size)
    got = b""
    try:
        with socket.create_connection(("127.0.0.1", LISTEN), timeout=DEADLINE) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(sent), piece):
                client.sendall(sent[at : at + piece])
            while len(got) < len(sent) and (more := client.recv(65536)):
                got += more
    except ConnectionError:
        return False
    return got == sent


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=patient(10))
    size = sys.argv[2]
    Path("/proc/sys/net/ipv4/tcp_rmem").write_text(f"{size} {size} {size}")
    server = EchoServer()
    preread = {"timeout": "10m", "limit": "60KiB"}
    parts = {**route("r", LISTEN, v1=(1, server.address)), "preread": preread}
    proxy = Proxy(Path(sys.argv[1]), routes(parts, workers=1))
    try:
        found = [(size, piece, passes(size, piece)) for size in SIZES for piece in PIECES]
        (worker,) = proxy.status()["workers"]
    except BaseException:
        proxy.signal(signal.SIGQUIT)  # at once: its complaints would hide this one
        proxy.process.wait(DEADLINE)
        raise
    proxy.stop()
    server.close()
    print(json.dumps({"passes": found, "too_long": worker["counters"]["preread_too_long"]}))


if __name__ == "__main__":
    main()
