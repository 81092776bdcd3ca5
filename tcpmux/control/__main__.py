"""`python -m tcpmux.control`: how the master starts the control process. Not for the shell."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys

# A terminal sends these to the whole process group; they are meant for the master.
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line the master gives: descriptors it hands down, and what to show."""
    parser = argparse.ArgumentParser(prog="tcpmux.control", allow_abbrev=False)
    for name in ("admin", "master", "table", "tickets"):
        parser.add_argument(f"--{name}-fd", type=int, required=True)
    parser.add_argument("--live-fd", type=int, action="append", required=True)
    parser.add_argument("--config", action="append", required=True, nargs="+")
    parser.add_argument("--admin-path", default="")
    return parser.parse_args(arguments)


def main() -> int:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    from setproctitle import setproctitle

    setproctitle("tcpmux: control")
    options = parse_arguments(sys.argv[1:])
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s tcpmux %(levelname)s %(message)s",
    )
    from tcpmux import __version__
    from tcpmux.control.process import Control
    from tcpmux.control.server import Identity
    from tcpmux.shm.stats import StatusReader

    os.close(options.tickets_fd)  # tickets are not shown
    source = StatusReader(options.table_fd, options.live_fd)
    admin = socket.socket(fileno=options.admin_fd)
    config = [path for paths in options.config for path in paths]
    identity = Identity(__version__, config, options.admin_path or str(admin.getsockname()))
    asyncio.run(Control(admin, socket.socket(fileno=options.master_fd), source, identity).serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
