"""`tcpmux schema`: JSON Schema of routes.yaml, for editors."""

from __future__ import annotations

import json

import click


@click.command("schema")
def schema() -> int:
    """Print the JSON Schema of routes.yaml.

    With it editors complete keys and mark mistakes while one types. Name it in the first line of
    a file:

    \b
        # yaml-language-server: $schema=/path/to/routes.schema.json

    \b
    Example:
        tcpmux schema > routes.schema.json
    """
    from tcpmux.config.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
    return 0
