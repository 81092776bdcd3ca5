"""A Debian 12 of its own for a test: namespaces over a root file system that `make deb-test` makes.

Nothing that is written into it lasts, and nothing of this machine is in it: no file, no process,
and of the devices only those that give nothing away. Its network is the test's own.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil

from tests.support import patient, wait_for

BUILT = Path(__file__).parents[2] / "build/debian"
# Becomes pid 1 of a machine in $FILES, with the control groups whose files $GROUPS names, each of
# KIND:DIRECTORY: `whole` for version 2 alone, or `cgroup2` beside controllers of version 1. Each
# device is bound on its own.
ENTER = r"""
set -e
for group in $GROUPS; do
    echo 0 >"${group#*:}/cgroup.procs"
done
exec unshare --pid --fork --kill-child --mount --uts --ipc --cgroup /bin/sh -c '
    set -e
    mount --make-rprivate /
    mount -t tmpfs none "$WORK"
    mkdir "$WORK/upper" "$WORK/work" "$WORK/root"
    root=$WORK/root
    mount -t overlay -o "lowerdir=$FILES,upperdir=$WORK/upper,workdir=$WORK/work" none "$root"
    mount -t tmpfs -o mode=755 none "$root/dev"
    for name in null zero full random urandom tty; do
        touch "$root/dev/$name"
        mount --bind "/dev/$name" "$root/dev/$name"
    done
    mkdir "$root/dev/shm" "$root/dev/pts"
    mount -t tmpfs -o mode=1777 none "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 none "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    mount -t tmpfs -o mode=755 none "$root/run"
    mount -t proc none "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro none "$root/sys"
    groups=$root/sys/fs/cgroup
    case $GROUPS in whole:*) ;; *) mount -t tmpfs -o mode=755 none "$groups" ;; esac
    for group in $GROUPS; do
        kind=${group%%:*}
        case $kind in
        whole) kind=cgroup2 options=rw at= ;;
        cgroup2) options=rw at=unified ;;
        name=*) options=none,$kind at=${kind#name=} kind=cgroup ;;
        *) options=$kind at=$kind kind=cgroup ;;
        esac
        mkdir -p "$groups/$at"
        mount -t "$kind" -o "$options" none "$groups/$at"
    done
    cd "$root"
    pivot_root . mnt
    exec chroot . /bin/sh -c "umount -l /mnt; hostname debian; exec \"\$@\"" sh "$@"
' sh "$@"
"""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def control_groups() -> Iterator[str]:
    """One for the machine in every hierarchy of this system, as ENTER wants them. Removed after."""
    name = f"tcpmux-test-{secrets.token_hex(4)}"
    made: list[tuple[str, Path]] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        at, (kind, _, options) = Path(before.split()[4]), after.split()[:3]
        if kind == "cgroup2":
            made.append(("whole" if at == Path("/sys/fs/cgroup") else kind, at / name))
        elif kind == "cgroup":
            words = [word for word in options.split(",") if word not in {"rw", "ro", "xattr"}]
            own = next((word for word in words if word.startswith("name=")), ",".join(words))
            made.append((own, at / name))
    for _, group in made:
        group.mkdir(exist_ok=True)
        for wanted in ("cpuset.cpus", "cpuset.mems"):
            if (group / wanted).exists() and not (group / wanted).read_text().strip():
                (group / wanted).write_text((group.parent / wanted).read_text())
    try:
        yield " ".join(f"{kind}:{group}" for kind, group in made)
    finally:
        for _, group in made:
            wait_for(partial(_removed, group), f"{group} to be empty")


def _removed(group: Path) -> bool:
    with suppress(OSError):
        for path, _, _ in os.walk(group, topdown=False):
            Path(path).rmdir()
    return not group.exists()


class Machine:
    def __init__(self, launcher: subprocess.Popen[bytes], first: str) -> None:
        self._launcher = launcher
        self.pid = wait_for(lambda: self._become(Path(first).name), f"{first} to be pid 1")

    def _become(self, name: str) -> int:
        """The pid of its first process, once that is what it was to become."""
        if self._launcher.poll() is not None:
            raise AssertionError("the machine has ended, for the reason that it wrote")
        for child in psutil.Process(self._launcher.pid).children():
            with suppress(OSError):
                if Path(f"/proc/{child.pid}/exe").readlink().name == name:
                    return child.pid
        return 0

    def path(self, name: str) -> Path:
        """A file of it, as seen from here."""
        return Path(f"/proc/{self.pid}/root") / name.lstrip("/")

    def command(self, *command: str, user: str = "") -> list[str]:
        """What runs it in there, as root or as somebody else."""
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--cgroup",
        ]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        clean = ["env", "-i", f"PATH={PATH}", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        return [*enter, *clean, *become, *command]

    def run(
        self, *command: str, check: bool = True, user: str = "", given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Its output has what it wrote to either. check: fails unless its exit status is 0."""
        done = subprocess.run(
            self.command(*command, user=user), input=given,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=patient(100), check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}")
        return done

    def said(self, *command: str) -> str:
        return self.run(*command).stdout.strip()


@contextmanager
def machine(work: Path, first: Sequence[str]) -> Iterator[Machine]:
    """Runs until the block ends. work: a directory of its own; first: its pid 1."""
    with control_groups() as groups:
        environment = {
            "PATH": PATH, "FILES": str(BUILT / "root"), "WORK": str(work), "GROUPS": groups,
            "container": "other", "LANG": "C.UTF-8",
        }  # fmt: skip
        launcher = subprocess.Popen(
            ["/bin/sh", "-c", ENTER, "sh", *first], stdin=subprocess.DEVNULL, env=environment
        )
        try:
            yield Machine(launcher, first[0])
        finally:
            # With its first process all others die.
            if launcher.poll() is None:
                for child in psutil.Process(launcher.pid).children():
                    child.kill()
            launcher.kill()
            launcher.wait(patient(30))
