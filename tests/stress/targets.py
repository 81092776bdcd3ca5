"""The proxies that things are done to, each with its own way to do them.

A target that has no counterpart for an act raises Unsupported. Each is started with four
workers in front of one endpoint, and ended by pid with all that it started.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from tcpmux.control.client import AdminClient, AdminError, Status
from tcpmux.shm._shm import Live
from tests.support import free_port, wait_for

NGINX = "/usr/sbin/nginx"
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
END_TIME = 15.0  # s
WORKERS = 4


class Unsupported(Exception):
    """This proxy has nothing like that."""


class Target:
    """A running proxy. port: where it listens; pid: of its master."""

    name = ""

    def __init__(self, directory: Path, endpoint: int) -> None:
        self.directory = directory
        self.endpoint = endpoint
        self.port = free_port()
        self.log = directory / "log"
        self._ever: dict[int, psutil.Process] = {}
        self.start()

    @classmethod
    def missing(cls) -> str | None:
        """Why it can't run here, or None."""
        return None

    def command(self, workers: int) -> list[str]:
        """Writes the configuration; the command to start it."""
        raise NotImplementedError

    def start(self) -> None:
        command = self.command(WORKERS)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        wait_for(self._accepts, f"{self.name} to listen")
        self.family()

    def _accepts(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    @property
    def pid(self) -> int:
        return self.process.pid

    def family(self) -> list[psutil.Process]:
        """Everything below the master now; remembered for the end."""
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.pid).children(recursive=True)
            self._ever |= {process.pid: process for process in found}
            return found
        return []

    def workers(self) -> list[int]:
        """Pids of the processes that relay."""
        return [process.pid for process in self.family()]

    def set_workers(self, count: int) -> None:
        raise Unsupported

    def restart_master(self) -> None:
        """SIGKILL to the master, then a new one with the same configuration."""
        self.family()
        self.process.kill()
        self.process.wait()
        self.start()

    def upgrade(self) -> None:
        raise Unsupported

    def reload(self, weight: int) -> None:
        raise Unsupported

    def stop(self) -> None:
        self.family()
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END_TIME)
        for process in [*self._ever.values(), *self.family()]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Tcpmux(Target):
    name = "tcpmux"

    def command(self, workers: int) -> list[str]:
        self.write(1, workers)
        return [sys.executable, "-m", "tcpmux", "-c", str(self.directory / "routes.yaml")]

    def write(self, weight: int, workers: int = WORKERS) -> None:
        destinations = [
            {"name": name, "weight": share, "endpoints": [f"127.0.0.1:{self.endpoint}"]}
            for name, share in (("v1", weight), ("v2", 1))
        ]
        config = {
            "workers": workers,
            "admin": {"socket": str(self.directory / "admin.sock")},
            "routes": [
                {
                    "name": "stress",
                    "listen": f"127.0.0.1:{self.port}",
                    "destinations": destinations,
                }
            ],
        }
        new = self.directory / "routes.yaml.new"
        new.write_text(yaml.safe_dump(config, sort_keys=False))
        new.replace(self.directory / "routes.yaml")

    @property
    def client(self) -> AdminClient:
        return AdminClient(self.directory / "admin.sock")

    def status(self) -> Status | None:
        with suppress(AdminError):
            return self.client.status()
        return None

    def wait_until_ready(self) -> None:
        wait_for(self._is_ours, "tcpmux to be ready")
        self.family()

    def _is_ours(self) -> bool:
        status = self.status()
        return status is not None and status["pid"] == self.pid and status["state"] == "running"

    def _titled(self, title: str) -> list[int]:
        found = []
        for process in self.family() or list(self._ever.values()):
            with suppress(psutil.Error, IndexError):
                if process.cmdline()[0].startswith(title):
                    found.append(process.pid)
        return found

    def workers(self) -> list[int]:
        return self._titled("tcpmux: worker")

    def set_workers(self, count: int) -> None:
        self.client.set_workers(count)

    def upgrade(self) -> None:
        status = wait_for(self.status, "the state before the upgrade")
        assert status is not None
        number, old = status["upgrade"]["count"] + 1, self.workers()
        os.kill(self.pid, signal.SIGUSR2)
        wait_for(lambda: self._upgraded(number), f"upgrade {number}")
        alive = [pid for pid in old if is_alive(pid)]
        if alive:
            raise AssertionError(f"old workers live after upgrade {number}: {alive}")

    def _upgraded(self, number: int) -> bool:
        status = self.status()
        if status is None:
            return False
        upgrade = status["upgrade"]
        if upgrade["state"] == "failed":
            raise AssertionError(f"upgrade {number} failed: {upgrade['error']}")
        return upgrade["count"] == number and upgrade["state"] == "idle"

    def reload(self, weight: int) -> None:
        self.write(weight)
        os.kill(self.pid, signal.SIGHUP)

    def regions(self) -> list[Live]:
        """The live regions, mapped here to look at."""
        found = {}
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                name = os.readlink(entry)
                if "tcpmux-live-" in name and name not in found:
                    found[name] = Live.attach(os.open(entry, os.O_RDONLY))
        return [live for live in found.values() if live.guardian_pid]


