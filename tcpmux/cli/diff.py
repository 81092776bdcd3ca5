"""`tcpmux diff`: what a reload would change in the running instance."""

from __future__ import annotations

import os

import click

from tcpmux.cli.instance import client
from tcpmux.cli.output import say
from tcpmux.cli.run import config_option, endpoint_option
from tcpmux.cli.where import Where, admin_option

DIFFERENT = 3  # exit code


@click.command("diff")
@config_option
@endpoint_option
@admin_option
def diff(admin: Where, config: tuple[str, ...], endpoints: tuple[str, ...]) -> int:
    """Show what would change if the running instance read these files.

    Prints a line for each route that is added, removed or changed, as a reload logs it. Weights
    that were set at run time count as changed, as a reload restores the file's. So does another
    token in a file that admin.token_file or admin.read_only_token_file names already; a file that
    they would name anew is not read. This command reads the configuration files itself, with its
    own environment for ${NAME}. Exits with 0 if nothing would change, and with 3 otherwise.

    \b
    Examples:
        tcpmux diff -c routes.yaml && echo "in force already"
        tcpmux convert -c istio/ > routes.yaml; tcpmux diff -c routes.yaml
    """
    if not config:
        raise click.UsageError("no file given: name one with -c", click.get_current_context())
    from tcpmux.config import ConfigError, Problem, read_texts, sources_of, variables_in

    problems: list[Problem] = []
    texts = list(read_texts(sources_of(config), problems))
    if problems:
        raise ConfigError(problems)
    names = set().union(*(variables_in(text.content) for text in texts))
    variables = {name: os.environ[name] for name in names if name in os.environ}
    files = [(text.name, text.content) for text in texts]
    changes = client(admin, reads=True).diff(files, list(endpoints), variables)
    for change in changes:
        say(change)
    return DIFFERENT if changes else 0
