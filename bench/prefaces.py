"""What a worker does for a header of the PROXY protocol, in and out, and for a ClientHello that is
read: ns of each connection, more than for one that sends as many bytes on a route without.
`python -m bench.prefaces`; needs gcc and a release build.

The worker's code runs in one thread with its clients and the endpoint, and is timed alone, from the
accept until the first bytes are with the endpoint, and at the end; the kinds of bench.headers take
turns, 16 connections each. So nothing else is in it, and no wait. The first number is of bytes that
are there at the accept, the second of bytes that come after it: then the worker looks twice.
--cold: before each look caches of 4 MiB are filled with something else, as on a host that does
more.

Exit codes: 0 measured, 2 usage.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

import yaml

from bench.build import CSRC, build_with_worker
from bench.headers import KINDS, LAST, routes_to
from tcpmux.config import load_texts
from tcpmux.config.document import Text
from tcpmux.shm._image import publish_image
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.slots import Names


def program(csrc: Path) -> Path:
    sources = [path for path in sorted(csrc.rglob("*.c")) if path.name != "privileges.c"]
    return build_with_worker("preface_cost", sources, csrc)


def table_of(endpoint: int) -> Table:
    ports = list(range(1, len(KINDS) + 1))  # nobody listens there
    text = yaml.safe_dump({"routes": routes_to(endpoint, ports)})
    config = load_texts([Text("routes.yaml", text)])
    ids = {address: at for at, route in enumerate(config.routes) for address in route.listen}
    table = Table.create(1, 1, 1, 0)
    publish_image(table, build_image(config, {}, Names.new(lambda _: True), ids, 1, {}))
    return table


def measure(made: Path, rounds: int, cold: bool) -> dict[str, tuple[int, int]]:
    """ns of each kind: bytes there, bytes late."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as endpoint:
        fd = os.dup(table_of(endpoint.getsockname()[1]).reader_fd)
        firsts = [kind.first + LAST for kind in KINDS.values()]
        given = b"".join(b"%d\n" % len(first) + first for first in firsts)
        fds = (fd, endpoint.fileno())
        command = [str(made), *map(str, fds), str(rounds), str(int(cold))]
        done = subprocess.run(command, check=True, input=given, capture_output=True, pass_fds=fds)
        os.close(fd)
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    return {name: (int(a), int(b)) for name, (a, b) in zip(KINDS, lines, strict=True)}


def main(arguments: list[str] | None = None) -> int:
    """Measures; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.prefaces", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=2000, metavar="N")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--csrc", type=Path, default=CSRC, help="the sources of another build")
    options = parser.parse_args(arguments)
    found = measure(program(options.csrc), options.rounds, options.cold)
    for name, kind in KINDS.items():
        there, late = found[name]
        if kind.is_plain:
            print(f"{name:28} {there:6} {late:6}")
        else:
            there, late = there - found[kind.than][0], late - found[kind.than][1]
            print(f"{name:28} {there:+6} {late:+6}  more than {kind.than}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
