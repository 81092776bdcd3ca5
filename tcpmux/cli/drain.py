"""`tcpmux drain`: no new connections; the open ones may end by themselves."""

from __future__ import annotations

import click

from tcpmux.cli.instance import admin_option, client
from tcpmux.cli.stop import STATUS_TIME, waiting_for
from tcpmux.control.client import AdminClient


@click.command("drain")
@admin_option
@click.option("--wait", is_flag=True, help="Show what remains, until the instance has ended.")
def drain(admin: str | None, wait: bool) -> int:
    """Take no new connections, let the open ones end until drain_timeout, then end.

    The same as SIGTERM to the master. Returns at once, or with --wait when it is over;
    Ctrl-C then ends the waiting, not the draining.

    \b
    Examples:
        tcpmux drain
        tcpmux drain --wait
    """
    instance = client(admin)
    pid = instance.stop()["pid"]
    if not wait:
        click.echo(f"tcpmux (pid {pid}) is draining")
        return 0
    waiting_for(AdminClient(instance.path, STATUS_TIME), pid)
    click.echo(f"drained (pid {pid})")
    return 0
