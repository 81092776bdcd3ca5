"""The recipe of CONTRIBUTING.md for a source of configuration: one class. It is added to a copy of
the tree, and an instance lives on what it delivers."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy, tcpmux
from tests.integration.routes import route
from tests.integration.test_shifting import held, talk
from tests.others import needs_address_space
from tests.support import EchoServer, ask, free_port, short_directory
from tests.unit.test_recipes import edit, edited

ROOT = Path(__file__).resolve().parents[2]
SOURCES = "tcpmux/config/sources.py"
CLASS = '''
class Told(Source, scheme="test"):
    """What a server says: a mapping of keys to contents."""

    def read(self, problems: list[Problem]) -> Iterator[Text]:
        import json, socket

        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(READ_TIME)
            server.connect(self.rest)
            with server.makefile("rb") as stream:
                for key, content in json.loads(stream.read(LARGEST)).items():
                    yield self.text(key, content.encode())


'''.lstrip()


class Teller:
    """The server behind the source: says to whoever connects what it has, and hangs up."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.name = f"test://{path}"
        self.answer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def has(self, **texts: dict[str, Any]) -> None:
        self.answer = json.dumps(
            {key: yaml.safe_dump(text) for key, text in texts.items()}
        ).encode()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                with client, suppress(OSError):
                    client.sendall(self.answer)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def tree() -> Iterator[Path]:
    """With the class. Where the user that workers become can read it; compiled modules are the
    same, as nothing of C is new."""
    tree = Path(tempfile.mkdtemp(prefix="tcpmux-"))
    tree.chmod(0o755)
    for name in ("tcpmux", "csrc"):
        shutil.copytree(ROOT / name, tree / name)
    assert edited(tree) == []
    edit(tree, [(SOURCES, "class _Unknown(", CLASS)])
    assert edited(tree) == [SOURCES]
    yield tree
    shutil.rmtree(tree)


@pytest.fixture
def teller() -> Iterator[Teller]:
    with short_directory() as directory:
        teller = Teller(directory / "s")
        yield teller
        teller.close()


@pytest.fixture
def proxy(
    start_proxy: StartProxy, tree: Path, teller: Teller, tmp_path: Path, one: EchoServer
) -> Proxy:
    """One route, to `one`, on the port that is in it."""
    teller.has(
        base=base(str(tmp_path / "proxy0/admin.sock")),
        more={"routes": [route("r", free_port(), v1=(7, one.address))]},
    )
    return start_proxy({}, prefix=["env", "-C", str(tree)], source=teller.name)


def base(admin: str) -> dict[str, Any]:
    return {"workers": 1, "admin": {"socket": admin}}


def port_of(proxy: Proxy) -> int:
    return int(proxy.status()["routes"][0]["listen"][0].rpartition(":")[2])


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return tcpmux(*arguments, cwd=tree)


@needs_address_space
def test_a_source_is_one_class(proxy: Proxy, tree: Path, teller: Teller, two: EchoServer) -> None:
    """Master, control and commands show it as they show a file; a reload reads it again."""
    port = port_of(proxy)
    assert ask(("127.0.0.1", port)) == "one hello\n"
    assert proxy.status()["config"] == [teller.name]
    assert psutil.Process(proxy.process.pid).cmdline()[0] == f"tcpmux: master {teller.name}"
    result = run(tree, "check", "-c", teller.name)
    assert result.stdout.startswith(f"{teller.name}: ok: 1 route, 1 destination, 1 endpoint\n")
    assert run(tree, "diff", "-c", teller.name, "--admin", proxy.admin).returncode == 0

    teller.has(base=base(proxy.admin), more={"routes": [route("r", port, v2=(3, two.address))]})
    result = run(tree, "diff", "-c", teller.name, "--admin", proxy.admin)
    assert (result.returncode, result.stderr) == (3, "")
    assert result.stdout.startswith("r: ")
    proxy.signal(signal.SIGHUP)
    proxy.says(result.stdout.strip())
    assert ask(("127.0.0.1", port)) == "two hello\n"

    result = run(tree, "weight", "r", "v2=5", "--save", "--admin", proxy.admin)
    assert result.returncode == 1
    assert f"{teller.name}: it does not come from files: change it at its source" in result.stderr
    assert proxy.destination("v2")["weight"] == 5


def test_a_source_that_fails_changes_nothing(proxy: Proxy, tree: Path, teller: Teller) -> None:
    """A reload, a start and an upgrade say why in one line; connections go on."""
    port, good = port_of(proxy), teller.answer

    def refused(reason: str) -> None:
        seen = len(proxy.log)
        proxy.signal(signal.SIGHUP)
        line = f"WARNING reload refused, nothing changed: {teller.name}{reason} [a signal]\n"
        proxy.says(line, after=seen, times=1)
        assert len(proxy.log[seen:].splitlines()) == 1
        assert talk(long_lived) == ask(("127.0.0.1", port)) == "one hello\n"
        assert proxy.status()["generation"] == 1

    with held(port) as long_lived:
        teller.has()
        refused(": it is empty")
        # The first is good, and is not used alone.
        teller.has(a={"routes": []}, b={"routes": 7})
        refused("/b:1:9: routes: expected a list, got 7")
        teller.answer = good[: len(good) // 2]
        proxy.signal(signal.SIGHUP)
        proxy.says("reload refused, nothing changed: internal error while reading", times=1)
        teller.close()
        refused(": can't be read: Connection refused")
        for command in (["reload", "--admin", proxy.admin], ["run", "-c", teller.name]):
            result = run(tree, *command)
            assert (result.returncode, result.stdout) == (2, "")
            said = f"tcpmux: error: {teller.name}: can't be read: Connection refused\n"
            assert result.stderr == said
        proxy.signal(signal.SIGUSR2)
        proxy.says(f"upgrade refused: {teller.name}: can't be read: Connection refused")
        assert talk(long_lived) == "one hello\n"


def test_a_start_from_an_unknown_source_is_one_line() -> None:
    """In the tree as it is, which knows files alone."""
    result = tcpmux("-c", "test://x")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "tcpmux: error: test://x: unknown configuration source test: expected a file or a "
        "directory (put ./ before a path that contains ://)\n"
    )
