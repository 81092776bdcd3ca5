"""`python -m bench.converging`: what answers cost while live connections are rehomed.

1,000 clients stay connected to a route in front of two real servers of memcached or nginx
(HTTP/1.1 with keep-alive) and ask 5,000 times a second, by the clock. In turn nothing happens for a
while, and all connections move to the other server (`converge`, method rehome). Every answer is
checked. Prints each pair of periods, medians, and by how much answers are later while they move.
Exit codes: 0 measured, 1 a client saw an error, or connections did not move, 2 a server is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.build import build_loadgen
from bench.instance import Instance, free_ports, route, running
from bench.load import Asking, LoadGenerator, Outcome
from bench.processes import Program, wait_for
from tcpmux.control.client import Client

KEYS = 10_000  # as loadgen/ask.c has it
START_SECONDS = 20.0
MOVE_SECONDS = 60.0
LOOK_SECONDS = 0.5  # more often, and who looks takes the CPU that is measured
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "slowest": 1}
GOAL_MS = 5.0  # by how much the slowest answer may be later

NGINX = """
daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error; {user}
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path {place}/b; proxy_temp_path {place}/p;
  fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "{name} $uri\\n"; }} }}
}}
"""


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _started(command: Sequence[str], port: int, place: Path) -> Iterator[None]:
    program = Program(command, cpu=None, log=place / "log", directory=place)
    try:
        if not wait_for(partial(_listens, port), START_SECONDS):
            raise RuntimeError(f"{command[0]} did not start: {program.log_tail()}")
        yield
    finally:
        program.stop()


def _fill(port: int, name: str) -> None:
    """What the clients expect is what this server of memcached has."""
    values = {n: f"{name} {n}" for n in range(KEYS)}
    with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as answers:
        sock.sendall(
            b"".join(f"set k{n} 0 0 {len(v)}\r\n{v}\r\n".encode() for n, v in values.items())
        )
        for _ in values:
            if answers.readline() != b"STORED\r\n":
                raise RuntimeError("memcached does not store")


@contextmanager
def memcached(name: str) -> Iterator[int]:
    """A server; its port."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = ["memcached", *user, "-l", "127.0.0.1", "-p", str(port), "-t", "1", "-c", "8192"]
        with _started([*command, "-b", "4096"], port, Path(place)):
            _fill(port, name)
            yield port


@contextmanager
def nginx(name: str) -> Iterator[int]:
    """A server; its port."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        place = Path(directory)
        user = "user nobody nogroup;" if os.geteuid() == 0 else ""
        text = NGINX.format(place=place, port=port, name=name, user=user)
        (place / "conf").write_text(text)
        command = ["nginx", "-c", str(place / "conf"), "-e", str(place / "error")]
        with _started(command, port, place):
            yield port


SERVERS = {"memcached": memcached, "http1": nginx}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two periods, one after the other. seconds: until all had moved."""

    calm: Outcome
    moving: Outcome
    seconds: float


def _row(client: Client) -> Mapping[str, Any]:
    (found,) = client.routes()
    return found


def _has_moved(client: Client, to: str, connections: int) -> bool:
    row = _row(client)
    (live,) = (d["connections_active"] for d in row["destinations"] if d["name"] == to)
    return live == connections and row["convergence"] is None


def measure(instance: Instance, asking: Asking, options: argparse.Namespace) -> Iterator[Pair]:
    """To and fro."""
    client = Client(instance.admin)
    for number in range(options.shifts):
        to = ("v1", "v0")[number % 2]
        asking.period()
        time.sleep(options.seconds)
        calm = asking.period()
        began = time.monotonic()
        client.set_weights("bench", {"v0": int(to == "v0"), "v1": int(to == "v1")})
        moved = partial(_has_moved, client, to, options.connections)
        if not wait_for(moved, MOVE_SECONDS, LOOK_SECONDS):
            raise RuntimeError(f"connections did not move: {_row(client)['convergence']}")
        took = time.monotonic() - began
        time.sleep(max(0.0, options.seconds - took))
        yield Pair(calm, asking.period(), took)


