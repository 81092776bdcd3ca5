"""`tcpmux upgrade`: has the installed build take over from the running one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tcpmux.build import UNKNOWN
from tcpmux.cli.instance import client
from tcpmux.cli.output import say
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.client import AdminError, Client
from tcpmux.errors import TcpmuxError, plural

if TYPE_CHECKING:
    from tcpmux.control.client import Status

TIMEOUT = 60.0  # s
POLL_EVERY = 0.1  # s
POLL_TIMEOUT = 2.0  # s for one answer


def _status(instance: Client) -> Status | None:
    """None while control, too, is being replaced."""
    try:
        return instance.status()
    except AdminError:
        return None


def wait_until_done(instance: Client, timeout: float = TIMEOUT) -> Status:
    """The status after the upgrade that has begun. Raises TcpmuxError if it failed. Its number is
    not looked at: a build that can't share memory with the one before counts anew."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        status = _status(instance)
        if status is not None:
            upgrade = status["upgrade"]
            if upgrade["state"] == "failed":
                raise TcpmuxError(f"not upgraded: {upgrade['error']}")
            if upgrade["state"] == "idle":
                return status
        time.sleep(POLL_EVERY)
    raise TcpmuxError(
        f"the upgrade has not finished within {timeout:g} s: see `tcpmux status` and the log"
    )


def _change(before: Status | None, after: Status) -> str:
    """Which build has become which. An older one does not say which it is."""
    old = before.get("build", UNKNOWN) if before is not None else UNKNOWN
    new = after.get("build", UNKNOWN)
    if before is None or UNKNOWN in (old, new):
        return f"upgraded to {after['version']}"
    if old == new:
        return f"no new build: {after['version']} (build {new}) was running already"
    return f"upgraded from {before['version']} (build {old}) to {after['version']} (build {new})"


@click.command("upgrade")
@admin_option
@click.option("--no-wait", is_flag=True, help="Return without waiting for the result.")
def upgrade(admin: Where, no_wait: bool) -> int:
    """Change to the build of tcpmux that is installed now, without dropping a connection.

    The new build first checks the configuration and whether it can take over; if it can't, nothing
    changes. Then the master becomes the new build, in the same process, and the workers are
    replaced one by one, keeping their connections.

    \b
    Examples:
        tcpmux upgrade
        tcpmux upgrade --no-wait
    """
    instance = client(admin)
    before = _status(instance)
    begun = instance.upgrade()
    if no_wait:
        say(f"upgrade {begun['count']} started")
        return 0
    status = wait_until_done(instance.with_timeout(POLL_TIMEOUT))
    workers = plural(len(status["workers"]), "worker")
    change = _change(before, status)
    if status["upgrade"]["count"] < begun["count"]:
        say(
            f"{change}: {workers} for new connections; workers of the "
            "previous build, whose memory layout differs, keep their connections until these end"
        )
        return 0
    kept = sum(worker["connections"] for worker in status["workers"])
    say(f"{change}: {workers} replaced, {plural(kept, 'connection')} open")
    return 0
