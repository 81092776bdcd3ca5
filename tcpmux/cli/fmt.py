"""`tcpmux fmt`: formats routes.yaml."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click

from tcpmux.cli.output import say
from tcpmux.cli.run import config_option
from tcpmux.errors import TcpmuxError, plural

DIFFERENT = 3  # exit code
WIDTH = 100  # columns


def formatted(text: str) -> str:
    """The same YAML, indented by two and its lists by two more; comments and quotes stay."""
    from ruamel.yaml import YAML

    yaml = YAML()  # round trip
    yaml.preserve_quotes = True
    yaml.width = WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    documents: list[Any] = list(yaml.load_all(text))
    out = io.StringIO()
    yaml.dump_all(documents, out)
    return out.getvalue()


@click.command("fmt")
@config_option
@click.option("--check", is_flag=True, help="Change nothing; exit with 3 if a file would change.")
def fmt(config: tuple[str, ...], check: bool) -> int:
    """Format configuration files.

    Indents by two spaces, lists by two more; keeps comments, order and quotes. A file is replaced
    as a whole, and only if its meaning stays the same; a link is followed.

    \b
    Examples:
        tcpmux fmt -c routes.yaml
        tcpmux fmt --check -c routes.yaml
    """
    if not config:
        raise click.UsageError("no file given: name one with -c", click.get_current_context())
    from tcpmux.config import ConfigError, Problem, sources_of

    problems: list[Problem] = []
    files = [path for source in sources_of(config) for path in source.files(problems)]
    if problems:
        raise ConfigError(problems)
    changed = [path for path in files if _format(path, check=check)]
    for path in changed:
        say(f"{path}: {'would be' if check else 'is'} formatted")
    if not changed:
        say(f"{plural(len(config), 'file')}: nothing to do")
    return DIFFERENT if changed and check else 0


def _format(path: Path, *, check: bool) -> bool:
    from tcpmux.config.document import read_documents
    from tcpmux.config.rewrite import Target, rewrite
    from tcpmux.files import read_file

    before = [document.value for document in read_documents(path)]
    target = Target.of(path)
    text = read_file(target.path).data.decode("utf-8-sig")
    new = formatted(text)
    if new == text:
        return False

    def means_the_same(name: str) -> None:
        if [document.value for document in read_documents(name)] != before:
            raise TcpmuxError(f"{path}: can't be formatted without changing what it means")

    if not check:
        rewrite(target, new.encode(), means_the_same)
    return True
