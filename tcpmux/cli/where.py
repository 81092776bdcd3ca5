"""Options that say which instance is meant: by its admin socket, or by a URL and a token's file.

A token is only taken from a file: everybody on the host can read what is in a command line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tcpmux.control.asking import URL_VARIABLE, VARIABLE, is_url
from tcpmux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tcpmux.control.client import Client

    F = TypeVar("F", bound=Callable[..., Any])

TOKEN_VARIABLE = "TCPMUX_TOKEN_FILE"  # noqa: S105  as in remote.py, which takes long to load


@dataclass(frozen=True, slots=True)
class Where:
    """Options as they were given, "" = not. The environment counts where there are none."""

    admin: str = ""
    url: str = ""
    token_file: str = ""

    def resolved(self) -> Where:
        """With what the environment says, and with a URL, a socket's path or neither. Raises
        UsageError."""
        if self.admin and self.url:
            raise UsageError("--admin and --url are two instances: name one")
        admin, url = self.admin, self.url
        if not admin and not url:
            admin, url = os.environ.get(VARIABLE, ""), os.environ.get(URL_VARIABLE, "")
            if admin and url:
                raise UsageError(
                    f"{VARIABLE} and {URL_VARIABLE} are both set: say which instance is meant, "
                    "with --admin or --url"
                )
        if is_url(admin):
            raise UsageError(f"{admin} is a URL, and no socket: name it with --url")
        if url and not is_url(url):
            raise UsageError(f"--url: expected one such as https://mux.example:9901, got {url}")
        if url:
            return Where("", url, self.token_file or os.environ.get(TOKEN_VARIABLE, ""))
        if self.token_file:
            raise UsageError("--token-file goes with --url")
        return Where(admin)

    def client(self, timeout: float) -> Client:
        """Of the URL. timeout: s for an answer. Raises TcpmuxError."""
        import warnings

        from tcpmux.control.client import Client
        from tcpmux.control.remote import NotEncrypted, token_in

        token = token_in(self.token_file) if self.token_file else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotEncrypted)  # said by who says it in a line
            return Client(self.url, timeout, token=token)


def from_parameters(given: Mapping[str, Any]) -> Where:
    """given: of the options below, by name."""
    return Where(*(given.get(name) or "" for name in ("admin", "url", "token_file")))


def _refuse_token(_ctx: click.Context, _option: click.Parameter, given: str | None) -> None:
    if given is not None:
        raise click.UsageError(
            "a token in a command line can be read by everybody on this host: write it to a file "
            "that only you may read, and name that with --token-file"
        )


_OPTIONS = (
    click.option(
        "--admin",
        metavar="SOCKET",
        default=None,
        type=click.Path(),
        help="Admin socket of the instance. [default: $TCPMUX_ADMIN, or the one that is running]",
    ),
    click.option(
        "--url",
        metavar="URL",
        default=None,
        help="Of an instance on another host: its admin.http, or what is in front of that. "
        "[default: $TCPMUX_URL]",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        default=None,
        type=click.Path(),
        help="A file with the token for --url. [default: $TCPMUX_TOKEN_FILE]",
    ),
    click.option("--token", hidden=True, expose_value=False, callback=_refuse_token),
)


def admin_option(command: F) -> F:
    """The options; the command gets a Where as `admin`."""

    @wraps(command)
    def with_place(*args: Any, **named: Any) -> Any:
        where = from_parameters(named)
        rest = {name: value for name, value in named.items() if name not in ("url", "token_file")}
        return command(*args, **{**rest, "admin": where})

    for option in reversed(_OPTIONS):
        option(with_place)
    return with_place  # type: ignore[return-value]
