"""Processes that the master may signal, each held so that no other can be meant.

A number alone is never signalled. What is held was forked here, or the kernel named it as the
sender of a message over a line that only our own processes have; and it runs as they do. Runs in
the master.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from tcpmux.processes import Sender, has_ended, uid_of


class Held:
    """A process, by a pidfd. Where there are none (some containers) only a child can be
    signalled: its pid is its own until it is reaped here."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd  # -1 = not permitted here

    @classmethod
    def child(cls, pid: int) -> Held:
        """Of one that this process has forked and not reaped."""
        return cls(pid, _open(pid))

    @classmethod
    def sender(cls, sender: Sender, uid: int) -> Held | None:
        """Of who sent a message; takes its pidfd. uid: as whom our processes run. None: it is
        gone, or it runs as somebody else, so it is none of ours."""
        pid, pidfd = sender.pid, sender.pidfd
        sender.pidfd = -1
        if pidfd < 0 and not sender.gone:
            pidfd = _open_sender(pid, uid)
        if sender.gone or sender.uid != uid or pid <= 1 or pid == os.getpid():
            if pidfd >= 0:
                os.close(pidfd)
            return None
        return cls(pid, pidfd)

    def signal(self, number: signal.Signals) -> None:
        """Nothing if it has ended, or can't be signalled safely."""
        with suppress(ProcessLookupError, PermissionError):
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, number)
            elif is_own_child(self.pid):
                os.kill(self.pid, number)

    @property
    def has_ended(self) -> bool:
        """False if that can't be told."""
        return self.pidfd >= 0 and has_ended(self.pidfd)

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pidfd = -1


def is_own_child(pid: int) -> bool:
    """Whether this is a child of ours that has not been reaped, so that its number is its own."""
    if pid <= 1:
        return False
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return False
    return True


def _open(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def _open_sender(pid: int, uid: int) -> int:
    """Before Linux 6.5. Between its message and now it may have ended, and its pid may be
    another's: so that one has to run as our processes do, or -1."""
    pidfd = _open(pid)
    if pidfd < 0:
        return -1
    if os.geteuid() == 0 and uid_of(pid) != uid:  # without root, it could not be signalled
        os.close(pidfd)
        return -1
    return pidfd
