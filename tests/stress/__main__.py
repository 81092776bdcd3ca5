"""`python -m tests.stress`: does everything to tcpmux that must not harm a connection, under
load, and the same to haproxy and nginx where they are installed. `make prove` runs it.

Exit codes: 0 tcpmux lost nothing, 1 it did, 2 usage.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from tests.stress.events import EVENTS, Acted
from tests.stress.load import Load, Seen, driving, echo_server
from tests.stress.targets import TARGETS, Unsupported

COLUMNS = (
    "event", "target", "times", "streams", "lost", "new", "lost", "bytes checked", "wrong",
    "message p99/max ms", "new p99/max ms", "",
)  # fmt: skip


def run_event(
    name: str, target_name: str, times: int, load: Load, seed: int
) -> tuple[Acted, Seen] | None:
    """One event on one target, started for it; None if it has no such thing."""
    event = EVENTS[name]
    with tempfile.TemporaryDirectory(prefix="tcpmux-stress-") as directory, echo_server() as port:
        target = TARGETS[target_name](Path(directory), port)
        try:
            with driving(target.port, load, seed) as seen:
                time.sleep(0.5)
                acted = event.act(target, times, random.Random(seed))
                time.sleep(0.5)
        except Unsupported:
            return None
        except BaseException:
            print(target.log.read_text(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            target.stop()
    return acted, seen


def row(name: str, target: str, acted: Acted, seen: Seen) -> list[str]:
    return [
        name,
        target,
        str(acted.times),
        str(seen.streams),
        str(seen.streams_lost),
        str(seen.opened),
        str(seen.failed),
        f"{seen.bytes / 1e9:.2f} GB",
        str(seen.wrong),
        f"{seen.delay_p99_ms}/{seen.delay_max_ms}",
        f"{seen.new_p99_ms}/{seen.new_max_ms}",
        "; ".join(acted.notes),
    ]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--quick", action="store_true", help="few times each")
    parser.add_argument("--only", action="append", choices=list(EVENTS), metavar="EVENT")
    parser.add_argument("--skip-peers", action="store_true")
    return parser.parse_args(arguments)


def run_and_note(
    table: Table,
    console: Console,
    name: str,
    target: str,
    options: argparse.Namespace,
    seed: int,
) -> int:
    """One row of the table; how much tcpmux has lost."""
    event = EVENTS[name]
    ours = target == "tcpmux"
    times = event.quick if options.quick else event.full
    if not ours:
        times = min(event.peers, times)
    if not times or (not ours and (options.skip_peers or TARGETS[target].missing())):
        return 0
    console.print(f"{name}: {target}, {times} times ...", highlight=False)
    try:
        done = run_event(name, target, times, Load(), seed)
    except (AssertionError, OSError) as error:
        if ours:
            raise
        table.add_row(name, target, "failed", *[""] * 8, str(error).splitlines()[0])
        return 0
    if done is None:
        table.add_row(name, target, "-")
        return 0
    table.add_row(*row(name, target, *done), end_section=target == "haproxy")
    return done[1].lost if ours else 0


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    names = options.only or list(EVENTS)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(
        f"seed {seed}; the same again: python -m tests.stress --seed {seed}"
        + "".join(f" --only {name}" for name in options.only or ())
        + (" --quick" if options.quick else "")
    )
    table = Table(*COLUMNS, box=SIMPLE)
    began = time.monotonic()
    lost = sum(
        run_and_note(table, console, name, target, options, seed)
        for name in names
        for target in TARGETS
    )
    console.print(table)
    for target, kind in TARGETS.items():
        if kind.missing():
            console.print(f"{target}: {kind.missing()}")
    verdict = "nothing lost" if not lost else f"{lost} LOST"
    console.print(f"tcpmux: {verdict}; {time.monotonic() - began:.0f} s, seed {seed}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
