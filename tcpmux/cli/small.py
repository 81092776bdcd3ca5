"""`tcpmux undo`, `log-level` and `completion`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from tcpmux.cli import completing
from tcpmux.cli.conditions import split
from tcpmux.cli.drain import force_option
from tcpmux.cli.instance import client
from tcpmux.cli.output import print_applied, say
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.asking import AdminError
from tcpmux.control.schema import LOG_LEVELS
from tcpmux.errors import TcpmuxError

if TYPE_CHECKING:
    from tcpmux.control.schema import LogLevelWord

SHELLS = ("bash", "zsh", "fish")


@click.command("undo")
@click.argument("route", shell_complete=completing.split)
@force_option
@admin_option
def undo(admin: Where, route: str, *, force: bool) -> int:
    """Go back to the weights ROUTE had before they were last changed.

    It goes back one step, which may not be the weights of the file, and shows the split that
    follows. It does not matter who changed them, or whether a reload did. A second undo brings the
    newer weights back. Weights that leave no destination for connections, such as all 0, are
    refused without --force. ROUTE/RULE names one of its rules.

    \b
    Examples:
        tcpmux undo tcp-echo
        tcpmux undo tcp-echo/testers
    """
    instance = client(admin)
    route = route.removesuffix("/")
    name, _, rule = route.partition("/")
    print_applied(
        instance.undo_rule(name, rule, force=force) if rule else instance.undo(route, force=force),
        f"nothing changed: {route} already has these weights",
    )
    with suppress(AdminError):  # it is done
        for found in instance.routes():
            if found["name"] == name:
                of = [one for one in found.get("rules", ()) if one["name"] == rule]
                for one in of if rule else [found]:
                    say(f"{route} is split now: {split(one)}")
    return 0


@click.command("log-level")
@click.argument("level", type=click.Choice(LOG_LEVELS))
@admin_option
def log_level(admin: Where, level: LogLevelWord) -> int:
    """Set the log level until the next start.

    \b
    Example:
        tcpmux log-level warning
    """
    say(f"log level {client(admin).set_log_level(level)}")
    return 0


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the completion script for SHELL.

    \b
    Examples:
        tcpmux completion bash > /etc/bash_completion.d/tcpmux
        tcpmux completion fish > ~/.config/fish/completions/tcpmux.fish
    """
    from click.shell_completion import get_completion_class

    import tcpmux.cli.shells  # noqa: F401  it says how bash and zsh are answered

    found = get_completion_class(shell)
    if found is None:
        raise TcpmuxError(f"there is no completion for {shell}")
    root = ctx.find_root()
    click.echo(found(root.command, {}, "tcpmux", "_TCPMUX_COMPLETE").source())
    return 0
