"""`tcpmux schema`: JSON Schema of routes.yaml, for editors."""

from __future__ import annotations

import click

from tcpmux.cli.output import say_json


@click.command("schema")
def schema() -> int:
    """Print the JSON Schema of routes.yaml.

    With it editors complete keys and mark mistakes as you type. Name it in the first line of
    a file:

    \b
        # yaml-language-server: $schema=/path/to/routes.schema.json

    \b
    Example:
        tcpmux schema > routes.schema.json
    """
    from tcpmux.config.schema import json_schema

    say_json(json_schema())
    return 0
