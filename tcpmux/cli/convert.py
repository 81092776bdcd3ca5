"""`tcpmux convert`: routes.yaml from whatever the configuration is written in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tcpmux.cli.output import say, say_json
from tcpmux.cli.run import config_option, endpoint_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tcpmux.convert.conversion import Conversion

RESOURCES = "resources"
KINDS = ("haproxy", "nginx", "envoy", "traefik", RESOURCES)  # config/foreign.py; its import is slow
INCOMPLETE = 1  # exit code


@click.command("convert")
@config_option
@endpoint_option
@click.option(
    "--from",
    "kind",
    type=click.Choice(KINDS),
    help="The program that the files are for, if their names and contents do not show it.",
)
@click.option(
    "--report",
    is_flag=True,
    help="Print the class of every directive, with a note, instead of the result.",
)
@click.option("--json", "as_json", is_flag=True, help="With --report: as JSON.")
@click.option(
    "--partial",
    is_flag=True,
    help="Print the result without the directives that change traffic, with a comment for each.",
)
def convert(
    config: tuple[str, ...],
    endpoints: tuple[str, ...],
    kind: str | None,
    *,
    report: bool,
    as_json: bool,
    partial: bool,
) -> int:
    """Print the routes.yaml that is equivalent to these files.

    Reads haproxy.cfg, nginx.conf, Envoy's static resources, Traefik's files (name both the static
    and the dynamic one), Istio's and the Gateway API's resources, and routes.yaml itself.
    Each directive is mapped, harmless (it does not affect whether a connection is accepted, where
    it goes, or how long it lasts), or changes traffic and has no equivalent. If a directive changes
    traffic, no result is printed and the exit code is 1, unless --partial is given.

    \b
    Examples:
        tcpmux convert -c /etc/haproxy/haproxy.cfg > routes.yaml
        tcpmux convert -c /etc/nginx/nginx.conf --report
        tcpmux convert -c gateway.yaml --endpoint shop/v1=127.0.0.1:9001 > routes.yaml
        tcpmux convert -c virtual-service.yaml --mesh > routes.yaml
    """
    if not config:
        raise click.UsageError("no file given: name one with -c", click.get_current_context())
    if as_json and not report:
        raise click.UsageError("--json works only with --report")
    from tcpmux.convert.kinds import kind_of

    kinds = [kind or kind_of(path) for path in config]
    if len(set(kinds)) > 1:
        raise click.UsageError("these files are of different kinds: convert them one at a time")
    if endpoints and kinds[0] not in ("", RESOURCES):
        raise click.UsageError("--endpoint and --mesh work only with Istio and Gateway API files")
    found = _converted(kinds[0], config, endpoints)
    if report:
        _print_report(found, as_json=as_json)
    else:
        _print_result(found, partial=partial)
    return INCOMPLETE if found.changes and not (partial and found.text) else 0


def _converted(kind: str, config: Sequence[str], endpoints: Sequence[str]) -> Conversion:
    if kind in ("", RESOURCES):
        from tcpmux.config import Problem, read_texts, sources_of
        from tcpmux.config.problems import ConfigError
        from tcpmux.convert.resources import convert_own

        problems: list[Problem] = []
        texts = list(read_texts(sources_of(config), problems))
        if problems:
            raise ConfigError(problems)
        return convert_own(texts, endpoints)
    from tcpmux.convert.conversion import convert as convert_files
    from tcpmux.convert.kinds import read_input

    return convert_files(kind, [read_input(path) for path in config])


def _print_report(found: Conversion, *, as_json: bool) -> None:
    if as_json:
        say_json(found.as_json())
        return
    for finding in found.findings:
        say(str(finding))
    say(", ".join(f"{count} {name}" for name, count in found.totals.items()) + " (words)")


def _print_result(found: Conversion, *, partial: bool) -> None:
    for finding in found.findings:
        if finding.effect.value == "changes traffic":
            level = "warning" if partial else "error"
            say(f"tcpmux: {level}: {finding}", err=True)
        elif finding.is_left_out:  # for others than TCP
            place = f"{finding.file}:{finding.line}:{finding.column}"
            say(f"tcpmux: warning: {place}: {finding.note}", err=True)
        elif finding.note and finding.effect.value == "mapped":
            say(f"tcpmux: note: {finding}", err=True)
    if found.changes and not (partial and found.text):
        why = "no route remains without these lines"
        if found.text:
            why = "the result would treat connections differently: change these lines, or add "
            why += "--partial to print the rest"
        say(f"tcpmux: nothing is printed, because {why}", err=True)
    else:
        click.echo(found.text, nl=False)
