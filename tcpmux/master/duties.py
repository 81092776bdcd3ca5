"""Small duties of the master's loop. Runs in the master."""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tcpmux.master.duty import Duty, earliest
from tcpmux.master.instance import UnixListener
from tcpmux.master.listeners import Listeners
from tcpmux.master.signals import SignalQueue
from tcpmux.master.workers import Workers
from tcpmux.worker.messages import BUSY, MESSAGE


class TakeSignals(Duty):
    """One at a time. Those that nothing is said of wake the loop alone."""

    def __init__(
        self, signals: SignalQueue, acts: Mapping[signal.Signals, Callable[[signal.Signals], None]]
    ) -> None:
        self._signals = signals
        self._acts = acts

    def register(self, selector: selectors.BaseSelector) -> None:
        selector.register(self._signals, selectors.EVENT_READ)

    def do(self, now: float) -> None:
        for number in self._signals.take():
            if number in self._acts:
                self._acts[number](number)


class HearWorkers(Duty):
    """Sends what waits on the lines to the workers, and reads what they and guardians tell."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def register(self, selector: selectors.BaseSelector) -> None:
        for worker in self._workers.running:
            if worker.pidfd >= 0:
                selector.register(worker.pidfd, selectors.EVENT_READ)
            if worker.line.socket is not None:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE * worker.line.waiting)
                selector.register(worker.line.socket, events)

    def due(self) -> float | None:
        away = (worker.tell_away_at for worker in self._workers.running)
        return earliest(self._workers.reports.due(), *away)

    def do(self, now: float) -> None:
        for worker in self._workers.running:
            worker.line.flush()
            self._workers.receive(worker)
            if worker.tell_away_at is not None and now >= worker.tell_away_at:
                worker.tell_away()
        self._workers.reports.look(now, self._workers.running)


class Reap(Duty):
    """Tells of the end of each child to whoever started it. died: each returns whether it did."""

    def __init__(self, workers: Workers, died: Sequence[Callable[[int, int], bool]]) -> None:
        self._workers = workers
        self._died = died

    def do(self, now: float) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            any(died(pid, status) for died in self._died)
        self._workers.notice_ends()


class RefuseTakeover(Duty):
    """Tells a second tcpmux that was started for this admin socket that a master is here."""

    def __init__(self, takeover: UnixListener) -> None:
        self._socket = takeover.socket

    def register(self, selector: selectors.BaseSelector) -> None:
        selector.register(self._socket, selectors.EVENT_READ)

    def do(self, now: float) -> None:
        with suppress(BlockingIOError):
            while True:
                line, _ = self._socket.accept()
                with line, suppress(OSError):
                    line.send(MESSAGE.pack(BUSY, 0, 0, 0, os.getpid()))


class RemindWorkers(Duty):
    """Of what they may have missed."""

    def __init__(self, workers: Workers, listeners: Listeners) -> None:
        self._workers = workers
        self._listeners = listeners

    def do(self, now: float) -> None:
        self._workers.remind(self._listeners)


class StartWorkers(Duty):
    """Those that are wanted and do not run."""

    rests_while_stopping = True

    def __init__(self, workers: Workers, listeners: Listeners) -> None:
        self._workers = workers
        self._listeners = listeners

    def due(self) -> float | None:
        return self._workers.next_start()

    def do(self, now: float) -> None:
        self._workers.start_due(self._listeners, now)
