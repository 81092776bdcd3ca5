"""`tcpmux reload`: has the instance read its configuration files again."""

from __future__ import annotations

import click

from tcpmux.cli.instance import client
from tcpmux.cli.output import print_applied
from tcpmux.cli.where import Where, admin_option


@click.command("reload")
@admin_option
def reload_(admin: Where) -> int:
    """Reload the configuration files.

    Waits until the workers use them. Everything is applied or nothing: a file with a mistake
    changes nothing, and the mistake is printed with its line. Open connections stay where they
    are. Weights set by `tcpmux weight` are replaced by the file's.

    \b
    Examples:
        tcpmux reload
        tcpmux reload --admin /run/shop.sock
    """
    print_applied(client(admin).reload(), "nothing changed")
    return 0
