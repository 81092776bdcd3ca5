"""The common part of both clients of the admin API: the socket, and the meaning of an answer."""

from __future__ import annotations

import copy
import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakSet

from tcpmux.control.fitting import Unfit, answers, fitted
from tcpmux.control.http_answer import CutShort, NotHttp, Reply, request_bytes
from tcpmux.errors import TcpmuxError, UsageError
from tcpmux.peer import peer_of, user_name

if TYPE_CHECKING:
    from typing_extensions import Self

    from tcpmux.control.operation import Call, Row
    from tcpmux.control.remote import Remote

T = TypeVar("T")

# A little longer than control waits for the master, so that control's reason arrives.
TIMEOUT = 35.0  # s
WHOLE = 5  # times the limit, for the whole of an answer: somebody may send a byte now and then
DEFAULT_SOCKET = "/run/tcpmux.sock"
VARIABLE = "TCPMUX_ADMIN"
URL_VARIABLE = "TCPMUX_URL"
BAD_FILE = 422  # HTTP status
NO_TOKEN = 401
NOT_READY = 503
REDIRECTS = range(300, 400)


class AdminError(TcpmuxError):
    """The instance could not be asked, or did not do it. hint: the parameter, of the request or of
    the client, that could help: force, path or token; "" = none."""

    hint = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.hint


class NotRunning(AdminError):
    """Nothing answers at the socket or the URL."""


class Interrupted(AdminError):
    """The connection ended before the answer was complete, as it does when the process that
    answers is replaced. What changes nothing can be asked again; a change may have been made."""


class Unanswered(AdminError):
    """No answer came within the time limit. A change may be made even so."""


class PermissionDenied(AdminError):
    """The socket belongs to somebody else, or the token is none of its."""


class WaitTimeout(AdminError):
    """What was waited for has not come about in time."""


class TokenMissing(PermissionDenied):
    """It asks for a token, and none was given."""

    hint = "token"


