"""Installs the wheel of dist/ as its users do, into a fresh virtual environment, and runs it:
`make wheel-test`.

What it depends on is downloaded first, and is then found in a folder: no network is timed. An
installation from source where there is no compiler is tried as well: it has to fail at once, and
say what is missing. RUNS=5 installs so often.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import deb

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/wheel-test"
WHEELS, FRESH, SOURCE = WORK / "wheels", WORK / "venv", WORK / "source"
PIP = (str(FRESH / "bin/python"), "-m", "pip", "install", "--quiet", "--isolated")
AT_ONCE = 5.0  # s, for what is missing to be said


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=WORK, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def succeed(*command: str) -> str:
    """What it said; ends this program if it fails."""
    done = run(*command)
    if done.returncode:
        raise SystemExit(f"{done.stdout}make wheel-test: {' '.join(command)} failed")
    return done.stdout.strip()


def download(wheel: Path) -> None:
    """What the wheel depends on, as requirements.lock has it."""
    lock = re.sub(r" *\\\n *--hash=\S+", "", (ROOT / "requirements.lock").read_text())
    (WORK / "constraints.txt").write_text(lock)
    succeed(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(WHEELS)),
        *("--only-binary", ":all:", "--constraint", "constraints.txt", str(wheel)),
    )


def make_fresh() -> None:
    shutil.rmtree(FRESH, ignore_errors=True)
    venv.create(FRESH, with_pip=True)


def install(wheel: Path) -> str:
    """Into a fresh environment; what it took."""
    make_fresh()
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    succeed(*PIP, "--no-index", "--find-links", str(WHEELS), str(wheel))
    took, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    load = os.getloadavg()[0]
    return f"{took:.1f} s; CPU {user + system:.1f} s ({user:.1f} + {system:.1f}); load {load:.1f}"


def use() -> None:
    """Its command; what it brings; and a demonstration with connections."""
    program = str(FRESH / "bin/tcpmux")
    print(succeed(program, "--version"))
    succeed(program, "check", "-c", str(FRESH / "share/tcpmux/minimal.yaml"))
    print(succeed(program, "demo").splitlines()[-1])


def fail_without_a_compiler() -> None:
    """Ends this program if that takes long, or if what is missing is not said in a line."""
    commit = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir()
    subprocess.run(["tar", "-x"], cwd=SOURCE, input=commit.stdout, check=True)
    make_fresh()
    begun = time.monotonic()
    done = run(*PIP, str(SOURCE), PATH=str(FRESH / "bin"), CC="gcc")
    took = time.monotonic() - begun
    said = [line.strip() for line in done.stdout.splitlines() if "gcc" in line]
    if done.returncode == 0 or len(said) != 1 or took > AT_ONCE:
        raise SystemExit(
            f"{done.stdout}make wheel-test: without a compiler, after {took:.1f} s: not one line "
            "that says so"
        )
    print(f"without a compiler it fails after {took:.1f} s: {said[0]}")


def main() -> None:
    wheel = deb.newest_wheel()
    WHEELS.mkdir(parents=True, exist_ok=True)
    download(wheel)
    for _ in range(int(os.environ.get("RUNS", "1"))):
        print(f"{wheel.name} in a fresh environment: {install(wheel)}", flush=True)
    use()
    fail_without_a_compiler()
    shutil.rmtree(FRESH)


if __name__ == "__main__":
    main()
