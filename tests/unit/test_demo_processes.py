"""What the demo knows of processes: who has a port, and that none of its own is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tcpmux.config import Address
from tcpmux.demo.processes import Child, descendants, holder
from tests.support import patient, wait_for

# A process and its child, which outlives it: it takes no notice of SIGTERM.
FAMILY = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() > 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print("ready", flush=True)
signal.pause()
"""


def test_the_family_of_a_process_is_found() -> None:
    command = [sys.executable, "-c", FAMILY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as parent:
        try:
            (child,) = wait_for(lambda: descendants(parent.pid), "its child")
            assert {parent.pid, child} <= descendants(os.getpid())
            assert not descendants(child)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_what_is_left_of_a_child_is_told_and_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child("it", "family", [], tmp_path / "log")
    child.await_line("ready", patient(20))
    (left,) = descendants(child.pid)
    assert child.end() == [f"a process of it was left (pid {left})"]
    wait_for(lambda: not runs(left), "it to be killed")


def runs(pid: int) -> bool:
    """Whether that process still runs; a dead one that nobody has waited for does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_who_has_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert holder(Address("127.0.0.1", port, "")).endswith(f" (pid {os.getpid()})")
    assert not holder(Address("127.0.0.1", port, ""))
