"""`log` of routes.yaml: every process of an instance logs as it says, where it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from tests.integration.proxy import Proxy, tcpmux
from tests.integration.routes import route, routes
from tests.support import EchoServer, ask, free_port, refusing_port, wait_for
from tests.unit.test_log_targets import entry

# Becomes a command that finds these directories instead of the system's, with devices.
ELSEWHERE = """
mkdir -p dev run/systemd/journal
for file in null zero random urandom; do touch dev/$file; mount --bind /dev/$file dev/$file; done
mkdir -p dev/shm
mount --bind dev /dev && mount --bind run /run && exec "$@"
"""


class Elsewhere:
    """Directories where /dev and /run are for tcpmux, and sockets in them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._sockets: dict[str, socket.socket] = {}
        self.reads = True
        self.lines: dict[str, list[bytes]] = {"dev/log": [], "run/systemd/journal/socket": []}

    @property
    def prefix(self) -> list[str]:
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        script = f"cd {self.directory} && {ELSEWHERE}"
        return ["unshare", "--mount", *user, "sh", "-ec", script, "sh"]

    def open(self, name: str) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sock.bind(str(path))
        path.chmod(0o666)
        self._sockets[name] = sock

    def close(self, name: str) -> None:
        self._sockets.pop(name).close()
        (self.directory / name).unlink()

    def read(self, name: str) -> list[bytes]:
        """All that has come."""
        with suppress(BlockingIOError):
            while self.reads and name in self._sockets:
                self.lines[name].append(self._sockets[name].recv(1 << 20))
        return self.lines[name]

    def end(self) -> None:
        for sock in self._sockets.values():
            sock.close()


class Logged(Proxy):
    """One whose log is not only what it writes to standard error. also: where else it goes."""

    also: Callable[[], str] = str

    @property
    def stderr(self) -> str:
        return self.log_file.read_text()

    @property
    def log(self) -> str:
        return self.stderr + self.also()


Start = Callable[..., Logged]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Logged] = []

    def begin(config: dict[str, Any], also: Callable[[], str], **more: Any) -> Logged:
        directory = tmp_path / f"proxy{len(started)}"
        directory.mkdir()
        kind = type("AlsoLogged", (Logged,), {"also": staticmethod(also)})
        started.append(kind(directory, config, **more))
        return started[-1]

    yield begin
    for proxy in started:
        proxy.stop()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    with TemporaryDirectory() as directory:  # a short name: a socket's has at most 107 bytes
        made = Elsewhere(Path(directory))
        probe = subprocess.run([*made.prefix, "true"], capture_output=True, check=False)
        if probe.returncode:
            pytest.skip("needs a mount namespace")
        yield made
        made.end()


def failing(port: int, dead: int, **log: str) -> dict[str, Any]:
    """A route to an endpoint that refuses."""
    part = route("r", port, v1=(1, f"127.0.0.1:{dead}"))
    return routes({**part, "passive": "off"}, log=log)


def to_file(part: dict[str, Any], file: Path) -> dict[str, Any]:
    return routes(part, log={"target": "file", "file": str(file)})


def kill_worker(proxy: Proxy) -> None:
    os.kill(proxy.worker_pids()[0], signal.SIGKILL)


