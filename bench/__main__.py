"""The command line of the benchmark: ``python -m bench``. Runs in the bench process.

Peers take turns within every round (A B C A B C), so that a slow change of the machine
meets all of them. Exit codes: 0 all measured without an error, 1 not so, 2 usage.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.build import BuildError, build_loadgen
from bench.environment import choose_cpus, describe, raise_file_limit
from bench.load import LoadError, LoadGenerator
from bench.peers import PEERS, StartError
from bench.processes import ProcessError
from bench.report import overview, remarks, summarize, table, write_json
from bench.scenarios import SCENARIOS, STANDARD, Machine, Measurement

RESULTS = Path(__file__).resolve().parent / "results"
MAX_ROUNDS = 50
MAX_SECONDS = 60.0
MAX_CONNECTIONS = 4000


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--scenario",
        action="append",
        choices=list(SCENARIOS),
        help=f"may repeat; default: {', '.join(STANDARD)}",
    )
    parser.add_argument(
        "--peers",
        default=",".join(PEERS),
        metavar="A,B",
        help="any of %(default)s (default: all that are installed)",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.6,
        metavar="S",
        help="length of one measurement (default %(default)s)",
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=2000,
        metavar="N",
        help="idle connections (default %(default)s)",
    )
    parser.add_argument(
        "--cpus", metavar="LOAD,PROXY", help="default: the first two this process may use"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="default: a new file in bench/results"
    )
    options = parser.parse_args(arguments)
    options.peers = list(dict.fromkeys(options.peers.split(",")))
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        parser.error(f"--peers: unknown {', '.join(unknown)}; known: {', '.join(PEERS)}")
    if not 1 <= options.rounds <= MAX_ROUNDS:
        parser.error(f"--rounds: expected 1..{MAX_ROUNDS}")
    if not 0 < options.seconds <= MAX_SECONDS:
        parser.error(f"--seconds: expected more than 0 and at most {MAX_SECONDS:g}")
    # Two descriptors for each connection in a proxy, and some of its own.
    most = min(raise_file_limit() // 2 - 200, MAX_CONNECTIONS)
    if not 1 <= options.connections <= most:
        parser.error(f"--connections: expected 1..{most}")
    try:
        wanted = None
        if options.cpus is not None:
            load, proxy = (int(word) for word in options.cpus.split(","))
            wanted = (load, proxy)
        options.cpus = choose_cpus(wanted)
    except ValueError as error:
        parser.error(f"--cpus: {error} (expected LOAD,PROXY)")
    return options


class Run:
    """One call of the benchmark: its peers, its measurements, and what went wrong."""

    def __init__(self, options: argparse.Namespace, console: Console, machine: Machine) -> None:
        """Find out which peers this machine has."""
        self.options = options
        self.console = console
        self.machine = machine
        self.measurements: list[Measurement] = []
        self.failures: list[str] = []
        self.skipped: dict[str, str] = {}
        self.peers: list[str] = []
        for name in options.peers:
            reason = PEERS[name].missing()
            if reason is None:
                self.peers.append(name)
            else:
                self.skipped[name] = reason
                console.print(f"skipping {name}: {reason}", markup=False)

    def scenarios(self, names: Sequence[str]) -> None:
        """All of them, one after the other, with a bar that tells how long it will take."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        ) as progress:
            total = len(names) * self.options.rounds * len(self.peers)
            task = progress.add_task("", total=total)
            for name in names:
                for number in range(1, self.options.rounds + 1):
                    for peer in list(self.peers):
                        progress.update(task, description=f"{name}, round {number}, {peer}")
                        self._measure(name, peer, number)
                        progress.advance(task)
                self._show(name)

    def _show(self, name: str) -> None:
        summaries = summarize(self.measurements)
        if any(one.scenario == name for one in summaries):
            self.console.print(table(SCENARIOS[name], summaries))
        for one in summaries:
            if one.scenario == name:
                for remark in remarks(one):
                    self.console.print(f"note: {remark}", markup=False)

    def _measure(self, name: str, peer: str, number: int) -> None:
        try:
            self.measurements.append(
                SCENARIOS[name].measure(
                    PEERS[peer],
                    self.machine,
                    number=number,
                    seconds=self.options.seconds,
                    connections=self.options.connections,
                )
            )
        except StartError as error:
            # It will not start the next time either; spend the time on the others.
            self.peers.remove(peer)
            self._fail(f"{name}, round {number}: {error}; no more rounds with {peer}")
        except (LoadError, ProcessError) as error:
            self._fail(f"{name}, round {number}, {peer}: {error}")

    def _fail(self, message: str) -> None:
        self.failures.append(message)
        self.console.print(message, style="red", markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; gives the exit code."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        program = build_loadgen()
    except BuildError as error:
        console.print(f"loadgen does not compile: {error}", style="red", markup=False)
        return 1
    load_cpu, proxy_cpu = options.cpus
    if load_cpu is None:
        console.print("only one CPU is usable: nothing is pinned, and load and proxy compete")
    else:
        console.print(f"load and backend on CPU {load_cpu}, proxy on CPU {proxy_cpu}")
    started = datetime.now(timezone.utc)
    began = time.monotonic()
    run = Run(options, console, Machine(LoadGenerator(program, load_cpu), proxy_cpu))
    about = {"started_at": started.isoformat(timespec="seconds"), **describe(run.peers)}
    run.scenarios(options.scenario or STANDARD)
    summaries = summarize(run.measurements)
    if len(run.peers) > 1:
        console.print(overview(summaries))
    path = options.json or RESULTS / f"{started:%Y%m%dT%H%M%S}-{about['commit'][:10]}.json"
    about |= {
        "seconds": round(time.monotonic() - began, 1),
        "arguments": {
            "scenarios": options.scenario or STANDARD,
            "peers": options.peers,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "connections": options.connections,
            "cpus": [load_cpu, proxy_cpu],
        },
        "skipped": run.skipped,
        "failures": run.failures,
    }
    write_json(path, about, run.measurements, summaries)
    console.print(f"{about['seconds']} s; details in {path}", soft_wrap=True)
    return 1 if run.failures or any(one.errors for one in summaries) else 0


if __name__ == "__main__":
    # As an exception, the order to end leaves every block that has programs to stop.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing is written")
