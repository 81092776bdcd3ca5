"""The client of the admin API, for the command line tool and for programs of others: `from tcpmux
import Client`. Its methods are those of operations.py. Never in the server."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tcpmux.control.asking import (
    FAILURES,
    TIMEOUT,
    AdminError,
    Deadline,
    Instance,
    Interrupted,
    NotRunning,
    PermissionDenied,
    Refused,
    Unanswered,
)
from tcpmux.control.fitting import answers
from tcpmux.control.http_answer import Events, Reply
from tcpmux.control.operation import Blocking, Call
from tcpmux.control.operations import Operations
from tcpmux.control.reading import stream_call
from tcpmux.control.schema import (
    Applied,
    AppliedWorker,
    BuffersStatus,
    Connection,
    ConnectionGroup,
    ConnectionGroups,
    ConnectionList,
    DestinationNames,
    DestinationStatus,
    EndpointStatus,
    Event,
    Explanation,
    Killed,
    LastReload,
    NameStatus,
    Problem,
    ProgramStatus,
    RouteNames,
    RouteStatus,
    RuleStatus,
    Status,
    Stopping,
    Update,
    UpgradeStatus,
    Upgrading,
    WorkerStatus,
)
from tcpmux.control.waiting import Drained, Wait, updates

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from typing_extensions import Self

    from tcpmux.control.operation import Row

__all__ = [
    "TIMEOUT",
    "AdminError",
    "Applied",
    "AppliedWorker",
    "BuffersStatus",
    "Client",
    "Connection",
    "ConnectionGroup",
    "ConnectionGroups",
    "ConnectionList",
    "DestinationNames",
    "DestinationStatus",
    "EndpointStatus",
    "Event",
    "Explanation",
    "Killed",
    "LastReload",
    "NameStatus",
    "NotRunning",
    "PermissionDenied",
    "Problem",
    "ProgramStatus",
    "Refused",
    "RouteNames",
    "RouteStatus",
    "RuleStatus",
    "Status",
    "Stopping",
    "Update",
    "UpgradeStatus",
    "Upgrading",
    "WorkerStatus",
]

T = TypeVar("T")
AT_ONCE = 256 << 10  # bytes of one read


class Client(Instance, Operations, Blocking):
    """Asks the instance whose admin socket is at `path`, or that is at a URL; one connection a
    request. `with Client() as client:` closes its streams at the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the streams that are open. Not while another thread reads one of them."""
        for stream in list(self._streams):
            stream.close()

    def wait_for(self, predicate: Callable[[Status], object], timeout: float | None) -> Status:
        """Looks at status() every 0.2 s until predicate(status) is true, and returns that status;
        at least once. timeout: s; None = without limit. An answer that is cut off, as in an
        upgrade, is asked for again. Raises WaitTimeout, UsageError, and what status() and
        predicate() raise."""
        return self._wait(predicate, timeout, lambda: "the status is not as expected")

    def wait_drained(self, target: str, timeout: float | None) -> Status:
        """Until it has no connection left. target: ROUTE, ROUTE/DESTINATION or
        ROUTE/DESTINATION/ADDRESS, which takes no new ones: it is drained, disabled or, as a
        destination, of weight 0. timeout: s; None = without limit. Raises WaitTimeout with how many
        are left, AdminError if it does not exist or takes new connections, also if it does so
        again later, and what status() raises."""
        drained = Drained(target)
        return self._wait(drained, timeout, drained.__str__)

    def _wait(
        self,
        predicate: Callable[[Status], object],
        timeout: float | None,
        what: Callable[[], str],
    ) -> Status:
        wait = Wait(timeout, what)
        while True:
            try:
                status = self.with_timeout(wait.limit(self._timeout)).status()
            except (Interrupted, Unanswered) as error:
                wait.failed(error)
            else:
                if predicate(status):
                    return status
            time.sleep(wait.pause())

    def stream(
        self, route: str | None = None, *, rules: bool = False
    ) -> Generator[Update, None, None]:
        """Updates as they come, each a kind and data: `table` when routes change, `conditions` when
        they change, `sample` every second, `events`. With a route its histograms are in the
        samples, with rules the counts of all rules. Ends when the instance ends it, as in an
        upgrade. The connection is closed when the iterator or the client is. Raises AdminError."""
        made = self._stream(stream_call(route, rules=rules))
        self._streams.add(made)
        return made

    def _stream(self, call: Call[Any]) -> Generator[Update, None, None]:
        row, reply = self.stream_row, Reply()
        try:
            with self._connected() as sock:
                sock.sendall(self._request(row, call))
                while not reply.has_head:
                    reply.feed(sock.recv(AT_ONCE))
                if reply.status >= 300:
                    deadline, more = Deadline(self._timeout), True
                    while more:
                        sock.settimeout(deadline.next_part())
                        more = reply.feed(sock.recv(AT_ONCE))
                    self._checked(reply)
                events, part = Events(answers(self._unfit)), reply.body
                while True:
                    yield from updates(events.feed(part))
                    part = sock.recv(AT_ONCE)
                    if not part:
                        return
        except FAILURES as error:
            raise self._failed(error) from error

    def ask(self, row: Row, call: Call[T]) -> T:
        """Has one call answered; every other method does it by this. Raises AdminError."""
        reply, deadline = Reply(), Deadline(self._timeout)
        try:
            with self._connected() as sock:
                with suppress(BrokenPipeError):  # refused before all was read: the answer says why
                    sock.sendall(self._request(row, call))
                more = True
                while more:
                    sock.settimeout(deadline.next_part())
                    more = reply.feed(sock.recv(AT_ONCE))
        except FAILURES as error:
            raise self._failed(deadline.meaning(error)) from error
        return self._result(row, call, reply)

    def _connected(self) -> socket.socket:
        if self._remote is not None:
            return self._remote.connect(self._timeout)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._timeout)
            sock.connect(self.path)
            self._check_peer(sock)
        except BaseException:
            sock.close()
            raise
        return sock
