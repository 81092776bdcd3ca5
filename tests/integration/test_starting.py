"""What is forked ends, says and is told as what is started."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.integration.starting import Forked, start
from tests.support import DEADLINE


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
        patch.setenv("NOTIFY_SOCKET", "@nobody")
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
