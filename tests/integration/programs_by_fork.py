"""Has a master start its programs, such as control, without what takes most of that, which is to
import them: the master has imported them, forks, and the child goes on as the interpreter would. So
does the rehearsal of its first upgrade.

Only where a master is forked itself (starting.py). One that has become the next build starts them
as users have it.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import tcpmux.__main__ as program
from tcpmux import logs, programs
from tcpmux.control.ahead import load_all
from tcpmux.log_style import DEFAULT
from tcpmux.master.upgrade import REHEARSAL

_LOADED = (
    "argparse",
    "tcpmux.control.__main__",
    "tcpmux.control.assembly",
    "tcpmux.control.lookup",
    "tcpmux.logger.__main__",
    "aiohttp.http_exceptions",
)
START = [sys.executable, "-I", "-c", programs.BEGIN]


def load() -> None:
    for name in _LOADED:
        import_module(name)
    load_all()


def install() -> None:
    """In a process that has called load()."""
    setattr(subprocess, "Popen", _Popen)  # noqa: B010  # mypy: a class is not assigned to


class _Popen(subprocess.Popen[bytes]):
    def _execute_child(self, args: Sequence[str], *details: Any) -> None:
        """details: as Popen passes them on, by position. Of what they can ask for, which is much,
        only what a master does is done."""
        pass_fds, directory, environment = details[3:6]
        begin: Callable[[], object] = _master
        if list(args[: len(START)]) == START:
            begin = partial(_program, args[len(START) + 1 :])
        elif REHEARSAL in (environment or {}):
            pass_fds, directory = _inheritable(), Path.cwd()
        else:
            super()._execute_child(args, *details)  # type: ignore[misc]  # not in typeshed
            return
        standard = (details[9], details[12], details[14])  # -1: as the master's
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _masters.extend(gc.get_objects())
                _become(begin, before, standard, pass_fds, directory, environment)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._child_created = True
        for fd in {*standard} - {-1}:
            os.close(fd)


_masters: list[object] = []  # or their ends would close descriptors that are another's by now


def _program(arguments: Sequence[str]) -> object:
    sys.argv[:] = ["-c", programs.package(), *arguments]
    return programs.begin(*arguments[:2])


def _master() -> None:
    """With the arguments of this one."""
    sys.argv[:] = [program.__file__, *sys.orig_argv[3:]]
    program.main()  # type: ignore[attr-defined]  # which it imports


def _inheritable() -> list[int]:
    """What an exec leaves open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the list itself
            if os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _become(
    begin: Callable[[], object],
    mask: set[int | signal.Signals],
    standard: Sequence[int],
    fds: Sequence[int],
    directory: str,
    environment: dict[str, str],
) -> NoReturn:
    try:
        for number, fd in enumerate(standard):
            if fd != -1:
                os.dup2(fd, number)
        _close_all_but({0, 1, 2, *fds})
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        _forget_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        _forget_log()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    run(begin)


def run(begin: Callable[[], object]) -> NoReturn:
    """To its end, as the interpreter would: but that does not take all apart which was imported,
    and copies it for that, as it is shared with the process that has forked."""
    code: object = 1
    try:
        code = begin()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        with suppress(OSError):
            file.flush()
    os._exit(code or 0)


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _forget_log() -> None:
    atexit._clear()
    logging.root.handlers.clear()
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.filters.clear()
            if logger is not logging.root:
                logger.handlers.clear()
                logger.setLevel(logging.NOTSET)
    logs._Own.style, logs._Own.number, logs._Own.stderr = DEFAULT, None, None
