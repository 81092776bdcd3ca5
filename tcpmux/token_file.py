"""A file with a token: what may be in it, and whose it may be. For the master and for commands."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from tcpmux.errors import TcpmuxError, printable
from tcpmux.files import Unreadable, read_file

MIN_TOKEN = 16  # characters
MAX_FILE = 4096  # bytes
DIRECTORY = "CREDENTIALS_DIRECTORY"  # in the environment, of a service with LoadCredential=
T = TypeVar("T")
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_BUT_GROUP = OTHERS & ~stat.S_IRGRP


def read_token(what: str, path: str, groups: Collection[int]) -> bytes:
    """The one line in that file. what: names it, in messages. groups: to which root may have given
    it. Raises TcpmuxError if others may know it."""
    return _read(what, path, groups, _line)


def read_secret(what: str, path: str, groups: Collection[int]) -> str:
    """As read_token(), of what somebody else has chosen: it may be short."""
    return _read(what, path, groups, _secret)


def _read(what: str, path: str, groups: Collection[int], take: Callable[[bytes], T]) -> T:
    try:
        found = read_file(path, MAX_FILE)
        _check_owner(path, found.status, groups)
        return take(found.data)
    except (Unreadable, _Wrong) as error:
        raise TcpmuxError(f"{what} {printable(path)}: {error}") from None


class _Wrong(Exception):
    pass


def _check_owner(path: str, file: os.stat_result, groups: Collection[int]) -> None:
    if file.st_uid not in (0, os.geteuid()):
        raise _Wrong(f"it belongs to user {file.st_uid}, who could change it: chown it to root")
    # systemd gives a service's credentials to a user of the moment by an access list, whose mask is
    # what the mode shows for the group, in a directory that nobody else may enter.
    to_group = _is_credential(path) or _is_given_to_our_group(file, groups)
    others = OTHERS_BUT_GROUP if to_group else OTHERS
    mode = stat.S_IMODE(file.st_mode)
    if mode & others:
        raise _Wrong(
            f"others may read it (mode {mode:04o}): chmod 600, or 400 for a mounted secret"
        )


def _is_given_to_our_group(file: os.stat_result, groups: Collection[int]) -> bool:
    """By root, to the group of the user that is not root: so Kubernetes mounts a secret (fsGroup),
    and so packages install one."""
    return os.geteuid() != 0 and file.st_uid == 0 and file.st_gid in groups


def _is_credential(path: str) -> bool:
    name = os.environ.get(DIRECTORY, "")
    if not name.startswith("/"):
        return False
    try:
        directory = Path(name).resolve(strict=True)
        found = directory.stat()
        inside = Path(path).resolve(strict=True).parent == directory
    except (OSError, RuntimeError):
        return False
    open_to_others = found.st_mode & (stat.S_IWGRP | stat.S_IRWXO)
    return inside and found.st_uid in (0, os.geteuid()) and not open_to_others


def _secret(data: bytes) -> str:
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _Wrong("it is not UTF-8") from None
    if not text or not text.isprintable():
        raise _Wrong("expected one line, and nothing else")
    return text


def _line(data: bytes) -> bytes:
    token = data.strip()
    if not token.isascii():
        raise _Wrong("it is not ASCII text")
    text = token.decode("ascii")
    if len(text) < MIN_TOKEN or not text.isprintable() or " " in text:
        raise _Wrong(
            f"expected one line of {MIN_TOKEN} or more characters without blanks, as from: "
            "openssl rand -hex 32"
        )
    return token
