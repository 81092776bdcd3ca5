"""tcpmux as the only program of a container, pid 1: no rights, a file system that is read-only, a
CPU quota. Made of namespaces and a control group; test_image.py has the files of the image in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from tcpmux.control.client import AdminError, Client
from tests.integration.routes import route, routes
from tests.others import needs_reachable, needs_root
from tests.support import EchoServer, ask, patient, wait_for

USER = 65532
SOCKET = "/dev/shm/tcpmux.sock"
# Becomes what is given, as pid 1 of a pid namespace, in $FILES if that names a root directory.
# 0: the process that writes it.
ENTER = f"""
[ -z "$GROUP" ] || echo 0 >"$GROUP/cgroup.procs"
root=$FILES
if [ "$root" ]; then
    mount --bind "$root" "$root"
    mkdir -p "$root/etc/tcpmux"
    mount --bind "$DIRECTORY" "$root/etc/tcpmux"
    mount -t proc none "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
fi
mount -t tmpfs -o mode=1777 none "$root/dev/shm"
while read -r _ at _; do
    case $at in /proc*|/sys*|/dev*|"$root"/proc*|"$root"/sys*|"$root"/dev*) ;;
    *) mount -o remount,bind,ro "$at" 2>/dev/null ;; esac
done </proc/self/mounts
exec ${{root:+/usr/sbin/chroot "$root"}} setpriv --reuid {USER} --regid {USER} --clear-groups \\
    --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


class Container:
    """A tcpmux that runs in one. process: the launcher, which ends as pid 1 does."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        wait_for(self._ready, "tcpmux to be ready in its container")

    @property
    def master(self) -> psutil.Process:
        (found,) = psutil.Process(self.process.pid).children()
        return found

    @property
    def client(self) -> Client:
        return Client(f"/proc/{self.master.pid}/root{SOCKET}")

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"it has ended:\n{self.log.read_text()}")
        with suppress(AdminError, ValueError, psutil.NoSuchProcess):
            return bool(self.client.status()["workers"])
        return False

    def everyone(self) -> list[psutil.Process]:
        return [self.master, *self.master.children(recursive=True)]


@contextmanager
def container(
    directory: Path,
    config: dict[str, object],
    group: str = "",
    said: dict[str, Any] | None = None,
) -> Iterator[Container]:
    """Runs this build; or an image by what it says of itself, with the directory as /etc/tcpmux."""
    file, log = directory / "routes.yaml", directory / "log"
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
    if said is None:
        environment, command = dict(os.environ), [sys.executable, "-m", "tcpmux", "-c", str(file)]
        config = {**config, "admin": {"socket": SOCKET}}
    else:
        environment = dict(line.split("=", 1) for line in said["Env"])
        command = [*said["Entrypoint"], *said["Cmd"]]
    environment |= {
        "GROUP": group,
        "FILES": said["files"] if said else "",
        "DIRECTORY": str(directory),
    }
    file.write_text(yaml.safe_dump(config))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*unshare, "/bin/sh", "-c", ENTER, "sh", *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
        )  # fmt: skip
    try:
        yield Container(process, log)
    finally:
        # With pid 1 all others of its namespace die, and the launcher ends.
        for first in psutil.Process(process.pid).children() if process.poll() is None else []:
            first.kill()
        process.kill()
        process.wait(patient(30))


def status_of(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@needs_root
@needs_reachable
def test_it_serves_as_pid_1_without_any_right(open_path: Path, one: EchoServer, port: int) -> None:
    """It reaps what others leave behind, replaces what dies, reloads, and drains when told to."""
    with container(open_path, routes(route("r", port, v1=(1, one.address)))) as inside:
        assert inside.client.status()["pid"] == 1
        assert ask(("127.0.0.1", port)) == "one hello\n"
        for process in inside.everyone():
            found = status_of(process)
            assert found["Uid"].split() == [str(USER)] * 4
            assert {found[name].strip("0") for name in ("CapPrm", "CapEff", "CapBnd")} == {""}
            assert found["NoNewPrivs"] == "1"
        mounts = Path(f"/proc/{inside.master.pid}/mounts").read_text().splitlines()
        (root,) = (line.split() for line in mounts if line.split()[1] == "/")
        assert root[3].split(",")[0] == "ro"

        # The parent of this one ends before it, and only pid 1 is left to reap it.
        enter = ["nsenter", "--pid", "--target", str(inside.master.pid)]
        subprocess.run(
            [*enter, "sh", "-c", "(sleep 0.05 & exec true) & wait"],
            check=True, timeout=patient(30),
        )  # fmt: skip
        (worker, *_) = inside.client.status()["workers"]
        in_here = {int(status_of(p)["NSpid"].split()[-1]): p for p in inside.everyone()}
        for name in ("pid", "guardian_pid"):
            in_here[worker[name]].kill()

        def is_whole() -> bool:
            new = inside.client.status()["workers"][0]
            replaced = 0 not in {new["pid"], new["guardian_pid"]} and new["pid"] != worker["pid"]
            everyone = [p.status() for p in inside.everyone()]
            return replaced and psutil.STATUS_ZOMBIE not in everyone

        wait_for(is_whole, "the dead to be reaped and replaced")
        assert ask(("127.0.0.1", port)) == "one hello\n"

        inside.master.send_signal(signal.SIGHUP)
        wait_for(lambda: "reload" in inside.log.read_text(), "the log to tell of a reload")
        inside.master.send_signal(signal.SIGTERM)
        assert inside.process.wait(patient(30)) == 0, inside.log.read_text()


@needs_root
@needs_reachable
def test_auto_workers_keep_to_the_quota(
    open_path: Path, one: EchoServer, port: int, one_cpu: Path
) -> None:
    """The time of one CPU keeps one worker busy, however many CPUs the machine has."""
    config = routes(route("r", port, v1=(1, one.address)))
    with container(open_path, config, str(one_cpu)) as inside:
        assert len(inside.client.status()["workers"]) == 1
        assert ask(("127.0.0.1", port)) == "one hello\n"
        assert str(inside.master.pid) in (one_cpu / "cgroup.procs").read_text().split()
