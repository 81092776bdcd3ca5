"""The running instance that a command talks to: named, or found by its socket on this host.

An instance listens on its admin socket and, beside it, on its takeover socket, and the kernel lists
both. Anybody can listen under such names, so one counts only if its file and whoever listens on it
belong to root or to the user who asks. What processes call themselves counts for nothing.
"""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tcpmux.cli.output import say
from tcpmux.cli.where import Where
from tcpmux.control.asking import DEFAULT_SOCKET, TIMEOUT, AdminError
from tcpmux.control.client import Client
from tcpmux.errors import UsageError, printable
from tcpmux.peer import user_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TABLE = "/proc/net/unix"
TAKEOVER = ".takeover"  # after the path of the admin socket
LISTENING = 0x10000  # __SO_ACCEPTCON in the kernel's table
STREAM, PACKETS = 1, 5  # SOCK_STREAM, SOCK_SEQPACKET
# Only root makes directories there: what is in /run/tcpmux* is the machine's, whoever owns it.
RUNTIME = (Path("/run"), Path("/run/private"))
PROBE_TIME = 1.0  # s
MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class Found:
    """An admin socket by its name. owner: of its file. trusted: root's, ours or the machine's."""

    path: str
    owner: int
    trusted: bool
    usable: bool  # we may connect to it

    @property
    def peers(self) -> frozenset[int]:
        """Who may be the one that listens there."""
        return frozenset({0, os.geteuid(), self.owner})


def _listening() -> Iterator[tuple[int, str]]:
    """Type and path of each UNIX socket that is listened on, as the kernel lists them."""
    with open(TABLE, encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.rstrip("\n").split(maxsplit=7)
            try:
                flags, kind = int(fields[3], 16), int(fields[4], 16)
            except (IndexError, ValueError):  # the heads, or a part of somebody's name
                continue
            if flags & LISTENING and len(fields) == 8 and fields[7].startswith("/"):
                yield kind, fields[7]


def candidates() -> list[Found]:
    """What looks like an admin socket, each once, in order of their paths."""
    try:
        every = set(_listening())
    except OSError:
        return []
    found: dict[tuple[int, int], Found] = {}
    closed: list[Found] = []
    for kind, path in sorted(every, key=lambda one: one[1]):
        if kind == STREAM and (PACKETS, path + TAKEOVER) in every:
            try:
                real = os.path.realpath(path)
                file = os.lstat(real)
            except PermissionError:
                closed += _closed(path)
                continue
            except (OSError, ValueError):
                continue  # of another mount namespace
            if stat.S_ISSOCK(file.st_mode):
                one = Found(real, file.st_uid, _is_trusted(real, file.st_uid), _usable(real))
                found.setdefault((file.st_dev, file.st_ino), one)
    return [*found.values(), *closed]


def _closed(path: str) -> list[Found]:
    """One in a directory that is closed to us, if it is a directory of the machine's: elsewhere
    anybody can make one, and would have every command say that it needs sudo."""
    directory = Path(path).parent
    if not _is_runtime(directory):
        return []
    try:
        owner = directory.stat().st_uid
    except OSError:
        owner = 0  # it leads into another that is closed: the user is systemd's, of the moment
    return [Found(path, owner, trusted=True, usable=False)]


def _is_runtime(directory: Path) -> bool:
    return directory.parent in RUNTIME and directory.name.startswith("tcpmux")


def _usable(path: str) -> bool:
    return os.access(path, os.W_OK)


def _is_trusted(path: str, owner: int) -> bool:
    """Whether only root, we, or whom root has given the place to can have put it there."""
    try:
        parents = [(parent, parent.stat()) for parent in Path(path).parents]
    except OSError:
        return False
    for _, directory in parents:
        if directory.st_mode & stat.S_IWOTH and not directory.st_mode & stat.S_ISVTX:
            return False
    if owner in (0, os.geteuid()):
        return True
    place, directory = parents[0]
    return _is_runtime(place) and directory.st_uid == owner


def choose(found: Sequence[Found], default: str = DEFAULT_SOCKET, *, reads: bool = False) -> Found:
    """The admin socket to talk to. Raises UsageError if that is not clear.

    Those that only another user may talk to count as well, unless one `reads`: a change must not
    go to whichever instance happens to be within reach. Those of users who are not trusted never
    count, or anybody could keep the commands of others from working.
    """
    trusted = [one for one in found if one.trusted]
    usable = [one for one in trusted if one.usable]
    if len(usable) > 1 or (usable and len(trusted) > 1 and not reads):
        listed = [_as_option(one) for one in sorted(trusted, key=lambda one: not one.usable)]
        raise UsageError(
            f"{len(trusted)} instances of tcpmux are running: choose one with {_listed(listed)}"
        )
    if usable:
        return usable[0]
    if found and not os.path.lexists(default):
        if trusted:
            raise UsageError(
                f"not allowed to talk to the running tcpmux: use sudo, or become its user: "
                f"{_listed(map(_with_owner, trusted))}"
            )
        raise UsageError(
            "no tcpmux of root or of your own user is running; to use one of a user that you "
            f"trust, name its socket with --admin: {_listed(map(_with_owner, found))}"
        )
    return Found(default, 0, trusted=True, usable=True)


def _listed(texts: Iterable[str]) -> str:
    every = list(texts)
    more = [f"and {len(every) - MAX_LISTED} more"] if len(every) > MAX_LISTED else []
    return "; ".join([*every[:MAX_LISTED], *more])


def _with_owner(one: Found) -> str:
    return f"{printable(one.path)} of user {user_name(one.owner)}"


def _as_option(one: Found) -> str:
    """`--admin /run/a.sock (routes.yaml)`: what names it, to be copied, and what it is."""
    option = f"--admin {shlex.quote(one.path)}"
    if not one.usable:
        return printable(f"{option} (of user {user_name(one.owner)}: needs sudo)")
    try:
        files = Client(one.path, PROBE_TIME, one.peers).status()["config"]
    except AdminError:
        return printable(option)
    return printable(f"{option} (with {', '.join(map(str, files))})")


def client(admin: Where, timeout: float = TIMEOUT, *, reads: bool = False) -> Client:
    """The way to the instance that options or the environment name, or else the running one.

    timeout: s for an answer. reads: nothing is changed, so that one instance is as good as another
    if it is said which one answers.
    """
    where = admin.resolved()
    if where.url:
        remote = where.client(timeout)
        exposure = remote.exposure()
        if exposure:
            say(f"tcpmux: warning: {exposure}", err=True)
        return remote
    if where.admin:
        return Client(where.admin, timeout)
    found = candidates()
    one = choose(found, reads=reads)
    if any(other.trusted and other != one for other in found):
        say(f"tcpmux: note: this is the instance at {one.path}; there are others", err=True)
    return Client(one.path, timeout, one.peers)


def only_client(admin: Where, timeout: float) -> Client | None:
    """As client(), of what only reads, without a word; None if it is not clear which one."""
    where = admin.resolved()
    if where.url:
        return where.client(timeout)
    if where.admin:
        return Client(where.admin, timeout)
    usable = [one for one in candidates() if one.trusted and one.usable]
    return Client(usable[0].path, timeout, usable[0].peers) if len(usable) == 1 else None
