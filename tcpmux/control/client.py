"""A blocking client of the admin API. Runs in the command line tool, never in the server."""

from __future__ import annotations

import http.client
import json
import pwd
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from tcpmux.control.schema import (
    Applied,
    AppliedWorker,
    DestinationStatus,
    EndpointStatus,
    RouteStatus,
    Status,
    Stopping,
    UpgradeStatus,
    Upgrading,
    WorkerStatus,
)
from tcpmux.errors import TcpmuxError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "TIMEOUT",
    "AdminClient",
    "AdminError",
    "Applied",
    "AppliedWorker",
    "DestinationStatus",
    "EndpointStatus",
    "NotRunning",
    "PermissionDenied",
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

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("tcpmux", timeout=timeout)  # for the Host header only
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class AdminClient:
    """Asks the instance whose admin socket is at `path`; one connection a request.

    timeout: seconds without a byte of the answer. Every method raises NotRunning,
    PermissionDenied, Refused, or AdminError for an answer that does not come or makes no
    sense.
    """

    def __init__(self, path: str | Path, timeout: float = TIMEOUT) -> None:
        self.path = str(path)
        self._timeout = timeout

    def status(self) -> Status:
        """State, workers, routes and their counters."""
        return cast("Status", self._ask("GET", "/v1/status"))

    def reload(self) -> Applied:
        """Has the configuration read again; returns when the workers use it."""
        return cast("Applied", self._ask("POST", "/v1/reload", {}))

    def set_weights(self, route: str, weights: Mapping[str, int]) -> Applied:
        """Sets weights (0..1000000) until the next reload; those not named stay."""
        path = f"/v1/routes/{quote(route, safe='')}/weights"
        return cast("Applied", self._ask("PUT", path, dict(weights)))

    def diff(self, files: Sequence[str], endpoints: Sequence[str] = ()) -> list[str]:
        """What a reload of these files (absolute paths) would change, a line a route."""
        body = {"files": list(files), "endpoints": list(endpoints)}
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
        connection = _UnixConnection(self.path, self._timeout)
        headers = {"Accept": "application/json", "Connection": "close"}
        content = None
        if body is not None:
            content = json.dumps(body)
            headers["Content-Type"] = "application/json"
        try:
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
            reason = answer.get("error") if isinstance(answer, dict) else None
            raise Refused(str(reason or f"HTTP status {response.status}"), response.status)
        if not isinstance(answer, dict):
            raise AdminError(f"what answers at {self.path} is not tcpmux: got {answer!r}")
        return answer

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
        try:
            owner = pwd.getpwuid(found.st_uid).pw_name
        except KeyError:
            owner = f"uid {found.st_uid}"
        mode = stat.S_IMODE(found.st_mode)
        return f"the socket is {owner}'s, mode {mode:04o}: use sudo, or be that user"
