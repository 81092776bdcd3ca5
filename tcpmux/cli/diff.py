"""`tcpmux diff`: what a reload would change in the running instance."""

from __future__ import annotations

from pathlib import Path

import click

from tcpmux.cli.instance import admin_option, client
from tcpmux.cli.output import say
from tcpmux.cli.run import config_option, endpoint_option

DIFFERENT = 3  # exit code


@click.command("diff")
@config_option
@endpoint_option
@admin_option
def diff(admin: str | None, config: tuple[str, ...], endpoints: tuple[str, ...]) -> int:
    """Show what would change if the running instance read these files.

    A line for each route that is added, removed or changed, as the log of a reload has it.
    Weights that were set at run time count as changed, as a reload goes back to the file's.
    Exits with 0 if nothing would change, with 3 if something would.

    \b
    Examples:
        tcpmux diff -c routes.yaml && echo "in force already"
        tcpmux convert -c istio/ > routes.yaml; tcpmux diff -c routes.yaml
    """
    if not config:
        raise click.UsageError("which file? Name it with -c", click.get_current_context())
    paths = [str(Path(path).absolute()) for path in config]
    changes = client(admin).diff(paths, list(endpoints))
    for change in changes:
        say(change)
    return DIFFERENT if changes else 0