def test_a_file_as_json_has_the_lines_of_every_process_and_is_opened_again(
    start: Start, tmp_path: Path
) -> None:
    """What was written meanwhile is in the old one, what comes later in the new one, from the
    master, control, the log process and guardians; and what they write to standard error."""
    port, file, old = free_port(), tmp_path / "tcpmux.log", tmp_path / "tcpmux.log.1"

    def text() -> str:
        return "".join(path.read_text() for path in (old, file) if path.exists())

    def lines(path: Path) -> list[dict[str, Any]]:
        whole = path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    with refusing_port() as dead:
        config = failing(port, dead, target="file", file=str(file), format="json", level="debug")
        proxy = start({**config, "access_log": "/dev/stderr"}, text)
        assert f"INFO from here on the log goes to {file} (log.target)" in proxy.stderr
        assert proxy.stderr.count("\n") == 1
        kill_worker(proxy)
        proxy.says("is running again")
        with suppress(OSError):
            ask(("127.0.0.1", port))
        # stderr as the access log's target is the file, too: a line for a connection.
        proxy.says('"route":"r","destination":"v1","endpoint":"127.0.0.1:' + str(dead))
        found = wait_for(
            lambda: [n for n in lines(file) if re.search("[0-9] connects? to ", str(n))],
            "it",
        )
        assert {key: found[0][key] for key in ("level", "process", "route", "destination")} == {
            "level": "warning",
            "process": "control",
            "route": "r",
            "destination": "v1",
        }
        assert {"master", "control"} <= {n["process"] for n in lines(file) if "process" in n}
        file.rename(old)
        proxy.process.send_signal(signal.SIGUSR1)
        wait_for(file.exists, "the new file")
        seen = len(old.read_text())

        def others_have_it() -> bool:
            found = [psutil.Process(proxy.process.pid), *map(psutil.Process, proxy.tree())]
            return all(os.readlink(f"/proc/{p.pid}/fd/2") == str(file) for p in found)

        wait_for(others_have_it, "every process to have the new one")
        assert len(proxy.tree()) == 2 * len(proxy.worker_pids()) + 2
        proxy.run("weight", "r", "v1=2")
        assert ("r", "weights") in [(n.get("route"), n.get("event")) for n in lines(file)]
        with suppress(OSError):
            ask(("127.0.0.1", port))
        wait_for(lambda: "connect to" in file.read_text(), "control's line")
        assert "weight" not in old.read_text()[seen:]
        wait_for(lambda: '"event":"end"' in file.read_text(), "the log process's line")


def test_a_new_build_goes_on_in_the_file_and_after_a_change_where_that_says(
    start: Start, one: EchoServer, tmp_path: Path
) -> None:
    """A change of target takes effect with it; the first standard error is not forgotten."""
    port, file = free_port(), tmp_path / "tcpmux.log"
    config = to_file(route("r", port, v1=(1, one.address)), file)
    proxy = start(config, lambda: file.read_text() if file.exists() else "")

    def upgraded(count: int) -> None:
        assert proxy.run("upgrade").returncode == 0
        proxy.says(f"upgrade {count}: done")
        proxy.says("control is ready", times=count)

    proxy.write("frobnicate: 1\n")
    proxy.run("upgrade")
    proxy.says("frobnicate")  # in the refusal, which the rehearsal gives the reason for
    assert "upgrade refused: " in file.read_text()
    proxy.write(config)
    upgraded(2)
    assert proxy.stderr.count("\n") == 1
    proxy.write(routes(route("r", port, v1=(1, one.address)), log={"level": "warning"}))
    assert proxy.run("reload").returncode == 0
    note = "log.target changes with the next start, not with a reload"
    assert note in file.read_text()
    proxy.write(routes(route("r", port, v1=(1, one.address))))
    assert proxy.run("reload").returncode == 0
    upgraded(3)
    assert "upgrade 3: done" in proxy.stderr
    assert "upgrade 3: done" not in file.read_text()
    links = {os.readlink(f"/proc/{pid}/fd/2") for pid in [proxy.process.pid, *proxy.tree()]}
    assert links == {str(proxy.log_file)}
    assert ask(("127.0.0.1", port)) == "one hello\n"


