"""As whom the processes of tcpmux run, and what each of them may do.

The master keeps what a start and a reload need; guardians, workers, control and the log process,
which all look at what strangers send, are of a user of their own and may do nothing besides.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from tcpmux import _privileges
from tcpmux.errors import TcpmuxError
from tcpmux.peer import user_name

DEFAULT = "nobody"
MAX_TEXT = 4096  # bytes of what as_user() brings back

# linux/capability.h. What the master keeps as root:
KEPT = {
    "CAP_NET_BIND_SERVICE": 10,  # ports below 1024 that a reload adds
    "CAP_SETUID": 7,  # each new guardian, control and log process becomes the user
    "CAP_SETGID": 6,
    "CAP_SETPCAP": 8,  # and can't get anything back
    "CAP_KILL": 5,  # those processes are of another user
    # A reload reads and binds what a start, with all rights, could: files that only another user
    # may read, UNIX listeners and stale sockets in directories of others. Little is given away by
    # it: what matters most on a host belongs to uid 0, who is not asked for a capability there.
    "CAP_DAC_OVERRIDE": 1,
}


class UserError(TcpmuxError):
    """`user` or `group` can't be used."""

    exit_code = 2


class User(NamedTuple):  # not a dataclass: see worker/process.py
    """As whom processes run. Names are for people."""

    uid: int
    gid: int

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @property
    def name(self) -> str:
        return user_name(self.uid)

    def __str__(self) -> str:
        try:
            group = grp.getgrgid(self.gid).gr_name
        except KeyError:
            group = str(self.gid)
        return f"user {self.name} (uid {self.uid}), group {group} (gid {self.gid})"

    @classmethod
    def parse(cls, text: str) -> User:
        uid, gid = map(int, text.split(":"))
        return cls(uid, gid)

    @property
    def text(self) -> str:
        """For parse()."""
        return f"{self.uid}:{self.gid}"


def oneself() -> User:
    return User(os.geteuid(), os.getegid())


def resolve(user: str, group: str) -> User:
    """What the configuration says, "" = nothing. Raises UserError."""
    if os.geteuid() != 0:
        return _only_oneself(user, group)
    uid, gid = _user(user or DEFAULT)
    if group:
        gid = _group(group)
    elif gid < 0:
        raise UserError(
            f"user: uid {uid} has no entry among the users of this host: set `group` as well"
        )
    return User(uid, gid)


def _only_oneself(user: str, group: str) -> User:
    own = oneself()
    if user and _user(user)[0] != own.uid:
        raise UserError(
            f"user: {user}: tcpmux was started as {own.name}, and only root can become another "
            "user: remove the key, or start tcpmux as root"
        )
    if group and _group(group) != own.gid:
        raise UserError(f"group: {group}: only root can change groups: remove the key")
    return own


def _user(text: str) -> tuple[int, int]:
    """(uid, gid of its primary group or -1)."""
    try:
        found = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except KeyError:
        if text.isdecimal():
            return int(text), -1
        raise UserError(f"user: there is no user {text} on this host") from None
    return found.pw_uid, found.pw_gid


def _group(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise UserError(f"group: there is no group {text} on this host") from None


def drop(user: User) -> None:
    """Becomes that user for good, with no rights besides. Nothing if it is root, as somebody wants
    it then. Raises OSError, and the process must end."""
    if not user.is_root:
        _privileges.drop(user.uid, user.gid)


def keep_for_master(user: User) -> None:
    """Gives up what a master never needs, unless all run as root. Raises OSError."""
    if not user.is_root:
        _privileges.keep(sum(1 << number for number in KEPT.values()))


def as_user(user: User, ask: Callable[[], str]) -> str:
    """What ask() returns in a process of that user, which ends then. Raises OSError if there can
    be none."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read_end)
            drop(user)
            os.write(write_end, ask().encode("utf-8", "replace")[:MAX_TEXT])
            code = 0
        except OSError as error:
            with suppress(OSError):
                os.write(write_end, str(error.errno).encode())
        finally:
            os._exit(code)
    os.close(write_end)
    with open(read_end, "rb") as said:
        text = said.read(MAX_TEXT).decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    if status:
        number = int(text) if text.isdecimal() else 0
        raise OSError(number, os.strerror(number) if number else "its process died")
    return text


def has_capability(number: int) -> bool:
    """Whether this process has it, linux/capability.h; True if that can't be seen."""
    with suppress(OSError, ValueError), open("/proc/self/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return True


def try_out(user: User) -> None:
    """Raises UserError if no process of ours can become that user, or be ended by us then."""
    if user.uid != os.geteuid() and not has_capability(KEPT["CAP_KILL"]):
        raise UserError(
            f"user: root lacks CAP_KILL here, and could not stop processes of {user}: add it "
            f"(--cap-add KILL), or set `user: root` to run all processes as root"
        )
    try:
        as_user(user, str)
    except OSError as error:
        raise UserError(
            f"user: can't become {user}: {error.strerror}: this root may lack CAP_SETUID and "
            "CAP_SETGID, or its user namespace has no such user; `user: root` has all processes "
            "run as root"
        ) from None


def unreachable(user: User, files: Iterable[str]) -> str:
    """The first path on the way to these files that the user may not read; "" = none. Raises
    OSError."""
    wanted = list(files)

    def look() -> str:
        for file in wanted:
            for path in dict.fromkeys((file, os.path.realpath(file))):
                parts = path.split("/")
                for count in range(2, len(parts) + 1):
                    here = "/".join(parts[:count])
                    if not os.access(here, os.R_OK if here == path else os.X_OK):
                        return here
        return ""

    return as_user(user, look)


def denied_sockets(user: User, paths: Iterable[str]) -> list[str]:
    """Those of these UNIX sockets that are there, and that the user may not connect to."""
    wanted = list(paths)
    if not wanted:
        return []

    def look() -> str:
        denied = []
        for number, path in enumerate(wanted):
            try:
                os.stat(path)
            except PermissionError:
                denied.append(str(number))
                continue
            except OSError:
                continue
            if not os.access(path, os.W_OK):
                denied.append(str(number))
        return " ".join(denied)[: MAX_TEXT - 16]

    try:
        said = as_user(user, look)
    except OSError:
        return []
    return [wanted[int(number)] for number in said.split() if int(number) < len(wanted)]
