"""Keeps on the disk what is in force of the fleet, in a thread of its own. Runs in control."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tcpmux.config.fleet import FleetState
from tcpmux.halves import FLEET as FILE

AGAIN = 15.0  # s until what could not be written is tried again

log = logging.getLogger("tcpmux.control")


class SavedFleet:
    """fd: of the state file; None = there is none. failed: why it could not be written the last
    time. id: of this instance among the hosts, the same for as long as the file is there; without
    one it is `otherwise`."""

    def __init__(self, fd: int | None, otherwise: str) -> None:
        self._fd = fd
        self.failed = "" if fd is not None else "there is no state file"
        self._disk = ThreadPoolExecutor(1, "fleet")
        self._wanted: FleetState | None = None
        self._writing: asyncio.Task[None] | None = None
        self.id = self._read_id() or (otherwise if fd is None else secrets.token_hex(8))

    def _read_id(self) -> str:
        try:
            body = None if self._fd is None else FILE.read(self._fd)
            found: Any = {} if body is None else json.loads(body).get("id")
        except (OSError, ValueError, AttributeError, RecursionError):
            return ""
        return found if isinstance(found, str) and len(found) == 16 else ""

    async def close(self) -> None:
        """What is wanted is written, as far as the disk is quick."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=0.0 if self.failed else 0.5)
            self._writing.cancel()
        self._disk.shutdown(wait=False)

    def save(self, state: FleetState) -> None:
        """Soon; of several the last. Nobody waits for the disk."""
        self._wanted = state
        if self.failed and self._writing is not None:  # it waits to try again
            self._writing.cancel()
            self._writing = None
        if self._fd is not None and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write(self._fd))

    def _try_again(self, state: FleetState) -> None:
        if self._wanted is None:  # nothing newer
            self._wanted = state

    async def _write(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        while self._wanted is not None:
            state, self._wanted = self._wanted, None
            try:
                await loop.run_in_executor(self._disk, _write, fd, self.id, state)
                why = ""
            except (OSError, ValueError) as error:
                why = str(error)
                if why != self.failed:
                    log.warning(
                        "what the fleet says can't be kept: %s; a start without etcd would use "
                        "what was kept before",
                        why,
                    )
                self._try_again(state)
            self.failed = why
            if why:
                await asyncio.sleep(AGAIN)


def _write(fd: int, id_: str, state: FleetState) -> None:
    FILE.write(fd, json.dumps({"id": id_, "state": state.as_json()}).encode())
