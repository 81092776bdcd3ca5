"""What a test may need of where it runs: root, to have another user do things; address space;
programs that others wrote, and a certificate that one of them makes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import DEADLINE, listening, patient, wait_for

NOBODY = 65534  # as whom all but the master run, if root runs the tests
OTHER = 4242  # a user and a group that nobody has

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
needs_address_space = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="a sanitizer takes more address space than the child that reads files may have",
)


@contextmanager
def as_other(act: Callable[[], object], uid: int = OTHER) -> Iterator[int]:
    """A child process of user `uid` that has done act() and stays; yields its pid, ends it."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
            os.write(told, b"1")
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(told)
        assert os.read(ready, 1) == b"1", "the other user could not do it"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def certificate(directory: Path, name: str = "shop.example") -> Path:
    """A new one for this host, signed by itself, in one file with its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    path = directory / f"{name}.pem"
    kind = "IP" if name.replace(".", "").isdecimal() else "DNS"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={kind}:{name}",
         "-keyout", path, "-out", path],
        check=True, capture_output=True, timeout=patient(60),
    )  # fmt: skip
    return path


def system_program(name: str) -> str:
    """Its path, also where that is in root's PATH alone; "" = it is not installed."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin") or ""


@contextmanager
def running(command: list[str], ports: list[int]) -> Iterator[None]:
    """A program in the foreground, from when these ports of 127.0.0.1 are listened on."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: process.poll() is not None or all(map(listening, ports)), command[0])
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE)


def why_unreachable() -> str:
    """Why user nobody could not run this interpreter and this checkout; "" = it can."""
    if os.geteuid() != 0:
        return ""
    import sys

    import tcpmux
    from tcpmux.privileges import User, unreachable

    path = unreachable(User(NOBODY, NOBODY), [sys.executable, os.__file__, tcpmux.__file__])
    return f"user nobody may not read {path}, and an upgrade wants that" if path else ""


# An upgrade has the processes of user nobody become the build that is installed.
needs_reachable = pytest.mark.skipif(bool(why_unreachable()), reason=why_unreachable() or "-")
