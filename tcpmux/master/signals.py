"""Signals of the master: a handler only writes down and wakes, the loop takes one at a time."""

from __future__ import annotations

import os
import signal
from types import FrameType

HANDLED = (
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    # Not used; its default action would kill a proxy for a slip of the finger.
    signal.SIGUSR1,
)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The interpreter writes the number to the wake-up descriptor; that is all there is to do."""


class SignalQueue:
    """Signals as bytes in a pipe whose read end the loop selects on."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # A full pipe holds 64 Ki signals nobody has looked at: dropping more loses nothing.
        self._old_wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, _nothing) for number in HANDLED}
        self.resume()  # the build before this one may have deferred them

    def fileno(self) -> int:
        return self._read_end

    def take(self) -> list[signal.Signals]:
        """What arrived since the last call, in order."""
        try:
            numbers = os.read(self._read_end, 65536)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers]

    def defer(self) -> None:
        """Before an exec: signals are pending from now on, also those that nobody has taken, until
        the next program makes its queue or, if there is none, until resume()."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        for number in self.take():
            signal.raise_signal(number)

    @staticmethod
    def resume() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def close(self) -> None:
        """Restores what was there before."""
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._read_end)
        os.close(self._write_end)