def is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


class Nginx(Target):
    name = "nginx"

    @classmethod
    def missing(cls) -> str | None:
        if not Path(NGINX).exists():
            return "not installed"
        return None if NGINX_STREAM.exists() else "its stream module is not installed"

    def command(self, workers: int) -> list[str]:
        config = self.directory / "nginx.conf"
        config.write_text(
            f"load_module {NGINX_STREAM};\n"
            f"daemon off;\nworker_processes {workers};\n"
            f"pid {self.pid_file};\nerror_log {self.directory}/error.log warn;\n"
            "events { worker_connections 8192; }\n"
            "stream { server {\n"
            f"    listen 127.0.0.1:{self.port} reuseport backlog=4096;\n"
            f"    proxy_pass 127.0.0.1:{self.endpoint};\n"
            "    proxy_timeout 1h;\n"
            "} }\n"
        )
        nginx = [NGINX, "-e", "stderr", "-p", str(self.directory), "-c", str(config)]
        # A parent that goes away: nginx upgrades itself only when it is nobody's child.
        return ["sh", "-c", '"$@" & sleep 0.5', "sh", *nginx]

    @property
    def pid_file(self) -> Path:
        return self.directory / "nginx.pid"

    @property
    def pid(self) -> int:
        with suppress(OSError, ValueError):
            return int(self.pid_file.read_text())
        return self.process.pid

    def wait_until_ready(self) -> None:
        super().wait_until_ready()
        self.process.wait()
        self.family()
        self._ever[self.pid] = psutil.Process(self.pid)

    def restart_master(self) -> None:
        self.family()
        os.kill(self.pid, signal.SIGKILL)
        self.start()

    def set_workers(self, count: int) -> None:
        self.command(count)
        os.kill(self.pid, signal.SIGHUP)
        time.sleep(0.2)

    def upgrade(self) -> None:
        """USR2 starts the new binary, QUIT lets the old one drain."""
        old = self.pid
        os.kill(old, signal.SIGUSR2)
        wait_for(lambda: self.pid != old and self.pid_file.exists(), "the new nginx")
        time.sleep(0.2)
        self.family()
        self._ever[self.pid] = psutil.Process(self.pid)
        os.kill(old, signal.SIGQUIT)

    def reload(self, weight: int) -> None:
        del weight
        os.kill(self.pid, signal.SIGHUP)


class Haproxy(Target):
    name = "haproxy"

    @classmethod
    def missing(cls) -> str | None:
        return None if Path(HAPROXY).exists() else "not installed"

    def command(self, workers: int) -> list[str]:
        config = self.directory / "haproxy.cfg"
        config.write_text(
            f"global\n    nbthread {workers}\n    maxconn 8000\n    no strict-limits\n"
            "defaults\n    mode tcp\n    option splice-auto\n    timeout connect 10s\n"
            "    timeout client 1h\n    timeout server 1h\n"
            f"frontend stress\n    bind 127.0.0.1:{self.port} backlog 4096\n"
            "    default_backend one\n"
            f"backend one\n    server one 127.0.0.1:{self.endpoint}\n"
        )
        return [HAPROXY, "-W", "-f", str(config)]

    def set_workers(self, count: int) -> None:
        self.command(count)
        self.reload(0)

    def upgrade(self) -> None:
        """In master-worker mode, USR2 has the master exec itself and start a new worker."""
        self.reload(0)

    def reload(self, weight: int) -> None:
        del weight
        os.kill(self.pid, signal.SIGUSR2)
        time.sleep(0.3)


TARGETS: dict[str, type[Target]] = {kind.name: kind for kind in (Tcpmux, Nginx, Haproxy)}
