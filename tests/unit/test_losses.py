"""What the log says of lost clients and of failed connects, from the workers' counts."""

from __future__ import annotations

import errno
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from tcpmux.control import failed_connects, losses, telling
from tcpmux.control.connecting import error_text
from tcpmux.control.failed_connects import FailedConnects
from tcpmux.control.losses import LIMITED, LOST, Losses
from tcpmux.shm._commons import Commons
from tcpmux.shm.counters import REJECTED
from tcpmux.shm.image import ADMIN_STATES, DOWN, HOLD, Image, RouteRow
from tcpmux.shm.serving import with_conditions, with_state, with_weights
from tests.unit.watching import destination, endpoint, route

DRAINED = ADMIN_STATES.index("draining")
V1, V2 = ("r", "v1", "127.0.0.1:1"), ("r", "v2", "127.0.0.1:2")
WHY = "v1 127.0.0.1:1 (connection refused), v2 127.0.0.1:2 (connection refused)"
CHECK = "tcp check: connection refused"
LIMITS = "max_connections was reached (2), the rate limit of new connections was exceeded (1)"
MANY = telling.MAX_LINES + 5


@dataclass
class Counts:
    """What workers have counted of one connection's end and of connects, by slot."""

    ends: dict[tuple[int, str], int] = field(default_factory=dict)
    established: dict[int, int] = field(default_factory=dict)
    looks: int = 0  # at connects

    def closed(self, slots: Sequence[int], reasons: Sequence[str]) -> array[int]:
        return array("Q", [self.ends.get((s, r), 0) for s in slots for r in reasons])

    def connects(self, slots: Sequence[int]) -> array[int]:
        self.looks += 1
        return array("Q", [self.established.get(slot, 0) for slot in slots])

    def end(self, slot: int, reason: str, times: int = 1) -> None:
        self.ends[slot, reason] = self.ends.get((slot, reason), 0) + times

    def serve(self, slot: int = 1) -> None:
        self.established[slot] = self.established.get(slot, 0) + 1


class Watch:
    """An instance as control sees it, and what it says."""

    def __init__(self, *rows: RouteRow, starts: int = 2) -> None:
        self.starts = starts  # of control
        self.image_in_force = Image(rows or (two(),), ())
        self.commons = Commons.create()
        self.counters = Counts()
        self.said: list[tuple[int, str]] = []
        self.losses = Losses(
            self,  # type: ignore[arg-type]
            lambda line: self.said.append((line.level, line)),
            lambda *_: CHECK,
        )
        self.now = 1000.0
        if starts > 1:
            self.look(0.0)

    @property
    def table(self) -> SimpleNamespace:
        return SimpleNamespace(program=lambda _: (0, 1, self.starts, 0))

    def image(self) -> tuple[int, Image]:
        return 1, self.image_in_force

    def fail(self, *slots: int) -> None:
        for slot in slots:
            self.commons.note(slot, failure=True, error=errno.ECONNREFUSED)

    def look(self, after: float = losses.LOOK) -> list[tuple[int, str]]:
        self.said.clear()
        self.now += after
        self.losses.look(self.now)
        return list(self.said)


def two(**rules: Any) -> RouteRow:
    v1 = destination(1, "v1", 1, endpoint(2, "127.0.0.1:1"))
    v2 = destination(4, "v2", 1, endpoint(3, "127.0.0.1:2"))
    return route(v1, v2, **rules)


def test_a_route_that_resets_every_client_is_an_error_at_once_and_again_and_has_an_end() -> None:
    """Also without any check: the counters say it. And the end says how long and how many."""
    watch = Watch()
    watch.fail(2, 3)
    watch.counters.end(0, "connect_failed", 7)
    text = "r: every new client is reset (7 so far): connects fail: "
    assert watch.look() == [(logging.ERROR, text + WHY)]
    assert watch.look() == []
    told = []
    for _ in range(600):  # ten minutes
        watch.counters.end(0, "connect_failed")
        told += watch.look(1.0)
    assert [level for level, _ in told] == [logging.ERROR] * 4  # after 30 s, 1, 2 and 4 minutes
    assert told[0] == (
        logging.ERROR,
        f"r: every new client is still reset (30 more, 37 in 30 s): connects fail: {WHY}",
    )
    assert watch.look(60.0) == []  # nobody comes; that is no recovery
    watch.commons.note(2, success=True)
    watch.counters.serve()
    assert watch.look(losses.COUNT) == [
        (logging.INFO, "r: clients are served again; until then 607 clients lost in 10 min")
    ]
    assert watch.look(3600.0) == []


