"""Which calls of the relay can fail, how Linux can let them fail, and why the others can't.

Sources: the man page of each call (section 2) and, where it lists what can't happen on a valid
descriptor in non-blocking use, the kernel's code (net/, fs/pipe.c, fs/splice.c, fs/eventpoll.c).
"""

from __future__ import annotations

import errno as codes
from typing import Final

ONE_BYTE: Final = -1  # the call is made, for one byte (epoll_wait: one event)
HALF: Final = -2  # the call is made, for half of what was asked
DIE_BEFORE: Final = -3  # the worker is killed instead of the call
DIE_AFTER: Final = -4  # the worker is killed when the call has just been made

SHORT = frozenset({ONE_BYTE, HALF})
DEATHS = frozenset({DIE_BEFORE, DIE_AFTER})
NO_DESCRIPTORS = frozenset({codes.EMFILE, codes.ENFILE, codes.ENOMEM})
INTERRUPTED = frozenset({codes.EINTR})
TRY_AGAIN = frozenset({codes.EINTR, codes.EAGAIN})
READING = TRY_AGAIN | {codes.ECONNRESET, codes.ETIMEDOUT, codes.EHOSTUNREACH}
WRITING = TRY_AGAIN | {codes.EPIPE, codes.ECONNRESET, codes.ENOBUFS, codes.ENOMEM}

# Site of the shim -> errors. An empty set: it is counted and never fails, as OTHERWISE says.
SITES: Final[dict[str, frozenset[int]]] = {
    "accept4": frozenset(
        {
            codes.EINTR,
            codes.EAGAIN,
            codes.ECONNABORTED,
            codes.EPERM,
            codes.ENOBUFS,
            *NO_DESCRIPTORS,
        }
    ),
    "socket": NO_DESCRIPTORS | {codes.ENOBUFS, codes.EACCES},
    "connect": frozenset(
        {
            codes.EINTR,
            codes.EADDRNOTAVAIL,
            codes.ECONNREFUSED,
            codes.ENETUNREACH,
            codes.EHOSTUNREACH,
            codes.ETIMEDOUT,
            codes.EACCES,
            codes.EPERM,
            codes.ENOBUFS,
            codes.ENOMEM,
        }
    ),
    # Only where a control group has a program attached to the call.
    "setsockopt_nodelay": frozenset({codes.ENOMEM, codes.EPERM}),
    "setsockopt_linger": frozenset({codes.ENOMEM, codes.EPERM}),
    "getsockopt": frozenset(),
    "getpeername": frozenset({codes.ENOTCONN}),
    "recv": READING | SHORT,
    "recv_peek": READING | SHORT,
    "recv_drop": INTERRUPTED | SHORT,  # what has been seen is there
    "recvmmsg": READING | SHORT,
    "recvmmsg_peek": READING | SHORT,
    # One call takes what one has shown: both stop at the same places (unix_stream_read_generic).
    "recvmmsg_drop": INTERRUPTED,
    "send": WRITING | SHORT,
    "send_nothing": TRY_AGAIN | {codes.ECONNREFUSED, codes.EHOSTUNREACH, codes.ENOBUFS},
    "send_message": TRY_AGAIN | {codes.ENOBUFS, codes.ENOMEM},
    "sendmmsg": WRITING | SHORT,
    "splice_in": READING | SHORT | {codes.ENOMEM},
    "splice_out": TRY_AGAIN | SHORT | {codes.EPIPE, codes.ECONNRESET, codes.ENOMEM},
    "tee": TRY_AGAIN | SHORT | {codes.ENOMEM},
    "write": INTERRUPTED | SHORT | {codes.ENOMEM},  # a page for the pipe
    "read": TRY_AGAIN,
    "pipe2": frozenset({codes.EMFILE, codes.ENFILE}),
    "fcntl_size": frozenset({codes.EPERM, codes.ENOMEM}),
    "shutdown": frozenset({codes.ENOTCONN}),
    "close": frozenset({codes.EINTR, codes.EIO}),
    "epoll_create1": NO_DESCRIPTORS,
    "epoll_ctl_add": frozenset({codes.ENOMEM, codes.ENOSPC}),
    "epoll_wait": INTERRUPTED | {ONE_BYTE},
    "recvmsg": TRY_AGAIN,
    "sendmsg": TRY_AGAIN | {codes.ENOBUFS, codes.ENOMEM, codes.ETOOMANYREFS},
    "signalfd": NO_DESCRIPTORS,
    "opendir": NO_DESCRIPTORS | {codes.EACCES, codes.ENOENT},
    "clone": frozenset({codes.EAGAIN, codes.ENOMEM}),
    "epoll_ctl_mod": frozenset(),
    "epoll_ctl_del": frozenset(),
    "fcntl": frozenset(),
    "ioctl": frozenset(),
    "fstat": frozenset(),
    "getrlimit": frozenset(),
}

