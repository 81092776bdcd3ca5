"""The master's signals: taken in order, and none is lost where the master becomes another build."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tcpmux.master.signals import SignalQueue


@pytest.fixture
def queue() -> Iterator[SignalQueue]:
    queue = SignalQueue()
    yield queue
    queue.resume()
    queue.close()


def test_signals_are_taken_in_order(queue: SignalQueue) -> None:
    for number in (signal.SIGTTIN, signal.SIGHUP, signal.SIGTTIN):
        signal.raise_signal(number)
    assert queue.take() == [signal.SIGTTIN, signal.SIGHUP, signal.SIGTTIN]
    assert queue.take() == []


def test_what_nobody_has_taken_waits_for_the_next_program(queue: SignalQueue) -> None:
    signal.raise_signal(signal.SIGTERM)  # before it is deferred, and after
    queue.defer()
    signal.raise_signal(signal.SIGHUP)
    assert queue.take() == []
    assert signal.sigpending() >= {signal.SIGTERM, signal.SIGHUP}  # which an exec keeps
    queue.resume()
    assert set(queue.take()) == {signal.SIGTERM, signal.SIGHUP}
