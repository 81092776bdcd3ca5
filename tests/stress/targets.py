"""The proxies that things are done to, each with its own way to do them. Here what they have
in common, and tcpmux; the others are in peers.py.

A target that has no equivalent of an act raises Unsupported. Each is started with four
workers in front of one endpoint, and ended by pid with all that it started.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import yaml

from tcpmux.control.client import AdminError, Client, Refused, Status
from tcpmux.shm._commons import Commons
from tcpmux.shm._declared import PRESENT
from tcpmux.shm._live import Live
from tests.integration.starting import Process, start
from tests.support import patient, wait_for

END_TIME = patient(15)  # s
LEAVE_TIME = patient(2)  # s for what has been replaced to end
WORKERS = 4


class Unsupported(Exception):
    """This proxy has nothing like that."""


@dataclass(frozen=True, slots=True)
class Incarnation:
    """A process from one exec to the next: where its stack begins is drawn anew by each, and
    kept by a fork (proc(5), stat: startstack; needs kernel.randomize_va_space)."""

    pid: int
    started: int  # clock ticks since boot
    stack: int


def incarnation(pid: int) -> Incarnation | None:
    """None: there is no such process, or it has ended and waits for its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else Incarnation(pid, int(fields[19]), int(fields[25]))


def is_stopped(pid: int) -> bool:
    """By SIGSTOP or a debugger."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return False


def is_dying(pid: int) -> bool:
    """Whether SIGKILL has been sent to it, and it has not got round to ending."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("SigPnd:", "ShdPnd:")) and (
                int(line.split()[1], 16) >> (signal.SIGKILL - 1) & 1
            ):
                return True
    return False


def send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    """To each of them that is still there. 0 and -1 would mean whole groups of processes."""
    for pid in pids:
        assert pid > 1, pid
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def left_of(before: set[Incarnation], patience: float = LEAVE_TIME) -> set[Incarnation]:
    """Those that still live after `patience` s; empty as soon as there is none."""
    deadline = time.monotonic() + patience
    while True:
        left = {old for old in before if incarnation(old.pid) == old}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.005)


class Target:
    """A running proxy. port: where it listens; pid: of its master."""

    name = ""

    def __init__(self, directory: Path, endpoint: int, port: int) -> None:
        self.directory = directory
        self.endpoint = endpoint
        self.port = port
        self.log = directory / "log"
        self._ever: set[Incarnation] = set()
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
            self.process = self.started(command, log)
        self.wait_until_ready()
        self.incarnations()

    def started(self, command: list[str], log: BinaryIO) -> Process:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )

    def wait_until_ready(self) -> None:
        wait_for(self._accepts, f"{self.name} to listen")

    def _accepts(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), patient(1)):
            return True
        return False

    @property
    def pid(self) -> int:
        return self.process.pid

    def processes(self) -> list[int]:
        """Pids of all that belongs to it now, the master's first."""
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.pid).children(recursive=True)
            return [self.pid, *(process.pid for process in below)]
        return []

    def incarnations(self) -> set[Incarnation]:
        """Of all processes now; remembered for the end."""
        now = {found for pid in self.processes() if (found := incarnation(pid))}
        self._ever |= now
        return now

    def workers(self) -> list[int]:
        """Pids of the processes that relay."""
        return self.processes()[1:]

    def set_workers(self, count: int) -> None:
        raise Unsupported

    def kill_master(self) -> None:
        self.incarnations()
        self.process.kill()
        self.process.wait()

    def upgrade(self) -> None:
        """Another build in place of this one; returns when the proxy itself says it is done."""
        raise Unsupported

    def reload(self, weight: int) -> None:
        raise Unsupported

    def check(self, connections: int) -> list[str]:
        """What is not as it has to be once all of so many connections have ended, in words;
        and figures of the proxy's own, which begin with a digit."""
        del connections
        return []

    def stop(self) -> list[int]:
        """Ends it; pids of what did not end by itself and was killed."""
        self.incarnations()
        send_signal(self.processes()[:1], signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_TIME)
        left = left_of(self._ever)
        send_signal([each.pid for each in left], signal.SIGKILL)
        self.process.wait(END_TIME)
        return [each.pid for each in left]


