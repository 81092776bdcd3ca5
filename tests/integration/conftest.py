"""Fixtures: echo servers and proxies, each ended and checked after its test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.browsing import browser, chromium  # noqa: F401  # fixtures
from tests.integration.proxy import Proxy
from tests.support import EchoServer, free_port, wait_for

StartProxy = Callable[..., Proxy]


@contextmanager
def proxies(directory: Path, **options: Any) -> Iterator[StartProxy]:
    """What start_proxy() is, for as long as the block lasts."""
    started: list[Proxy] = []

    def start(
        config: dict[str, Any] | str,
        more: Sequence[str] = (),
        prefix: Sequence[str] = (),
        source: str = "",
    ) -> Proxy:
        own = directory / f"proxy{len(started)}"
        own.mkdir()
        proxy = Proxy(own, config, more=more, prefix=prefix, source=source, **options)
        started.append(proxy)
        return started[-1]

    yield start
    for proxy in started:
        proxy.stop()


@pytest.fixture
def start_proxy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartProxy]:
    """start_proxy(config) runs a proxy; all are stopped and checked at the end. more: arguments
    after those for the file. prefix: a command that becomes tcpmux. source: what it reads
    instead of the file.

    A parameter {"nofile": N} starts it with that RLIMIT_NOFILE.
    """
    with proxies(tmp_path, **getattr(request, "param", {})) as start:
        yield start


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def echo_servers() -> Iterator[Callable[..., EchoServer]]:
    started: list[EchoServer] = []

    def start(*arguments: Any, **options: Any) -> EchoServer:
        started.append(EchoServer(*arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def one(echo_servers: Callable[..., EchoServer]) -> EchoServer:
    return echo_servers("one")


@pytest.fixture
def two(echo_servers: Callable[..., EchoServer]) -> EchoServer:
    return echo_servers("two")


def cpu_group() -> Path | None:
    """Where control groups that limit CPU time can be made here."""
    for root in ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup"):
        with suppress(OSError):
            made = Path(root) / f"tcpmux-test-{os.getpid()}"
            made.mkdir()
            if (made / "cpu.cfs_quota_us").exists() or (made / "cpu.max").exists():
                return made
            made.rmdir()
    return None


@pytest.fixture
def one_cpu() -> Iterator[Path]:
    """A control group with the time of one CPU."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("with one CPU a quota changes nothing")
    group = cpu_group()
    if group is None:
        pytest.skip("no control group can be made here")
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text("100000 100000")
    else:
        (group / "cpu.cfs_quota_us").write_text("100000")
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
    group.rmdir()
