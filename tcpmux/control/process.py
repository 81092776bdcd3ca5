"""The life of the control process: from its descriptors to its end.

It ends by SIGTERM from the master or, when the master is gone, with the last worker.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from tcpmux.control.master_link import MasterLink
from tcpmux.control.names import HostNames
from tcpmux.control.orphans import OrphanedWorkers
from tcpmux.control.server import AdminApi, Identity, StatusSource

if TYPE_CHECKING:
    import socket

log = logging.getLogger("tcpmux.control")

IDLE_TIME = 15.0  # s a connection may be open between two requests
SHUTDOWN_TIME = 1.0  # s for requests under way; the master waits 2 s for our end
BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Control:
    """What one control process works with. Owns both sockets."""

    admin: socket.socket  # listening, UNIX
    master: socket.socket  # our end of the socketpair
    source: StatusSource
    identity: Identity

    async def serve(self) -> None:
        """Serves until SIGTERM, or until the master and then all workers have ended."""
        over = asyncio.Event()
        orphans = OrphanedWorkers(over.set)

        def master_gone() -> None:
            log.warning("the master is gone; workers go on as they are")
            orphans.watch(worker["pid"] for worker in self.source.read()["workers"])

        names = HostNames()
        link = MasterLink(self.master, master_gone, on_push=names.pushed)
        names.start(link)
        app = AdminApi(self.source, self.identity, link, orphans, names).app()
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=IDLE_TIME,
            shutdown_timeout=SHUTDOWN_TIME,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        try:
            await runner.setup()
            await web.SockSite(runner, self.admin, backlog=BACKLOG).start()
            await link.start()
            await over.wait()
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            await names.close()
            await runner.cleanup()
            link.close()
            orphans.close()
            self.admin.close()
