"""Runs under the shim, as a process of its own: reads cases from stdin, one JSON a line, and
answers each with a line of JSON: what failed how often, and what is not as it has to be.

    LD_PRELOAD=shim.so FAULT_CONTROL=file python -m tests.fault.scenario

The shim is off in here: only workers that this process starts meet the faults.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tcpmux.shm._declared import PRESENT
from tcpmux.shm._readings import Counters
from tcpmux.shm.mirror_status import FATES
from tcpmux.shm.rules import RouteRules
from tcpmux.worker.messages import MESSAGE, WAKE
from tests.fault.cases import Case
from tests.fault.control import Control
from tests.fault.conversations import KINDS, RECEIVE_BUFFER, Talk
from tests.fault.shadows import Shadows
from tests.fault.sites import COUNTED_OR_NOT, DEATHS, INDISPENSABLE, SHORT, SITES, UNCOUNTED
from tests.relay.harness import Destination, RelayWorker, address_of, bound, listen
from tests.support import patient, short_directory, wait_for

DEADLINE = patient(4)  # s, for conversations that take a fraction of one
LATE = 6  # s: a shadow may end 5 s after its connection
IDLE_PIPES = 64  # csrc/pipe_pool.h: TM_PIPES_IDLE
MAX_WAKEUPS = 60_000  # of one case; a loop that waits for nothing makes that many in a second


@dataclass(slots=True)
class Outcome:
    """problems: one line each; none = as it has to be."""

    problems: list[str] = field(default_factory=list)
    fired: list[int] = field(default_factory=list)  # by rule
    intact: int = 0
    lost: int = 0
    kills: int = 0
    closed: dict[str, int] = field(default_factory=dict)


def descriptors(pid: int) -> tuple[int, int]:
    """How many a process has that are no pipes, and how many are."""
    pipes = others = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if stat.S_ISFIFO(entry.stat().st_mode):
                pipes += 1
            else:
                others += 1
    return others, pipes


class Stage:
    """A worker, what stands behind it, and what it held before anything happened."""

    def __init__(self, case: Case, control: Control, directory: Path) -> None:
        self.control = control
        self.key = key_of(case)
        self.refusing = bound(case.server, directory)
        self.endpoints = [
            listen(case.server, directory, receive_buffer=RECEIVE_BUFFER) for _ in range(2)
        ]
        for endpoint in self.endpoints:
            endpoint.setblocking(False)
        addresses = tuple(map(address_of, [self.refusing, *self.endpoints]))
        self.shadows = Shadows() if case.mirrored else None
        destinations, rules = [Destination(addresses)], RouteRules()
        if self.shadows:
            destinations.append(Destination((self.shadows.address,), weight=0))
            rules = RouteRules(mirror_to=1, mirror_share=10_000, mirror_lag=1 << 17)
        self.worker = RelayWorker(directory, destinations, pipes=case.pipes, rules=rules)
        self.before = descriptors(self.worker.live.pid)[0]

    def talk(self, case: Case, outcome: Outcome, control: Control | None) -> None:
        """All kinds of conversation at once. control: arms the faults first."""
        worker = self.worker
        incarnations = worker.live.starts
        wakeups = worker.live.counters()["wakeups"]
        kills = random.Random(case.seed + 1)
        thresholds = sorted(kills.randrange(700_000) for _ in range(case.deaths))
        talk = Talk(self.endpoints)

        nudges = [0, 200_000]

        def harass(received: int) -> None:
            if nudges and received >= nudges[0]:
                del nudges[0]
                self.nudge()
            if thresholds and received >= thresholds[0]:
                del thresholds[0]
                worker.kill()
                outcome.kills += 1

        if control:
            control.arm(case.all_rules(), case.seed)
        try:
            listener = worker.listeners[case.client]
            for kind in KINDS:
                talk.open(kind, listener.getsockname(), listener.family)
            deadline = DEADLINE + case.mirrored * LATE
            stuck = talk.run(worker, deadline, harass if control else None)
        finally:
            if control:
                control.disarm()
                outcome.fired = control.fired
            talk.close()
        if stuck:
            outcome.problems.append(f"stuck: {stuck}")
            return
        self._judge(case, outcome, talk, unharmed=control is None or not _harmful(case, control))
        if control:
            self._count_incarnations(case, outcome, incarnations)
        elif worker.live.starts != incarnations:
            outcome.problems.append("the worker has died after all faults")
        self._count_turns(outcome, wakeups)

    def _count_turns(self, outcome: Outcome, before: int) -> None:
        turns = self.worker.live.counters()["wakeups"] - before
        if turns > MAX_WAKEUPS:
            outcome.problems.append(f"the worker has turned {turns} times")

    def nudge(self) -> None:
        """A message and a signal, which mean nothing to a worker that has a master."""
        self.worker._channel.send(MESSAGE.pack(WAKE, 0, 0, 0, 0))
        pid = self.worker.live.pid
        if pid > 0:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _count_incarnations(self, case: Case, outcome: Outcome, before: int) -> None:
        """An incarnation ends only where it was ended: what assertions do to it is a problem."""
        must, may = before + outcome.kills, 0
        for site in SITES:
            if site in COUNTED_OR_NOT:
                may += self.control.deaths(site)
            elif site not in UNCOUNTED:
                must += self.control.deaths(site)
        for rule, fired in zip(case.all_rules(), outcome.fired, strict=True):
            if case.kills and rule.site in INDISPENSABLE and rule.error not in DEATHS:
                may += fired
        live = self.worker.live

        def incarnations() -> bool:
            return live.presence == PRESENT and 0 < live.pid == self.control.worker

        try:
            wait_for(incarnations, "the worker's next incarnation")
        except AssertionError as error:
            outcome.problems.append(
                f"{error}: pid {live.pid}, last started {self.control.worker}, incarnation "
                f"{live.starts} of {must}, presence {live.presence}"
            )
        if live.starts < must:
            outcome.problems.append(f"incarnation {live.starts} where {must} was due")
        if live.starts > must + may:
            outcome.problems.append(f"the worker has died {live.starts - must} times by itself")

    def _judge(self, case: Case, outcome: Outcome, talk: Talk, unharmed: bool) -> None:
        for conversation in talk.conversations:
            outcome.problems += conversation.problems(unharmed)
            ends = (conversation.client, conversation.server)
            harmed = any(end is None or end.was_reset for end in ends)
            outcome.lost += harmed
            outcome.intact += not harmed

    def books(self, outcome: Outcome) -> None:
        """Counters balance and no descriptor is left; pipes are kept up to a number."""
        worker = self.worker
        for slot in range(worker.slots):
            counters = Counters([worker.live]).slot(slot)
            if counters.opened != sum(counters.closed):
                outcome.problems.append(f"slot {slot} is not balanced: {counters}")
        outcome.closed = worker.closed()
        route = worker.route()
        ended = {word: getattr(route, name) for name, word in FATES.items()}
        if route.mirrored != sum(ended.values()) or bool(ended["agreed"]) > bool(self.shadows):
            outcome.problems.append(f"{route.mirrored} shadows, which ended so: {ended}")
        if self.shadows and self.shadows.wrong:
            outcome.problems.append(f"shadows heard what was not said: {self.shadows.wrong}")
        others, pipes = descriptors(worker.live.pid)
        if others != self.before:
            outcome.problems.append(f"{others} descriptors where there were {self.before}")
        if pipes > 2 * IDLE_PIPES + 3:
            outcome.problems.append(f"{pipes} ends of pipes are open")

    def close(self) -> None:
        try:
            self.worker.stop()
        finally:
            for sock in (self.refusing, *self.endpoints):
                sock.close()
            self._close_shadows()

    def _close_shadows(self) -> None:
        if self.shadows:
            self.shadows.close()

    def abandon(self) -> None:
        """The end of one that can't be ended in order."""
        for pid in (self.worker.pid, self.worker.live.guardian_pid, self.worker.live.pid):
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.worker.pid:
            os.waitpid(self.worker.pid, 0)
        for sock in (self.refusing, *self.endpoints, *self.worker.listeners.values()):
            sock.close()
        self._close_shadows()


