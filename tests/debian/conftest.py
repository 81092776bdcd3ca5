"""Machines with the package installed, and with systemd."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.debian.machine import BUILT, Machine, machine
from tests.support import EchoServer

ASLEEP = ("/usr/bin/sleep", "infinity")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    built = (BUILT / "next").exists() and os.geteuid() == 0
    for item in items:
        if not built and item.nodeid.startswith("tests/debian/"):
            reason = "make deb-test and make systemd-test build a Debian for root, and run this"
            item.add_marker(pytest.mark.skip(reason=reason))


def bring(debian: Machine) -> None:
    """Both packages, as /root/now.deb and /root/next.deb."""
    for name in ("now", "next"):
        (package,) = (BUILT / name).glob("*.deb")
        shutil.copy(package, debian.path(f"root/{name}.deb"))


def install(debian: Machine) -> str:
    """As a person does, who has no network; what apt-get says."""
    bring(debian)
    return debian.said("apt-get", "install", "-qq", "/root/now.deb")


@pytest.fixture
def asleep(tmp_path: Path) -> Iterator[Machine]:
    """A machine that runs nothing."""
    with machine(tmp_path, ASLEEP) as found:
        yield found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One that has the package and runs nothing; for tests that only look."""
    with machine(tmp_path_factory.mktemp("installed"), ASLEEP) as found:
        install(found)
        yield found


@pytest.fixture
def one() -> Iterator[EchoServer]:
    server = EchoServer("one")
    yield server
    server.close()


@pytest.fixture
def two() -> Iterator[EchoServer]:
    server = EchoServer("two")
    yield server
    server.close()
