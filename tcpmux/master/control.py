"""The master's line to the control process: served and answered. Runs in the master.

The protocol is narrow on purpose: JSON objects in frames; requests.py has the verbs. The master
waits for control in nothing. What control does not read waits here, and while too much does, no
request of it is served; a control process that reads nothing for STALLED_SECONDS is replaced.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from tcpmux import messages
from tcpmux.config import ConfigError
from tcpmux.errors import TcpmuxError
from tcpmux.frames import FrameError, Inbox, Outbox, packed
from tcpmux.master.answers import Answer, Later, Refusal
from tcpmux.master.program import END_TIME, Arguments, Program
from tcpmux.privileges import User

log = logging.getLogger("tcpmux.master")

MAX_WAITING = 4 << 20  # bytes of answers, and then it is asked nothing until some are read
SERVE_SECONDS = 0.02  # s of one turn of the master's loop
STALLED_SECONDS = 10.0  # s
_EVENT = {"event": "control"}


class ControlLink:
    """The master's end of the socketpair; owns the socket. Closed once the other end is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket: socket.socket | None = sock
        self._inbox, self._outbox = Inbox(), Outbox()
        # What it has not asked for, by what it is about: only the latest of a kind counts.
        self._pushes: dict[str, Mapping[str, Any]] = {}
        self._progress = time.monotonic()  # when it has last read something, or all was read

    @property
    def events(self) -> int:
        """What to wait for, as selectors have it."""
        waiting = self._outbox.waiting
        reading = selectors.EVENT_READ if waiting < MAX_WAITING else 0
        return reading | (selectors.EVENT_WRITE if waiting or self._pushes else 0)

    @property
    def has_more(self) -> bool:
        """Whether serve() has requests that are here already."""
        return self._outbox.waiting < MAX_WAITING and self._inbox.has_message

    @property
    def stalls_at(self) -> float | None:
        """Monotonic time when it has read nothing for too long; None: nothing waits for it."""
        waits = self._outbox.waiting or self._pushes
        return self._progress + STALLED_SECONDS if waits and self.socket is not None else None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        self._pushes.clear()
        self._outbox.clear()

    def push(self, message: Mapping[str, Any]) -> bool:
        """Tells control something that it has not asked for; one of a kind that it has not read
        yet is replaced. False: there is nobody to tell."""
        if self.socket is None:
            return False
        if not (self._outbox.waiting or self._pushes):
            self._progress = time.monotonic()
        self._pushes[message["push"]] = message
        self.flush()
        return self.socket is not None

    def flush(self) -> None:
        """Sends what waits, as far as it is taken."""
        while self.socket is not None:
            try:
                if self._outbox.flush(self.socket) or not self._outbox.waiting:
                    self._progress = time.monotonic()
            except OSError:  # it is going; SIGCHLD will tell
                self.close()
                return
            if self._outbox.waiting or not self._pushes:
                return
            self._put(self._pushes.pop(next(iter(self._pushes))))

    def _put(self, message: Mapping[str, Any]) -> None:
        try:
            self._outbox.put(packed(message))
        except FrameError as error:
            # Not an event: that would be pushed as well.
            log.error(  # noqa: TRY400
                "can't notify control of %s: %s", message.get("push"), error, extra={"event": ""}
            )

    def serve(
        self, handle: Callable[[dict[str, Any]], Answer], on_ready: Callable[[], object]
    ) -> None:
        """Answers what has been asked, for SERVE_SECONDS at most. handle() raises TcpmuxError to
        refuse. Raises FrameError if what came is no request."""
        end = time.monotonic() + SERVE_SECONDS
        self.flush()
        while self.socket is not None and self._outbox.waiting < MAX_WAITING:
            request = self._inbox.take()
            if request is None:
                try:
                    if not self._inbox.receive(self.socket):
                        self.close()  # it is going; SIGCHLD will tell
                except (BlockingIOError, InterruptedError):
                    return
            elif request.get("verb") == "ready":
                on_ready()
            elif not isinstance(request.get("id"), int):
                raise FrameError("a request without a number")
            else:
                self._answer(request, handle)
            if time.monotonic() >= end:
                return

    def _answer(self, request: dict[str, Any], handle: Callable[[dict[str, Any]], Answer]) -> None:
        number = request["id"]
        try:
            result = handle(request)
            if isinstance(result, Later):
                result.then(lambda outcome: self._send(messages.answer(number, outcome)))
                return
            frame = messages.result(number, result)
        except TcpmuxError as error:
            kind = "bad_file" if isinstance(error, ConfigError) else "refused"
            kind = error.kind if isinstance(error, Refusal) else kind
            frame = messages.refusal(number, kind, str(error))
        except Exception as error:
            log.exception("internal error in the master")
            message = f"internal error in tcpmux: {error!r}; see its log for details"
            frame = messages.refusal(number, "refused", message)
        self._send(frame)

    def _send(self, frame: bytes) -> None:
        if self.socket is not None:
            self._outbox.put(frame)
            self.flush()


class ControlProcess(Program):
    """The control process and the link to it. arguments: as of Program."""

    without_it = "no endpoint is checked, no name looked up, and the admin API does not answer"

    def __init__(self, user: User, arguments: Callable[[], Arguments | None]) -> None:
        super().__init__("control", "tcpmux.control.__main__", user, arguments)
        self._link: ControlLink | None = None
        self._end_by = 0.0  # monotonic; once it has closed the link

    @property
    def link(self) -> ControlLink | None:
        """None: there is none that could be used."""
        return self._link if self._link is not None and self._link.socket is not None else None

    def _open_link(self) -> tuple[list[str], list[int]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link = ControlLink(ours)
        fd = theirs.detach()
        return ["--master-fd", str(fd)], [fd]

    def _close_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def next_serve(self) -> float | None:
        """Monotonic time when serve() has something to do without a word from control."""
        if self.link is None:
            return None if self._link is None or self._expected else self._end_by
        return 0.0 if self.link.has_more else self.link.stalls_at

    def serve(
        self, handle: Callable[[dict[str, Any]], Answer], on_ready: Callable[[], object]
    ) -> None:
        """Answers what has been asked. handle() raises TcpmuxError to refuse."""

        def ready() -> None:
            log.info("control is ready (pid %d)", self.pid)
            on_ready()

        link = self._link
        if link is None:
            return
        if link.socket is None:
            # One that has been asked to end has a time limit of its own.
            if not self._expected and time.monotonic() >= self._end_by:
                log.error(
                    "control (pid %d) lost its connection to the master: it is replaced",
                    self.pid,
                    extra=_EVENT,
                )
                self._replace()
            return
        try:
            link.serve(handle, ready)
        except FrameError as error:
            log.error("control (pid %d) sent %s: it is replaced", self.pid, error, extra=_EVENT)  # noqa: TRY400
            self._replace()
            return
        if link.socket is None:
            self._end_by = time.monotonic() + END_TIME
        elif link.stalls_at is not None and time.monotonic() >= link.stalls_at:
            log.error(
                "control (pid %d) has read nothing for %g s: it is replaced",
                self.pid,
                STALLED_SECONDS,
                extra=_EVENT,
            )
            self._replace()

    def push(self, message: Mapping[str, Any]) -> bool:
        """As ControlLink.push()."""
        return self._link is not None and self._link.push(message)
