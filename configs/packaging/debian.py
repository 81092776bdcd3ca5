"""Makes what `make deb-test` and `make systemd-test` need in build/debian: a Debian 12 as root file
system, and the package of dist/ with one of a newer version. For root on Debian; tests/debian has
the tests.

    python debian.py        prints why it can't, and exits with 3, where something is missing
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import deb

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/debian"
FILES = WORK / "root"
SUITE, PYTHON = "bookworm", "python3.11"
# What a server has, and what the tests look with.
INCLUDED = (
    "apt,bash-completion,dbus,iproute2,libgcc-s1,libstdc++6,logrotate,man-db,passwd,procps,python3,"
    "systemd,systemd-sysv"
)
SKIPPED = 3


def why_not() -> str:
    """Why it can't be made here; "" = it can."""
    if os.geteuid() != 0:
        return "only root can make and enter a root file system"
    if shutil.which("mmdebstrap") is None:
        return "mmdebstrap is not installed"
    if deb.PYTHON != PYTHON:
        return f"Debian 12 has {PYTHON}, and the package here is for {deb.PYTHON}"
    return ""


def make_root() -> None:
    """Without devices: each test has its own /dev."""
    if FILES.exists():
        return
    print(f"making {FILES.relative_to(ROOT)}, of Debian's packages: 260 MB", flush=True)
    WORK.mkdir(parents=True, exist_ok=True)
    archive, part = WORK / "root.tar", WORK / "root.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for command in (
        ["mmdebstrap", "--quiet", "--variant=essential", f"--include={INCLUDED}", SUITE, archive],
        ["tar", "--extract", "--exclude=./dev/*", "--directory", part, "--file", archive],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{done.stderr}make: {command[0]} failed, as said above")
    archive.unlink()
    part.rename(FILES)


def newer(wheel: Path) -> Path:
    """The same wheel, of the version after it."""
    _, version, *rest = wheel.name.split("-")
    made = WORK / "-".join(["tcpmux", f"{version}+next", *rest])
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename == "tcpmux/__init__.py":
                content = re.sub(rb'(?m)^(__version__ = ".*)"$', rb'\1+next"', content)
            new.writestr(item, content)
    return made


def make_packages() -> None:
    wheel = deb.newest_wheel()
    for name in ("now", "next"):
        target = WORK / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        made = deb.pack(newer(wheel) if name == "next" else wheel, WORK / "tree", target, "none")
        print(f"{made.relative_to(ROOT)}", flush=True)
    shutil.rmtree(WORK / "tree")


def main() -> int:
    if reason := why_not():
        print(f"skipped: {reason}")
        return SKIPPED
    make_root()
    deb.set_time_of_the_commit()
    make_packages()
    return 0


if __name__ == "__main__":
    sys.exit(main())
