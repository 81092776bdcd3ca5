"""Giving a file other contents: as a whole or not at all, and whatever its path leads to."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tcpmux.errors import TcpmuxError


class NotWritten(TcpmuxError):
    """The file stays as it is; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """The file that a path leads to, through all links, as it is now."""

    path: Path
    status: os.stat_result

    @classmethod
    def of(cls, path: str | Path) -> Target:
        """Raises NotWritten."""
        try:
            real = Path(os.path.realpath(path, strict=True))
            status = real.lstat()
        except (OSError, ValueError) as error:
            raise NotWritten(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        if not stat.S_ISREG(status.st_mode):
            raise NotWritten(f"{path}: expected a regular file")
        return cls(real, status)

    def is_as_before(self) -> bool:
        with suppress(OSError):
            now = self.path.lstat()
            return _identity(now) == _identity(self.status)
        return False


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def rewrite(target: Target, data: bytes, check: Callable[[str], object] = lambda _: None) -> None:
    """Replaces it by a file with these contents, and the same mode, owner and extended attributes.

    On disk when this returns. check: gets the path of the new file before that takes its place, and
    raises if it is not to. Raises NotWritten, with the file as it was.
    """
    if target.status.st_nlink > 1:
        raise NotWritten(
            f"{target.path} has {target.status.st_nlink} names (hard links), of which only one "
            f"would change: edit it by hand"
        )
    directory = target.path.parent
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.path.name}.", dir=directory)
    except OSError as error:
        raise NotWritten(_why(target, error)) from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            _take_after(target, stream.fileno())
            os.fsync(stream.fileno())
        check(name)
        if not target.is_as_before():
            raise NotWritten(f"{target.path} was changed meanwhile: check it and try again")
        os.replace(name, target.path)
        _sync(directory)
    except OSError as error:
        raise NotWritten(_why(target, error)) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _take_after(target: Target, descriptor: int) -> None:
    """Owner first: to change it takes some bits of the mode away."""
    was, now = target.status, os.fstat(descriptor)
    if (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid):
        try:
            os.fchown(descriptor, was.st_uid, was.st_gid)
        except PermissionError:
            raise NotWritten(
                f"{target.path} belongs to another user or group, which replacing it would "
                f"change: run the command as that user or as root"
            ) from None
    os.fchmod(descriptor, stat.S_IMODE(was.st_mode))
    with suppress(OSError):  # not every file system has them
        for attribute in os.listxattr(target.path):
            with suppress(OSError):  # labels are the system's own affair
                os.setxattr(descriptor, attribute, os.getxattr(target.path, attribute))


def _sync(directory: Path) -> None:
    """So that the new name outlives a power cut. That it is there is certain without."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _why(target: Target, error: OSError) -> str:
    told = error.strerror or str(error)
    if error.errno in (errno.EBUSY, errno.EXDEV):
        return (
            f"{target.path} is a mount of its own, as in a container, and can't be replaced "
            f"({told}): change it at its source"
        )
    if error.errno == errno.EROFS:
        return f"{target.path}: its file system is not writable ({told})"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{target.path}: can't create a file in its directory ({told})"
    return f"{target.path}: {told}"