def test_it_is_not_over_while_some_are_lost() -> None:
    watch = Watch()
    watch.fail(2)
    for number in range(100):
        watch.counters.end(0, "connect_timeout")
        watch.counters.serve()
        said = watch.look(1.0)
        assert (number == 0) == (said[:1] != [] and "so far" in said[0][1])
        assert all(level == logging.ERROR for level, _ in said)
    watch.counters.serve()
    assert watch.look(1.0) == []
    assert watch.look(losses.CALM)[0][0] == logging.INFO


def test_what_was_before_control_is_told_by_the_first_one_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients come as soon as workers serve; a restart of control is no reason to speak again."""
    for starts in (1, 2):
        caplog.clear()
        watch = Watch(starts=1)
        watch.starts = starts
        watch.fail(2)
        watch.counters.end(0, "connect_failed")
        failed = FailedConnects(watch)  # type: ignore[arg-type]
        failed.look()
        assert len(caplog.messages) == len(watch.look()) == (1 if starts == 1 else 0)


def test_where_some_are_served_not_every_client_is_said_to_be_reset() -> None:
    watch = Watch()
    watch.fail(2)
    watch.counters.end(0, "retries_used_up", 2)
    text = "r: clients are reset (2 so far): connects fail: v1 127.0.0.1:1 (connection refused)"
    assert watch.look() == [(logging.ERROR, text)]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (with_weights(Image((two(),), ()), "r", {"v1": 0, "v2": 0}), "no destination has weight"),
        (
            with_conditions(Image((two(),), ()), {V1: (DOWN, 100), V2: (DOWN, 100)}),
            ", ".join(f"v{n} has no healthy endpoint (127.0.0.1:{n}: {CHECK})" for n in (1, 2)),
        ),
        (
            with_state(with_state(Image((two(),), ()), ("r", "v1"), DRAINED), V2, DRAINED),
            "v1 is drained, v2 has no endpoint that is not drained or disabled",
        ),
        (
            Image((route(destination(1, "v1", 1), replace(destination(4, "v2", 1))),), ()),
            "v1 has no endpoint, v2 has no endpoint",
        ),
        (
            Image((route(replace(destination(1, "v1", 1), unresolved=True)),), ()),
            "v1 has no address: its name does not resolve",
        ),
    ],
)
def test_the_reason_why_nobody_takes_them(row: Image, why: str) -> None:
    watch = Watch(*row.routes)
    watch.counters.end(0, "no_endpoint")
    assert watch.look() == [(logging.ERROR, f"r: every new client is reset (1 so far): {why}")]


def test_a_host_without_resources() -> None:
    watch = Watch()
    watch.counters.end(0, "local_error", 3)
    text = "r: clients are reset (3 so far): this host is out of ports, descriptors or memory"
    assert watch.look() == [(logging.ERROR, text)]


def test_a_limit_that_turns_clients_away_is_a_warning_and_no_loss() -> None:
    """Whoever comes too often must not wake anybody."""
    watch = Watch()
    watch.counters.end(0, "overflow", 2)
    watch.counters.end(0, "rate_limited", 1)
    text = f"r: limits turn clients away (3 so far): {LIMITS}"
    assert watch.look() == [(logging.WARNING, text)]
    assert watch.look() == []
    assert watch.look(losses.CALM) == [
        (logging.INFO, "r: within its limits again; until then 3 clients lost in 1 s")
    ]


def test_of_a_route_that_nobody_serves_is_spoken_again_though_nobody_comes() -> None:
    """The master has said so at once; and says when it is over."""
    watch = Watch(two(on_all_unavailable=HOLD))
    before = watch.image_in_force
    watch.image_in_force = with_conditions(before, {V1: (DOWN, 100), V2: (DOWN, 100)})
    assert watch.look() == []
    ((level, text),) = watch.look(losses.FIRST_REMINDER)
    assert level == logging.ERROR
    assert text.startswith("r: new connections are still held, after 30 s: v1 has no healthy")
    watch.image_in_force = before
    assert watch.look() == []
    assert watch.look(3600.0) == []


def test_a_route_that_is_removed_meanwhile() -> None:
    watch = Watch()
    watch.counters.end(0, "no_endpoint", 2)
    watch.look()
    watch.image_in_force = Image((), ())
    assert watch.look() == [(logging.INFO, "r: removed; until then 2 clients lost in 1 s")]
    assert watch.look() == []


def test_a_slot_that_another_route_gets_and_counts_that_go_backwards() -> None:
    """Nothing of one route is said of another, and a worker that writes nonsense gets no further
    than its own numbers."""
    watch = Watch()
    watch.counters.end(0, "no_endpoint", 2)
    watch.image_in_force = Image((replace(two(), name="other"),), ())
    assert watch.look() == []
    watch.counters.ends.clear()
    assert watch.look() == []
    watch.counters.end(0, "no_endpoint", 2**64 - 1)
    ((_, text),) = watch.look()
    assert text.startswith(f"other: clients are reset ({2**64 - 1} so far)")


def test_many_routes_at_once_are_a_bounded_number_of_lines() -> None:
    rows = [replace(two(), name=f"r{slot}", slot=slot) for slot in range(100, 100 + MANY)]
    watch = Watch(*rows)
    for row in rows:
        watch.counters.end(row.slot, "no_endpoint")
    said = watch.look()
    assert len(said) == telling.MAX_LINES + 1
    assert said[-1] == (logging.ERROR, "and 5 more routes lose clients")


def test_connects_are_read_at_once_for_all_routes_that_lose_clients() -> None:
    """A thousand routes that fail for hours would be read a thousand times in each look."""
    rows = [
        replace(route(destination(10 + at, "v1", 1)), name=f"r{at}", slot=100 + at)
        for at in range(50)
    ]
    watch = Watch(*rows)
    for row in rows:
        watch.counters.end(row.slot, "connect_failed")
    watch.look()
    watch.look(losses.CALM)
    before = watch.counters.looks
    assert watch.look(1.0) == []
    assert watch.counters.looks == before + 1
    watch.counters.serve(rows[7].destinations[0].slot)
    assert watch.look(losses.COUNT) == [
        (logging.INFO, "r7: clients are served again; until then 1 client lost in 1 s")
    ]


def test_every_reason_for_which_a_client_gets_nowhere_is_one_of_these() -> None:
    """csrc/counters.def says which those are."""
    assert set(REJECTED) == {*LOST, *LIMITED}


# --- connects that fail ---------------------------------------------------------------------------


def test_failed_connects_are_told_once_for_an_endpoint_and_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With how many and why; a flood of them is still one line, and none is told twice."""
    watch = Watch()
    failed = FailedConnects(watch)  # type: ignore[arg-type]
    failed.look()
    assert caplog.messages == []
    watch.fail(*[2] * 1000)
    watch.commons.note(3, failure=True, error=0)
    failed.look()
    assert caplog.messages == [
        "r/v1: 1000 connects to 127.0.0.1:1 failed: connection refused",
        "r/v2: 1 connect to 127.0.0.1:2 failed: connect timed out",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    failed.look()
    assert len(caplog.messages) == 2


def test_that_an_endpoint_refuses_tls_is_told_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays in use, so this goes on until somebody mends it."""
    now = 1000.0
    monkeypatch.setattr("tcpmux.control.failed_connects.time.monotonic", lambda: now)
    watch = Watch()
    failed = FailedConnects(watch)  # type: ignore[arg-type]
    failed.look()
    for more in (1, 2, 3, 59):
        watch.commons.note(2, failure=True, error=failed_connects.REFUSES_TLS)
        failed.look()
        now += more
    watch.commons.note(2, failure=True, error=failed_connects.REFUSES_TLS)
    failed.look()
    told = "to 127.0.0.1:1 failed: it refuses TLS (ssl = off?)"
    assert caplog.messages == [f"r/v1: 1 connect {told}", f"r/v1: 4 connects {told}"]
    watch.fail(2)  # of another kind: at once
    failed.look()
    assert caplog.messages[2:] == ["r/v1: 1 connect to 127.0.0.1:1 failed: connection refused"]


def test_failed_connects_of_many_endpoints_and_after_a_reload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [endpoint(slot, f"127.0.0.1:{slot}") for slot in range(100, 100 + MANY)]
    watch = Watch(route(destination(1, "v1", 1, *rows)))
    failed = FailedConnects(watch)  # type: ignore[arg-type]
    failed.look()
    watch.fail(*(row.slot for row in rows))
    watch.image_in_force = Image((route(destination(1, "v1", 1, *rows[1:])),), ())
    failed.look()
    assert len(caplog.messages) == telling.MAX_LINES + 1
    assert caplog.messages[-1] == "and 4 more endpoints with failed connects"
    caplog.clear()
    watch.image_in_force = Image((), ())
    failed.look()
    assert caplog.messages == []


def test_what_a_failed_connect_met_with_is_bounded() -> None:
    """A worker that is not to be trusted writes it."""
    assert error_text(0) == "connect timed out"
    assert error_text(errno.EHOSTUNREACH) == "no route to host"
    assert error_text(errno.ENOENT) == "no such socket"
    assert error_text(4_000_000_000) == "error 4000000000"


def test_durations() -> None:
    shown = [telling.duration(seconds) for seconds in (0.01, 119, 600, 7199, 12_060)]
    assert shown == ["1 s", "119 s", "10 min", "119 min", "3 h 21 min"]
