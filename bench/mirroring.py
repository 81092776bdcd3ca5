"""`python -m bench.mirroring`: what a shadow costs the worker, and what connections notice of it.

Routes with and without `mirror` take turns, under the same load, in one instance with one worker.
Of each: CPU of the worker, and latency, as the median of the rounds (least, most), and of the
mirrored ones the ratio to the plain one in the same round. `--shadows` compares other shadows than
one that answers: one that refuses, one that reads nothing, one that resets.

Exit codes: 0 measured, 2 usage.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from bench.build import build_loadgen
from bench.environment import choose_cpus
from bench.headers import worker_of
from bench.instance import Instance, free_ports, route, running
from bench.load import LoadGenerator
from bench.measure import cpu_nanoseconds
from bench.scenarios import SCENARIOS
from tcpmux.control.client import Client

LOADS = ("flood-up", "stream-up", "flood-down", "stream-down", "roundtrip", "roundtrip-64k")
WITH_BAD_SHADOWS = ("roundtrip", "connect", "flood-up")
PLAIN = "plain"
ANSWERS = "answers"
BAD = ("refuses", "reads nothing", "resets")


@dataclass(frozen=True)
class Turn:
    """cost: in the load's unit. Latencies in us, None for bulk."""

    cost: float
    rate: float
    p50: float | None
    p99: float | None


@contextmanager
def bad_shadow(kind: str) -> Iterator[int]:
    """An endpoint; its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    if kind == "refuses":
        listener.close()
        yield port
        return
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if kind == "resets":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            else:
                kept.append(sock)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield port
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for sock in kept:
        sock.close()


def mirrored(name: str, port: int, endpoints: list[int], compare: str) -> dict[str, Any]:
    made = route(name, port, endpoints, [1, 0])
    made["mirror"] = {"to": "v1", "percent": 100, "compare": {"prefix": compare}}
    return made


def take_turn(load: LoadGenerator, name: str, pid: int, port: int, seconds: float) -> Turn:
    scenario = SCENARIOS[name]
    before = cpu_nanoseconds(pid)
    outcome = load.run(list(scenario.arguments), port, seconds)
    cpu = (cpu_nanoseconds(pid) - before) / 1e9
    if outcome.errors:
        raise RuntimeError(f"{name}: {outcome.errors} errors: {outcome.first_error}")
    return Turn(
        cpu * scenario.cost_scale / outcome.units,
        outcome.units * scenario.rate_scale / outcome.seconds,
        outcome.p50_us,
        outcome.p99_us,
    )


def told(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}, {max(values):.3g}){unit}"


def report(name: str, turns: dict[str, list[Turn]]) -> Iterator[str]:
    scenario, plain = SCENARIOS[name], turns[PLAIN]
    for kind, found in turns.items():
        yield f"{name}, {kind}: {told([one.cost for one in found])} {scenario.cost_unit}"
        if kind != PLAIN:
            pairs = list(zip(found, plain, strict=True))
            more = told([its.cost - other.cost for its, other in pairs])
            ratio = told([its.cost / other.cost for its, other in pairs])
            rate = told([its.rate / other.rate for its, other in pairs])
            yield f"    more: {more}, ratio {ratio}; ratio of rates {rate}"
            if plain[0].p99:
                each = [told([getattr(its, q) / getattr(other, q) for its, other in pairs])
                        for q in ("p50", "p99")]  # fmt: skip
                yield f"    ratio of p50 {each[0]}, of p99 {each[1]}"


def fates(instance: Instance) -> Iterator[str]:
    """What became of the shadows: those that were given up early have cost little."""
    for number, one in enumerate(Client(str(instance.admin)).status()["routes"]):
        mirror = one.get("mirror")
        if number and mirror:
            found = {word: count for word, count in mirror["results"].items() if count}
            yield f"    {mirror['mirrored_total']} shadows: {found}"


def measure(options: argparse.Namespace, load: LoadGenerator, proxy_cpu: int | None) -> None:
    kinds = [PLAIN, *(BAD if options.shadows else (ANSWERS,))]
    for name in options.load or (WITH_BAD_SHADOWS if options.shadows else LOADS):
        with ExitStack() as stack:
            role = SCENARIOS[name].role
            endpoint = stack.enter_context(load.backend(role))
            shadows = [
                stack.enter_context(load.backend(role) if kind == ANSWERS else bad_shadow(kind))
                for kind in kinds[1:]
            ]
            ports = free_ports(len(kinds))
            routes = [route("r0", ports[0], [endpoint], [1])]
            for n, shadow in enumerate(shadows, 1):
                pair = [endpoint, shadow]
                routes.append(mirrored(f"r{n}", ports[n], pair, options.prefix))
            config = {"workers": 1, "routes": routes}
            instance = stack.enter_context(running(config, proxy_cpu))
            pid = worker_of(instance)
            turns: dict[str, list[Turn]] = {kind: [] for kind in kinds}
            for number in range(options.rounds + 1):
                for kind, port in zip(kinds, ports, strict=True):
                    turn = take_turn(load, name, pid, port, options.seconds)
                    if number:  # the first is for what is done once
                        turns[kind].append(turn)
            for line in (*report(name, turns), *fates(instance)):
                print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measures; gives the exit code."""
    made = argparse.ArgumentParser(prog="python -m bench.mirroring", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--rounds", type=int, default=5, metavar="N")
    made.add_argument("--seconds", type=float, default=1.0, metavar="S", help="of each turn")
    made.add_argument("--load", action="append", choices=sorted(SCENARIOS.keys() - {"idle"}))
    made.add_argument("--shadows", action="store_true", help="bad ones")
    made.add_argument("--prefix", default="64KiB", help="compare.prefix")
    options = made.parse_args(arguments)
    if options.rounds < 1 or options.seconds <= 0:
        made.error("at least one round, of more than 0 seconds")
    load_cpu, proxy_cpu = choose_cpus(None)
    if load_cpu is not None:
        os.sched_setaffinity(0, {load_cpu})
    measure(options, LoadGenerator(build_loadgen(), load_cpu), proxy_cpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
