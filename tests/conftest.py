"""For all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import patient, short_directory

_kill = os.kill


def _kill_one(pid: int, number: int) -> None:
    """A status says pid 0 of a worker that is between two lives; kill(2) takes that for the whole
    process group, which is the test run itself."""
    if pid <= 0:
        raise ValueError(f"a test wants to signal pid {pid}")
    _kill(pid, number)


def pytest_configure() -> None:
    """A shell has its background jobs ignore these, and what they start ignores them too; some
    tests send them."""
    # How long an example takes says more about the machine than about what is tested.
    settings.register_profile("tcpmux", deadline=None)
    settings.load_profile("tcpmux")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    os.kill = _kill_one


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The limits of pytest-timeout are multiplied as all others are."""
    usual = config.getoption("timeout") or config.getini("timeout")
    for item in items:
        own = item.get_closest_marker("timeout")
        limit = patient(float(own.args[0] if own else usual))
        item.add_marker(pytest.mark.timeout(limit), append=False)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """As tmp_path, and other users may look into it: tcpmux runs as one when tests run as root."""
    with short_directory() as directory:
        yield directory
