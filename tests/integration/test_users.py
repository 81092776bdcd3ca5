"""Who does what: the master as root, all others as a user that may do nothing else.

Of a test run that is not root's, only what belongs to every user is tested.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

import tcpmux as package
from tcpmux.master.takeover import SUFFIX
from tcpmux.privileges import KEPT
from tcpmux.worker.messages import CLAIM, MESSAGE
from tests.integration.conftest import StartProxy
from tests.integration.looking import metric
from tests.integration.proxy import Proxy, tcpmux
from tests.integration.routes import route, routes
from tests.integration.test_survival import all_talk, conversations, kill_master, upgraded
from tests.others import NOBODY, OTHER, as_other, certificate, needs_reachable, needs_root
from tests.support import DEADLINE, TOKEN, EchoServer, ask, free_port, patient, wait_for


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def others_of(proxy: Proxy) -> list[psutil.Process]:
    """All processes of it but the master, once they have given up what they started with."""
    proxy.children |= proxy.tree()
    return [psutil.Process(pid) for pid in proxy.tree()]


@pytest.fixture
def log_dir(open_path: Path) -> Path:
    made = open_path / "logs"
    made.mkdir(mode=0o755)
    return made


@needs_root
def test_only_the_master_is_root(
    start_proxy: StartProxy,
    one: EchoServer,
    port: int,
    log_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And it keeps little; the others have nothing, can't get anything, and know no secrets."""
    monkeypatch.setenv("SECRET", "in the environment of root")
    proxy = start_proxy(
        routes(route("r", port, v1=(1, one.address)), access_log=str(log_dir / "access.log"))
    )
    assert ask(("127.0.0.1", port)) == "one hello\n"
    # Control can't look at the workers, which count for it.
    assert metric(proxy.admin, "tcpmux_worker_open_fds") > 10
    master = status_of(proxy.process.pid)
    kept = sum(1 << number for number in KEPT.values())
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(master[name], 16) & ~kept == 0
    assert master["NoNewPrivs"] == "1"
    found = others_of(proxy)
    names = {process.name() for process in found}
    assert {"tcpmux: control", "tcpmux: log"} <= names
    for process in found:
        status = status_of(process.pid)
        assert status["Uid"].split() == [str(NOBODY)] * 4, process
        assert status["Gid"].split() == [str(NOBODY)] * 4
        assert status["Groups"] == ""
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0
        assert status["NoNewPrivs"] == "1"
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert "Max core file size        0                    0 " in limits
        # Not dumpable: its files in /proc are root's, so that none of its user traces it.
        assert Path(f"/proc/{process.pid}/environ").stat().st_uid == 0
        if process.name() in ("tcpmux: control", "tcpmux: log"):
            assert b"SECRET" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    proxy.says("all processes except the master run as user nobody (uid 65534)", times=1)


@needs_root
def test_another_user_and_group(start_proxy: StartProxy, one: EchoServer, port: int) -> None:
    """By number, whether the host knows them or not; a reload does not change them."""
    config = routes(route("r", port, v1=(1, one.address)))
    proxy = start_proxy({"user": OTHER, "group": 4243, **config})
    for process in others_of(proxy):
        assert status_of(process.pid)["Uid"].split()[1] == str(OTHER)
        assert status_of(process.pid)["Gid"].split()[1] == "4243"
    assert ask(("127.0.0.1", port)) == "one hello\n"
    proxy.reload({"user": "daemon", **config})
    proxy.says("user changes with the next start, not with a reload")
    assert ask(("127.0.0.1", port)) == "one hello\n"


@needs_root
def test_root_for_all_is_said(start_proxy: StartProxy, one: EchoServer, port: int) -> None:
    proxy = start_proxy({"user": "root", **routes(route("r", port, v1=(1, one.address)))})
    proxy.says("WARNING all processes run as root, with all privileges")
    assert {status_of(p.pid)["Uid"].split()[1] for p in others_of(proxy)} == {"0"}
    assert ask(("127.0.0.1", port)) == "one hello\n"


def refused(open_path: Path, text: str, **extra: Any) -> str:
    file = open_path / "routes.yaml"
    file.write_text(
        f"{text}\nadmin: {{socket: {open_path}/admin.sock}}\n"
        f"routes: [{{name: r, listen: '127.0.0.1:{free_port()}', "
        "destinations: [{name: v1, endpoints: ['127.0.0.1:1']}]}]\n"
    )
    result = tcpmux("-c", str(file), **extra)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    return result.stderr