class Tcpmux(Target):
    name = "tcpmux"
    _regions: list[Live] | None = None
    more: Sequence[dict[str, Any]] = ()  # routes of an event of its own

    def command(self, workers: int) -> list[str]:
        self.write(1, workers)
        return ["-c", str(self.directory / "routes.yaml")]

    def started(self, command: list[str], log: BinaryIO) -> Process:
        """By a fork; what an upgrade or a death starts, tcpmux starts as it does for users."""
        return start(command, log)

    def write(self, weight: int, workers: int = WORKERS) -> None:
        destinations = [
            {"name": name, "weight": share, "endpoints": [f"127.0.0.1:{self.endpoint}"]}
            for name, share in (("v1", weight), ("v2", 1))
        ]
        route = {
            "name": "stress",
            "listen": f"127.0.0.1:{self.port}",
            "destinations": destinations,
            "source": {"max_connections": 100_000},  # not reached: that all are counted, and right
        }
        config = {
            "workers": workers,
            "admin": {"socket": str(self.directory / "admin.sock")},
            "state_dir": str(self.directory),
            "routes": [route, *self.more],
        }
        new = self.directory / "routes.yaml.new"
        new.write_text(yaml.safe_dump(config, sort_keys=False))
        new.replace(self.directory / "routes.yaml")

    def status(self) -> Status | None:
        with suppress(AdminError):
            return Client(self.directory / "admin.sock").status()
        return None

    def wait_until_ready(self) -> None:
        wait_for(self._is_ours, "tcpmux to be ready")

    def _is_ours(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"tcpmux ended with exit code {self.process.returncode}")
        status = self.status()
        return status is not None and status["pid"] == self.pid and status["state"] == "running"

    def regions(self) -> list[Live]:
        """The live regions of all workers there can be, mapped here to look at: the quickest
        way to the pids, and one that needs no master."""
        if self._regions is None:
            found: dict[str, Live] = {}
            for entry in Path(f"/proc/{self.pid}/fd").iterdir():
                with suppress(OSError):
                    name = os.readlink(entry)
                    if "tcpmux-live-" in name and name not in found:
                        fd = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
                        found[name] = Live.attach(fd)
            self._regions = list(found.values())
        return self._regions

    def _commons(self) -> Commons:
        """Mapped anew, to look at once."""
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                if "tcpmux-commons" in os.readlink(entry):
                    return Commons.attach(os.open(entry, os.O_RDONLY | os.O_CLOEXEC))
        raise AssertionError("the master has no commons region")

    def workers(self) -> list[int]:
        return [live.pid for live in self.regions() if live.pid and live.guardian_pid]

    def guardians(self) -> list[int]:
        return [live.guardian_pid for live in self.regions() if live.guardian_pid]

    def processes(self) -> list[int]:
        # Guardians that outlived a master are nobody's children.
        found = [*super().processes(), *self.guardians(), *self.workers()]
        return list(dict.fromkeys(found))

    def set_workers(self, count: int) -> None:
        Client(self.directory / "admin.sock").set_workers(count)

    def upgrade(self) -> None:
        status = wait_for(self.status, "the state before the upgrade")
        assert status is not None
        number = status["upgrade"]["count"] + 1
        send_signal([self.pid], signal.SIGUSR2)
        wait_for(lambda: self._upgraded(number), f"upgrade {number}")

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
        send_signal([self.pid], signal.SIGHUP)

    def want(self, count: int) -> None:
        """set_workers(), again and again until the master is there and not busy."""

        def wanted() -> bool:
            with suppress(AdminError, Refused):
                self.set_workers(count)
                return True
            return False

        wait_for(wanted, f"the master to take the order for {count} workers")

    def whole(self) -> bool:
        """Whether exactly the usual number of workers is at work."""
        status = self.status()
        states = [] if status is None else [worker["state"] for worker in status["workers"]]
        there = [live for live in self.regions() if live.guardian_pid]
        return states == ["running"] * WORKERS and all(live.presence == PRESENT for live in there)

    def check(self, connections: int) -> list[str]:
        wait_for(self.whole, f"{WORKERS} workers to be there and at work")
        wait_for(lambda: self._active() == 0, "tcpmux to count no open connection")
        status = self.status()
        assert status is not None
        found = []
        route = status["routes"][0]
        total = sum(each["connections_total"] for each in route["destinations"])
        if total != connections:
            found.append(f"counts {total} connections of {connections}")
        ends = sum((Counter(each["closed"]) for each in route["destinations"]), Counter())
        if ends.total() != total:
            found.append(f"counts {ends.total()} ends of {total} connections")
        found += [f"ended {n} as {why}" for why, n in ends.items() if why != "finished" and n]
        counted = self._commons().totals()
        if any(counted):
            found.append(f"holds {counted} in counts of open connections, and none is open")
        if status["upgrade"]["state"] == "running":
            found.append("an upgrade is still under way")
        counters = [live.counters() for live in self.regions()]
        abandoned = sum(each["abandoned"] for each in counters)
        if abandoned:
            found.append(f"abandoned {abandoned} connections")
        with suppress(AssertionError):
            wait_for(lambda: not self._sockets(), "the sockets of connections to be closed")
        if left := self._sockets():
            found.append(f"holds {left} sockets, and no connection is open")
        recovered = sum(each["recovered"] for each in counters)
        return [*found, *([f"{recovered} taken up by a next incarnation"] if recovered else [])]

    def _sockets(self) -> int:
        """Of connections, in workers: all but those that listen."""
        return sum(
            each.status != psutil.CONN_LISTEN
            for pid in self.workers()
            for each in psutil.Process(pid).net_connections("tcp")
        )

    def _active(self) -> int | None:
        status = self.status()
        return status["routes"][0]["connections_active"] if status else None

    def stop(self) -> list[int]:
        left = super().stop()
        for live in self._regions or ():
            live.close()
        return left
