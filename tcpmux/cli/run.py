"""`tcpmux -c FILE` and `tcpmux run -c FILE`: becomes the master of a new instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

config_option = click.option(
    "-c",
    "--config",
    "config",
    metavar="FILE",
    multiple=True,
    help="Configuration file; may be repeated, the files are read as one.",
)


def run_instance(paths: Sequence[str]) -> int:
    """Runs an instance in this process until it is stopped; returns the exit code."""
    # The server is loaded only here: no other command needs it.
    from tcpmux.master import run as run_master

    return run_master(list(paths))


@click.command("run")
@config_option
def run(config: tuple[str, ...]) -> int:
    """Run an instance in the foreground.

    `tcpmux -c FILE` is short for it. It serves until told to stop. Signals: HUP reads the
    files again; TERM and INT let open connections end, a second one cuts them; QUIT ends at
    once.

    \b
    Examples:
        tcpmux run -c routes.yaml
        tcpmux run -c /etc/tcpmux/base.yaml -c /etc/tcpmux/shop.yaml
    """
    if not config:
        raise click.UsageError("which file? Name it with -c", click.get_current_context())
    return run_instance(config)
