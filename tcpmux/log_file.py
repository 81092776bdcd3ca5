"""Opening the file of the access log: by the master for the log process, or by that itself."""

from __future__ import annotations

import errno
import os
import stat

FLAGS = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_APPEND
    | os.O_CLOEXEC
    | os.O_NOCTTY
    | os.O_NOFOLLOW
    | os.O_NONBLOCK  # a FIFO without a reader is an error, and does not wait for one
)
MODE = 0o640


def open_log(path: str) -> int:
    """A descriptor that appends to the regular file of this absolute path, which is made if it is
    not there. Raises OSError, also for anything else that may be there: what is written is what
    clients want, so it must not get anywhere but into a log."""
    directory, name = os.path.split(path)
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_log_in(place, name)
    finally:
        os.close(place)


def why_not(path: str) -> str:
    """Why open_log() would fail for whoever runs this, as far as can be seen without making the
    file; "" = it would not."""
    directory = os.path.dirname(path)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        if not os.path.isdir(directory):
            return f"there is no directory {directory}"
        return "" if os.access(directory, os.W_OK | os.X_OK) else f"{directory} can't be written to"
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(mode):
        return "it is not a regular file"
    return "" if os.access(path, os.W_OK) else "it can't be written to"


def open_log_in(place: int, name: str) -> int:
    """The same, of the directory that a descriptor stands for."""
    try:
        fd = os.open(name, FLAGS, MODE, dir_fd=place)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, "it is a symbolic link, which is not followed") from None
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "it is not a regular file") from None
        raise
    found = os.fstat(fd)
    problem = ""
    if not stat.S_ISREG(found.st_mode):
        problem = "it is not a regular file"
    elif found.st_nlink > 1:
        problem = f"the file has {found.st_nlink} names (hard links)"
    if problem:
        os.close(fd)
        raise OSError(errno.EINVAL, problem)
    return fd
