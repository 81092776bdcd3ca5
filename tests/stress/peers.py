"""nginx and haproxy as targets: what their own manuals say to do for each event."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.others import system_program
from tests.stress.targets import END_TIME, WORKERS, Target, incarnation, left_of, send_signal
from tests.support import patient, wait_for

NGINX = "/usr/sbin/nginx"
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
RELOAD_TIME = patient(3)  # s; with its worker stopped haproxy takes longer than usual
HAPROXY = system_program("haproxy") or "/usr/sbin/haproxy"


class Nginx(Target):
    """In the background, as only there it changes its binary."""

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
            f"worker_processes {workers};\n"
            f"pid {self.directory}/nginx.pid;\nerror_log {self.directory}/log warn;\n"
            "events { worker_connections 8192; }\n"
            "stream { server {\n"
            f"    listen 127.0.0.1:{self.port} reuseport backlog=4096;\n"
            f"    proxy_pass 127.0.0.1:{self.endpoint};\n"
            "    proxy_timeout 1h;\n"
            "} }\n"
        )
        return [NGINX, "-e", "stderr", "-p", str(self.directory), "-c", str(config)]

    @property
    def pid(self) -> int:
        with suppress(OSError, ValueError):
            return int((self.directory / "nginx.pid").read_text())
        return 0

    def wait_until_ready(self) -> None:
        assert self.process.wait(END_TIME) == 0, self.log.read_text()[-1000:]
        wait_for(lambda: len(self.workers()) == WORKERS, "nginx's workers")
        wait_for(self._accepts, "nginx to listen")

    def kill_master(self) -> None:
        self.incarnations()
        master = incarnation(self.pid)
        assert master is not None
        (self.directory / "nginx.pid").unlink()  # nobody tidies up; the next one writes its own
        send_signal([master.pid], signal.SIGKILL)
        assert not left_of({master})

    def set_workers(self, count: int) -> None:
        self.command(count)
        self.reload(0)

    def upgrade(self) -> None:
        """USR2 starts the new binary, WINCH and QUIT let the old one go when it is drained."""
        old = self.pid
        send_signal([old], signal.SIGUSR2)
        wait_for(lambda: self.pid not in (0, old), "the new master's pid")
        wait_for(lambda: len(self.workers()) == WORKERS, "the new master's workers")
        self.incarnations()
        send_signal([old], signal.SIGWINCH)
        send_signal([old], signal.SIGQUIT)

    def reload(self, weight: int) -> None:
        """Returns when there are new workers."""
        del weight
        before = set(self.workers())
        send_signal([self.pid], signal.SIGHUP)
        wait_for(lambda: set(self.workers()) - before, "workers with the new configuration")
        self.incarnations()


class Haproxy(Target):
    """In master-worker mode: one worker, with a thread for each of four."""

    name = "haproxy"

    @classmethod
    def missing(cls) -> str | None:
        return None if Path(HAPROXY).exists() else "not installed"

    def command(self, workers: int) -> list[str]:
        config = self.directory / "haproxy.cfg"
        config.write_text(
            f"global\n    nbthread {workers}\n    maxconn 7000\n    no strict-limits\n"
            "defaults\n    mode tcp\n    option splice-auto\n    timeout connect 10s\n"
            "    timeout client 1h\n    timeout server 1h\n"
            f"frontend stress\n    bind 127.0.0.1:{self.port} backlog 4096\n"
            "    default_backend one\n"
            f"backend one\n    server one 127.0.0.1:{self.endpoint}\n"
        )
        return [HAPROXY, "-W", "-f", str(config)]

    def wait_until_ready(self) -> None:
        wait_for(self.workers, "haproxy's worker")
        super().wait_until_ready()

    def set_workers(self, count: int) -> None:
        self.command(count)
        self.reload(0)

    def upgrade(self) -> None:
        """USR2: the master becomes the installed binary and starts a new worker."""
        self.reload(0)

    def reload(self, weight: int) -> None:
        """Returns when there is a new worker."""
        del weight
        before = set(self.workers())
        deadline = time.monotonic() + END_TIME
        while not set(self.workers()) - before:
            if time.monotonic() > deadline:
                raise AssertionError(f"haproxy has not reloaded within {END_TIME:g} s")
            # One that comes while it is still busy with the last is not heard.
            send_signal([self.pid], signal.SIGUSR2)
            with suppress(AssertionError):
                wait_for(lambda: set(self.workers()) - before, "a new worker", RELOAD_TIME)
        self.incarnations()
