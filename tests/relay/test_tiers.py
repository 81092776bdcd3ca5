"""Where connections go that an endpoint, a tier of them or a destination can't take."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Sequence

import pytest

from tcpmux.shm.image import BALANCES, FALLBACK, FULL_QUEUE, FULL_REJECT, FULL_SPILL
from tcpmux.shm.rules import DestinationRules, RouteRules
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import Destination, RelayWorker, address_of, await_idle, ends_by_reset
from tests.support import DEADLINE, wait_for


def destination(
    *endpoints: socket.socket,
    weight: int = 1,
    endpoint_weights: Sequence[int] = (),
    priorities: Sequence[int] = (),
    limits: Sequence[int] = (),
    balance: str = "round_robin",
    **rules: int,
) -> Destination:
    return Destination(
        tuple(map(address_of, endpoints)),
        weight,
        tuple(endpoint_weights),
        tuple(priorities),
        tuple(limits),
        DestinationRules(balance=BALANCES.index(balance), **rules),
    )


def visit(worker: RelayWorker, endpoints: Sequence[socket.socket], source: str = "") -> int:
    """One connection, to its end: which of the listening endpoints got it; -1 = it was reset."""
    open_before = worker.live.connections
    reached = _reached(worker, endpoints, source)
    wait_for(lambda: worker.live.connections == open_before, "the connection to end")
    return reached


def _reached(worker: RelayWorker, endpoints: Sequence[socket.socket], source: str) -> int:
    try:
        client = worker.connect(source=source)
    except ConnectionResetError:
        return -1
    ready = select.select([client, *endpoints], [], [], DEADLINE)[0]
    assert ready, "neither an endpoint nor the client has heard anything"
    if ready == [client]:
        assert ends_by_reset(client)
        return -1
    (endpoint,) = ready
    endpoint.accept()[0].close()
    client.close()
    return endpoints.index(endpoint)


def visits(worker: RelayWorker, endpoints: Sequence[socket.socket], count: int) -> Counter[int]:
    return Counter(visit(worker, endpoints) for _ in range(count))


ALL_BALANCES = pytest.mark.parametrize("balance", BALANCES)


# --- tiers ------------------------------------------------------------------------------------


@ALL_BALANCES
def test_a_backup_takes_over_at_once(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, balance: str
) -> None:
    """Nobody knows yet that the primaries are dead, and no client is lost by it."""
    dead = [open_endpoint(backlog=None) for _ in range(2)]
    backups = [open_endpoint() for _ in range(2)]
    made = destination(*dead, *backups, priorities=(0, 0, 1, 1), balance=balance)
    worker = start_worker(destinations=[made])
    found = visits(worker, backups, 20)
    assert found[-1] == 0
    assert found[0] + found[1] == 20
    if balance in ("round_robin", "least_connections"):
        assert found[0] == 10
    assert worker.closed().get("connect_failed", 0) == 0


def test_tier_after_tier_until_somebody_serves(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    dead = [open_endpoint(backlog=None) for _ in range(4)]
    serving, unused = open_endpoint(), open_endpoint()
    made = destination(serving, *dead, unused, priorities=(7, 0, 3, 2, 3, 100))
    worker = start_worker(destinations=[made])
    assert visits(worker, [serving, unused], 20) == {0: 20}


def test_retries_that_are_used_up_don_t_keep_backups_out(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """The budget is for retries within a tier: there is one of five. The backup has its own."""
    dead = [open_endpoint(backlog=None) for _ in range(5)]
    serving = open_endpoint()
    made = destination(*dead, serving, priorities=(0, 0, 0, 0, 0, 1))
    worker = start_worker(destinations=[made], rules=RouteRules(retry_percent=1, retry_burst=1))
    assert visits(worker, [serving], 5) == {0: 5}
    assert sum(worker.endpoint(i).opened for i in range(5)) <= 2 + 5


@pytest.mark.parametrize(
    "rules", [RouteRules(max_attempts=1), RouteRules(retry_percent=0, retry_burst=0)]
)
def test_who_wants_no_retry_gets_none(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, rules: RouteRules
) -> None:
    """The client that finds out is lost; for the others the backup is the first to be tried."""
    dead, serving = open_endpoint(backlog=None), open_endpoint()
    worker = start_worker(destinations=[destination(dead, serving, priorities=(0, 1))], rules=rules)
    worker.assert_turns_away()
    await_idle(worker)
    assert worker.closed() == {"retries_used_up": 1}
    assert visit(worker, [serving]) == 0


def test_the_last_of_many_endpoints_is_found(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """More than a record has bits for, all of the others dead."""
    dead = [open_endpoint(backlog=None) for _ in range(70)]
    serving = open_endpoint()
    for priorities in ((), (0,) * 70 + (1,)):
        made = destination(*dead, serving, priorities=priorities)
        worker = start_worker(destinations=[made])
        assert visits(worker, [serving], 3) == {0: 3}


def test_a_backup_is_tried_again_if_there_is_nobody_else(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """All have failed a moment ago: each is tried, once for each connection."""
    dead = [open_endpoint(backlog=None) for _ in range(2)]
    worker = start_worker(destinations=[destination(*dead, priorities=(0, 1))])
    for count in (1, 2, 3):
        worker.assert_turns_away()
        await_idle(worker)
        assert worker.closed() == {"connect_failed": count}
        assert [worker.endpoint(i).opened for i in range(2)] == [count, count]


@pytest.mark.parametrize("on_full", [FULL_REJECT, FULL_QUEUE])
def test_what_a_full_primary_can_t_take_the_backup_serves(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, on_full: int
) -> None:
    primary, backup = open_endpoint(), open_endpoint()
    made = destination(
        primary, backup, priorities=(0, 1), limits=(2, 1),
        on_full=on_full, queue_size=5, queue_ms=60000,
    )  # fmt: skip
    worker = start_worker(destinations=[made])
    for endpoint in (primary, primary, backup):
        worker.link(endpoint)
    if on_full == FULL_REJECT:
        worker.assert_turns_away()
        assert worker.closed() == {"overflow": 1}
        return
    waiting = worker.connect()
    wait_for(lambda: worker.route().opened == 4, "the fourth to be taken")
    assert not select.select([primary, backup, waiting], [], [], 0.05)[0]


def test_with_a_full_primary_and_a_dead_backup_clients_wait(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """A backup that refuses doesn't take the place in the queue away."""
    primary, dead = open_endpoint(), open_endpoint(backlog=None)
    made = destination(
        primary, dead, priorities=(0, 1), limits=(1,),
        on_full=FULL_QUEUE, queue_size=5, queue_ms=60000,
    )  # fmt: skip
    worker = start_worker(destinations=[made])
    first = worker.link(primary)
    waiting = worker.connect()
    wait_for(lambda: worker.endpoint(1).connect_failures == 1, "the backup to be tried")
    assert not select.select([primary, waiting], [], [], 0.05)[0]
    assert worker.endpoint(1).connect_failures == 1
    first.close()
    server = worker.own(primary.accept()[0])
    server.sendall(b"served")
    assert waiting.recv(10) == b"served"


