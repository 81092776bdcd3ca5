"""Fixtures: a worker and what stands behind it, ended and checked after each test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.relay.harness import Destination, Family, RelayWorker, address_of, bound, listen
from tests.support import short_directory

StartWorker = Callable[..., RelayWorker]
OpenEndpoint = Callable[..., socket.socket]


@pytest.fixture
def directory() -> Iterator[Path]:
    """For socket files. Not tmp_path: its names may exceed what a UNIX address holds."""
    with short_directory() as directory:
        yield directory


@pytest.fixture
def open_endpoint(directory: Path) -> Iterator[OpenEndpoint]:
    """open_endpoint(family, backlog, receive_buffer) listens; backlog None only binds, so
    that connects to it are refused."""
    opened: list[socket.socket] = []

    def start(
        family: Family = "v4", backlog: int | None = 1024, receive_buffer: int = 0
    ) -> socket.socket:
        if backlog is None:
            opened.append(bound(family, directory))
        else:
            opened.append(listen(family, directory, backlog, receive_buffer))
        return opened[-1]

    yield start
    for sock in opened:
        sock.close()


@pytest.fixture
def start_worker(directory: Path) -> Iterator[StartWorker]:
    """start_worker(*endpoints, **options): endpoints are sockets and make one destination;
    or give destinations=[...]. At the end the worker is stopped and its books are checked."""
    started: list[RelayWorker] = []

    def start(*endpoints: socket.socket, **options: Any) -> RelayWorker:
        made = [Destination(tuple(map(address_of, endpoints)))] if endpoints else []
        if not (made or "loop" in options):
            made = [Destination(())]
        options.setdefault("destinations", made)
        started.append(RelayWorker(directory, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()