def test_a_file_that_cant_be_opened_is_told_and_standard_error_has_the_log(
    start: Start, one: EchoServer, tmp_path: Path
) -> None:
    """As soon as it can be, a SIGUSR1 has it used. A check says so before."""
    port, directory = free_port(), tmp_path / "later"
    file = directory / "tcpmux.log"
    config = to_file(route("r", port, v1=(1, one.address)), file)
    proxy = start(config, str)
    assert f"WARNING log.file {file}: No such file or directory: " in proxy.stderr
    assert "the log goes to standard error" in proxy.stderr
    checked = tcpmux("check", "-c", str(proxy.file))
    assert checked.returncode == 0
    assert f"warning: log.target file {file}: there is no directory {directory}: the log" in (
        checked.stderr
    )
    proxy.process.send_signal(signal.SIGUSR1)
    proxy.says("WARNING can't reopen the log, lines still go where they went: log.file")
    directory.mkdir()
    proxy.process.send_signal(signal.SIGUSR1)
    wait_for(file.exists, "the file")
    proxy.run("weight", "r", "v1=2")
    wait_for(lambda: "v1 1->2" in file.read_text(), "the line")
    assert tcpmux("check", "-c", str(proxy.file)).stderr == ""


def test_a_new_build_that_cant_open_the_file_says_so_on_the_first_standard_error(
    start: Start, one: EchoServer, tmp_path: Path
) -> None:
    """And goes on there, not in the file that it had."""
    directory = tmp_path / "log"
    directory.mkdir()
    file = directory / "tcpmux.log"
    config = to_file(route("r", free_port(), v1=(1, one.address)), file)
    proxy = start(config, lambda: file.read_text() if file.exists() else "")
    directory.chmod(0o777)
    assert proxy.run("upgrade").returncode == 0
    wait_for(lambda: "upgrade 1: done" in proxy.stderr, "the end of the upgrade")
    assert f"WARNING log.file {file}: " in proxy.stderr
    assert "upgrade 1: done" not in file.read_text()


def test_a_start_that_fails_is_told_of_on_standard_error_and_in_the_log(tmp_path: Path) -> None:
    file, routes_file = tmp_path / "tcpmux.log", tmp_path / "routes.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = routes(
            route("r", taken.getsockname()[1], v1=(1, "127.0.0.1:1")),
            log={"target": "file", "file": str(file)},
            admin={"socket": str(tmp_path / "admin")},
        )
        routes_file.write_text(json.dumps(config))
        done = tcpmux("run", "-c", str(routes_file))
    assert done.returncode != 0
    assert "in use" in done.stderr
    assert "ERROR" in file.read_text()
    assert "in use" in file.read_text()


def test_a_reload_changes_level_and_format_in_every_process(start: Start, tmp_path: Path) -> None:
    port = free_port()
    with refusing_port() as dead:
        proxy = start(failing(port, dead), str)
        proxy.write(failing(port, dead, format="json", level="debug"))
        assert proxy.run("reload").returncode == 0
        seen = proxy.log.index("log.format text->json")
        assert "log.level info->debug" in proxy.log

        def connects() -> list[dict[str, Any]]:
            with suppress(OSError):
                ask(("127.0.0.1", port))
            found = [json.loads(n) for n in proxy.log.splitlines() if n.startswith("{")]
            return [one for one in found if "connect to" in one["message"]]

        found = wait_for(connects, "a line of control at level debug")
        assert (found[0]["level"], found[0]["process"]) == ("debug", "control")
        assert found[0]["endpoint"] == f"127.0.0.1:{dead}"
        proxy.write(failing(port, dead, format="json", level="error"))
        assert proxy.run("reload").returncode == 0
        assert "log.level debug->error" in proxy.log  # the last line of its level
        end = len(proxy.log)
        proxy.run("weight", "r", "v1=2")
        proxy.run("log-level", "info")
        proxy.run("weight", "r", "v1=3")
        proxy.says("v1 2->3", after=end)
        assert "v1 1->2" not in proxy.log[end:]
        assert seen < end


