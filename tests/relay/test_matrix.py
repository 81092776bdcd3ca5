"""Each script of tests.relay.cases, run on a direct connection and through a worker: both ends
have to observe the same, line by line.

Where the families differ, each end has to observe what it would of a peer of its own family.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tests.relay import cases
from tests.relay.cases import (
    BULK,
    CLOSING,
    FINISHING,
    RESETTING,
    RESETTING_UNREAD,
    SMALL,
    End,
    Script,
    drive_into_splice,
    link_directly,
)
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import (
    FAMILIES,
    Destination,
    Family,
    Flow,
    Link,
    RelayWorker,
    address_of,
    await_idle,
    listen,
    transfer,
)
from tests.support import short_directory

Actor = Literal["client", "endpoint"]
Start = Literal["copy", "splice"]
Kind = Literal["tcp", "unix"]


@dataclass(frozen=True, slots=True)
class Limit:
    """What no proxy can pass on, and what is observed instead.

    instead: replacements in what the other end observes; None if the script can't be run."""

    scripts: tuple[Script, ...]
    actor: tuple[Kind, ...]
    other: tuple[Kind, ...]
    why: str
    instead: Mapping[str, str] | None


LIMITS = (
    Limit(
        RESETTING,
        ("unix",),
        ("tcp",),
        "A UNIX socket has no RST. With nothing unread it can only close, and a close is FIN to a "
        "TCP peer: data_then_close and close_before_the_other_writes.",
        None,
    ),
    Limit(
        (cases.close_unread, cases.data_then_close_unread, cases.reset_with_data_both_ways),
        ("tcp", "unix"),
        ("unix",),
        "A UNIX socket hears ECONNRESET only of bytes that its very peer has not read. That is "
        "the worker, which has read them: a reset is an end both ways.",
        {" ERR": "", "read says ECONNRESET": "end of input"},
    ),
    Limit(
        (cases.close_before_the_other_writes, cases.shut_both_ways),
        ("tcp",),
        ("unix",),
        "A TCP peer that closes says FIN, which may be a half-close: that nobody reads any more "
        "shows once something is written.",
        {"write says EPIPE": "wrote 1 bytes"},
    ),
)


# A UNIX socket hears ECONNRESET only of bytes that its very peer has not read. When one is blocked
# in writing, the worker may or may not have read the last ones as the reset comes.
EITHER = (cases.reset_during_the_answer, cases.reset_while_the_other_is_blocked)


def without_reset(lines: list[str]) -> list[str]:
    return [
        line.replace(" ERR", "").replace("read says ECONNRESET", "end of input") for line in lines
    ]


def kind(family: Family) -> Kind:
    return "unix" if family == "unix" else "tcp"


@dataclass(frozen=True, slots=True)
class Case:
    """One script with one choice of everything that it may depend on."""

    script: Script
    actor: Actor
    path: Start
    client: Family
    endpoint: Family

    def __str__(self) -> str:
        return f"{self.script.__name__}-{self.actor}-acts-{self.path}-{self.client}-{self.endpoint}"

    @property
    def limit(self) -> Limit | None:
        families = self.client, self.endpoint
        actor, other = families if self.actor == "client" else families[::-1]
        for limit in LIMITS:
            if (
                self.script in limit.scripts
                and kind(actor) in limit.actor
                and kind(other) in limit.other
            ):
                return limit
        return None

    @property
    def possible(self) -> bool:
        return self.limit is None or self.limit.instead is not None

    def run(self, link: Link) -> list[str]:
        """What both ends observed, in order. Closes the link."""
        log: list[str] = []
        client, endpoint = End("client", link.client, log), End("endpoint", link.server, log)
        try:
            transfer(Flow(link.client, link.server, b"?"), Flow(link.server, link.client, b"!"))
            if self.path == "splice":
                drive_into_splice(link)
            actor, other = (client, endpoint) if self.actor == "client" else (endpoint, client)
            self.script(actor, other, SMALL if self.path == "copy" else BULK)
        finally:
            link.close()
        return log

    def expected(self, direct: Direct) -> list[list[str]]:
        """What the client and the endpoint have to observe, each of a peer of its family."""
        expected = []
        for name, family in (("client", self.client), ("endpoint", self.endpoint)):
            lines = [line for line in direct.observed(self, family) if line.startswith(name)]
            if name != self.actor and self.limit and self.limit.instead:
                for told, instead in self.limit.instead.items():
                    at = next(number for number, line in enumerate(lines) if told in line)
                    lines[at] = lines[at].replace(told, instead)
            expected.append(lines)
        return expected

    @property
    def close_reason(self) -> str:
        """As what the worker counts its end."""
        acting, other = (
            (self.client, self.endpoint) if self.actor == "client" else (self.endpoint, self.client)
        )
        if self.script in FINISHING or self.script is cases.data_then_close:
            return "finished"
        # All that a UNIX socket with nothing unread can say is that it closes.
        if acting == other == "unix" and self.script not in RESETTING_UNREAD:
            return "finished"
        return f"{self.actor}_reset"


