"""The life of the control process: from its descriptors to its end.

It ends by SIGTERM from the master or, when the master is gone, with the last worker.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tcpmux.control.guest import IDLE_TIME
from tcpmux.control.master_link import MasterLink
from tcpmux.control.orphans import OrphanedWorkers
from tcpmux.control.server import AdminApi, Identity, Readings
from tcpmux.control.tasks import Tasks
from tcpmux.errors import TcpmuxError
from tcpmux.logs import set_level

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

log = logging.getLogger("tcpmux.control")

SHUTDOWN_TIME = 1.0  # s for requests under way; the master waits 2 s for our end
READ_BUFFER = 16 << 20  # bytes; more than any body: what is passed on is complete
MASTER_LOOK = 0.05  # s, without a master: is there another one?
BEAT = 0.5  # s; the master wonders after some more


@dataclass(frozen=True, slots=True)
class Control:
    """What one control process works with. Owns the sockets."""

    admin: socket.socket  # listening, UNIX
    master: socket.socket  # our end of the socketpair
    readings: Readings
    identity: Identity
    http: socket.socket | None = None  # listening, TCP
    started_by: int = 0  # pid of the master that has the other end
    master_pid: Callable[[], int] = int  # of the master that the table names
    goes_on: Callable[[], object] = int  # called again and again, as long as the loop goes round

    async def serve(self) -> None:
        """Serves until SIGTERM, or until the master and then all workers have ended."""
        over = asyncio.Event()
        self._beat()
        orphans = OrphanedWorkers(over.set)

        def master_gone() -> None:
            log.warning("the master is gone; workers go on as they are")
            tasks.keep("waiting for a master", lambda: self._await_master(over))
            orphans.watch(
                lambda: [
                    (worker["guardian_pid"], worker["pid"])
                    for worker in self.readings.status.read()["workers"]
                ]
            )

        def tell(text: str) -> None:
            tasks.once("telling the master of a fault", self._tell(link, text))

        names = self.readings.names
        tasks = Tasks(tell)

        def pushed(message: dict[str, Any]) -> None:
            if message["push"] == "event":
                tasks.once("hearing of an event", self._hear(link))
            elif message["push"] == "checks":
                self.readings.health.pushed()
            elif message["push"] == "log_level":
                set_level(message["level"])
            else:
                names.pushed(message)

        link = MasterLink(self.master, master_gone, on_push=pushed)
        names.start(link, tell)
        api = AdminApi(self.readings, self.identity, link, orphans)
        door = api.door
        runner = web.AppRunner(
            api.app(),
            access_log=None,
            keepalive_timeout=2 * IDLE_TIME,  # a guest has gone before
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            shutdown_timeout=SHUTDOWN_TIME,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        try:
            await runner.setup()
            assert runner.server is not None
            for sock in filter(None, (self.admin, self.http)):
                door.serve(runner.server, sock)
            await link.start()
            self.readings.health.start(link, tell)
            await over.wait()
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            door.close()
            await self.readings.health.close()
            await names.close()
            await tasks.close()
            await runner.cleanup()
            link.close()
            orphans.close()
            self.admin.close()

    def _beat(self) -> None:
        self.goes_on()
        asyncio.get_running_loop().call_later(BEAT, self._beat)

    async def _tell(self, link: MasterLink, text: str) -> None:
        with suppress(TcpmuxError):  # our own log has it
            await link.request("fault", text=text)

    async def _await_master(self, over: asyncio.Event) -> None:
        """Ends when another master has taken over: it starts a control of its own."""
        while self.master_pid() == self.started_by:
            await asyncio.sleep(MASTER_LOOK)
        log.info("another master has taken over")
        over.set()

    async def _hear(self, link: MasterLink) -> None:
        """The master has an event to tell."""
        with suppress(TcpmuxError):  # it is going; what it had to say is in its log
            await self.readings.events.update(link)
        self.readings.events.pushed()
        self.readings.metrics.note_change()
