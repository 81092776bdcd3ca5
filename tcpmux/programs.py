"""How a process of tcpmux starts another program of tcpmux, and how that begins.

A program gets our own package first and nothing that lies in somebody's directory (python -I), the
little of the environment that it needs, and the user that it is to become. It starts as whoever
started it, so that an interpreter and a package that only root can read will do, loads all that it
ever needs, and then calls drop(), before it looks at anything that comes from outside.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from os.path import dirname
from typing import NoReturn

import setproctitle

import tcpmux
from tcpmux import privileges
from tcpmux.privileges import User

GUARDIAN = "tcpmux.worker.__main__"  # the module of the program that a guardian becomes
# Of the environment. Not the service manager's: nobody but the master may speak for the service.
PASSED = (
    "PATH",
    "LANG",
    "TZ",
    "JOURNAL_STREAM",  # whether standard error is the journal's
    # Libraries that everything here is to be run with, as another allocator or a sanitizer.
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "ASAN_OPTIONS",
    "UBSAN_OPTIONS",
    "TSAN_OPTIONS",
    # Of resolvers and TLS: how names are looked up, and whose certificates are trusted.
    "HOSTALIASES",
    "LOCALDOMAIN",
    "RES_OPTIONS",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)
BEGIN = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from tcpmux.programs import begin; sys.exit(begin(*sys.argv[2:4]))"
)
# Without `site`, which an interpreter spends most of its start on (.pth files, finders of editable
# installs): so there is one more argument, where to find what is not ours.
QUICK_BEGIN = f"import sys; sys.path.append(sys.argv.pop(2)); {BEGIN}"

_to_become: list[User] = []  # empty: this process was not started as a program


def package() -> str:
    """The directory that our package is in."""
    return dirname(dirname(tcpmux.__file__))


def command(module: str, arguments: Sequence[str], user: User) -> list[str]:
    """The command line for a program: its module has a main(), which calls drop()."""
    return [sys.executable, "-I", "-c", BEGIN, package(), module, user.text, *arguments]


def quick_command(module: str, arguments: Sequence[str], user: User) -> list[str]:
    """As command(), for a program that connections wait for. Of what is not ours it can import
    setproctitle and what lies beside it."""
    found = [package(), dirname(dirname(setproctitle.__file__))]
    return [sys.executable, "-I", "-S", "-c", QUICK_BEGIN, *found, module, user.text, *arguments]


def environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in PASSED or name.startswith("LC_")
    }


def start_program(module: str, arguments: Sequence[str], user: User) -> NoReturn:
    """Becomes that program, by quick_command(). Raises OSError."""
    os.execve(sys.executable, quick_command(module, arguments, user), environment())  # noqa: S606


def begin(module: str, user: str) -> object:
    """The beginning of a program, with the arguments that are its own in sys.argv."""
    sys.argv[:] = [module, *sys.argv[4:]]
    _to_become.append(User.parse(user))
    return import_module(module).main()


def drop() -> None:
    """Becomes, for good, the user that the program was started for. Ends the process if that
    can't be."""
    try:
        (user,) = _to_become
        privileges.drop(user)
    except (OSError, ValueError) as error:
        sys.exit(f"{sys.argv[0]}: can't give up its rights: {error}")
