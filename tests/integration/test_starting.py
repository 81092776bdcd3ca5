"""What is forked ends, says and is told as what is started."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.starting import Forked, start
from tests.support import DEADLINE, free_port, wait_for


@pytest.mark.parametrize("prefix", [(), ("env",)], ids=["forked", "started"])
def test_it_ends_with_a_code_and_writes_into_the_log(tmp_path: Path, prefix: tuple[str]) -> None:
    (tmp_path / "r.yaml").write_text("routes: 5\n")
    for arguments, code, said in [
        (["--version"], 0, "tcpmux "),
        (["check", "-c", str(tmp_path / "r.yaml")], 2, f"{tmp_path}/r.yaml:"),
    ]:
        with (tmp_path / "log").open("w+b") as log:
            process = start(arguments, log, prefix)
            assert process.wait(DEADLINE) == process.poll() == process.returncode == code
            assert isinstance(process, Forked) == (not prefix)
            assert (tmp_path / "log").read_text().startswith(said)


def test_what_has_another_environment_or_directory_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind() -> type:
        with (tmp_path / "log").open("wb") as log:
            process = start(["--version"], log)
            assert process.wait(DEADLINE) == 0
            return type(process)

    assert kind() is Forked
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONOPTIMIZE", "1")
        assert kind() is subprocess.Popen
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        assert kind() is subprocess.Popen
    assert kind() is Forked


def test_a_signal_ends_it(tmp_path: Path, open_path: Path) -> None:
    """Which waits for the answer of a server that gives none."""
    with (tmp_path / "log").open("wb") as log, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(open_path / "s"))
        silent.listen()
        process = start(["status", "--admin", str(open_path / "s")], log)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0)
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
        process.kill()  # nobody gets that


SAME = (
    *("Uid", "Gid", "Groups", "Threads", "NoNewPrivs", "Seccomp"),
    *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn", "SigCgt"),
)


def has(process: psutil.Process) -> dict[str, object]:
    """What a process can have got of the one that started it."""
    at = Path(f"/proc/{process.pid}")
    lines = (line.partition(":") for line in (at / "status").read_text().splitlines())
    return {
        **{name: value.strip() for name, _, value in lines if name in SAME},
        "directory": os.readlink(at / "cwd"),
        "limits": (at / "limits").read_text(),
        "owner": at.stat().st_uid,  # of what it may be looked at by
        # Sockets, pipes, memory; not which ones.
        "open": sorted(
            re.sub(r"[0-9]+", "", os.readlink(fd)).removesuffix(" (deleted)")
            for fd in (at / "fd").iterdir()
        ),
    }


def test_programs_of_a_forked_master_are_what_others_are(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    """They have nothing of it that they are not given."""

    def programs(proxy: Proxy) -> dict[str, dict[str, object]]:
        found = psutil.Process(proxy.process.pid).children()
        named = {process.cmdline()[0]: process for process in found}
        return {name: has(named[f"tcpmux: {name}"]) for name in ("control", "log")}

    def config() -> dict[str, Any]:
        log = str(tmp_path / f"access{free_port()}")
        return routes(route("r", free_port(), v1=(1, "127.0.0.1:1")), access_log=log)

    forked, started = start_proxy(config()), start_proxy(config(), prefix=["env"])
    assert isinstance(forked.process, Forked)
    assert isinstance(started.process, subprocess.Popen)
    # Each has an open connection at times, by which it is asked for its status.
    wait_for(lambda: programs(forked) == programs(started), "no difference")