@needs_root
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user: no-such-user", "user: there is no user no-such-user on this host"),
        ("group: no-such-group", "group: there is no group no-such-group on this host"),
        (
            "user: 4242",
            "user: uid 4242 has no entry among the users of this host: set `group` as well",
        ),
    ],
)
def test_who_is_not_there_is_refused(open_path: Path, text: str, said: str) -> None:
    assert said in refused(open_path, text)


@needs_root
@pytest.mark.parametrize(
    ("right", "said"),
    [
        ("setuid", "can't become user nobody"),
        ("kill", "root lacks CAP_KILL here, and could not stop processes of user nobody"),
    ],
)
def test_a_root_without_the_right_to_it_is_told(open_path: Path, right: str, said: str) -> None:
    """As in a container that has dropped it."""
    file = open_path / "routes.yaml"
    file.write_text("routes: []\n")
    refused(open_path, "user: no-such-user")
    result = subprocess.run(
        [
            *("setpriv", f"--bounding-set=-{right}", sys.executable, "-m", "tcpmux"),
            *("-c", str(write(open_path, "user: nobody"))),
        ],
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
    )
    assert result.returncode == 2
    assert said in result.stderr
    assert "`user: root`" in result.stderr


def write(directory: Path, text: str, **more: Any) -> Path:
    file = directory / "routes.yaml"
    config = {
        "admin": {"socket": str(directory / "admin.sock")},
        **routes(route("r", free_port(), v1=(1, "127.0.0.1:1"))),
        **more,
    }
    file.write_text(f"{text}\n{yaml.safe_dump(config)}")
    return file


@needs_root
@needs_reachable
def test_started_as_somebody_it_stays_that(open_path: Path, one: EchoServer) -> None:
    """It works as before, and nothing in it has more rights than it needs."""
    os.chown(open_path, OTHER, OTHER)
    port = free_port()
    file = open_path / "routes.yaml"
    config = {
        "workers": 1,
        "admin": {"socket": str(open_path / "admin.sock")},
        "access_log": str(open_path / "access.log"),
        **routes(route("r", port, v1=(1, one.address))),
    }
    file.write_text(yaml.safe_dump(config))
    person: dict[str, Any] = {"user": OTHER, "group": OTHER, "extra_groups": []}
    assert "only root can become another user" in as_somebody_refused(file, "user: root", person)
    process = subprocess.Popen(
        [sys.executable, "-m", "tcpmux", "-c", str(file)],
        stderr=subprocess.PIPE,
        text=True,
        **person,
    )
    try:
        wait_for(lambda: answers(port), "it to serve")
        wait_for((open_path / "access.log").exists, "the log")
        tree = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
        wait_for(lambda: all(is_bare(pid) for pid in tree), "all to be without rights")
        result = tcpmux("status", "--admin", str(open_path / "admin.sock"), **person)
        assert result.returncode == 0, result.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=patient(20))
    assert process.returncode == 0, said
    assert f"run as user {OTHER} (uid {OTHER})" in said


def as_somebody_refused(file: Path, line: str, person: dict[str, Any]) -> str:
    other = file.with_name("other.yaml")
    other.write_text(f"{line}\n{file.read_text()}")
    result = tcpmux("-c", str(other), **person)
    assert result.returncode == 2
    return result.stderr


