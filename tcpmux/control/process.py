"""The main function of the control process, from its descriptors to its end.

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

from tcpmux.control.client_connection import IDLE_TIME
from tcpmux.control.master_link import MasterLink
from tcpmux.control.orphans import OrphanedWorkers
from tcpmux.control.server import AdminApi, Identity, Readings
from tcpmux.control.tasks import Tasks
from tcpmux.errors import TcpmuxError
from tcpmux.logs import refresh

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tcpmux.messages import PushKind

log = logging.getLogger("tcpmux.control")

SHUTDOWN_TIME = 0.5  # s for requests under way, twice; the master waits 2 s for our end
READ_BUFFER = 16 << 20  # bytes; more than any body: what is passed on is complete
MASTER_LOOK = 0.05  # s, without a master: is there another one?
ASK = 5.0  # s between two requests that find out whether the master answers
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
        tasks = Tasks(lambda text: tasks.once("telling the master of a fault", tell(text)))
        link = MasterLink(
            self.master,
            on_gone=lambda: self._master_gone(tasks, orphans, over),
            on_push=lambda message: self._pushed(message, link, tasks),
        )

        async def tell(text: str) -> None:
            with suppress(TcpmuxError):  # our own log has it
                await link.request("fault", text=text)

        names, health = self.readings.names, self.readings.health
        conditions = self.readings.conditions
        names.start(link, tasks.tell)
        api = AdminApi(self.readings, self.identity, link, orphans)
        runner = web.AppRunner(
            api.app(),
            access_log=None,
            keepalive_timeout=2 * IDLE_TIME,  # our own time limit is over before
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            shutdown_timeout=SHUTDOWN_TIME,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        try:
            await runner.setup()
            assert runner.server is not None
            for sock in filter(None, (self.admin, self.http)):
                api.acceptor.serve(runner.server, sock)
            await link.start()
            health.start(link, tasks.tell)
            self.readings.convergences.start(link, tasks.tell)
            self.readings.rollouts.start(link, tasks.tell)
            if self.readings.fleet is not None:
                self.readings.fleet.agent.start(link, names, tasks.tell)
            conditions.start(link)
            tasks.keep("conditions", lambda: conditions.run(self.readings.slices))
            tasks.keep("asking the master", lambda: self._ask(link))
            tasks.keep("history", self.readings.history.run)
            await over.wait()
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            api.acceptor.close()
            await health.close()
            await self.readings.convergences.close()
            await self.readings.rollouts.close()
            if self.readings.fleet is not None:
                await self.readings.fleet.agent.close()
            await names.close()
            await tasks.close()
            await runner.cleanup()
            link.close()
            orphans.close()
            self.admin.close()

    def _master_gone(self, tasks: Tasks, orphans: OrphanedWorkers, over: asyncio.Event) -> None:
        log.warning("the master is gone; the workers continue unchanged")
        tasks.keep("waiting for a master", lambda: self._await_master(over))
        orphans.watch(
            lambda: [
                (worker["guardian_pid"], worker["pid"])
                for worker in self.readings.status.in_parts()[0]["workers"]
            ]
        )

    def _pushed(self, message: dict[str, Any], link: MasterLink, tasks: Tasks) -> None:
        """What the master says unasked."""
        kind: PushKind = message["push"]
        if kind == "event":
            tasks.once("hearing of an event", self._hear(link))
        elif kind == "checks":
            self.readings.health.pushed()
        elif kind == "log":
            refresh()
        else:
            self.readings.names.pushed(message)

    def _beat(self) -> None:
        self.goes_on()
        asyncio.get_running_loop().call_later(BEAT, self._beat)

    async def _ask(self, link: MasterLink) -> None:
        """Again and again, so that a master that is stopped or hangs is noticed."""
        while not link.gone:
            await asyncio.sleep(ASK)
            if link.silent_since is None:
                with suppress(TcpmuxError):
                    await self.readings.events.update(link)

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
        await self.readings.metrics.note_change(self.readings.slices)
