"""`python -m bench.hellos`: ClientHellos in every shape, and who finds the name in them.

Each proxy sends connections for one name to one server, and all others to another, by the recipe of
its documentation: HAProxy with `inspect-delay` and `req_ssl_hello_type 1`, Traefik with `HostSNI`.
A connection counts if the right server answers. Exit codes: 0 measured, 1 tcpmux was wrong once, 2
usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench import peers
from bench.environment import raise_file_limit
from bench.instance import free_ports, running
from bench.processes import Program, wait_for
from tests.client_hellos import hello, in_records, message
from tests.support import listening

NAME = "shop.example"
RIGHT, WRONG = b"r", b"w"
PATIENCE = 60.0  # s for an answer
AT_ONCE = 64
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") or ""
TRAEFIK = peers.program("traefik") or ""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a client sends, in pieces, and how long it waits between two of them, in s."""

    label: str
    pieces: tuple[bytes, ...]
    pause: float = 0.0


def cut(text: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(text[at : at + size] for at in range(0, len(text), size))


def shapes() -> Iterator[Shape]:
    """Some labels have many: a cut at each place."""
    for size in (300, 1800, 4000, 16000):
        whole = hello(NAME, ("h2",), size)
        for _ in range(20):
            yield Shape(f"{size} bytes, at once", (whole,))
    small, large = hello(NAME, ("h2",), 300), hello(NAME, ("h2",), 1800)
    for at in range(1, len(small)):
        yield Shape("300 bytes, cut at each byte, 20 ms apart", (small[:at], small[at:]), 0.02)
    for at in range(1, len(large), 29):
        yield Shape("1,800 bytes, cut at each 29th byte", (large[:at], large[at:]), 0.02)
    for _ in range(20):
        yield Shape("300 bytes, byte by byte, 1 ms apart", cut(small, 1), 0.001)
        yield Shape("16,000 bytes in segments of 500, 10 ms apart",
                    cut(hello(NAME, ("h2",), 16000), 500), 0.01)  # fmt: skip
        yield Shape("1,800 bytes in two, 3 s apart", (large[:900], large[900:]), 3.0)
    for records in range(2, 11):
        for size in (300, 1800):
            whole = hello(NAME, ("h2",), size, records)
            yield Shape("2 to 10 records, at once", (whole,))
            each = -(-len(message(NAME, ("h2",), size)) // records) + 5
            yield Shape("2 to 10 records, a segment each, 10 ms apart", cut(whole, each), 0.01)
    for _ in range(10):
        yield Shape("records of 1 byte", (in_records(message(NAME, ("h2",), 300), 1),))


def serve(listener: socket.socket, letter: bytes) -> None:
    """Says who it is when the first byte has come."""

    def answer(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(1)
            client.sendall(letter)
            while client.recv(1 << 16):
                pass

    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=answer, args=(client,), daemon=True).start()


def ask(port: int, shape: Shape) -> str:
    """What has come of it: right, wrong, reset, closed, silent, or an alert of TLS."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number, piece in enumerate(shape.pieces):
                if number:
                    time.sleep(shape.pause)
                client.sendall(piece)
            came = client.recv(1)
            return {RIGHT: "right", WRONG: "wrong", b"": "closed"}.get(came, "alert")
    except TimeoutError:
        return "silent"
    except OSError:
        return "reset"


# --- the proxies ----------------------------------------------------------------------------------


@contextmanager
def tcpmux(port: int, right: int, wrong: int) -> Iterator[None]:
    ends = {"right": right, "wrong": wrong}
    part = {
        "name": "r",
        "listen": f"127.0.0.1:{port}",
        "source": {"max_connections": 10000},
        "rules": [{"sni": NAME, "to": "right"}],
        "destinations": [
            {"name": name, "weight": int(name == "wrong"), "endpoints": [f"127.0.0.1:{to}"]}
            for name, to in ends.items()
        ],
    }
    with running({"workers": 2, "routes": [part]}):
        yield


@contextmanager
def started(command: list[str], directory: Path, port: int) -> Iterator[None]:
    program = Program(command, cpu=None, log=directory / "log", directory=directory)
    try:
        if not wait_for(lambda: listening(port), 20):
            raise RuntimeError(f"{command[0]} does not listen: {program.log_tail()}")
        yield
    finally:
        program.stop()


@contextmanager
def haproxy(port: int, right: int, wrong: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "haproxy.cfg"
        config.write_text(
            "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n"
            f"  timeout server 60s\nfrontend f\n  bind 127.0.0.1:{port}\n"
            "  tcp-request inspect-delay 5s\n"
            "  tcp-request content accept if { req_ssl_hello_type 1 }\n"
            f"  use_backend right if {{ req_ssl_sni -i {NAME} }}\n  default_backend wrong\n"
            f"backend right\n  server s 127.0.0.1:{right}\n"
            f"backend wrong\n  server s 127.0.0.1:{wrong}\n"
        )
        with started([HAPROXY, "-db", "-q", "-f", str(config)], Path(name), port):
            yield


@contextmanager
def traefik(port: int, right: int, wrong: int) -> Iterator[None]:
    passthrough: dict[str, Any] = {"entryPoints": ["e"], "tls": {"passthrough": True}}
    dynamic = {
        "tcp": {
            "routers": {
                "right": {"rule": f"HostSNI(`{NAME}`)", "service": "right", **passthrough},
                "wrong": {"rule": "HostSNI(`*`)", "service": "wrong", **passthrough},
            },
            "services": {
                name: {"loadBalancer": {"servers": [{"address": f"127.0.0.1:{to}"}]}}
                for name, to in (("right", right), ("wrong", wrong))
            },
        }
    }
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "dynamic.yaml").write_text(yaml.safe_dump(dynamic))
        static = {
            "entryPoints": {"e": {"address": f"127.0.0.1:{port}"}},
            "providers": {"file": {"filename": str(place / "dynamic.yaml")}},
        }
        (place / "traefik.yaml").write_text(yaml.safe_dump(static))
        command = [TRAEFIK, f"--configFile={place / 'traefik.yaml'}"]
        with started(command, place, port):
            yield


Start = Callable[[int, int, int], Any]
PROXIES: dict[str, tuple[Start, str]] = {
    "tcpmux": (tcpmux, sys.executable),
    "HAProxy": (haproxy, HAPROXY),
    "Traefik": (traefik, TRAEFIK),
}


def measure(start: Start, right: int, wrong: int) -> dict[str, Counter[str]]:
    """What has come of each, by label."""
    found: dict[str, Counter[str]] = {}
    (port,) = free_ports(1)
    with start(port, right, wrong), ThreadPoolExecutor(AT_ONCE) as pool:
        wait_for(lambda: ask(port, Shape("", (hello(NAME),))) == "right", 10)
        every = list(shapes())
        for shape, became in zip(every, pool.map(lambda one: ask(port, one), every), strict=True):
            found.setdefault(shape.label, Counter())[became] += 1
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measures; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.hellos", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(PROXIES), metavar="PROXY")
    options = parser.parse_args(arguments)
    raise_file_limit()
    found = {}
    with ExitStack() as stack:
        ports = []
        for letter in (RIGHT, WRONG):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
            threading.Thread(target=serve, args=(listener, letter), daemon=True).start()
            ports.append(listener.getsockname()[1])
        for name, (start, program) in PROXIES.items():
            if program and name in (options.only or PROXIES):
                found[name] = measure(start, *ports)
    labels = list(dict.fromkeys(shape.label for shape in shapes()))
    rows = {label: {name: dict(each[label]) for name, each in found.items()} for label in labels}
    print(json.dumps(rows, indent=1))
    return int(any(set(each) != {"right"} for each in found.get("tcpmux", {}).values()))


if __name__ == "__main__":
    sys.exit(main())
