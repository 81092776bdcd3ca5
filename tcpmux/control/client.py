"""The client of the admin API, for the command line tool and for programs of others: `from tcpmux
import Client`. Its methods are those of operations.py. Never in the server."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tcpmux.control.asking import (
    FAILURES,
    TIMEOUT,
    AdminError,
    Instance,
    NotRunning,
    PermissionDenied,
    Refused,
)
from tcpmux.control.http_answer import Events, Reply
from tcpmux.control.operation import Blocking, Call
from tcpmux.control.operations import Operations
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
    Killed,
    LastReload,
    NameStatus,
    Problem,
    ProgramStatus,
    RouteNames,
    RouteStatus,
    Status,
    Stopping,
    UpgradeStatus,
    Upgrading,
    WorkerStatus,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    "Status",
    "Stopping",
    "UpgradeStatus",
    "Upgrading",
    "WorkerStatus",
]

T = TypeVar("T")
AT_ONCE = 256 << 10  # bytes of one read


class Client(Instance, Operations, Blocking):
    """Asks the instance whose admin socket is at `path`, or that is at a URL; one connection a
    request."""

    def stream(self, route: str | None = None) -> Iterator[tuple[str, Any]]:
        """(kind, data) as they come, without end: `table` when routes change, `conditions` when
        they change, `sample` every second, `events`. With a route its histograms are in the
        samples. The connection is closed when the iterator is."""
        row, call, reply = self.stream_row, Call[Any](query={"route": route}), Reply()
        try:
            with self._connected() as sock:
                sock.sendall(self._request(row, call))
                while not reply.has_head:
                    reply.feed(sock.recv(AT_ONCE))
                if reply.status >= 300:
                    while reply.feed(sock.recv(AT_ONCE)):
                        pass
                    self._checked(reply)
                events, part = Events(), reply.body
                while True:
                    yield from events.feed(part)
                    part = sock.recv(AT_ONCE)
                    if not part:
                        return
        except FAILURES as error:
            raise self._failed(error) from error

    def ask(self, row: Row, call: Call[T]) -> T:
        """Has one call answered; every other method does it by this. Raises AdminError."""
        reply = Reply()
        try:
            with self._connected() as sock:
                with suppress(BrokenPipeError):  # refused before all was read: the answer says why
                    sock.sendall(self._request(row, call))
                while reply.feed(sock.recv(AT_ONCE)):
                    pass
        except FAILURES as error:
            raise self._failed(error) from error
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
