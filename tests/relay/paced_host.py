"""A worker on a host whose congestion control paces: in the network namespace that this process was
started in. Prints, as JSON, which congestion control the worker's sockets have, before and after
bulk to each side.

    unshare --net python -m tests.relay.paced_host DIRECTORY
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.relay.harness import Destination, Flow, RelayWorker, address_of, listen, transfer
from tests.support import patient

SETTINGS = Path("/proc/sys/net/ipv4")
PIDFD_GETFD = 438  # of every architecture
BULK = bytes(4 << 20)


def paced() -> str | None:
    """A congestion control of this kernel that is not known not to pace."""
    available = (SETTINGS / "tcp_available_congestion_control").read_text().split()
    return next((name for name in available if name not in ("reno", "cubic")), None)


def congestion(pid: int) -> dict[int, str]:
    """Of the TCP connections that the process has: their peer's port -> congestion control."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            continue
        fd = libc.syscall(PIDFD_GETFD, process, int(name), 0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        with socket.socket(fileno=fd) as sock:
            if sock.family != socket.AF_INET:
                continue
            try:
                port = sock.getpeername()[1]
            except OSError:  # it listens
                continue
            option = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            found[port] = option.rstrip(b"\0").decode()
    os.close(process)
    return found


def observe(directory: Path) -> dict[str, dict[str, str]]:
    endpoint = listen("v4", directory)
    worker = RelayWorker(directory, [Destination((address_of(endpoint),))])
    link = worker.link(endpoint)
    ports = {link.client.getsockname()[1]: "client", endpoint.getsockname()[1]: "endpoint"}

    def seen() -> dict[str, str]:
        return {ports[port]: name for port, name in congestion(worker.live.pid).items()}

    transfer(Flow(link.client, link.server, b"x"), Flow(link.server, link.client, b"y"))
    found = {"before": seen()}
    transfer(Flow(link.client, link.server, BULK))
    found["bulk from the client"] = seen()
    transfer(Flow(link.server, link.client, BULK))
    found["bulk both ways"] = seen()
    worker.stop()
    endpoint.close()
    return found


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=patient(10))
    name = paced()
    if name is None:
        print(json.dumps(None))
        return
    (SETTINGS / "tcp_congestion_control").write_text(name)
    print(json.dumps({"host": name, **observe(Path(sys.argv[1]))}))


if __name__ == "__main__":
    main()