def _ms(outcome: Outcome) -> dict[str, float]:
    return {name: outcome.quantile_us(share) / 1000 for name, share in QUANTILES.items()}


def _told(outcome: Outcome) -> str:
    return " ".join(f"{name} {value:.2f}" for name, value in _ms(outcome).items())


def summary(protocol: str, pairs: Sequence[Pair]) -> str:
    """Medians of the periods, and of the differences within pairs."""
    lines = []
    for name in QUANTILES:
        calm = [_ms(pair.calm)[name] for pair in pairs]
        moving = [_ms(pair.moving)[name] for pair in pairs]
        later = [there - here for here, there in zip(calm, moving, strict=True)]
        lines.append(
            f"{protocol}: {name}: ms: calm {statistics.median(calm):.2f}, moving "
            f"{statistics.median(moving):.2f}, later by {statistics.median(later):+.2f} "
            f"({min(later):+.2f}..{max(later):+.2f})"
        )
    slowest = [max(_ms(one)["slowest"] for one in of) for of in zip(*map(_both, pairs))]  # noqa: B905
    lines.append(
        f"{protocol}: slowest of all: ms: calm {slowest[0]:.2f}, moving {slowest[1]:.2f}: later by "
        f"{slowest[1] - slowest[0]:+.2f} (goal: at most {GOAL_MS:g})"
    )
    return "\n".join(lines)


def _both(pair: Pair) -> tuple[Outcome, Outcome]:
    return pair.calm, pair.moving


def run(protocol: str, options: argparse.Namespace) -> int:
    """All pairs of one protocol; how many errors clients saw."""
    load = LoadGenerator(build_loadgen(), None)
    with ExitStack() as stack:
        servers = [stack.enter_context(SERVERS[protocol](name)) for name in "12"]
        (port,) = free_ports(1)
        made = route("bench", port, servers, [1, 0])
        made["converge"] = {
            "when": ["weights"],
            "method": "rehome",
            "rate": options.rate,
            "quiet": options.quiet,
            **({"protocol": protocol} if options.protocol else {}),
        }
        config = {"workers": options.workers, "routes": [made]}
        instance = stack.enter_context(running(config))
        seconds = options.shifts * (2 * options.seconds + MOVE_SECONDS)
        asking = stack.enter_context(
            load.asking(protocol, options.connections, options.requests, port, min(seconds, 600.0))
        )
        time.sleep(options.seconds)  # until all have asked
        pairs = []
        for pair in measure(instance, asking, options):
            pairs.append(pair)
            print(
                f"{protocol} {len(pairs)}: ms: calm {_told(pair.calm)}; moving "
                f"{_told(pair.moving)}; moved in {pair.seconds:.1f} s, answers {pair.moving.by}",
                flush=True,
            )
        seen = [one for pair in pairs for one in _both(pair)] + [asking.end()]
        moved = sum(d["closed"]["rehomed"] for d in _row(Client(instance.admin))["destinations"])
    errors = sum(one.errors for one in seen)
    print(summary(protocol, pairs))
    asked = sum(one.units for one in seen)
    print(f"{protocol}: {moved} rehomed, {asked} answers checked, {errors} errors", flush=True)
    for one in seen:
        if one.first_error:
            print(f"{protocol}: {one.first_error}")
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.converging",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--server", choices=[*SERVERS], action="append")
    parser.add_argument("--shifts", type=int, default=10, metavar="N")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="of a period")
    parser.add_argument("--connections", type=int, default=1000, metavar="N")
    parser.add_argument("--requests", type=int, default=5000, metavar="N", help="a second")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--rate", default="500/s", help="at which they move")
    parser.add_argument("--quiet", default="20ms")
    parser.add_argument("--protocol", action="store_true", help="tcpmux follows it as well")
    options = parser.parse_args()
    for program in ("memcached", "nginx"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
            print(f"{program} is not installed", file=sys.stderr)
            return 2
    os.environ["PATH"] += ":/usr/sbin"
    return int(sum(run(name, options) for name in options.server or SERVERS) > 0)


if __name__ == "__main__":
    sys.exit(main())
