"""UNIX sockets of endpoints that our processes may not connect to. Runs in the master."""

from __future__ import annotations

import logging

from tcpmux.config import Config
from tcpmux.errors import printable
from tcpmux.privileges import User, denied_sockets

log = logging.getLogger("tcpmux.master")


def log_denied(config: Config, user: User) -> None:
    """Says which those are."""
    for path in denied_sockets(user, config.unix_endpoints):
        log.error(
            "user %s may not connect to unix:%s: connections to that endpoint fail until it may",
            user.name,
            printable(path),
            extra={"event": "denied"},
        )
