"""`tcpmux check`: reads configuration files and says what is wrong with them."""

from __future__ import annotations

import click

from tcpmux.cli.output import plural
from tcpmux.cli.run import config_option


@click.command("check")
@config_option
def check(config: tuple[str, ...]) -> int:
    """Say what is wrong with configuration files.

    Touches no running instance. Prints every problem in a line of its own, as
    FILE:LINE:COLUMN: WHERE: WHAT, on standard error, and exits with 2 if there is one.

    \b
    Examples:
        tcpmux check -c routes.yaml
        tcpmux check -c routes.yaml && tcpmux reload
    """
    if not config:
        raise click.UsageError("which file? Name it with -c", click.get_current_context())
    from tcpmux.config import ConfigError, load

    try:
        found = load(config)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        return error.exit_code
    destinations = [d for route in found.routes for d in route.destinations]
    endpoints = sum(len(destination.endpoints) for destination in destinations)
    click.echo(
        f"{', '.join(config)}: ok: {plural(len(found.routes), 'route')}, "
        f"{plural(len(destinations), 'destination')}, {plural(endpoints, 'endpoint')}"
    )
    return 0
