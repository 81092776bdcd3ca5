"""The client of the admin API, for the command line tool and for programs of others: `from tcpmux
import Client`. Never in the server."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast
from urllib.parse import quote, urlencode

from tcpmux.control.schema import (
    Applied,
    AppliedWorker,
    BuffersStatus,
    Connection,
    ConnectionList,
    DestinationStatus,
    EndpointStatus,
    Event,
    Killed,
    NameStatus,
    ProgramStatus,
    RouteStatus,
    Status,
    Stopping,
    UpgradeStatus,
    Upgrading,
    WorkerStatus,
)
from tcpmux.errors import TcpmuxError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "TIMEOUT",
    "AdminError",
    "Applied",
    "AppliedWorker",
    "BuffersStatus",
    "Client",
    "Connection",
    "ConnectionList",
    "DestinationStatus",
    "EndpointStatus",
    "Event",
    "Killed",
    "NameStatus",
    "NotRunning",
    "PermissionDenied",
    "ProgramStatus",
    "Refused",
    "RouteStatus",
    "Status",
    "Stopping",
    "UpgradeStatus",
    "Upgrading",
    "WorkerStatus",
]

# A little longer than control waits for the master, so that control's reason arrives.
TIMEOUT = 35.0  # s
DEFAULT_SOCKET = "/run/tcpmux.sock"
VARIABLE = "TCPMUX_ADMIN"


BAD_FILE = 422  # HTTP status


class AdminError(TcpmuxError):
    """The instance could not be asked, or did not do it."""


class NotRunning(AdminError):
    """Nothing answers at the socket."""


class PermissionDenied(AdminError):
    """The socket belongs to somebody else."""


class Refused(AdminError):
    """The instance says no. The text is its reason; status: the HTTP status of the answer."""

    def __init__(self, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.status = status
        if status == BAD_FILE:
            self.exit_code = UsageError.exit_code  # as for a file that is named to us


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str, timeout: float, peers: frozenset[int]) -> None:
        super().__init__("tcpmux", timeout=timeout)  # for the Host header only
        self._path = path
        self._peers = peers

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self._path)
            if self._peers:
                self._check_peer(sock)
        except BaseException:
            sock.close()
            raise
        self.sock = sock

    def _check_peer(self, sock: socket.socket) -> None:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if uid not in self._peers:
            raise PermissionDenied(
                f"user {_user_name(uid)} listens at {self._path}, whom the socket does not belong "
                "to: name it with --admin if that is meant"
            )


_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _route_path(route: str, what: str) -> str:
    return f"/v1/routes/{quote(route, safe='')}/{what}"


class Client:
    """Asks the instance whose admin socket is at `path`; one connection a request.

    path: by default what $TCPMUX_ADMIN says, or else /run/tcpmux.sock. timeout: seconds without a
    byte of the answer. peers: the users who may have opened that socket; none named = any. Every
    method raises NotRunning, PermissionDenied, Refused, or AdminError
    for an answer that does not come or makes no sense; all are TcpmuxError.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        timeout: float = TIMEOUT,
        peers: frozenset[int] = frozenset(),
    ) -> None:
        self.path = str(path or os.environ.get(VARIABLE) or DEFAULT_SOCKET)
        self._timeout = timeout
        self._peers = peers

    def with_timeout(self, timeout: float) -> Client:
        """The same instance, asked with more or less patience."""
        return Client(self.path, timeout, self._peers)

    def status(self) -> Status:
        """State, workers, routes and their counters."""
        return cast("Status", self._ask("GET", "/v1/status"))

    def routes(self) -> list[RouteStatus]:
        """The routes of status()."""
        return self.status()["routes"]

    def connections(
        self,
        *,
        route: str | None = None,
        destination: str | None = None,
        endpoint: str | None = None,
        client: str | None = None,
        older: float = 0.0,
        idle: float = 0.0,
        sort: str = "age",
        limit: int = 1000,
    ) -> ConnectionList:
        """Those that are open. client: an address or a network. older, idle: at least so many
        seconds. sort: age, idle, bytes_in, bytes_out or client, greatest first; after a "-" the
        least first. limit: 0..20000 rows; `total` counts all."""
        query: dict[str, Any] = {
            "route": route,
            "destination": destination,
            "endpoint": endpoint,
            "client": client,
            "older": f"{round(older * 1000)}ms" if older else None,
            "idle": f"{round(idle * 1000)}ms" if idle else None,
            "sort": sort,
            "limit": limit,
        }
        asked = urlencode({key: value for key, value in query.items() if value is not None})
        return cast("ConnectionList", self._ask("GET", f"/v1/connections?{asked}"))

    def kill(
        self, ids: Sequence[str], rate: float | None = None, *, dry_run: bool = False
    ) -> Killed:
        """Resets these connections (`id` of connections()), on both sides. rate: no more than so
        many per second. dry_run: resets none, and tells how many are `left` and `gone`."""
        body: dict[str, Any] = {"ids": list(ids)}
        if dry_run:
            body["dry_run"] = True
        if rate is not None:
            body["rate"] = rate
        return cast("Killed", self._ask("POST", "/v1/connections/kill", body))

    def events(self, since: int = 0) -> list[Event]:
        """What has happened after event number `since`, the oldest first; the last 1,000."""
        answer = cast("dict[str, list[Event]]", self._ask("GET", f"/v1/events?since={since}"))
        return answer["events"]

    def stream(self, route: str | None = None) -> Iterator[tuple[str, Any]]:
        """(kind, data) as they come, without end: `table` when routes change, `sample` every
        second, `events`. With a route its histograms are in the samples. The connection is closed
        when the iterator is."""
        asked = f"/v1/stream?{urlencode({'route': route})}" if route else "/v1/stream"
        connection = _UnixConnection(self.path, self._timeout, self._peers)
        try:
            connection.request("GET", asked)
            response = connection.getresponse()
            if response.status >= 400:
                self._refuse(json.loads(response.read()), response.status)
            kind = ""
            for line in response:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)
        except OSError as error:
            raise self._unreachable(error) from error
        except (http.client.HTTPException, ValueError) as error:
            raise AdminError(f"what answers at {self.path} is not tcpmux ({error!r})") from error
        finally:
            connection.close()

    def reload(self) -> Applied:
        """Has the configuration read again; returns when the workers use it."""
        return cast("Applied", self._ask("POST", "/v1/reload", {}))

    def set_weights(
        self, route: str, weights: Mapping[str, int | str], *, force: bool = False
    ) -> Applied:
        """Sets weights until the next reload; those not named stay. A weight is 0..1000000 or, as
        a text, a step: "+5". Unless forced, refused if nobody would be left to take connections."""
        path = _route_path(route, "weights") + ("?force=true" if force else "")
        return cast("Applied", self._ask("PUT", path, dict(weights)))

    def set_states(
        self,
        targets: Sequence[Mapping[str, str]],
        state: str,
        *,
        force: bool = False,
        seconds: float = 0.0,
    ) -> Applied:
        """As drain(), disable() and enable(), of several at once: of all or of none. state:
        draining, disabled or ready; a target has a route, a destination, perhaps an endpoint."""
        body: dict[str, Any] = {"state": state, "targets": [dict(target) for target in targets]}
        if force:
            body["force"] = True
        if seconds:
            body["seconds"] = seconds
        return cast("Applied", self._ask("PUT", "/v1/states", body))

    def undo(self, route: str, *, force: bool = False) -> Applied:
        """Back to the weights before the last change of them. Unless forced, refused if nobody
        would be left to take connections."""
        path = _route_path(route, "undo") + ("?force=true" if force else "")
        return cast("Applied", self._ask("POST", path, {}))

    def drain(
        self,
        route: str,
        destination: str,
        endpoint: str | None = None,
        *,
        force: bool = False,
        seconds: float = 0.0,
    ) -> Applied:
        """No new connections for a destination, or one of its endpoints; others get its share.
        Open ones stay. Unless forced, refused if nobody would be left to take connections.
        seconds: an endpoint is ready again after them; 0 = not by itself."""
        return self._set_state(route, destination, endpoint, "draining", force, seconds)

    def disable(
        self,
        route: str,
        destination: str,
        endpoint: str | None = None,
        *,
        force: bool = False,
        seconds: float = 0.0,
    ) -> Applied:
        """As drain(), to say that it is out of service on purpose."""
        return self._set_state(route, destination, endpoint, "disabled", force, seconds)

    def enable(self, route: str, destination: str, endpoint: str | None = None) -> Applied:
        """Has it take connections again."""
        return self._set_state(route, destination, endpoint, "ready", False, 0.0)

    def _set_state(
        self,
        route: str,
        destination: str,
        endpoint: str | None,
        state: str,
        force: bool,
        seconds: float,
    ) -> Applied:
        path = _route_path(route, f"destinations/{quote(destination, safe='')}/state")
        body: dict[str, Any] = {"state": state}
        if endpoint is not None:
            body["endpoint"] = endpoint
        if force:
            body["force"] = True
        if seconds:
            body["seconds"] = seconds
        return cast("Applied", self._ask("PUT", path, body))

    def set_log_level(self, level: str) -> str:
        """debug, info, warning or error, until the next start; returns it."""
        answer = cast("dict[str, str]", self._ask("PUT", "/v1/log-level", {"level": level}))
        return answer["level"]

    def diff(
        self,
        files: Sequence[tuple[str, str]],
        endpoints: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> list[str]:
        """What a reload would change if these were the files, a line a route. files: a name, for
        messages, and the content of each. variables: what ${NAME} stands for in them."""
        body = {
            "files": [{"name": name, "content": content} for name, content in files],
            "variables": dict(variables or {}),
            "endpoints": list(endpoints),
        }
        answer = cast("dict[str, list[str]]", self._ask("POST", "/v1/diff", body))
        return answer["changes"]

    def set_workers(self, count: int) -> Applied:
        """Has the instance run with that many workers (1 or more) until the next reload."""
        return cast("Applied", self._ask("PUT", "/v1/workers", {"count": count}))

    def upgrade(self) -> Upgrading:
        """Has the installed build take over. Does not wait for it: status() tells how it goes."""
        return cast("Upgrading", self._ask("POST", "/v1/upgrade", {}))

    def stop(self, *, now: bool = False) -> Stopping:
        """Has the instance drain and end, or with `now` end at once. Does not wait for it."""
        return cast("Stopping", self._ask("POST", "/v1/stop", {"now": True} if now else {}))

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> object:
        connection = _UnixConnection(self.path, self._timeout, self._peers)
        headers = {"Accept": "application/json", "Connection": "close"}
        content = None
        if body is not None:
            content = json.dumps(body)
            headers["Content-Type"] = "application/json"
        try:
            with suppress(BrokenPipeError):  # refused before all was read: the answer says why
                connection.request(method, path, content, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except OSError as error:  # first: http.client's RemoteDisconnected is both
            raise self._unreachable(error) from error
        except (http.client.HTTPException, ValueError) as error:
            raise AdminError(f"what answers at {self.path} is not tcpmux ({error!r})") from error
        finally:
            connection.close()
        if response.status >= 400:
            self._refuse(answer, response.status)
        if isinstance(answer, dict) and "error" in answer:
            self._refuse(answer, response.status)
        if not isinstance(answer, dict):
            raise AdminError(f"what answers at {self.path} is not tcpmux: got {answer!r}")
        return answer

    @staticmethod
    def _refuse(answer: object, status: int) -> NoReturn:
        reason = answer.get("error") if isinstance(answer, dict) else None
        raise Refused(str(reason or f"HTTP status {status}"), status)

    def _unreachable(self, error: OSError) -> AdminError:
        if isinstance(error, TimeoutError):
            return AdminError(f"tcpmux at {self.path} has not answered within {self._timeout:g} s")
        if isinstance(error, FileNotFoundError):
            return NotRunning(
                f"no tcpmux is running (nothing answers at {self.path}): start one with "
                "`tcpmux -c routes.yaml`, or name its socket with --admin"
            )
        if isinstance(error, (BrokenPipeError, ConnectionResetError)):
            return AdminError(f"tcpmux at {self.path} hung up before it answered: try again")
        if isinstance(error, ConnectionRefusedError):
            return NotRunning(
                f"no tcpmux is running: {self.path} is "
                f"{'left over, nobody listens on it' if self._is_socket() else 'not a socket'}; "
                "start one with `tcpmux -c routes.yaml`, or name its socket with --admin"
            )
        if isinstance(error, PermissionError):
            return PermissionDenied(f"may not talk to tcpmux at {self.path}: {self._whose()}")
        return AdminError(f"can't reach tcpmux at {self.path}: {error.strerror or error}")

    def _is_socket(self) -> bool:
        return Path(self.path).is_socket()

    def _whose(self) -> str:
        try:
            found = Path(self.path).stat()
        except OSError:
            return "its directory is closed to you: use sudo"
        owner, mode = _user_name(found.st_uid), stat.S_IMODE(found.st_mode)
        return f"the socket is {owner}'s, mode {mode:04o}: use sudo, or become that user"
