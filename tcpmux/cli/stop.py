"""`tcpmux stop`: has the instance end, and waits for it."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path

import click

from tcpmux.cli.instance import admin_option, client
from tcpmux.cli.output import plural
from tcpmux.control.client import AdminClient, AdminError
from tcpmux.errors import TcpmuxError

LOOK_EVERY = 0.5  # s, for the connections that remain
STATUS_TIME = 2.0  # s


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


def wait_until_gone(instance: AdminClient, pid: int) -> None:
    """Returns when the process has ended; prints how many connections keep it, as it changes."""
    shown = None
    end = ProcessEnd(pid)
    try:
        while not end.wait(LOOK_EVERY if shown is not None else 0.05):
            try:
                workers = instance.status()["workers"]
            except AdminError:  # on its way out
                continue
            left = sum(worker["connections"] for worker in workers)
            if left != shown and (left or shown):
                click.echo(f"waiting for {plural(left, 'connection')}")
            shown = left
    finally:
        end.close()


@click.command("stop")
@admin_option
@click.option("--now", is_flag=True, help="Cut open connections instead of letting them end.")
@click.option("--no-wait", is_flag=True, help="Ask only; don't wait for the end.")
def stop(admin: str | None, now: bool, no_wait: bool) -> int:
    """End the instance, and wait for it.

    It takes no new connections; open ones may end by themselves until drain_timeout. Waits
    until it is over. Ctrl-C ends the waiting, not the draining; `tcpmux stop --now` cuts a
    drain short.

    \b
    Examples:
        tcpmux stop
        tcpmux stop --now
    """
    instance = client(admin)
    pid = instance.stop(now=now)["pid"]
    if no_wait:
        click.echo(f"tcpmux (pid {pid}) is stopping")
        return 0
    try:
        wait_until_gone(AdminClient(instance.path, STATUS_TIME), pid)
    except KeyboardInterrupt:
        raise TcpmuxError(
            f"not waited for: tcpmux (pid {pid}) goes on stopping; `tcpmux stop --now` cuts "
            "what is open"
        ) from None
    click.echo(f"stopped (pid {pid})")
    return 0