def is_bare(pid: int) -> bool:
    status = status_of(pid)
    rights = [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")]
    return status["NoNewPrivs"] == "1" and rights == [0, 0, 0]


def answers(port: int) -> bool:
    try:
        return ask(("127.0.0.1", port)) == "one hello\n"
    except OSError:
        return False


@needs_root
def test_who_runs_as_the_user_may_neither_claim_nor_command(
    start_proxy: StartProxy, one: EchoServer, port: int
) -> None:
    """Its workers are of that user, and other programs may be, too."""
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    for directory in [proxy.directory, *proxy.directory.parents][:-2]:
        directory.chmod(0o755)
    for path in (proxy.admin, proxy.admin + SUFFIX):
        os.chmod(path, 0o666)  # noqa: S103
    said = tell_from(partial(status_over, proxy.admin))
    assert b" 403 " in said
    assert b"user 65534 may not: only root may" in said
    kill_master(proxy)
    wait_for(lambda: proxy.status()["state"] == "orphaned", "control to notice")
    assert tell_from(partial(claim_over, proxy.admin + SUFFIX)) == b"refused"
    proxy.start()
    assert ask(("127.0.0.1", port)) == "one hello\n"


def tell_from(act: Any) -> bytes:
    """What act() says when it is done as nobody."""
    ours, theirs = socket.socketpair()
    with ours, theirs, as_other(lambda: theirs.sendall(act()), NOBODY):
        ours.settimeout(DEADLINE)
        return ours.recv(65536)


def status_over(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(path)
        sock.sendall(b"GET /v1/status HTTP/1.1\r\nHost: tcpmux\r\n\r\n")
        return sock.recv(65536)


def claim_over(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(path)
        try:
            sock.send(MESSAGE.pack(CLAIM, 0, 0, 0, 0))
            data, fds, _, _ = socket.recv_fds(sock, 100, 100)
        except OSError:
            return b"refused"
        return b"given %d" % len(fds) if data else b"refused"


@needs_root
def test_a_socket_that_the_user_may_not_reach_is_told(
    start_proxy: StartProxy,
    echo_servers: Any,
    one: EchoServer,
    port: int,
    tmp_path: Path,
    open_path: Path,
) -> None:
    """By check, in the log, and as a failure of that endpoint: others serve meanwhile."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    path = f"{hidden}/server.sock"
    echo_servers("hidden", socket.AF_UNIX, path)
    config = routes(route("r", port, v1=(1, f"unix:{path}")))
    config["routes"][0]["destinations"][0]["endpoints"].append(one.address)
    file = write(open_path, "", **config)
    result = tcpmux("check", "-c", str(file))
    assert result.returncode == 0
    assert f"user nobody may not connect to unix:{path}" in result.stderr
    proxy = start_proxy(config)
    assert [ask(("127.0.0.1", port)) for _ in range(4)] == ["one hello\n"] * 4
    proxy.says("ERROR user nobody may not connect to endpoint")
    proxy.says(f"unix:{path}: permission denied")


@needs_root
def test_new_masters_and_builds_keep_the_user(
    start_proxy: StartProxy, one: EchoServer, port: int
) -> None:
    """A takeover, deaths of all kinds; and the file is not what decides then."""
    config = routes(route("r", port, v1=(1, one.address)))
    proxy = start_proxy(config)
    with conversations(port, 4) as clients:
        kill_master(proxy)
        proxy.write({"user": OTHER, "group": OTHER, **config})
        proxy.start()
        proxy.says("a change of user or group takes effect at the next start")
        for pid in proxy.worker_pids():
            os.kill(pid, signal.SIGKILL)
        all_talk(clients)
        os.kill(proxy.guardian_pids()[0], signal.SIGKILL)
        all_talk(clients)
        assert {status_of(p.pid)["Uid"].split()[1] for p in others_of(proxy)} == {str(NOBODY)}


@needs_root
@needs_reachable
def test_an_upgrade_keeps_the_user(start_proxy: StartProxy, one: EchoServer, port: int) -> None:
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    with conversations(port, 4) as clients:
        proxy.signal(signal.SIGUSR2)
        wait_for(partial(upgraded, proxy, 1), "the upgrade")
        assert proxy.status()["upgrade"]["error"] == ""
        all_talk(clients)
    wait_for(lambda: all(is_hidden(p.pid) for p in others_of(proxy)), "all to be hidden again")


def is_hidden(pid: int) -> bool:
    try:
        own = Path(f"/proc/{pid}/environ").stat().st_uid == 0
        return own and is_bare(pid) and status_of(pid)["Uid"].split()[1] == str(NOBODY)
    except OSError:
        return True  # an old one, ended since


# --- where the user can't read anything of tcpmux -------------------------------------------------

# In a mount namespace of its own: the interpreter's modules, those beside it and the checkout are
# covered by themselves, in a directory that only root may enter.
HIDE = """
set -e
mount --make-rprivate /
place=$1; shift
while [ "$1" != -- ]; do
    mkdir "$place/$(basename "$1")"; cover="$place/$(basename "$1")"; mount -t tmpfs none "$cover"
    mkdir "$cover/upper" "$cover/work"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$cover/upper,workdir=$cover/work" "$1"
    chmod 700 "$1"; shift
done
shift
exec "$@"
"""


@pytest.fixture
def hiding(tmp_path: Path) -> list[str]:
    """A command that becomes another one, with nothing of Python to be read but by root."""
    checkout = Path(package.__file__).parents[1]
    hidden = [*{os.path.realpath(os.path.dirname(os.__file__)), str(checkout)}]
    beside = Path(psutil.__file__).parents[1]
    if not beside.is_relative_to(checkout) and str(beside) not in hidden:
        hidden.append(str(beside))
    place = tmp_path / "covers"
    place.mkdir()
    command = ["unshare", "--mount", "sh", "-c", HIDE, "sh", str(place), *hidden, "--"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"directories can't be covered here: {tried.stderr.strip()}")
    for left in place.iterdir():
        left.rmdir()
    return command


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[int]:
    """Speaks TLS to whoever comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    context.set_ciphers("DEFAULT")
    with socket.create_server(("127.0.0.1", 0)) as server:
        pid = os.fork()
        if pid == 0:
            serve_tls(server, context)
        yield server.getsockname()[1]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def serve_tls(server: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        client, _ = server.accept()
        try:
            with context.wrap_socket(client, server_side=True) as secure:
                secure.recv(100)
        except OSError:
            pass


@needs_root
def test_a_place_that_only_root_can_read_will_do(
    start_proxy: StartProxy,
    one: EchoServer,
    port: int,
    log_dir: Path,
    tmp_path: Path,
    token_file: Path,
    hiding: list[str],
    tls_server: int,
) -> None:
    """Control and the log process have all loaded before they become another user: checks of every
    kind, names, the page, the metrics, the stream, the log. Only an upgrade is refused."""
    http = f"127.0.0.1:{free_port()}"
    log = log_dir / "access.log"
    checks: list[Any] = [
        "tcp",
        {"type": "http", "path": "/"},
        {"type": "send", "send": "hello\n", "expect": "one hello"},
        {"type": "send", "send": "hello\n", "expect_regex": "^one hel+o"},
        *({"type": kind} for kind in ("redis", "postgres", "mysql")),
    ]
    parts = [route("r", port, v1=(1, one.address))]
    for number, check in enumerate(checks):
        part = route(f"r{number}", free_port(), v1=(1, f"localhost:{one.port}"))
        part["destinations"][0]["check"] = check
        parts.append(part)
    part = route("tls", free_port(), v1=(1, f"127.0.0.1:{tls_server}"))
    part["destinations"][0]["check"] = {"type": "tls"}
    parts.append(part)
    admin = {"http": http, "token_file": str(token_file)}
    file = tmp_path / "hidden.yaml"
    config = routes(*parts, access_log=str(log), admin=admin)
    proxy = start_proxy(with_socket(config, tmp_path / "proxy0"), prefix=hiding)
    assert f"admin socket {proxy.admin}, page http://{http}/\n" in proxy.log
    for process in others_of(proxy):
        assert status_of(process.pid)["Uid"].split()[1] == str(NOBODY)
    assert ask(("127.0.0.1", port)) == "one hello\n"

    good = {"r0", "r2", "r3", "tls"}
    wait_for(lambda: good <= checked(proxy, "up"), "checks to succeed")
    wait_for(lambda: len(checked(proxy, "down")) == len(checks) + 1 - len(good), "others to fail")
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("", "metrics", "v1/status", "v1/openapi.json", "v1/connections", "v1/events"):
        with urlopen(Request(f"http://{http}/{path}", headers=bearer), timeout=DEADLINE) as answer:
            assert answer.status == 200
    with urlopen(Request(f"http://{http}/v1/stream", headers=bearer), timeout=DEADLINE) as answer:
        assert answer.readline()
    assert proxy.run("weight", "r", "v1=5").returncode == 0
    assert proxy.run("drain", "v1", "--route", "r", "--force").returncode in (0, 1, 2)
    proxy.run("enable", "v1")
    proxy.run("diff", "-c", str(proxy.file))
    proxy.run("events")
    log.rename(log_dir / "old.log")
    proxy.signal(signal.SIGUSR1)
    wait_for(log.exists, "the log to be opened again")
    # The master has made the file; the log process may still write a line to the old one.
    wait_for(
        lambda: ask(("127.0.0.1", port)) == "one hello\n" and log.read_text(),
        "a line in the new file",
    )
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "end"
    for pid in proxy.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: proxy.log.count("is running again") == 2, "the workers' next incarnations")
    proxy.signal(signal.SIGUSR2)
    wait_for(partial(upgraded, proxy, 1), "the refusal")
    proxy.says("user nobody (uid 65534), group nogroup (gid 65534) may not read")
    assert ask(("127.0.0.1", port)) == "one hello\n"
    for word in ("Traceback", "Error:", "internal error in"):
        assert word not in proxy.log, proxy.log
    assert not file.exists()


def checked(proxy: Proxy, health: str) -> set[str]:
    """Routes whose endpoint has been found to be that."""
    return {
        r["name"]
        for r in proxy.status()["routes"]
        for d in r["destinations"]
        for e in d["endpoints"]
        if e["health"] == health and e["health_since"] is not None
    }


def with_socket(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    return {**config, "admin": {"socket": str(directory / "admin.sock"), **config["admin"]}}
