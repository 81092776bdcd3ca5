"""Writes tcpmux.1, the manual page, from the commands themselves: `make generated` runs this.

What the commands' own help does not say (signals, files, environment) is below.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from tcpmux.cli.app import cli
from tcpmux.cli.commands import COMMANDS, named

TARGET = Path(__file__).with_name("tcpmux.1")
HEAD = r""".\" Made of the commands' help by configs/packaging/man_page.py. Edit those.
.TH TCPMUX 1 "" tcpmux "User Commands"
.nh
.ad l
.SH NAME
tcpmux \- split TCP connections between versions of a service by weight
"""
CONFIGURATION = """
The configuration is YAML: routes.yaml, or Istio's and Gateway API's resources, in one or more files
or directories. Every key, with its default and unit, is in reference.yaml (see FILES).
`tcpmux check -c FILE` reports every mistake with line and column; `tcpmux schema` prints the JSON
Schema for editors.
"""
EXIT_STATUS = {
    "0": "Done.",
    "1": "Failed: what was asked could not be done.",
    "2": "Wrong usage, or a mistake in a configuration file.",
    "3": "`tcpmux diff` or `tcpmux fmt --check`: there would be a change.",
}
SIGNALS_INTRODUCTION = (
    "An instance handles these, sent to its master (the process that was started):"
)
SIGNALS = {
    "HUP": "Reload the configuration files.",
    "TERM, INT": "Accept no new connections, wait up to drain_timeout for the open ones, and exit."
    " A second one resets those.",
    "QUIT": "Stop at once; open connections are reset.",
    "USR1": "Open the access log and log.file again, in every process, for logrotate.",
    "USR2": "Upgrade to the installed build, keeping all connections.",
    "TTIN, TTOU": "One worker more, one less.",
}
ENVIRONMENT = {
    "TCPMUX_ADMIN": "Admin socket of the instance that commands talk to, as with --admin.",
    "TCPMUX_URL": "URL of that instance, as with --url.",
    "TCPMUX_TOKEN_FILE": "A file with the token for that URL, as with --token-file.",
    "SSL_CERT_FILE": "Certification authorities to trust for https, instead of the host's own.",
}
FILES = {
    "/etc/tcpmux/routes.yaml": "Configuration of the service, by convention: an instance reads what"
    " -c names.",
    "/run/tcpmux.sock": "Admin socket, unless admin.socket names another, such as"
    " /run/tcpmux/tcpmux.sock.",
    "PREFIX/share/tcpmux/": "reference.yaml, units for systemd, Kubernetes manifests, a Grafana"
    " dashboard and alert rules. PREFIX is the virtual environment, or /usr.",
}
SEE_ALSO = ".BR systemctl (1),\n.BR logrotate (8)"


def text(line: str) -> str:
    """A line of prose or code for roff. `code` becomes bold."""
    escaped = line.replace("\\", r"\e").replace("-", r"\-")
    escaped = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", escaped)
    return re.sub(r"^(?=[.'])", r"\&", escaped)


def prose(paragraph: str) -> Iterator[str]:
    yield text(" ".join(paragraph.split()))


def paragraphs(help_text: str) -> Iterator[str]:
    """The help of a command; what \\b stands before keeps its lines, as on a terminal."""
    first = True
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(help_text)):
        if not first:
            yield ".PP"
        first = False
        if not paragraph.startswith("\b"):
            yield from prose(paragraph)
            continue
        yield ".nf"
        for line in paragraph.lstrip("\b\n").splitlines():
            yield text(line)
        yield ".fi"


def options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    """Each option with its help, as --help has them; --help itself once only."""
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record and not {*param.opts} & {*ctx.help_option_names}:
            yield from option(*record)
    if ctx.parent is None:  # by its context: click keeps the first one that was asked for
        names = sorted(command.get_help_option_names(ctx), key=len)
        yield from option(", ".join(names), "Show the help of tcpmux, or of a command, and exit.")


def option(names: str, described: str) -> Iterator[str]:
    yield from (".TP", rf"\fB{text(names)}\fR", *prose(described))


def table(rows: dict[str, str]) -> Iterator[str]:
    for term, meaning in rows.items():
        yield from (".TP", rf"\fB{text(term)}\fR", *prose(meaning))


def synopsis(command: click.Command, ctx: click.Context) -> str:
    pieces = " ".join(command.collect_usage_pieces(ctx))
    return rf"\fB{text(ctx.command_path)}\fR {text(pieces)}"


def command_section(name: str, root: click.Context) -> Iterator[str]:
    command = named(name)
    ctx = click.Context(command, info_name=name, parent=root)
    yield f".SS {name}"
    yield from (synopsis(command, ctx), ".PP")
    yield from paragraphs(command.help or "")
    yield from options(command, ctx)


def page() -> str:
    """The whole page."""
    root = click.Context(cli, info_name="tcpmux", **cli.context_settings)
    lines = [".SH SYNOPSIS", r"\fBtcpmux\fR \-c FILE ...", ".br", synopsis(cli, root)]
    lines += [".SH DESCRIPTION", *paragraphs(cli.help or "")]
    lines += [".SH OPTIONS", *options(cli, root)]
    lines += [".SH COMMANDS"]
    for row in COMMANDS:
        lines += command_section(row.name, root)
    lines += [".SH CONFIGURATION", *prose(CONFIGURATION)]
    lines += [".SH SIGNALS", *prose(SIGNALS_INTRODUCTION), *table(SIGNALS)]
    lines += [".SH EXIT STATUS", *table(EXIT_STATUS)]
    lines += [".SH ENVIRONMENT", *table(ENVIRONMENT)]
    lines += [".SH FILES", *table(FILES)]
    lines += [".SH SEE ALSO", SEE_ALSO]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page())