class Refused(AdminError):
    """The instance says no. The text is its reason; status: the HTTP status of the answer."""

    def __init__(self, message: str, status: int = 409, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        if status == BAD_FILE:
            self.exit_code = UsageError.exit_code  # as for a file that is named to us


class TookTooLong(TimeoutError):
    """An answer is still coming."""


class Deadline:
    """Of a whole answer. timeout: s, of each part."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._end = time.monotonic() + WHOLE * timeout

    def next_part(self) -> float:
        """s that it may take. Raises TookTooLong."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TookTooLong
        return min(self._timeout, left)

    def meaning(self, error: Exception) -> Exception:
        """A part that is late may have had less than its time."""
        is_over = isinstance(error, TimeoutError) and time.monotonic() >= self._end
        return TookTooLong() if is_over else error


class Instance:
    """The one that is asked. path: of its admin socket, or a URL such as https://mux.example:9901;
    by default what $TCPMUX_ADMIN or $TCPMUX_URL says (with the token in the file that
    $TCPMUX_TOKEN_FILE names), or else /run/tcpmux.sock. timeout: seconds without a byte of the
    answer; the whole of it, but for a stream, may take WHOLE times as long. peers: the users who
    may have opened that socket; none named = any. token: for a URL, what admin.token_file or
    admin.read_only_token_file holds. Raises TcpmuxError if that makes no sense. Warns with
    NotEncrypted of http:// to another host."""

    def __init__(
        self,
        path: str | Path | None = None,
        timeout: float = TIMEOUT,
        peers: frozenset[int] = frozenset(),
        *,
        token: str | None = None,
    ) -> None:
        url = "" if path else os.environ.get(URL_VARIABLE, "")
        named = "" if path else os.environ.get(VARIABLE, "")
        if url and named:
            raise UsageError(
                f"{VARIABLE} and {URL_VARIABLE} are both set: say which instance is meant"
            )
        self.path = str(path or url or named or DEFAULT_SOCKET)
        self._timeout = timeout
        self._peers = peers
        self._streams: WeakSet[Any] = WeakSet()  # iterators that may be open
        self._remote: Remote | None = None
        self.is_remote = is_url(self.path)  # its processes may be on another host
        if self.is_remote:
            from tcpmux.control.remote import Remote, from_environment

            self._remote = from_environment(url) if url and not token else Remote(self.path, token)
            self._remote.warn_if_exposed(2)
        elif token is not None:
            raise UsageError(f"a token goes with a URL, and {self.path} is the path of a socket")

    def exposure(self) -> str:
        """What others on the way could do, in one line; "" = nothing."""
        return self._remote.exposure() if self._remote is not None else ""

    def with_timeout(self, timeout: float) -> Self:
        """The same instance, with another time limit."""
        other = copy.copy(self)
        vars(other).update(_timeout=timeout)
        return other

    def _check_peer(self, sock: Any) -> None:
        """Raises PermissionDenied, and OSError."""
        if not self._peers:
            return
        _, uid = peer_of(sock)
        if uid not in self._peers:
            raise PermissionDenied(
                f"user {user_name(uid)} listens at {self.path}, whom the socket does not belong to",
                hint="path",
            )

    def _request(self, row: Row, call: Call[Any]) -> bytes:
        target, at = row.target(call), self._remote
        if at is None:
            return request_bytes(row.method, target, call.body, accept=row.media)
        return request_bytes(
            row.method,
            at.base + target,
            call.body,
            accept=row.media,
            host=at.authority,
            token=at.token,
        )

    def _result(self, row: Row, call: Call[T], reply: Reply) -> T:
        """Raises AdminError."""
        if row.media == "text/plain":
            text = reply.body.decode(errors="replace")
            if reply.status < 300:
                return cast("T", text)
            if reply.status == NOT_READY and not text.startswith(("{", "<")):
                raise Refused(text.strip(), reply.status)  # the reasons, a line each
        value = self._checked(reply)
        if not isinstance(value, dict):
            raise AdminError(f"what answers at {self.path} is not tcpmux: got {value!r:.200}")
        try:
            return call.unpack(fitted(value, row.answer))
        except Unfit as error:
            raise self._unfit(str(error)) from None

    def _unfit(self, why: str) -> AdminError:
        return AdminError(
            f"what answers at {self.path} is not tcpmux, or of another build: in its answer {why}"
        )

    def _checked(self, reply: Reply) -> object:
        """The JSON of an answer. Raises Refused if it is one, and AdminError."""
        if reply.status in REDIRECTS:
            raise AdminError(
                f"{self.path} answers with a redirect (HTTP status {reply.status}), which is not "
                "followed: name the URL that it leads to"
            )
        if reply.status == NO_TOKEN and self._remote is not None:
            if self._remote.token is None:
                raise TokenMissing(f"tcpmux at {self.path} asks for a token")
            raise PermissionDenied(f"tcpmux at {self.path} does not accept this token")
        try:
            value = json.loads(reply.body, object_hook=answers(self._unfit))
        except (ValueError, RecursionError) as error:
            if reply.status >= 400:  # of a proxy in front of it
                raise AdminError(
                    f"what answers at {self.path} is not tcpmux (HTTP status {reply.status})"
                ) from None
            # Of an answer that is made in parts the length is not told.
            is_cut = reply.body.startswith(b"{") and not reply.body.rstrip().endswith(b"}")
            raise self._failed(CutShort() if is_cut else error) from None
        reason = value.get("error") if isinstance(value, dict) else None
        if reply.status >= 400 or reason:
            hint = value.get("hint") if isinstance(value, dict) else None
            raise Refused(
                str(reason or f"HTTP status {reply.status}"),
                reply.status,
                hint="force" if hint == "force" else "",
            )
        return value

    def _failed(self, error: Exception) -> AdminError:
        """What an exception means that came instead of an answer."""
        if self._remote is not None and isinstance(error, ConnectionRefusedError):
            return NotRunning(f"nothing answers at {self.path}: connection refused")
        if self._remote is None and isinstance(error, PermissionError):
            return PermissionDenied(f"may not talk to tcpmux at {self.path}: {self._whose()}")
        if self._remote is None and isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            return NotRunning(self._absence(), hint="path")
        if isinstance(error, TimeoutError):
            text = f"has not answered within {self._timeout:g} s"
            if isinstance(error, TookTooLong):
                text = f"has not sent the whole answer within {WHOLE * self._timeout:g} s"
            return Unanswered(f"tcpmux at {self.path} {text}")
        if isinstance(error, (CutShort, BrokenPipeError, ConnectionResetError)):
            return Interrupted(f"tcpmux at {self.path} hung up before it answered: try again")
        if isinstance(error, OSError):
            reason = self._remote.reason(error) if self._remote else error.strerror or error
            if isinstance(error, BlockingIOError):
                reason = "its queue is full: it is busy or hangs"
            text = f"can't reach tcpmux at {self.path}: {reason}"
        else:
            what = "HTTP" if isinstance(error, NotHttp) else "an answer that this build knows"
            text = f"what answers at {self.path} is not tcpmux: it does not send {what}"
        return AdminError(text)

    def _absence(self) -> str:
        found = Path(self.path)
        if not found.exists():
            return f"no tcpmux is running (nothing answers at {self.path})"
        what = "left over, nobody listens on it" if found.is_socket() else "not a socket"
        return f"no tcpmux is running ({self.path} is {what})"

    def _whose(self) -> str:
        try:
            found = Path(self.path).stat()
        except OSError:
            return "its directory is closed to you: use sudo"
        owner, mode = user_name(found.st_uid), stat.S_IMODE(found.st_mode)
        return f"the socket is {owner}'s, mode {mode:04o}: use sudo, or become that user"


def is_url(text: str) -> bool:
    """Whether an instance is named by that, and not by the path of its socket."""
    return text.lower().startswith(("http://", "https://"))


# What each step of a request may raise.
FAILURES = (OSError, ValueError, NotHttp, CutShort)