def key_of(case: Case) -> tuple[str, str, int, bool, bool]:
    """Cases with the same may follow each other on one stage. Starts that fail make the guardian
    wait longer each time, so these get one each."""
    return (case.client, case.server, case.pipes, case.kills, case.mirrored)


def _harmful(case: Case, control: Control) -> bool:
    """Whether an error was reported that may cost a connection. A call that does less, or is to
    be made again, may not."""
    kind = {errno.EINTR, errno.EAGAIN, *SHORT, *DEATHS}
    return any(
        fired and rule.error not in kind
        for fired, rule in zip(control.fired, case.all_rules(), strict=True)
    )


def perform(case: Case, stage: Stage, control: Control) -> Outcome:
    outcome = Outcome()
    stage.talk(case, outcome, control)
    if not outcome.problems:
        stage.talk(case, outcome, None)  # as if nothing had been
    if not outcome.problems:
        wait_for(lambda: stage.worker.live.connections == 0, "the worker to be idle")
        stage.books(outcome)
    return outcome


def play(cases: Iterator[Case], control: Control, directory: Path) -> Iterator[Outcome]:
    stage: Stage | None = None
    for case in cases:
        if stage and (stage.key != key_of(case) or case.kills):
            stage.close()
            stage = None
        try:
            stage = stage or Stage(case, control, directory)
            outcome = perform(case, stage, control)
        except AssertionError as error:
            outcome = Outcome([str(error)])
        if outcome.problems and stage:
            stage.abandon()
            stage = None
        yield outcome
    if stage:
        stage.close()


def main() -> None:
    control = Control.of_this_process()
    cases = (Case.load(line) for line in iter(sys.stdin.readline, ""))
    with short_directory() as directory:
        for outcome in play(cases, control, directory):
            print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    socket.setdefaulttimeout(None)
    main()