def test_who_waits_in_vain_beside_a_dead_backup_is_reset(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Attempts on the way don't make the wait longer."""
    primary, dead = open_endpoint(), open_endpoint(backlog=None)
    made = destination(
        primary, dead, priorities=(0, 1), limits=(1,),
        on_full=FULL_QUEUE, queue_size=5, queue_ms=100,
    )  # fmt: skip
    worker = start_worker(destinations=[made])
    worker.link(primary)
    assert ends_by_reset(worker.connect())
    wait_for(lambda: worker.closed() == {"overflow": 1}, "it to be counted")


# --- spread over all others -------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["round_robin", "least_connections"])
def test_the_turns_of_one_that_refuses_are_spread_over_all_others(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, balance: str
) -> None:
    refusing = open_endpoint(backlog=None)
    serving = [open_endpoint() for _ in range(3)]
    worker = start_worker(destinations=[destination(refusing, *serving, balance=balance)])
    assert visits(worker, serving, 120) == {0: 40, 1: 40, 2: 40}


def test_they_are_spread_by_weight(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> None:
    refusing = open_endpoint(backlog=None)
    serving = [open_endpoint() for _ in range(3)]
    made = destination(*serving[:1], refusing, *serving[1:], endpoint_weights=(1, 5, 2, 3))
    worker = start_worker(destinations=[made])
    assert visits(worker, serving, 60) == {0: 10, 1: 20, 2: 30}


def test_so_are_the_turns_of_one_that_is_full(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    full, *others = [open_endpoint() for _ in range(4)]
    worker = start_worker(destinations=[destination(full, *others, limits=(1,))])
    worker.link(full)
    assert [visit(worker, others) for _ in range(9)] == [0, 1, 2] * 3


def test_random_two_spreads_over_all_others(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    refusing = open_endpoint(backlog=None)
    serving = [open_endpoint() for _ in range(3)]
    worker = start_worker(destinations=[destination(refusing, *serving, balance="random_two")])
    found = visits(worker, serving, 120)
    assert found[-1] == 0
    # One in a million is farther off than 5 standard deviations (5.2 each).
    assert all(14 <= found[place] <= 66 for place in range(3)), found


@pytest.mark.parametrize("balance", ["source_hash", "maglev"])
def test_a_client_whose_endpoint_is_gone_stays_with_its_next_one(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, balance: str
) -> None:
    """The clients of the one that refuses go to all others, each always to the same; clients of
    others don't notice."""
    endpoints = [open_endpoint() for _ in range(4)]
    worker = start_worker(destinations=[destination(*endpoints, balance=balance)])
    # That one of three gets none of those of a fourth: 3 * (11/12)^160, three in a million.
    sources = [f"127.0.2.{number}" for number in range(1, 161)]
    before = {source: visit(worker, endpoints, source) for source in sources}
    gone = endpoints[1]
    gone.shutdown(socket.SHUT_RDWR)  # it refuses, and keeps its address
    serving = [*endpoints[:1], *endpoints[2:]]
    places = {0: 0, 1: 2, 2: 3}
    after = {source: places[visit(worker, serving, source)] for source in sources}
    again = {source: places[visit(worker, serving, source)] for source in sources}
    assert again == after
    own = [source for source in sources if before[source] == 1]
    assert [source for source in sources if before[source] != after[source]] == own
    assert {after[source] for source in own} == {0, 2, 3}


# --- other destinations -----------------------------------------------------------------------


def test_a_fallback_takes_over_at_once(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """It has no weight of its own. Who comes there has been picked for the other first, and was
    passed on from there: nobody counts as reset."""
    dead, other, spare = open_endpoint(backlog=None), open_endpoint(), open_endpoint()
    worker = start_worker(
        destinations=[destination(dead), destination(other), destination(spare, weight=0)],
        rules=RouteRules(on_unavailable=FALLBACK, fallback=2),
    )
    assert visits(worker, [other, spare], 60) == {0: 30, 1: 30}
    assert worker.destination(2).opened == 30
    assert worker.picked(3) == {"failed_over": 30}
    assert worker.closed(1) == {"passed_on": 30}
    assert worker.closed() == {"finished": 60}


def test_a_fallback_that_is_dead_itself_is_no_help(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    dead = [open_endpoint(backlog=None) for _ in range(2)]
    worker = start_worker(
        destinations=[destination(dead[0]), destination(dead[1], weight=0)],
        rules=RouteRules(on_unavailable=FALLBACK, fallback=1),
    )
    for _ in range(3):
        worker.assert_turns_away()
    await_idle(worker)
    assert worker.closed() == {"connect_failed": 3}


def test_a_fallback_that_is_full_leaves_its_limit_exact(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    dead, spare = open_endpoint(backlog=None), open_endpoint()
    worker = start_worker(
        destinations=[destination(dead), destination(spare, weight=0, max_connections=1)],
        rules=RouteRules(on_unavailable=FALLBACK, fallback=1),
    )
    link = worker.link(spare)
    worker.assert_turns_away()
    link.close()
    await_idle(worker)
    assert visit(worker, [spare]) == 0


def test_another_version_gets_nothing_unless_the_route_says_so(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    dead, other = open_endpoint(backlog=None), open_endpoint()
    worker = start_worker(destinations=[destination(dead), destination(other)])
    assert visits(worker, [other], 20) == {-1: 10, 0: 10}


def test_what_fails_over_is_spread_by_weight(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    dead, *others = [open_endpoint(backlog=None), *(open_endpoint() for _ in range(3))]
    worker = start_worker(
        destinations=[
            destination(dead, weight=60),
            destination(others[0], weight=10),
            destination(others[1], weight=20),
            destination(others[2], weight=30),
        ],
        rules=RouteRules(across=1),
    )
    assert visits(worker, others, 120) == {0: 20, 1: 40, 2: 60}


@pytest.mark.parametrize("limit", ["of the destination", "of its endpoint"])
def test_what_spills_over_is_spread_by_weight(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, limit: str
) -> None:
    """Full is a destination at its limit, and one of which each endpoint is."""
    full, *others = [open_endpoint() for _ in range(4)]
    of_destination = int(limit == "of the destination")
    worker = start_worker(
        destinations=[
            destination(
                full,
                weight=60,
                limits=() if of_destination else (1,),
                on_full=FULL_SPILL,
                max_connections=of_destination,
            ),
            destination(others[0], weight=10),
            destination(others[1], weight=20),
            destination(others[2], weight=30),
        ]
    )

    def opened() -> list[int]:
        return [worker.destination(number).opened for number in range(4)]

    while not opened()[0]:
        before = sum(opened())
        last = worker.connect()
        wait_for(lambda: sum(opened()) > before, "its destination to be picked")  # noqa: B023
        if not opened()[0]:
            last.close()
    worker.own(full.accept()[0])
    wait_for(lambda: worker.live.connections == 1, "the others to end")
    for endpoint in others:
        while select.select([endpoint], [], [], 0)[0]:
            endpoint.accept()[0].close()
    assert visits(worker, others, 120) == {0: 20, 1: 40, 2: 60}
