"""`tcpmux -c FILE` and `tcpmux run -c FILE`: becomes the master of a new instance."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

config_option = click.option(
    "-c",
    "--config",
    "config",
    metavar="FILE",
    multiple=True,
    type=click.Path(),
    help="Configuration file or directory; may be repeated, all are read as one configuration.",
)
_endpoint_option = click.option(
    "--endpoint",
    "endpoints",
    metavar="HOST[/SUBSET]=ADDRESS",
    multiple=True,
    help="Address of a host that Istio or Gateway API files name; may be repeated.",
)
_mesh_option = click.option(
    "--mesh",
    metavar="[HOST=]IP",
    multiple=True,
    is_flag=False,
    flag_value="127.0.0.1",
    help=(
        "Listen for VirtualServices without a gateway, which apply to sidecars: on the ports of "
        "their hosts (or of HOST only), at this IP (127.0.0.1 if omitted); may be repeated."
    ),
)


def endpoint_option(command: Callable[..., T]) -> Callable[..., T]:
    """Adds --endpoint and --mesh, which the command gets together as `endpoints`."""

    @_endpoint_option
    @_mesh_option
    @wraps(command)
    def with_mesh(
        *args: object, endpoints: tuple[str, ...], mesh: tuple[str, ...], **others: object
    ) -> T:
        if mesh:
            from tcpmux.config.resources import MESH  # it takes long to load

            endpoints += tuple(f"{MESH}{one}" for one in mesh)
        return command(*args, endpoints=endpoints, **others)

    return with_mesh


socket_option = click.option(
    "--admin",
    metavar="SOCKET",
    default="",
    type=click.Path(),
    help=(
        "Admin socket, if no file sets admin.socket (Istio files can't). [default: "
        "$TCPMUX_ADMIN, or /run/tcpmux.sock]"
    ),
)


def run_instance(paths: Sequence[str], endpoints: Sequence[str] = (), admin: str = "") -> int:
    """Runs an instance in this process until it is stopped; returns the exit code."""
    # The server is loaded only here: no other command needs it.
    from tcpmux.master import run as run_master

    return run_master(list(paths), list(endpoints), admin)


@click.command("run")
@config_option
@endpoint_option
@socket_option
def run(config: tuple[str, ...], endpoints: tuple[str, ...], admin: str) -> int:
    """Run an instance in the foreground.

    `tcpmux -c FILE` is short for this. It runs until it is stopped. Signals: HUP reloads the files;
    TERM and INT drain open connections, a second one resets them; QUIT stops at once.

    \b
    Examples:
        tcpmux run -c routes.yaml
        tcpmux run -c /etc/tcpmux/base.yaml -c /etc/tcpmux/shop.yaml
        tcpmux run -c gateway.yaml --endpoint shop/v1=127.0.0.1:9001 --admin /run/shop.sock
    """
    if not config:
        raise click.UsageError("no file given: name one with -c", click.get_current_context())
    return run_instance(config, endpoints, admin)
