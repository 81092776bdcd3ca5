"""`tcpmux stop`: stops the instance, and waits for its end."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tcpmux.cli.instance import client
from tcpmux.cli.output import say
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.client import AdminError, Client, PermissionDenied, Refused
from tcpmux.errors import TcpmuxError, plural

if TYPE_CHECKING:
    from tcpmux.control.client import Status

POLL_EVERY = 0.5  # s, for the connections that remain
STATUS_TIME = 2.0  # s
MISSED = 3  # answers, after which nobody is there: control may be started anew meanwhile


class ProcessEnd:
    """Tells when a process has ended that is not our child."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._pidfd: int | None = None
        # Not permitted in some containers: then /proc has to do.
        with suppress(OSError):
            self._pidfd = os.pidfd_open(pid)

    def wait(self, timeout: float) -> bool:
        """True if it has ended, after at most `timeout` s."""
        if self._pidfd is not None:
            return bool(select.select([self._pidfd], [], [], timeout)[0])
        if self._is_gone():
            return True
        select.select([], [], [], timeout)
        return self._is_gone()

    def _is_gone(self) -> bool:
        try:
            # The name, in parentheses, may itself hold some: the state follows the last one.
            state = self._stat.read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state in "ZX"  # ended; its parent has not taken notice

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)


class RemoteEnd:
    """The same of one on another host: another one answers in its place, or nobody does."""

    def __init__(self, instance: Client, pid: int) -> None:
        self._instance = instance
        self._pid = pid
        self._missed = 0  # answers, one after another

    def wait(self, timeout: float) -> bool:
        time.sleep(timeout)
        try:
            if self._instance.status()["pid"] != self._pid:
                return True
            self._missed = 0
        except (Refused, PermissionDenied):
            self._missed = 0
        except AdminError:
            self._missed += 1
        return self._missed >= MISSED

    def close(self) -> None:
        """There is nothing to close."""


def _remaining(status: Status) -> str:
    """`3 connections (tcp-echo/v1 2, tcp-echo/v2 1)`; "" = none."""
    left = sum(worker["connections"] for worker in status["workers"])
    if not left:
        return ""
    parts = ", ".join(
        f"{route['name']}/{destination['name']} {destination['connections_active']}"
        for route in status["routes"]
        for destination in route["destinations"]
        if destination["connections_active"]
    )
    return plural(left, "connection") + (f" ({parts})" if parts else "")


def wait_until_gone(instance: Client, pid: int) -> None:
    """Returns when the process has ended; prints what keeps it, as that changes."""
    shown = ""
    first = True
    end = RemoteEnd(instance, pid) if instance.is_remote else ProcessEnd(pid)
    try:
        while not end.wait(0.05 if first else POLL_EVERY):
            try:
                left = _remaining(instance.status())
            except AdminError:  # on its way out
                continue
            first = False
            if left and left != shown:
                say(f"waiting for {left}")
            shown = left
    finally:
        end.close()


def waiting_for(instance: Client, pid: int) -> None:
    """As wait_until_gone(); Ctrl-C ends the waiting with a word about what goes on."""
    try:
        wait_until_gone(instance, pid)
    except KeyboardInterrupt:
        raise TcpmuxError(
            f"no longer waiting: tcpmux (pid {pid}) is still stopping; `tcpmux stop --now` resets "
            "open connections"
        ) from None


@click.command("stop")
@admin_option
@click.option("--now", is_flag=True, help="Reset open connections instead of letting them end.")
@click.option("--no-wait", is_flag=True, help="Return without waiting for the end.")
def stop(admin: Where, now: bool, no_wait: bool) -> int:
    """Stop the instance, and wait until it has ended.

    It accepts no new connections; open ones may end within drain_timeout. Ctrl-C ends the waiting,
    not the draining; `tcpmux stop --now` ends the drain at once.

    \b
    Examples:
        tcpmux stop
        tcpmux stop --now
    """
    instance = client(admin)
    pid = instance.stop(now=now)["pid"]
    if no_wait:
        say(f"tcpmux (pid {pid}) is stopping")
        return 0
    waiting_for(instance.with_timeout(STATUS_TIME), pid)
    say(f"stopped (pid {pid})")
    return 0
