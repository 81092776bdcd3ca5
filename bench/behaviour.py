"""`python -m bench.behaviour`: how soon a change works, how even the workers are, how one that is
stopped is felt, what waiting and being watched cost, and how the cost grows. Figures of tcpmux
alone; the comparison with others is `python -m bench`. Exit codes: 0 measured, 2 usage.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from bench.build import build_loadgen
from bench.environment import choose_cpus, describe, raise_file_limit
from bench.instance import Instance, free_ports, route, running
from bench.load import LoadError, LoadGenerator
from bench.measure import CpuMeter, settle
from bench.page import page
from tcpmux.config import load as read_config
from tcpmux.control.client import Client
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table as RouteTable
from tcpmux.shm.build import build_image
from tcpmux.shm.slots import Names

RESULTS = Path(__file__).resolve().parent / "results"
Row = dict[str, Any]


def quantiles(values: Sequence[float]) -> Row:
    """Median, 99th percentile (nearest rank) and largest."""
    ordered = sorted(values)
    rank = max(0, -(-99 * len(ordered) // 100) - 1)
    return {"p50": statistics.median(ordered), "p99": ordered[rank], "max": ordered[-1]}


def _seen(lives: Sequence[Live], generation: int) -> None:
    """Waits until every worker uses `generation`; up to 0.1 ms longer, as it lets the thread that
    asks for the change run."""
    deadline = time.monotonic() + 10
    while any(live.generation_seen < generation for live in lives):
        if time.monotonic() > deadline:
            raise RuntimeError(f"generation {generation} is not in use after 10 s")
        time.sleep(20e-6)


def apply_time(load: LoadGenerator, rounds: int) -> list[Row]:
    """ms from a change of weights until every worker uses it: a request to the admin API, as
    `tcpmux weight` makes it, and SIGHUP with the file changed, by number of routes."""
    rows = []
    for routes in (1, 100, 1000):
        with load.backend("echo") as backend:
            ports = free_ports(routes)

            def config(weight: int, ports: list[int] = ports, backend: int = backend) -> Row:
                parts = [route(f"r{i}", p, [backend], [weight, 20]) for i, p in enumerate(ports)]
                return {"workers": 4, "routes": parts}

            with running(config(80)) as instance:
                lives = instance.lives()
                client = Client(instance.admin)

                def ask(i: int, client: Client = client) -> None:
                    client.set_weights("r0", {"v0": 50 + i % 2})

                def hang_up(_: int, pid: int = instance.pid) -> None:
                    os.kill(pid, signal.SIGHUP)

                by_request = _times(20 * rounds, lives, ask)
                by_signal = []
                for i in range(2 * rounds):
                    instance.write(config(60 + i % 2))
                    by_signal += _times(1, lives, hang_up)
                rows.append({"routes": routes, "by": "request", **quantiles(by_request)})
                rows.append({"routes": routes, "by": "SIGHUP", **quantiles(by_signal)})
    return rows


def _times(count: int, lives: Sequence[Live], change: Callable[[int], object]) -> list[float]:
    """ms from each change until all use it. A thread of its own waits, as the request comes back
    only after that."""
    found = []
    for number in range(count):
        wanted = lives[0].generation_seen + 1
        worker = threading.Thread(target=change, args=(number,))
        began = time.perf_counter()
        worker.start()
        _seen(lives, wanted)
        found.append((time.perf_counter() - began) * 1e3)
        worker.join()
    return found


def load_time(_load: LoadGenerator, rounds: int) -> list[Row]:
    """ms to read a file, and to build and publish its table: 1,000 routes of two destinations,
    with one and with five endpoints each."""
    rows = []
    for endpoints in (1, 5):
        parts = []
        for number in range(1000):
            part = route(f"r{number}", 10000 + number, [1], [80, 20])
            for place, destination in enumerate(part["destinations"]):
                ends = [f"10.0.{place}.{end}:{8000 + end}" for end in range(endpoints)]
                destination["endpoints"] = ends
            parts.append(part)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "routes.yaml"
            file.write_text(yaml.safe_dump({"routes": parts}, sort_keys=False))
            reading, publishing = [], []
            for _ in range(2 * rounds):
                began = time.perf_counter()
                config = read_config([file])
                read = time.perf_counter()
                addresses = {a: i for i, r in enumerate(config.routes) for a in r.listen}
                names = Names.new(lambda _: True)
                image = build_image(config, {}, names, addresses, 1, {})
                publish_image(RouteTable.create(1, 1, 1, 1), image)
                reading.append((read - began) * 1e3)
                publishing.append((time.perf_counter() - read) * 1e3)
        rows.append(
            {
                "endpoints of a route": 2 * endpoints,
                "read": statistics.median(reading),
                "build and publish": statistics.median(publishing),
            }
        )
    return rows


def balance(load: LoadGenerator, rounds: int) -> list[Row]:
    """Connections of the fullest of four workers against the mean, 128 long-lived ones opened at
    once: right after, and half a second later."""
    first, later = [], []
    for _ in range(2 * rounds):
        with (
            load.backend("echo") as backend,
            running({"workers": 4, "routes": [route("r", free_ports(1)[0], [backend], [1])]}) as it,
            load.hold(128, it.port, 30.0) as client,
        ):
            lives = it.lives()
            first.append(_fullest(lives))
            time.sleep(0.5)
            later.append(_fullest(lives))
            client.release()
    return [
        {"when": when, "median": statistics.median(values), "worst": max(values)}
        for when, values in (("at once", first), ("0.5 s later", later))
    ]


def _fullest(lives: Sequence[Live]) -> float:
    counts = [live.connections for live in lives]
    return max(counts) * len(counts) / sum(counts)


@contextmanager
def _stopped_at_times(lives: Sequence[Live]) -> Iterator[None]:
    """The first worker is stopped for 50 ms in every 100."""
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.is_set():
            pid = lives[0].pid
            for number in (signal.SIGSTOP, signal.SIGCONT):
                if pid:
                    os.kill(pid, number)
                time.sleep(0.05)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tail(load: LoadGenerator, rounds: int) -> list[Row]:
    """ms for connect, 64 bytes to and fro and close, 200 a second, four workers: undisturbed, and
    with one worker stopped for 50 ms in every 100."""
    rows = []
    with load.backend("echo") as backend:
        config = {"workers": 4, "routes": [route("r", free_ports(1)[0], [backend], [1])]}
        with running(config) as instance:
            lives = instance.lives()
            rows.append({"worker 0": "at work", **quantiles(_visits(instance.port, rounds))})
            with _stopped_at_times(lives):
                rows.append(
                    {"worker 0": "stopped at times", **quantiles(_visits(instance.port, rounds))}
                )
    return rows


def _visits(port: int, rounds: int) -> list[float]:
    found = []
    for _ in range(200 * rounds):
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(b"x" * 64)
            got = b""
            while len(got) < 64:
                part = sock.recv(64)
                if not part:
                    raise RuntimeError("closed before the echo")
                got += part
        taken = time.perf_counter() - began
        found.append(taken * 1e3)
        time.sleep(max(0.0, 0.005 - taken))
    return found


def waiting(load: LoadGenerator, rounds: int, cpu: int | None = None) -> list[Row]:
    """Percent of a CPU: without traffic, and with 100 requests a second over 100 connections,
    with `busy_poll: auto` and `off`."""
    rows = []
    for mode in ("off", "auto"):
        with load.backend("echo") as backend:
            part = route("r", free_ports(1)[0], [backend], [1])
            with running({"workers": 1, "busy_poll": mode, "routes": [part]}, cpu) as instance:
                settle(instance.program)
                nothing = _percent(instance, lambda: time.sleep(rounds))
                with _sockets(instance.port, 100) as socks:
                    some = _percent(instance, partial(_ask_in_turn, socks, rounds))
                rows.append({"busy_poll": mode, "no traffic": nothing, "100 requests/s": some})
    return rows


def _percent(instance: Instance, act: Callable[[], object]) -> float:
    meter = CpuMeter(instance.program)
    began = time.monotonic()
    act()
    return 100 * meter.read().total / (time.monotonic() - began)


@contextmanager
def _sockets(port: int, count: int) -> Iterator[list[socket.socket]]:
    socks = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(count)]
    try:
        yield socks
    finally:
        for sock in socks:
            sock.close()


def _ask_in_turn(socks: Sequence[socket.socket], seconds: int) -> None:
    due = time.monotonic()
    for number in range(100 * seconds):
        sock = socks[number % len(socks)]
        sock.sendall(b"x" * 64)
        sock.recv(64, socket.MSG_WAITALL)
        due += 0.01
        time.sleep(max(0.0, due - time.monotonic()))


def growth(load: LoadGenerator, rounds: int, cpu: int | None = None) -> list[Row]:
    """us of worker CPU for a round trip (32 connections at a time, unless that is what grows) and
    for a connection (16 at a time): with more connections busy, with more of them idle beside,
    with more routes, more destinations, more workers."""
    cases: list[tuple[str, int, Row]] = []
    cases += [("busy connections", n, {"busy": n}) for n in (1, 100, 1000, 8000)]
    cases += [("idle connections", n, {"idle": n}) for n in (1, 100, 1000, 8000)]
    cases += [("routes", n, {"routes": n}) for n in (1, 100, 1000)]
    cases += [("destinations", n, {"destinations": n}) for n in (1, 8, 64)]
    workers = [1 << i for i in range(8) if 1 << i <= (os.cpu_count() or 1)]
    cases += [("workers", n, {"workers": n}) for n in workers]
    return [
        {"of": what, "how many": number, **_costs(load, rounds, cpu, **parameters)}
        for what, number, parameters in cases
    ]


def _costs(
    load: LoadGenerator,
    rounds: int,
    cpu: int | None,
    *,
    busy: int = 0,
    idle: int = 0,
    routes: int = 1,
    destinations: int = 1,
    workers: int = 1,
) -> Row:
    weights = [1] * destinations
    with load.backend("echo") as backend:
        parts = [route(f"r{i}", p, [backend], weights) for i, p in enumerate(free_ports(routes))]
        config = {"workers": workers, "routes": parts}
        with running(config, cpu if workers == 1 else None) as instance:
            if busy:
                return {"round trip": _cost(load, instance, rounds, "roundtrip", busy)} | {
                    "connection": None
                }
            if not idle:
                return _trip_and_connect(load, instance, rounds)
            with load.hold(idle, instance.port, 120.0) as client:
                found = _trip_and_connect(load, instance, rounds)
                client.release()
                return found


def _trip_and_connect(load: LoadGenerator, instance: Instance, rounds: int) -> Row:
    return {
        "round trip": _cost(load, instance, rounds, "roundtrip", 32),
        "connection": _cost(load, instance, rounds, "connect", 16, "--limit", "4000"),
    }


def _cost(
    load: LoadGenerator, instance: Instance, rounds: int, mode: str, connections: int, *more: str
) -> float:
    """us of CPU of all workers for one unit: the median of the rounds."""
    costs = []
    for _ in range(rounds):
        settle(instance.program)
        meter = CpuMeter(instance.program)
        arguments = [mode, "--connections", str(connections), "--message", "64", *more]
        outcome = load.run(arguments, instance.port, 0.5)
        if outcome.errors:
            raise LoadError(outcome.first_error or "errors")
        costs.append(meter.read().total * 1e6 / outcome.units)
    return statistics.median(costs)


def watching(load: LoadGenerator, rounds: int) -> list[Row]:
    """What it costs to be watched, with 1,000 routes: ms of a scrape of /metrics (the first one,
    then the median, and those after a change), and the percent of a CPU that control takes while
    somebody has the page or `top` open. ms to list 8,000 connections, from the API and by the
    command."""
    with load.backend("echo") as backend:
        ports = free_ports(1000)
        parts = [route(f"r{n}", port, [backend], [80, 20]) for n, port in enumerate(ports)]
        with running({"workers": 2, "routes": parts}) as instance:
            for port in ports:
                with _sockets(port, 5) as socks:
                    _exchange(socks)
            scrapes = [_scrape(instance.admin) for _ in range(2 * rounds + 1)]
            changed = []
            for number in range(rounds):
                Client(instance.admin).set_weights("r0", {"v0": number + 1})
                time.sleep(1)
                changed.append(_scrape(instance.admin))
            control = instance.control()
            before, began = sum(control.cpu_times()[:2]), time.monotonic()
            for _ in Client(instance.admin).stream("r0"):
                if time.monotonic() - began > 2 * rounds:
                    break
            taken = sum(control.cpu_times()[:2]) - before
            share = 100 * taken / (time.monotonic() - began)
        part = route("r", free_ports(1)[0], [backend], [1])
        with running({"workers": 2, "routes": [part]}) as instance, ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(_sockets(instance.port, 200))
            client = Client(instance.admin)
            listed = [_ms(lambda: client.connections(limit=20_000)) for _ in range(rounds)]
            command = [sys.executable, "-m", "tcpmux", "conns", "--limit", "20000"]
            command += ["--admin", str(instance.admin)]
            told = [
                _ms(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))
                for _ in range(rounds)
            ]
    return [
        {
            "first scrape": scrapes[0],
            "scrape": statistics.median(scrapes[1:]),
            "after a change": statistics.median(changed),
            "control %": share,
            "8,000 listed": statistics.median(listed),
            "tcpmux conns": statistics.median(told),
        }
    ]


def choosing(load: LoadGenerator, rounds: int, cpu: int | None = None) -> list[Row]:
    """What it costs to choose one of four endpoints: worker CPU of a connection (us), and how much
    that is of round_robin's in the same round (median). limits: a limit on everything, for every
    client too, that is never reached."""
    with ExitStack() as stack:
        backends = [stack.enter_context(load.backend("echo")) for _ in range(4)]
        ends = [f"127.0.0.1:{backend}" for backend in backends]
        ways: dict[str, dict[str, Any]] = {
            "round_robin": {},
            "least_connections": {"balance": "least_connections"},
            "random_two": {"balance": "random_two"},
            "source_hash": {"balance": "source_hash"},
            "maglev": {"balance": "maglev"},
            "limits": {
                "max_connections": 100_000,
                "listener_max_connections": 100_000,
                "source": {"max_connections": 100_000, "rate": "1000000/s"},
                "rate": "1000000/s",
                "allow": ["127.0.0.0/8"],
            },
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, more in ways.items():
                part = {**route("r", free_ports(1)[0], backends, [1]), **more}
                part["destinations"][0]["endpoints"] = ends
                with running({"workers": 1, "routes": [part]}, cpu) as instance:
                    taken[name].append(_cost(load, instance, 3, "connect", 16, "--limit", "8000"))
    first = taken["round_robin"]
    return [
        {
            "choice": name,
            "CPU of a connection": statistics.median(values),
            "of round_robin": statistics.median(
                [one / other for one, other in zip(values, first, strict=True)]
            ),
        }
        for name, values in taken.items()
    ]


def checking(_load: LoadGenerator, rounds: int) -> list[Row]:
    """2,000 endpoints that are checked every 2 s: percent of a CPU that control takes, and checks
    per second that have come."""
    found = []
    with _servers(2000) as (ports, accepted):
        for kind in ("tcp", "send"):
            parts = []
            for number, listen in enumerate(free_ports(20)):
                part = route(f"r{number}", listen, ports[:1], [1])
                mine = ports[number * 100 : number * 100 + 100]
                part["destinations"][0]["endpoints"] = [f"127.0.0.1:{port}" for port in mine]
                parts.append({**part, "check": kind})
            with running({"workers": 1, "routes": parts}) as instance:
                control = instance.control()
                time.sleep(4)
                shares, rates = [], []
                for _ in range(rounds):
                    before, began = sum(control.cpu_times()[:2]), time.monotonic()
                    count = len(accepted)
                    time.sleep(4)
                    seconds = time.monotonic() - began
                    shares.append(100 * (sum(control.cpu_times()[:2]) - before) / seconds)
                    rates.append((len(accepted) - count) / seconds)
                found.append(
                    {
                        "check": kind,
                        "control %": statistics.median(shares),
                        "checks/s": statistics.median(rates),
                    }
                )
    return found


@contextmanager
def _servers(count: int) -> Iterator[tuple[list[int], list[None]]]:
    """Ports of 127.0.0.1 where connections are accepted and closed; the list grows by one each."""
    accepted: list[None] = []
    over = threading.Event()
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        ports = []
        for _ in range(count):
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server.setblocking(False)
            selector.register(server, selectors.EVENT_READ)
            ports.append(server.getsockname()[1])

        def take() -> None:
            while not over.is_set():
                for key, _ in selector.select(0.1):
                    server = key.fileobj
                    assert isinstance(server, socket.socket)
                    with suppress(OSError):
                        server.accept()[0].close()
                        accepted.append(None)

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield ports, accepted
        finally:
            over.set()
            thread.join()


def _exchange(socks: Sequence[socket.socket]) -> None:
    for sock in socks:
        sock.sendall(b"x" * 64)
        sock.recv(64, socket.MSG_WAITALL)


def _ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1e3


def _scrape(admin: Path) -> float:
    """ms until all of it has been read."""

    def read() -> None:
        connection = http.client.HTTPConnection("tcpmux", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(admin))
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        connection.close()

    return _ms(read)


PARTS: dict[str, Callable[..., list[Row]]] = {
    "apply": apply_time,
    "load": load_time,
    "balance": balance,
    "tail": tail,
    "waiting": waiting,
    "growth": growth,
    "watching": watching,
    "choosing": choosing,
    "checking": checking,
    "page": page,
}
ON_ITS_CPU = ("waiting", "growth", "choosing")  # one worker, on the CPU that is not the load's


def show(name: str, rows: Sequence[Row]) -> Table:
    """One part as a terminal table."""
    about = " ".join((PARTS[name].__doc__ or "").split())
    drawn = Table(title=f"{name}: {about}", title_justify="left")
    for column in rows[0]:
        drawn.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        drawn.add_row(*map(_text, row.values()))
    return drawn


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main(arguments: list[str] | None = None) -> int:
    """Measures what is asked for; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.behaviour", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    options = parser.parse_args(arguments)
    raise_file_limit()
    load_cpu, proxy_cpu = choose_cpus(None)
    console = Console(width=None if sys.stdout.isatty() else 120)
    started = datetime.now(timezone.utc)
    found = {}
    for name in options.only or list(PARTS):
        pinned = name in ON_ITS_CPU
        load = LoadGenerator(build_loadgen(), load_cpu if pinned else None)
        extra = (proxy_cpu,) if pinned else ()
        found[name] = PARTS[name](load, options.rounds, *extra)
        console.print(show(name, found[name]))
    about = {"started_at": started.isoformat(timespec="seconds"), **describe(["tcpmux"])}
    path = RESULTS / f"{started:%Y%m%dT%H%M%S}-behaviour.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "rounds": options.rounds, "parts": found}, indent=1))
    console.print(f"details in {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
