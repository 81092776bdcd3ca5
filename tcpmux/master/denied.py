"""UNIX sockets of endpoints that our processes may not connect to. Runs in the master."""

from __future__ import annotations

import logging

from tcpmux.config import Config
from tcpmux.errors import printable
from tcpmux.privileges import User, denied_sockets

log = logging.getLogger("tcpmux.master")


def denied(config: Config, user: User) -> list[str]:
    """Which those are, a line each."""
    return [
        f"user {user.name} may not connect to unix:{printable(path)}: connections to that "
        "endpoint fail until it may"
        for path in denied_sockets(user, config.unix_endpoints)
    ]


def log_denied(config: Config, user: User) -> None:
    """Says it in the log."""
    for line in denied(config, user):
        log.error("%s", line, extra={"event": "denied"})
