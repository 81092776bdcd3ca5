"""The command `tcpmux` itself: its verbs, its errors and its exit codes.

Exit codes: 0 done, 1 failed, 2 usage or bad configuration.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, NoReturn

import click

from tcpmux.cli.commands import named, stand_ins
from tcpmux.cli.output import say, show_place
from tcpmux.cli.run import config_option, endpoint_option, run_instance, socket_option
from tcpmux.errors import TcpmuxError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# By the parameter that would help.
ADVICE = {
    "token": ": name the file that holds it with --token-file",
    "path": ": name it with --admin if that is the one you mean",
    "force": ", or use --force",
}
COMPLETE = "_TCPMUX_COMPLETE"  # variable by which a shell asks for completions


def _report(message: str) -> None:
    for line in message.splitlines():
        say(f"tcpmux: error: {line}", err=True)


def _advice(error: TcpmuxError) -> str:
    """The option that would help, which neither the client nor the instance knows of."""
    hint = getattr(error, "hint", "")  # AdminError's; its module takes time to load
    if hint == "path" and type(error).__name__ == "NotRunning":
        return ": start one with `tcpmux -c routes.yaml`, or name its socket with --admin"
    return ADVICE.get(hint, "")


def _report_error(error: TcpmuxError) -> None:
    problems = getattr(error, "problems", None)  # ConfigError's; its module takes time to load
    if problems is None:
        _report(f"{error}{_advice(error)}")
        return
    for problem in problems:
        say(f"tcpmux: error: {problem}", err=True)
        show_place(problem)


class Tcpmux(click.Group):
    """A group that keeps the order of its commands and reports every error in one line."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Loads the command that is to be run or completed."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and named(name or ""), rest

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Parses, runs and exits; never returns."""
        extra["standalone_mode"] = False
        if sys.stdout is None:  # closed by who has started this, who wants nothing of it
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if COMPLETE in os.environ:
            import tcpmux.cli.shells  # noqa: F401  it says how bash and zsh are answered
        try:
            code = super().main(*args, **extra)
        except TcpmuxError as error:
            _report_error(error)
            code = error.exit_code
        except click.UsageError as error:
            asked = error.ctx.command_path if error.ctx else "tcpmux"
            message = " ".join(error.format_message().split()).rstrip(".")
            _report(f"{message} (see `{asked} --help`)")
            code = error.exit_code
        except click.ClickException as error:
            _report(error.format_message())
            code = error.exit_code
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            _report(f"can't write the output: {error.strerror}")
            code = 1
            # Else Python tries it again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        except click.Abort:
            _report("interrupted")
            code = 1
        sys.exit(code)


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from tcpmux import __version__

        click.echo(f"tcpmux {__version__}")
        ctx.exit()


@click.group(
    cls=Tcpmux,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@config_option
@endpoint_option
@socket_option
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context, config: tuple[str, ...], endpoints: tuple[str, ...], admin: str) -> int:
    """Split TCP connections between versions of a service by weight, and change the split
    while traffic flows. No connection is dropped by a change.

    \b
    Start an instance, in the foreground:
        tcpmux -c routes.yaml
    Show its state, and shift traffic:
        tcpmux status
        tcpmux weight tcp-echo v1=80 v2=20
    Edit the file, check it, and load it:
        tcpmux check -c routes.yaml && tcpmux reload
    Stop it when its connections have ended:
        tcpmux stop
    Try all of that without a file or a server of your own:
        tcpmux demo

    \b
    A complete file:
        routes:
          - name: tcp-echo
            listen: 127.0.0.1:31400
            destinations:
              - {name: v1, weight: 80, endpoints: [127.0.0.1:9001]}
              - {name: v2, weight: 20, endpoints: [127.0.0.1:9002]}

    Exit codes: 0 done, 1 failed, 2 wrong usage or bad configuration.
    """
    if ctx.invoked_subcommand is not None:
        mesh = [one for one in endpoints if one.startswith("mesh:")]
        given = {
            "-c FILE": config,
            "--mesh IP": mesh,
            "--endpoint HOST=ADDRESS": endpoints,
            "--admin SOCKET": admin,
        }
        for option in (option for option, value in given.items() if value):
            name = option.split()[0]
            raise click.UsageError(
                f"{name} comes after the command: tcpmux {ctx.invoked_subcommand} {option}", ctx
            )
        return 0
    if not config:
        click.echo(ctx.get_help())
        return 2
    return run_instance(config, endpoints, admin)


for stand_in in stand_ins():
    cli.add_command(stand_in)


def main() -> NoReturn:
    """Entry point of the console script."""
    cli.main(prog_name="tcpmux")
