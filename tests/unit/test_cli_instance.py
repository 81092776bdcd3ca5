"""Which instance a command talks to."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tcpmux.cli.instance import Candidate, Instance, candidates, choose, instances, is_admin_socket
from tcpmux.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

MASTER = Candidate(10, "tcpmux: master a.yaml", "root", ("/run/a.sock",))
CONTROL = Candidate(11, "tcpmux: control", "root", ("/run/a.sock",))
OTHER = Candidate(20, "tcpmux: master b.yaml", "root", ("/run/b.sock",))
HIDDEN = Candidate(30, "tcpmux: master c.yaml", "alice", None)


def never(path: str) -> bool:
    raise AssertionError(f"{path} was tried")


def test_one_instance_is_the_one() -> None:
    assert choose([MASTER, CONTROL], never) == "/run/a.sock"
    assert choose([MASTER], never) == "/run/a.sock"


def test_a_routes_socket_is_told_from_the_admin_socket_without_a_connection_to_it() -> None:
    both = Candidate(10, MASTER.title, "root", ("/run/a.sock", "/run/route.sock"))
    assert choose([both, CONTROL], never) == "/run/a.sock"


def test_without_control_the_sockets_are_tried() -> None:
    both = Candidate(10, MASTER.title, "root", ("/run/a.sock", "/run/route.sock"))
    assert choose([both], lambda path: path == "/run/a.sock") == "/run/a.sock"


def test_control_alone_is_an_instance_too() -> None:
    assert instances([CONTROL], never) == [Instance(11, "tcpmux: control", "/run/a.sock")]


def test_several_are_listed() -> None:
    with pytest.raises(UsageError) as caught:
        choose([MASTER, CONTROL, OTHER], never)
    assert str(caught.value) == (
        "2 instances of tcpmux are running: choose one with --admin SOCKET: "
        "pid 10 (tcpmux: master a.yaml) at /run/a.sock; "
        "pid 20 (tcpmux: master b.yaml) at /run/b.sock"
    )


def test_none_means_the_default_socket() -> None:
    assert choose([], never) == "/run/tcpmux.sock"


def test_somebody_elses_instance_is_named(tmp_path: Path) -> None:
    default = tmp_path / "tcpmux.sock"
    with pytest.raises(UsageError, match=r"pid 30 \(tcpmux: master c.yaml\) of user alice"):
        choose([HIDDEN], never, str(default))
    default.touch()
    assert choose([HIDDEN], never, str(default)) == str(default)
    assert choose([HIDDEN, OTHER], never, str(default)) == "/run/b.sock"


def test_a_socket_that_says_nothing_is_no_admin_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "left-over.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    assert not is_admin_socket(path)
    assert not is_admin_socket(str(tmp_path / "missing.sock"))


def test_masters_are_found_by_title_with_the_sockets_they_hold(tmp_path: Path) -> None:
    program = (
        "import setproctitle, signal, socket\n"
        "listener = socket.socket(socket.AF_UNIX); listener.bind('admin.sock'); listener.listen()\n"
        "setproctitle.setproctitle('tcpmux: master found.yaml')\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            found = {candidate.pid: candidate for candidate in candidates()}
            master = found[process.pid]
            assert master.title == "tcpmux: master found.yaml"
            assert master.sockets == (str(tmp_path / "admin.sock"),)
        finally:
            process.kill()
