"""The program tcpmux.control, which the master starts (tcpmux/programs.py)."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys

from tcpmux.logs import begin_log

# A terminal sends these to the whole process group; they are meant for the master.
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line the master gives: descriptors it hands down, and what to show."""
    parser = argparse.ArgumentParser(prog="tcpmux.control", allow_abbrev=False)
    for name in ("admin", "beat", "master", "table", "commons"):
        parser.add_argument(f"--{name}-fd", type=int, required=True)
    parser.add_argument("--stderr-link", type=int, required=True)
    parser.add_argument("--live-fd", type=int, action="append", required=True)
    parser.add_argument("--config", action="append", required=True, nargs="+")
    parser.add_argument("--admin-path", default="")
    parser.add_argument("--build", default="")
    parser.add_argument("--master-pid", type=int, required=True)
    parser.add_argument("--http-fd", type=int)
    parser.add_argument("--http-address", default="")
    parser.add_argument("--http-host", action="append", default=[])
    parser.add_argument("--token-fd", type=int)
    parser.add_argument("--state-fd", type=int)
    parser.add_argument("--state-problem", default="")
    parser.add_argument("--viewer-token-fd", type=int)
    parser.add_argument("--fleet", default="")
    parser.add_argument("--fleet-fd", type=int)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--uid", type=int, action="append", required=True)
    return parser.parse_args(arguments)


def _is_fault(record: logging.LogRecord) -> bool:
    """Not what a client does wrong: that is an answer to it, and no business of the log."""
    from aiohttp.http_exceptions import HttpProcessingError

    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, ConnectionError))


def main() -> int:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    from setproctitle import setproctitle

    setproctitle("tcpmux: control")
    options = parse_arguments(sys.argv[1:])
    begin_log()
    logging.getLogger("aiohttp.server").addFilter(_is_fault)
    from tcpmux import programs
    from tcpmux.control.ahead import load_all
    from tcpmux.control.assembly import assembled

    control = assembled(options)
    # What has been made by now stays; the collector need not look at it again and again.
    gc.freeze()
    # Checks leave circles behind, and those of TLS are large: so many objects are some 20 MB.
    gc.set_threshold(4_000, 10, 100)
    load_all()
    programs.drop()
    asyncio.run(control.serve())
    return 0
