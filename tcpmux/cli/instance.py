"""Which running instance a command talks to: named, or found among the processes."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tcpmux.control.client import (
    DEFAULT_SOCKET,
    TIMEOUT,
    VARIABLE,
    AdminError,
    Client,
    PermissionDenied,
)
from tcpmux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MASTER = "tcpmux: master"
CONTROL = "tcpmux: control"
PROBE_TIME = 1.0  # s

admin_option = click.option(
    "--admin",
    metavar="SOCKET",
    envvar=VARIABLE,
    default=None,
    help="Admin socket of the instance. [default: $TCPMUX_ADMIN, or the one that is running]",
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process that calls itself tcpmux. sockets None: we may not look at them."""

    pid: int
    title: str
    user: str
    sockets: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Instance:
    pid: int
    title: str
    socket: str


def candidates() -> list[Candidate]:
    """The masters and control processes on this machine, by pid."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cmdline", "username"]):
        # A title set by the process has no argument boundaries: psutil splits it at blanks.
        title = " ".join(process.info["cmdline"] or ()).strip()
        if not title.startswith((MASTER, CONTROL)):
            continue
        try:
            sockets = _bound_sockets(process)
        except psutil.AccessDenied:
            sockets = None
        except psutil.NoSuchProcess:
            continue
        found.append(Candidate(process.pid, title, str(process.info["username"]), sockets))
    return sorted(found, key=lambda candidate: candidate.pid)


def _bound_sockets(process: Any) -> tuple[str, ...]:
    """Paths of the UNIX stream sockets of a psutil.Process. Raises psutil.Error."""
    paths = {
        connection.laddr
        for connection in process.net_connections(kind="unix")
        if connection.type == socket.SOCK_STREAM
        and connection.laddr
        and not connection.laddr.startswith("@")  # abstract: never an admin socket
    }
    if any(not path.startswith("/") for path in paths):
        directory = Path(process.cwd())  # the kernel shows a path as it was bound
        paths = {str(directory / path) for path in paths}
    return tuple(sorted(paths))


def is_admin_socket(path: str) -> bool:
    """Whether the admin API answers there."""
    try:
        Client(path, PROBE_TIME).status()
    except PermissionDenied:
        return True  # the command itself will say whose it is
    except AdminError:
        return False
    return True


def instances(
    found: Iterable[Candidate], answers: Callable[[str], bool] = is_admin_socket
) -> list[Instance]:
    """The instances that these processes make up.

    A master may listen on UNIX sockets for its routes besides the admin socket. Control
    holds only the admin socket, so what both hold is it; a master's sockets are tried one
    by one only while it has no control process, as that shows in a route's counters.
    """
    held_by_control: dict[str, Candidate] = {}
    masters = []
    for candidate in found:
        if candidate.title.startswith(MASTER):
            masters.append(candidate)
        else:
            held_by_control.update(dict.fromkeys(candidate.sockets or (), candidate))
    by_socket: dict[str, Instance] = {}
    for master in masters:
        sockets: Sequence[str] = master.sockets or ()
        own = [path for path in sockets if path in held_by_control]
        if not own:
            own = list(sockets) if len(sockets) == 1 else [p for p in sockets if answers(p)]
        for path in own:
            by_socket.setdefault(path, Instance(master.pid, master.title, path))
    for path, control in held_by_control.items():  # whose master is gone
        by_socket.setdefault(path, Instance(control.pid, control.title, path))
    return sorted(by_socket.values(), key=lambda instance: instance.pid)


def choose(
    found: Sequence[Candidate],
    answers: Callable[[str], bool] = is_admin_socket,
    default: str = DEFAULT_SOCKET,
) -> str:
    """The admin socket to talk to. Raises UsageError if that is not clear."""
    running = instances(found, answers)
    if len(running) == 1:
        return running[0].socket
    if running:
        listed = "; ".join(f"pid {i.pid} ({i.title}) at {i.socket}" for i in running)
        raise UsageError(
            f"{len(running)} instances of tcpmux are running: choose one with --admin SOCKET: "
            f"{listed}"
        )
    hidden = [c for c in found if c.sockets is None and c.title.startswith(MASTER)]
    if hidden and not os.path.lexists(default):
        listed = "; ".join(f"pid {c.pid} ({c.title}) of user {c.user}" for c in hidden)
        raise UsageError(
            f"may not look for the admin socket of {listed}: use sudo, be that user, "
            "or name the socket with --admin"
        )
    return default


def client(admin: str | None, timeout: float = TIMEOUT) -> Client:
    """The way to the instance that --admin or TCPMUX_ADMIN names, or else the running one.

    timeout: s for an answer.
    """
    return Client(admin or choose(candidates()), timeout)
