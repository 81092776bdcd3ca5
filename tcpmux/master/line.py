"""One worker as the master sees it, and the line to it. Runs in the master.

Both the worker and its guardian speak on their end of the line (csrc/channel.h).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tcpmux.master.held import Held
from tcpmux.processes import Sender, close_all, identify_senders, receive
from tcpmux.shm._declared import ABSENT, HANGING, PRESENCES, PRESENT, STOPPED
from tcpmux.shm._live import Live
from tcpmux.worker.messages import (
    CRAMPED,
    DENIED,
    DIED,
    FULL,
    GREW,
    GUARD,
    LOOPED,
    MESSAGE,
    OFFER,
    PRESENCE,
    REMOVED,
    RENEWED,
    ROOM,
    SEEN,
    STARTED,
    SYNCED,
    UNACCEPTED,
    UNLINED,
    UNREAD,
)

log = logging.getLogger("tcpmux.master")
_EVENT = {"event": "worker"}

HANGING_SECONDS = 1.0  # before it is told of

# Sent by the worker itself; all else on the line is its guardian's.
BY_WORKER = (
    SEEN,
    REMOVED,
    STARTED,
    FULL,
    ROOM,
    SYNCED,
    UNLINED,
    GREW,
    OFFER,
    LOOPED,
    DENIED,
    CRAMPED,
    UNREAD,
    UNACCEPTED,
)


def describe_exit(status: int) -> str:
    """A wait status in words: `killed by SIGKILL`, `exited with code 1`. 0 = not known."""
    status &= 0xFFFF  # a guardian's word may be any number
    if os.WIFEXITED(status) and status:
        return f"exited with code {os.WEXITSTATUS(status)}"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        known = number in set(signal.Signals)
        return f"killed by {signal.Signals(number).name if known else f'signal {number}'}"
    return "died"


class Line:
    """A SOCK_SEQPACKET socket, with what it would not take yet in order behind it.

    socket: None when the other end is gone.
    """

    def __init__(self, sock: socket.socket | None = None) -> None:
        if sock is not None:
            identify_senders(sock)
        self.socket = sock
        self._outbox: deque[tuple[bytes, list[int], bool]] = deque()

    @property
    def waiting(self) -> bool:
        return bool(self._outbox)

    def post(
        self,
        kind: int,
        listener: int = 0,
        *,
        first: int = 0,
        shared: int = 0,
        value: int = 0,
        fds: Iterable[int] = (),
        close: bool = False,
    ) -> None:
        """Sends a message now or as soon as it can be. close: the descriptors are not
        needed here afterwards."""
        message = MESSAGE.pack(kind, listener, first, shared, value)
        self._outbox.append((message, list(fds), close))
        self.flush()

    def flush(self) -> None:
        """Sends what waits, as far as the line takes it."""
        while self._outbox:
            data, fds, close = self._outbox[0]
            try:
                if self.socket is not None:
                    socket.send_fds(self.socket, [data], fds)
            except BlockingIOError:
                return
            except OSError:  # it is dying; its successor inherits the state of things
                self.close()
                return
            self._outbox.popleft()
            if close:
                close_all(fds)

    def receive(self) -> tuple[int, int, int, Sender | None] | None:
        """The next message as (kind, listener, value, who sent it); None = none for now. The
        sender is the caller's to close."""
        if self.socket is None:
            return None
        sender = None
        try:
            data, _, sender = receive(self.socket, MESSAGE.size)
        except BlockingIOError:
            return None
        except (OSError, ValueError):
            data = b""
        if len(data) != MESSAGE.size:  # it has ended, or is about to
            if sender is not None:
                sender.close()
            self.close()
            return None
        kind, listener, _, _, value = MESSAGE.unpack(data)
        return kind, listener, value, sender

    def close(self) -> None:
        while self._outbox:
            _, fds, close = self._outbox.popleft()
            if close:
                close_all(fds)
        if self.socket is not None:
            self.socket.close()
            self.socket = None


