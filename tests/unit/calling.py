"""Commands, called in the process of the test."""

from __future__ import annotations

from click.testing import CliRunner, Result

from tcpmux.cli.app import cli


def tcpmux(*arguments: str, **environment: str) -> Result:
    """As a user calls them, with these variables besides."""
    return CliRunner().invoke(cli, arguments, env=environment, prog_name="tcpmux")