@dataclass(slots=True)
class Direct:
    """Connections without a worker, and what was observed on them."""

    directory: Path
    seen: dict[Case, list[str]] = field(default_factory=dict)

    def observed(self, case: Case, family: Family) -> list[str]:
        """Of the case's script between two ends of that family."""
        case = Case(case.script, case.actor, case.path, family, family)
        if case not in self.seen:
            self.seen[case] = case.run(link_directly(family, self.directory))
        return self.seen[case]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def direct(directory: Path) -> Direct:
    return Direct(directory)


@dataclass(frozen=True, slots=True)
class Relay:
    worker: RelayWorker
    endpoint: socket.socket

    def link(self, family: Family) -> Link:
        return self.worker.link(self.endpoint, family)


@pytest.fixture(scope="module")
def relays(directory: Path) -> Iterator[dict[Family, Relay]]:
    """One worker for each family of endpoint; its books are checked at the end."""
    started: dict[Family, Relay] = {}
    for family in FAMILIES:
        endpoint = listen(family, directory)
        worker = RelayWorker(directory, [Destination((address_of(endpoint),))])
        started[family] = Relay(worker, endpoint)
    yield started
    for relay in started.values():
        relay.worker.stop()
        relay.endpoint.close()


ACTORS: tuple[Actor, ...] = ("client", "endpoint")
PATHS: tuple[Start, ...] = ("copy", "splice")
CASES = [
    case
    for script in (*FINISHING, *CLOSING, *RESETTING, *RESETTING_UNREAD)
    for actor in ACTORS
    for path in PATHS
    for client in FAMILIES
    for endpoint in FAMILIES
    if (case := Case(script, actor, path, client, endpoint)).possible
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_ends_observe_what_they_would_of_each_other(
    case: Case, direct: Direct, relays: dict[Family, Relay]
) -> None:
    relay = relays[case.endpoint]
    before = relay.worker.closed()
    expected_client, expected_endpoint = case.expected(direct)
    observed = case.run(relay.link(case.client))
    if case.script in EITHER and "unix" in (case.client, case.endpoint):
        expected_client, expected_endpoint, observed = map(
            without_reset, (expected_client, expected_endpoint, observed)
        )
    assert [line for line in observed if line.startswith("client")] == expected_client
    assert [line for line in observed if line.startswith("endpoint")] == expected_endpoint
    if case.client == case.endpoint and case.limit is None:
        directly = direct.observed(case, case.client)
        if case.script in EITHER and case.client == "unix":
            directly = without_reset(directly)
        assert observed == directly
    await_idle(relay.worker)
    after = relay.worker.closed()
    counted = {reason for reason, count in after.items() if count != before.get(reason, 0)}
    assert counted == {case.close_reason}


@pytest.mark.parametrize("speaks", [False, True], ids=["silent", "speaks-first"])
@pytest.mark.parametrize("endpoint", FAMILIES)
@pytest.mark.parametrize("client", FAMILIES)
def test_a_refusal_is_passed_on_at_once(
    open_endpoint: OpenEndpoint,
    start_worker: StartWorker,
    client: Family,
    endpoint: Family,
    speaks: bool,
) -> None:
    """What differs: connect itself succeeds, as the kernel accepts before the worker asks. The
    refusal is the first thing after it: a reset without any byte; on a UNIX socket an end both
    ways, or ECONNRESET if the client's bytes were still unread."""
    refusing = open_endpoint(endpoint, backlog=None)
    with (
        socket.socket(refusing.family, socket.SOCK_STREAM) as direct_client,
        pytest.raises(ConnectionRefusedError),
    ):
        direct_client.connect(refusing.getsockname())
    worker = start_worker(refusing)
    log: list[str] = []
    with suppress(ConnectionResetError):  # by connect itself, if the reset is that fast
        end = End("client", worker.connect(client), log)
        if speaks:
            end.writes()
        end.awaits_death()
        end.reads_end()
        end.reads_end()
        end.writes()
        assert log[-2:] == ["client: end of input", "client: write says EPIPE"]
        resets = sum("ECONNRESET" in line for line in log)
        assert resets <= speaks if client == "unix" else resets == 1, log
    await_idle(worker)
    assert worker.closed() == {"connect_failed": 1}