@dataclass(slots=True)
class Worker:
    """A worker, wanted or not, with a guardian or without."""

    id: int
    live: Live
    uid: int  # as whom it and its guardian run
    wanted: bool = False
    is_running: bool = False  # there is a line to it, so it or its guardian lives
    held_guardian: Held | None = None  # None = not known, or ended
    held: Held | None = None  # the worker itself, as it was when it last said something
    line: Line = field(default_factory=Line)
    retiring: bool = False
    replaced_from: int | None = None  # live.builds when it was told to give way to another build
    replace_orders: int = 0  # times it has been told that
    full: bool = False
    dead: bool = False  # its next incarnation has not begun
    unguarded: bool = False  # its guardian has died, and it has not been told
    # One may end with a message in its hands, so after each incarnation the worker is asked to
    # answer when it has done what is under way; then its region shows what is missing.
    asked: int = 0  # number of the last such question
    answered: int = 0
    uncertain: bool = True  # it is to be asked
    in_order: bool = False  # it has all that it was told, or is about to
    lines: set[int] = field(default_factory=set)  # workers it has a line to
    grew: bool = False  # it has said so
    denied: int | None = None  # counter slot of an endpoint that does not let it in
    cramped: bool = False  # it had no room for descriptors that it was sent, not told yet
    unaccepted: int | None = None  # errno of an accept that failed, not told yet
    looped: int | None = None  # listener on which it has met with a loop, not told yet
    removed: set[int] = field(default_factory=set)  # listeners it has told to have closed
    started: float = 0.0  # monotonic, s
    delay: float = 0.0  # s, before the next start
    start_at: float = 0.0  # monotonic, s; when not running
    away_since: float | None = None  # monotonic, s; stopped or hanging
    is_told_away: bool = False  # in the log
    others_serve: Callable[[], bool] = lambda: True

    @property
    def serves(self) -> bool:
        """Whether it takes new connections, as far as is known."""
        return self.is_running and not (self.dead or self.retiring) and self.is_present

    @property
    def is_present(self) -> bool:
        return self.live.presence == PRESENT and self.replaced_from is None

    @property
    def guardian(self) -> int:
        """Its pid, to be shown and compared; 0 = not known."""
        return self.held_guardian.pid if self.held_guardian is not None else 0

    @property
    def pidfd(self) -> int:
        """Of the guardian; -1 = none."""
        return self.held_guardian.pidfd if self.held_guardian is not None else -1

    def begin(self, channel: socket.socket, guardian: Held | None, worker: Held | None) -> None:
        """It runs. None: not known yet; what they say on the line tells."""
        self.is_running = True
        self.held_guardian, self.held = guardian, worker
        self.unguarded = guardian is None  # if one lives, the worker knows, and makes no other
        self.line = Line(channel)
        self.started = time.monotonic()

    def guardian_ended(self) -> None:
        if self.held_guardian is not None:
            self.held_guardian.close()
        self.held_guardian = None

    def _life_ended(self) -> None:
        if self.held is not None:
            self.held.close()
        self.held = None

    def ended(self) -> None:
        """Both are gone."""
        self.guardian_ended()
        self._life_ended()
        self.line.close()
        self.is_running = False
        self.live.guardian_pid = 0
        self.live.pid = 0
        self.live.presence = ABSENT
        self.retiring = self.full = self.unguarded = self.is_told_away = False
        self.away_since = None
        self.uncertain, self.in_order = True, False
        self.lines.clear()
        self.removed.clear()

    def _log_lost(self, kind: int, count: int, by_source: int) -> None:
        """Clients have lost connections by it."""
        if kind == RENEWED:
            log.error(
                "worker %d: its shared memory was corrupt and kept it from starting; it was "
                "reset, and %d connections are lost",
                self.id,
                count,
                extra=_EVENT,
            )
        else:
            # The limit of one client is there for the others.
            log.log(
                logging.WARNING if by_source == count else logging.ERROR,
                "worker %d: %d connections whose peer had stopped reading were reset: %d because "
                "their client had used up buffers.per_source, %d because buffers.total was used "
                "up",
                self.id,
                count,
                by_source,
                count - by_source,
                extra=_EVENT,
            )

    def receive(self) -> bool:
        """Reads all that has come. True: which shards it should have may have changed."""
        changed = False
        while (message := self.line.receive()) is not None:
            kind, listener, value, sender = message
            if sender is not None:
                self._heard_of(kind, sender)
                sender.close()
            if kind in (FULL, ROOM, DIED, STARTED, PRESENCE):
                self._note(kind, value)
                changed = True
            else:
                self._write_down(kind, listener, value)
        return changed

    def _write_down(self, kind: int, listener: int, value: int) -> None:
        """What is looked at when its time has come."""
        if kind == REMOVED:
            self.removed.add(listener)
        elif kind == GREW:
            self.grew = True
        elif kind == DENIED:
            self.denied = listener
        elif kind == LOOPED:
            self.looped = listener
        elif kind == UNACCEPTED:
            self.unaccepted = value
        elif kind == SYNCED:
            self.answered = value
        elif kind in (UNLINED, CRAMPED):
            self.uncertain, self.in_order = True, False
            self.cramped |= kind == CRAMPED
        elif kind in (UNREAD, RENEWED):
            self._log_lost(kind, value, min(listener, value))

    def _heard_of(self, kind: int, sender: Sender) -> None:
        """Holds who sends: the number in a message, and those in its region, are its own word."""
        if kind in BY_WORKER and (self.held is None or self.held.pid != sender.pid):
            self._life_ended()
            self.held = Held.sender(sender, self.uid)
        elif kind == GUARD and self.guardian != sender.pid:
            self.guardian_ended()
            self.held_guardian = Held.sender(sender, self.uid)
            if self.held_guardian is not None:
                self.unguarded = False
                log.info("worker %d has guardian (pid %d)", self.id, sender.pid)

    def _note(self, kind: int, value: int) -> None:
        """What bears on whether it can be given work."""
        if kind in (FULL, ROOM):
            self.full = kind == FULL
        elif kind == DIED:
            self.dead = True
            self.away_since, self.is_told_away = None, False
            self._life_ended()
            log.error(
                "worker %d %s; its guardian restarts it with its %d connections",
                self.id,
                describe_exit(value),
                self.live.connections,
                extra=_EVENT,
            )
        elif kind == STARTED:
            if self.dead or value:
                log.info(
                    "worker %d is running again (pid %d), with %d connections",
                    self.id,
                    self.live.pid,
                    value,
                    extra=_EVENT,
                )
            self.uncertain, self.in_order = True, False
            self.dead = self.full = False
        elif value == PRESENT:
            self._is_back()
        else:
            if self.away_since is None:
                self.away_since = time.monotonic()
            if value == STOPPED:
                self.tell_away()

    # --- stopped or hanging ------------------------------------------------------------------

    @property
    def tell_away_at(self) -> float | None:
        """Monotonic time, s, when tell_away() is due; None = not."""
        if self.away_since is None or self.is_told_away:
            return None
        return self.away_since + HANGING_SECONDS

    def tell_away(self) -> None:
        """A stop is told at once. What has taken it for hanging may be over at once, on a machine
        that is slow: then its guardian has had others serve meanwhile, and nobody need know."""
        presence = self.live.presence
        if presence == PRESENT:
            self._is_back()
        elif not self.is_told_away:
            self.is_told_away = True
            others = self.others_serve()
            log.log(
                logging.WARNING if others else logging.ERROR,
                "worker %d (pid %d) is %s%s",
                self.id,
                self.live.pid,
                PRESENCES[presence] if presence <= HANGING else "gone",
                ": other workers serve its listeners"
                if others
                else ", and no other worker serves: connections wait until one resumes",
                extra=_EVENT,
            )

    def _is_back(self) -> None:
        if self.is_told_away and self.away_since is not None:
            log.info(
                "worker %d (pid %d) has resumed, after %.1f s",
                self.id,
                self.live.pid,
                time.monotonic() - self.away_since,
                extra=_EVENT,
            )
        self.away_since, self.is_told_away = None, False
