"""A tcpmux on a host without IPv6, in the network namespace that this process was started in.
Prints what came of it, as JSON.

    unshare --net python -m tests.integration.no_ipv6 DIRECTORY off|absent

off: as sysctl net.ipv6.conf.all.disable_ipv6 leaves it, in most containers. absent: as the
kernel's ipv6.disable=1, by a filter of system calls.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.support import EchoServer, ask, wait_for

LISTEN = 20000
NUMBER_OF_SOCKET = {"x86_64": 41, "aarch64": 198}  # asm/unistd.h
AF_INET6, EAFNOSUPPORT = 10, 97


def without_ipv6() -> None:
    """From now on no socket of IPv6 can be made by this process, or by any that it starts."""
    load, equal, back = 0x20, 0x15, 0x06
    program = b"".join(
        struct.pack("HBBI", *step)
        for step in (
            (load, 0, 0, 0),
            (equal, 0, 3, NUMBER_OF_SOCKET[platform.machine()]),
            (load, 0, 0, 16),
            (equal, 0, 1, AF_INET6),
            (back, 0, 0, 0x00050000 | EAFNOSUPPORT),  # SECCOMP_RET_ERRNO
            (back, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        )
    )
    steps = ctypes.create_string_buffer(program)
    filters = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, ctypes.create_string_buffer(filters)) != 0:  # PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "no filter of system calls")


def answered(count: int) -> int:
    """How many of so many connections are, one after the other."""
    found = 0
    for _ in range(count):
        with suppress(OSError):
            found += ask(("127.0.0.1", LISTEN)) == "one hello\n"
    return found


def health(proxy: Proxy) -> list[str]:
    return [str(of["health"]) for of in proxy.destination("v1")["endpoints"]]


def observe(proxy: Proxy) -> dict[str, Any]:
    at_first = answered(60)
    wait_for(lambda: health(proxy) == ["up", "down"], "the endpoint to be found down")
    guardians = proxy.guardian_pids()
    proxy.process.kill()
    proxy.process.wait()
    wait_for(lambda: proxy.status()["state"] == "orphaned", "control to notice")
    before = proxy.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not {*before} & {*proxy.worker_pids()}, "their next incarnations")
    assert proxy.guardian_pids() == guardians
    without_master = answered(20)
    proxy.start()
    return {"at_first": at_first, "without_master": without_master, "again": answered(20)}


def main(directory: Path, how: str) -> None:
    if how == "absent":
        without_ipv6()
    for name in ("all", "default", "lo"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    server = EchoServer("one")
    part = route("r", LISTEN, v1=(1, server.address))
    part["listen"] = f":{LISTEN}"
    part["retry"] = {"budget": "0%", "burst": 10}
    part["destinations"][0]["endpoints"].append(f"[::1]:{server.port}")
    part["destinations"][0]["check"] = {"type": "tcp", "interval": "200ms", "fast_interval": "50ms"}
    proxy = Proxy(directory, routes(part))
    try:
        found = observe(proxy)
    finally:
        proxy.stop()
        server.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