OTHERWISE: Final[dict[str, str]] = {
    "epoll_ctl_mod": "needs memory only for EPOLLWAKEUP",
    "epoll_ctl_del": "needs nothing",
    "getsockopt": "needs nothing; a descriptor of which the kind is not told is given up",
    "fcntl": "F_GETFD and F_GETPIPE_SZ need nothing",
    "ioctl": "SIOCINQ, SIOCOUTQ and FIONREAD need nothing",
    "fstat": "needs nothing for a socket or a pipe",
    "getrlimit": "needs nothing",
}

# What the modules link against besides the sites: no system call, or none that can fail.
HARMLESS: Final[dict[str, str]] = {
    "bind": "asks whether the host has an address: that it fails is the answer",
    "dup2": "the log's new file in place of the old one, which goes on if it fails",
    **dict.fromkeys(
        [
            "memchr",
            "memcmp",
            "strcmp",
            "memcpy",
            "memmove",
            "memset",
            "explicit_bzero",
            "snprintf",
            "strlen",
            "strchr",
            "strnlen",
            "strrchr",
            "strtol",
            "__errno_location",
            "__assert_fail",
            "__cxa_finalize",
            "sigaddset",
            "sigemptyset",
            "__stack_chk_fail",
            "__isoc23_strtol",
        ],
        "no system call",
    ),
    **dict.fromkeys(["calloc", "malloc", "realloc", "free"], "glibc asks for memory on its own"),
    **dict.fromkeys(["readdir", "dirfd", "closedir"], "of what opendir has opened"),
    **dict.fromkeys(["getpid", "getppid", "geteuid"], "never fail"),
    "getsockname": "without it a line of the access log lacks an address",
    "clock_gettime": "wrapped for its clocks; the ones in use always exist",
    **dict.fromkeys(
        [
            "clock_getcpuclockid",
            "kill",
            "open",
            "open64",
            "poll",
            "prctl",
            "sigtimedwait",
            "sigprocmask",
        ],
        "made by the guardian only",
    ),
    "stat": "of /proc/self/fd; without it a count is missing",
    "waitpid": "does not wait, and asks for a child alone",
}

# Made at the start of an incarnation: to see them fail, the worker has to be killed.
AT_START = frozenset(
    {"epoll_create1", "signalfd", "opendir", "send_message", "fcntl", "fstat", "getrlimit"}
)
# An incarnation that ends there is not counted yet as begun.
UNCOUNTED = frozenset({"opendir", "fcntl", "getrlimit"})
# Made before an incarnation is counted, and after: a death there may count or not.
COUNTED_OR_NOT = frozenset({"getsockopt", "fstat"})
# Without these an incarnation can't begin: the guardian starts another.
INDISPENSABLE = frozenset({"epoll_create1", "signalfd", "epoll_ctl_add"})
# As AT_START, and only if the dead incarnation was just accepting or connecting.
AFTER_ACCEPT = frozenset({"getpeername"})
# Made by the guardian.
BY_GUARDIAN = frozenset({"clone"})
# Made only for a second worker to hand connections over to, or a new master.
WITH_OTHERS = frozenset({"sendmsg", "epoll_ctl_del"})


def name_of(error: int) -> str:
    """EINTR and the like; what is no error has a name too."""
    names = {
        ONE_BYTE: "one-byte",
        HALF: "half",
        DIE_BEFORE: "die-before",
        DIE_AFTER: "die-after",
    }
    return names.get(error) or codes.errorcode[error]
