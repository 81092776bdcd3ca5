"""`python -m tests.stress`: does everything to tcpmux that must not harm a connection, under
load, and the same to haproxy and nginx where they are installed. `make prove` runs it.

Exit codes: 0 tcpmux lost nothing and did all that it had to, 1 it did not, 2 usage.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from tests.stress.catalogue import EVENTS
from tests.stress.events import Acted
from tests.stress.load import Load, Seen, driving, echo_server
from tests.stress.peers import Haproxy, Nginx
from tests.stress.targets import Target, Tcpmux, Unsupported
from tests.support import free_port

TARGETS: dict[str, type[Target]] = {kind.name: kind for kind in (Tcpmux, Nginx, Haproxy)}
COLUMNS = (
    "event", "target", "times", "streams", "lost", "new", "lost", "checked", "wrong bytes",
    "echo p50/p99/max ms", "new p50/p99/max ms", "",
)  # fmt: skip
LOG_TAIL = 100000  # characters


@dataclass(slots=True)
class Outcome:
    """Of one event on one target. failed: what it did not do, in words."""

    acted: Acted = field(default_factory=Acted)
    seen: Seen = field(default_factory=Seen)
    failed: list[str] = field(default_factory=list)
    log: str = ""

    @property
    def bad(self) -> bool:
        return bool(self.failed or self.seen.lost)


def run_event(name: str, target_name: str, times: int, load: Load, seed: int) -> Outcome | None:
    """One event on one target, started for it; None if it has no such thing."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="tcpmux-stress-") as directory, echo_server() as port:
        target = TARGETS[target_name](Path(directory), port, free_port())
        try:
            with driving(target.port, load, seed) as outcome.seen:
                time.sleep(0.5)
                outcome.acted = EVENTS[name].act(target, times, random.Random(seed))
                time.sleep(0.5)
            seen = outcome.seen
            said = target.check(seen.streams + seen.opened + outcome.acted.connections)
            outcome.failed += [words for words in said if not words[0].isdigit()]
            outcome.acted.notes += [words for words in said if words[0].isdigit()]
        except Unsupported:
            return None
        except (AssertionError, OSError) as error:
            outcome.failed.append(str(error).splitlines()[0])
        finally:
            left = target.stop()
            outcome.log = target.log.read_text(errors="replace")[-LOG_TAIL:]
        if left and target_name == Tcpmux.name:
            outcome.failed.append(f"{len(left)} processes had to be killed at its end")
    return outcome


def row(name: str, target: str, outcome: Outcome) -> list[str]:
    acted, seen = outcome.acted, outcome.seen
    notes = [f"FAILED: {words}" for words in outcome.failed] + acted.notes
    if seen.causes:
        notes.insert(0, seen.causes)
    return [
        name,
        target,
        str(acted.times),
        str(seen.streams),
        str(seen.streams_lost),
        str(seen.opened),
        str(seen.opened_lost),
        f"{seen.bytes / 1e9:.2f} GB",
        str(seen.wrong),
        f"{seen.delay_p50_ms:.1f}/{seen.delay_p99_ms:.0f}/{seen.delay_max_ms:.0f}",
        f"{seen.new_p50_ms:.1f}/{seen.new_p99_ms:.0f}/{seen.new_max_ms:.0f}",
        "; ".join(notes),
    ]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--quick", action="store_true", help="few times each")
    parser.add_argument("--only", action="append", choices=list(EVENTS), metavar="EVENT")
    parser.add_argument("--skip-peers", action="store_true")
    return parser.parse_args(arguments)


def again(seed: int, name: str, *, quick: bool) -> str:
    """The command that does one event to tcpmux once more."""
    return f"python -m tests.stress --skip-peers --only {name} --seed {seed}" + (
        " --quick" if quick else ""
    )


def run_and_note(
    table: Table, console: Console, name: str, target: str, options: argparse.Namespace, seed: int
) -> bool:
    """One row of the table. False: tcpmux lost something or failed."""
    event = EVENTS[name]
    ours = target == Tcpmux.name
    times = event.quick if options.quick else event.full
    if not ours:
        times = min(event.peers, times)
        if options.skip_peers or TARGETS[target].missing():
            return True
    console.print(f"{name}: {target}, {times} times ...", highlight=False)
    outcome = run_event(name, target, times, event.load, seed)
    if outcome is None:
        table.add_row(name, target, "-")
        return True
    table.add_row(*row(name, target, outcome))
    if ours and outcome.bad:
        for words in (*outcome.failed, outcome.seen.causes, outcome.seen.first_loss, outcome.log):
            if words:
                console.print(f"    {words}", highlight=False, markup=False)
        console.print(f"    again: {again(seed, name, quick=options.quick)}", highlight=False)
    return not (ours and outcome.bad)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    names = options.only or list(EVENTS)
    console = Console(width=None if sys.stdout.isatty() else 220)
    console.print(f"seed {seed}", highlight=False)
    table = Table(*COLUMNS, box=SIMPLE)
    began = time.monotonic()
    bad = []
    for name in names:
        for target in TARGETS:
            if not run_and_note(table, console, name, target, options, seed):
                bad.append(name)
        table.add_section()
    console.print(table)
    for target, kind in TARGETS.items():
        if kind.missing():
            console.print(f"{target}: {kind.missing()}")
    verdict = f"FAILED: {', '.join(bad)}" if bad else "nothing lost"
    console.print(f"tcpmux: {verdict}; {time.monotonic() - began:.0f} s, seed {seed}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
