"""Whether another user could change what is found at a path. Runs in the master.

What the master connects to, binds or writes as root must be where nobody else may put something
of his own: each directory on the way, and each symbolic link, belongs to root or to the user that
tcpmux was started as, and others may not write there. A directory with the sticky bit, as /tmp,
is good enough on the way: what is in it belongs to its owner.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from tcpmux.errors import TcpmuxError

MAX_LINKS = 40  # as the kernel follows
OPEN_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Unsafe(OSError):
    """Another user could change what is found at a path; the text says why."""


def danger(path: str, *, sticky: bool, also: int = 0) -> str:
    """Why the file of this absolute path is not safe from others; "" = it is. Else as
    open_directory()."""
    try:
        os.close(open_directory(path, sticky=sticky, also=also))
    except Unsafe as error:
        return str(error)
    except FileNotFoundError:
        return ""  # and so can't be used, which whoever wants to says best
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def open_directory(path: str, *, sticky: bool, also: int = 0) -> int:
    """A descriptor of the directory that the file of this absolute path is in. Raises Unsafe if it
    is not safe from others, and other OSErrors.

    sticky: the directory may be one where everybody can make files, which are to be opened by
    their path. Else a group may write to one on the way, as to Ubuntu's /var/log (root:syslog,
    0775): below it no link is followed, and what is opened by the descriptor is what was looked
    at. also: one more user who is no danger.
    """
    owners = _trusted() | {also}
    exposed = ""  # where others may have put what comes next
    at = -1
    try:
        for here, descriptor, found in _walk(os.path.dirname(os.path.normpath(path))):
            if at >= 0:
                os.close(at)
            at = descriptor
            why = _danger(here, found, owners)
            if exposed and stat.S_ISLNK(found.st_mode):
                _refuse(f"{here} is a symbolic link, and others may write to {exposed}")
            elif why and (sticky or not _is_exposed(found, owners)):
                _refuse(why)
            exposed = here if why else exposed
        if not sticky and _others_write(found):
            _refuse(why or f"anyone may create files in {here}")
    except BaseException:
        if at >= 0:
            os.close(at)
        raise
    return at


def _refuse(why: str) -> NoReturn:
    raise Unsafe(why)


def _walk(directory: str) -> Iterator[tuple[str, int, os.stat_result]]:
    """Each directory and symbolic link on the way, the last one last: its path, a descriptor, which
    is the caller's, and what it is. Raises OSError."""
    left = [part for part in reversed(directory.split("/")) if part]
    here, links = "/", 0
    base = os.open("/", OPEN_PATH)
    try:
        yield here, os.dup(base), os.fstat(base)
        while left:
            part = left.pop()
            here = os.path.dirname(here) if part == ".." else os.path.join(here, part)
            try:
                descriptor = os.open(part, OPEN_PATH, dir_fd=base)
            except OSError as error:
                raise OSError(error.errno, error.strerror, here) from None
            found = os.fstat(descriptor)
            if stat.S_ISLNK(found.st_mode):
                target = os.readlink("", dir_fd=descriptor)
                yield here, descriptor, found
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), here)
                left += [name for name in reversed(target.split("/")) if name not in ("", ".")]
                absolute = target.startswith("/")
                here = "/" if absolute else os.path.dirname(here)
                if absolute:
                    os.close(base)
                    base = os.open("/", OPEN_PATH)
                descriptor, found = os.dup(base), os.fstat(base)
            else:
                os.close(base)
                base = os.dup(descriptor)
            yield here, descriptor, found
    finally:
        os.close(base)


def check_socket(path: str) -> None:
    """For a UNIX socket of the instance itself. Raises TcpmuxError."""
    why = danger(os.path.abspath(path), sticky=True)
    if not why:
        with suppress(OSError):
            owner = os.lstat(path).st_uid
            if owner not in _trusted():
                why = f"the file that is there belongs to {user_name(owner)}"
    if why:
        raise TcpmuxError(
            f"admin.socket {path}: {why}, and could answer in its place: set one in a directory "
            f"that only {user_name(os.geteuid())} may write to"
        )


def user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"


def _danger(here: str, found: os.stat_result, owners: frozenset[int]) -> str:
    if found.st_uid not in owners:
        return f"{here} belongs to {user_name(found.st_uid)}"
    if stat.S_ISLNK(found.st_mode):
        return ""
    if _others_write(found) and not found.st_mode & stat.S_ISVTX:
        return f"others may write to {here} (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def _is_exposed(found: os.stat_result, owners: frozenset[int]) -> bool:
    """Whether only that a group may write there speaks against it."""
    return found.st_uid in owners and not found.st_mode & stat.S_IWOTH


def _others_write(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_private(found.st_gid, found.st_uid)


def _is_private(gid: int, uid: int) -> bool:
    """Whether a group is its owner's own, as distributions give one to each user."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _trusted() -> frozenset[int]:
    """Owners who can do everything here anyway. In a user namespace what is the host's seems to
    belong to a user that nobody in it can become."""
    owners = {0, os.geteuid()}
    with suppress(OSError, ValueError):
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
        rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
        if not any(int(first) <= overflow < int(first) + int(n) for first, _, n in rows):
            owners.add(overflow)
    return frozenset(owners)
