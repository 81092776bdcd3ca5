# cython: language_level=3
"""csrc/privileges.c for Python."""

import os

from libc.stdint cimport uint64_t
from posix.types cimport gid_t, uid_t

cdef extern from "privileges.h":
    int tm_privileges_drop(uid_t uid, gid_t gid)
    int tm_privileges_keep(uint64_t wanted)


def drop(uid_t uid, gid_t gid):
    """Becomes that user, for good, with no capabilities. Raises OSError, after which the process
    must end."""
    cdef int error = tm_privileges_drop(uid, gid)
    if error < 0:
        raise OSError(-error, os.strerror(-error))


def keep(uint64_t wanted):
    """Has these capabilities at most, for good: a bit by number each. Raises OSError."""
    cdef int error = tm_privileges_keep(wanted)
    if error < 0:
        raise OSError(-error, os.strerror(-error))