def test_the_journal_gets_entries_with_fields_and_is_missed_when_it_is_away(
    start: Start, elsewhere: Elsewhere
) -> None:
    """From the master and from control; what can't be had there is on standard error."""
    name, port = "run/systemd/journal/socket", free_port()
    elsewhere.open(name)

    def also() -> str:
        return "\n".join(entry(packet)["MESSAGE"] for packet in elsewhere.read(name))

    with refusing_port() as dead:
        config = failing(port, dead, target="journal")
        proxy = start(config, also, prefix=elsewhere.prefix)
        assert "INFO from here on the log goes to journal (log.target)" in proxy.stderr
        assert proxy.stderr.count("\n") == 1

        def told() -> list[dict[str, str]]:
            with suppress(OSError):
                ask(("127.0.0.1", port))
            every = map(entry, elsewhere.read(name))
            return [one for one in every if " failed: " in one["MESSAGE"]]

        (found, *_) = wait_for(told, "control's line")
        assert found["PRIORITY"] == "4"
        assert found["TCPMUX_ROUTE"] == "r"
        assert found["TCPMUX_DESTINATION"] == "v1"
        assert found["TCPMUX_ENDPOINT"] == f"127.0.0.1:{dead}"
        assert int(found["SYSLOG_PID"]) == proxy.control_pid()
        elsewhere.close(name)
        proxy.run("weight", "r", "v1=2")
        wait_for(lambda: "v1 1->2" in proxy.stderr, "the line on standard error")
        assert "WARNING can't log to journal: /run/systemd/journal/socket: " in proxy.stderr
        elsewhere.open(name)
        proxy.run("weight", "r", "v1=3")
        proxy.says("v1 2->3")
        assert "v1 2->3" not in proxy.stderr
        assert "INFO the log goes to journal again" in proxy.stderr


def test_syslog_gets_lines_and_a_stuck_one_holds_nobody_up(
    start: Start, elsewhere: Elsewhere, one: EchoServer
) -> None:
    name, port = "dev/log", free_port()
    elsewhere.open(name)
    config = routes(route("r", port, v1=(1, one.address)), log={"target": "syslog"})
    proxy = start(
        config,
        lambda: "\n".join(packet.decode() for packet in elsewhere.read(name)),
        prefix=elsewhere.prefix,
    )
    pid = proxy.process.pid
    assert f"<30>tcpmux[{pid}]: INFO ready: " in proxy.log
    elsewhere.reads = False
    for number in range(2, 30):
        proxy.client.set_weights("r", {"v1": number})
    assert ask(("127.0.0.1", port)) == "one hello\n"
    elsewhere.reads = True
    elsewhere.read(name)
    proxy.client.set_weights("r", {"v1": 1})
    proxy.says("lines of this log were dropped: nobody took them")


def test_where_standard_error_is_the_journals_lines_have_priorities(
    tmp_path: Path, one: EchoServer
) -> None:
    """Those of control as well."""
    ours, theirs = socket.socketpair()
    port, file = free_port(), tmp_path / "routes.yaml"
    admin = tmp_path / "admin"
    config = routes(route("r", port, v1=(1, one.address)), admin={"socket": str(admin)})
    file.write_text(json.dumps(config))
    found = os.fstat(theirs.fileno())
    text = b""

    def said(what: bytes) -> bool:
        nonlocal text
        with suppress(BlockingIOError):
            text += ours.recv(1 << 16)
        return what in text

    with ours, theirs:
        ours.setblocking(False)
        process = subprocess.Popen(
            [sys.executable, "-m", "tcpmux", "run", "-c", str(file)],
            stderr=theirs.fileno(),
            env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
        )
        try:
            wait_for(lambda: said(b"control is ready"), "the start")
            process.terminate()
            wait_for(lambda: process.poll() is not None, "the end")
            said(b"")
        finally:
            process.kill()
            process.wait()
    assert b"<6>INFO ready: " in text
    assert all(line.startswith((b"<6>INFO ", b"<4>WARNING ")) for line in text.splitlines())
