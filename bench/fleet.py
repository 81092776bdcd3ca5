"""`python -m bench.fleet`: how long a change of weights takes until the last worker of the last
host of a fleet uses it, and to follow etcd again, or to start without it; and what a host costs
that only follows.

Members of etcd and hosts run on this machine, all of them on its CPUs. A change is asked for at the
first host, over its admin socket; it is everywhere when the shared memory of every worker says so.
Exit codes: 0 measured, 1 a change did not arrive.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import yaml

from bench.instance import REPOSITORY, Instance, free_ports, route, running
from bench.processes import Program, wait_for
from tcpmux.control.client import Client
from tcpmux.shm._live import Live
from tests.etcd_cluster import Cluster, cluster, settings

ARRIVAL_SECONDS = 10.0
REPEATS = 10
PAUSE = 0.1  # s between two changes: hosts say that they have it
PORT = "BENCH_FLEET_PORT"  # what the document listens on


def _host(stack: ExitStack, urls: Sequence[str], number: int, state: Path) -> Instance:
    own, os.environ[PORT] = map(str, free_ports(2))
    config = {
        "workers": 2,
        "state_dir": str(state),
        "fleet": dict(settings(urls, f"host{number}")),
        "routes": [route("own", int(own), [1], [1])],
    }
    return stack.enter_context(running(config))


def _all_have(lives: Sequence[Sequence[Live]], before: Sequence[int]) -> bool:
    return all(
        live.generation_seen > was for of, was in zip(lives, before, strict=True) for live in of
    )


def _change(client: Client, number: int, lives: Sequence[Sequence[Live]]) -> float:
    """s until every worker has it. Raises RuntimeError."""
    before = [max(live.generation_seen for live in of) for of in lives]
    began = time.monotonic()
    client.set_fleet_weights("shop", {"v0": number % 100 + 1, "v1": 100})
    if not wait_for(lambda: _all_have(lives, before), ARRIVAL_SECONDS, every=0.0005):
        raise RuntimeError("a change did not arrive")
    return time.monotonic() - began


def _told(times: Sequence[float]) -> str:
    ordered = sorted(times)
    part = {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 90, 99)}
    part["longest"] = ordered[-1]
    return ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in part.items())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, default=5, metavar="N")
    parser.add_argument("--members", type=int, default=3, metavar="N")
    parser.add_argument("--changes", type=int, default=200, metavar="N")
    parser.add_argument("--idle", type=float, default=20.0, metavar="SECONDS")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-fleet-")))
        etcd = stack.enter_context(cluster(directory, options.members))
        hosts = [_host(stack, etcd.urls, n, directory) for n in range(options.hosts)]
        client = Client(str(hosts[0].admin))
        document = route("shop", 0, [1], [1, 1]) | {"listen": f"127.0.0.1:${{{PORT}}}"}
        client.put_fleet_documents([("shop", yaml.safe_dump({"routes": [document]}))])
        if not wait_for(lambda: _are_there(hosts), ARRIVAL_SECONDS):
            raise RuntimeError("the document did not arrive")
        lives = [host.lives() for host in hosts]
        times = []
        for number in range(options.changes):
            time.sleep(PAUSE)
            times.append(_change(client, number, lives))
        print(
            f"{options.hosts} hosts, {sum(map(len, lives))} workers, {options.members} members of "
            f"etcd, {options.changes} changes: {_told(times)}"
        )
        print(f"etcd back, until all hosts follow it: {_told(_returns(etcd, hosts))}")
        (own,) = free_ports(1)
        alone = stack.enter_context(
            running({"workers": 2, "routes": [route("own", own, [1], [1])]})
        )
        *shares, without = _idle([*hosts, alone], options.idle)
        print(
            f"control of a host, following for {options.idle:g} s: "
            f"{statistics.median(shares) * 100:.2f} % of a CPU, at most {max(shares) * 100:.2f} %; "
            f"of one in no fleet {without * 100:.2f} %"
        )
        etcd.kill()
        port = int(os.environ[PORT])
        pairs = [(_start(hosts[-1], port), _start(alone, own)) for _ in range(REPEATS)]
        with_fleet, others = zip(*pairs, strict=True)
        print(f"start without etcd, until clients are served: {_told(with_fleet)}")
        print(f"start of one in no fleet: {_told(others)}")
    return 0


def _returns(etcd: Cluster, hosts: Sequence[Instance]) -> list[float]:
    """s, of some times that all of etcd is killed, from its first answer on."""
    clients = [Client(str(host.admin)) for host in hosts]

    def follow() -> list[bool]:
        found = [client.status()["fleet"] for client in clients]
        return [fleet is not None and not fleet["problem"] for fleet in found]

    times = []
    for _ in range(REPEATS):
        etcd.kill()
        if not wait_for(lambda: not any(follow()), ARRIVAL_SECONDS):
            raise RuntimeError("a host does not notice that etcd is gone")
        etcd.start()
        began = time.monotonic()
        if not wait_for(lambda: all(follow()), ARRIVAL_SECONDS):
            raise RuntimeError("a host does not follow etcd again")
        times.append(time.monotonic() - began)
    return times


def _start(host: Instance, port: int) -> float:
    """s from its start to the first connection that is accepted there."""
    host.program.stop()
    command = [sys.executable, "-m", "tcpmux", "-c", str(host.directory / "routes.yaml")]
    began = time.monotonic()
    again = Program(command, cpu=None, log=host.directory / "again.log", directory=REPOSITORY)
    try:
        if not wait_for(lambda: _accepts(port), ARRIVAL_SECONDS, every=0.001):
            raise RuntimeError("the route of the fleet is not served")
        return time.monotonic() - began
    finally:
        again.stop()


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _are_there(hosts: Sequence[Instance]) -> bool:
    every = [Client(str(host.admin)).status()["routes"] for host in hosts]
    return all(len(routes) == 2 for routes in every)


def _idle(hosts: Sequence[Instance], seconds: float) -> list[float]:
    """What the control process of each uses, of a CPU."""

    def used(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    controls = [host.control() for host in hosts]
    before = [used(each) for each in controls]
    time.sleep(seconds)
    return [(used(each) - was) / seconds for each, was in zip(controls, before, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
