"""The master's line to the control process: served and answered. Runs in the master.

The protocol is narrow on purpose: one JSON object a packet; requests.py has the verbs.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

from tcpmux.config import ConfigError
from tcpmux.errors import TcpmuxError
from tcpmux.master.program import Arguments, Program

log = logging.getLogger("tcpmux.master")

LARGEST_REQUEST = 256 * 1024  # bytes
Answer = Mapping[str, Any]


class Refusal(TcpmuxError):
    """A request that can't be carried out. kind: invalid, not_found or refused."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ControlProcess(Program):
    """The control process and the socketpair to it. arguments: as of Program."""

    def __init__(self, arguments: Callable[[], Arguments | None]) -> None:
        super().__init__("control", "tcpmux.control", arguments)
        self._link: socket.socket | None = None

    @property
    def link(self) -> socket.socket | None:
        return self._link

    def _open_link(self) -> tuple[list[str], list[int]]:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link.setblocking(False)
        fd = theirs.detach()
        return ["--master-fd", str(fd)], [fd]

    def _close_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def serve(
        self, handle: Callable[[dict[str, Any]], Answer], on_ready: Callable[[], object]
    ) -> None:
        """Answers what has been asked. handle() raises TcpmuxError to refuse."""
        while self._link is not None:
            try:
                packet = self._link.recv(LARGEST_REQUEST)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:  # it is going; SIGCHLD will tell
                self._close_link()
                return
            request = json.loads(packet)
            if request.get("verb") == "ready":
                log.info("control is ready (pid %d)", self.pid)
                on_ready()
                continue
            self._answer(request, handle)

    def push(self, message: Mapping[str, Any]) -> bool:
        """Tells control something that it has not asked for. False if it can't be told now."""
        if self._link is None:
            return False
        try:
            self._link.send(json.dumps(message).encode())
        except OSError as error:
            # Not an event: that would be told as well.
            log.warning("control could not be told: %s", error, extra={"event": ""})
            return False
        return True

    def _answer(self, request: dict[str, Any], handle: Callable[[dict[str, Any]], Answer]) -> None:
        answer: dict[str, Any]
        try:
            answer = {"id": request["id"], "ok": True, "result": handle(request)}
        except TcpmuxError as error:
            kind = "bad_file" if isinstance(error, ConfigError) else "refused"
            kind = error.kind if isinstance(error, Refusal) else kind
            answer = {"id": request["id"], "ok": False, "kind": kind, "error": str(error)}
        except Exception as error:
            log.exception("a fault in the master")
            message = f"a fault in tcpmux: {error!r}; its log has the details"
            answer = {"id": request["id"], "ok": False, "kind": "refused", "error": message}
        if self._link is not None:
            try:
                self._link.send(json.dumps(answer).encode())
            except OSError as error:
                log.warning("control did not take an answer: %s", error)
