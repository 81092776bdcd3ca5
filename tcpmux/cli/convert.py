"""`tcpmux convert`: routes.yaml from whatever the configuration is written in."""

from __future__ import annotations

import click

from tcpmux.cli.output import say
from tcpmux.cli.run import config_option, endpoint_option


@click.command("convert")
@config_option
@endpoint_option
def convert(config: tuple[str, ...], endpoints: tuple[str, ...]) -> int:
    """Print the routes.yaml that is equivalent to these files.

    Takes Istio's and the Gateway API's resources, haproxy.cfg and nginx.conf (files that end
    in .cfg and .conf), and routes.yaml itself. Comments name the source. Settings without
    an equivalent in tcpmux are listed on standard error.

    \b
    Examples:
        tcpmux convert -c gateway.yaml --endpoint shop/v1=127.0.0.1:9001 > routes.yaml
        tcpmux convert -c /etc/haproxy/haproxy.cfg
    """
    if not config:
        raise click.UsageError("no file given: name one with -c", click.get_current_context())
    from tcpmux.config import load
    from tcpmux.config.native import to_text
    from tcpmux.config.others import is_other, load_other

    others = [path for path in config if is_other(path)]
    if others and len(others) < len(config):
        raise click.UsageError("these files are of different kinds: convert them one at a time")
    found = load_other(others) if others else load(config, endpoints)
    for warning in found.warnings:
        say(f"tcpmux: warning: {warning}", err=True)
    click.echo(to_text(found), nl=False)
    return 0
