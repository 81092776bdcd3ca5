"""Who serves: turns and effective weights from health, states, slow starts and a route's rules."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from tcpmux.config import Clients
from tcpmux.shm._pick import pick, pick_plan
from tcpmux.shm.image import (
    DOWN,
    DRAINING,
    FALLBACK,
    HEALTHY,
    HOLD,
    READY,
    REDISTRIBUTE,
    REJECT,
    RESET,
    DestinationRow,
    EndpointRow,
    Image,
    RouteRow,
)
from tcpmux.shm.ranges import admitted
from tcpmux.shm.rules import DestinationRules, EndpointRules, RouteRules
from tcpmux.shm.serving import is_unavailable, serves, with_conditions, with_turns_and_weights


def destination(name: str, weight: int, *endpoints: EndpointRow, **more: object) -> DestinationRow:
    row = DestinationRow(name, weight, weight, 0, 0, 0, 1, endpoints)
    return replace(row, **more)  # type: ignore[arg-type]


def endpoint(number: int = 1, **more: object) -> EndpointRow:
    return replace(EndpointRow(f"127.0.0.1:{number}", number, 1), **more)  # type: ignore[arg-type]


def route(*rows: DestinationRow, **rules: int) -> RouteRow:
    return with_turns_and_weights(RouteRow("r", 0, 0, 1, rows, RouteRules(**rules)))


def effective(row: RouteRow) -> list[int]:
    return [d.effective_weight for d in row.destinations]


def test_all_well_is_as_configured() -> None:
    made = route(destination("a", 80, endpoint()), destination("b", 20, endpoint(2), endpoint(3)))
    assert effective(made) == [80, 20]
    assert made.destinations[1].turns == (0, 1)
    assert with_turns_and_weights(made) == made


def test_who_gets_the_share_of_one_that_is_down() -> None:
    rows = (
        destination("a", 50, endpoint()),
        destination("b", 30, endpoint(2)),
        destination("c", 20, endpoint(3, health=DOWN)),
    )
    assert effective(route(*rows)) == [50, 30, 0]
    assert effective(route(*rows, on_unavailable=REJECT)) == [50, 30, 20]
    assert effective(route(*rows, on_unavailable=FALLBACK, fallback=1)) == [50, 50, 0]
    # The fallback is down itself: the others.
    assert effective(route(*rows, on_unavailable=FALLBACK, fallback=2)) == [50, 30, 0]


def test_a_fallback_may_have_no_weight_of_its_own() -> None:
    rows = destination("a", 5, endpoint(health=DOWN)), destination("b", 0, endpoint(2))
    made = route(*rows, on_unavailable=FALLBACK, fallback=1)
    assert effective(made) == [0, 5]
    assert not is_unavailable(made)
    assert effective(route(*rows)) == [0, 0]
    assert is_unavailable(route(*rows))


def test_when_none_is_left() -> None:
    rows = destination("a", 5, endpoint(health=DOWN)), destination("b", 3, endpoint(2, health=DOWN))
    assert effective(route(*rows)) == [0, 0]
    assert effective(route(*rows, on_unavailable=REJECT, on_all_unavailable=RESET)) == [5, 3]
    assert effective(route(*rows, on_unavailable=REJECT, on_all_unavailable=HOLD)) == [0, 0]
    for more in ({}, {"on_unavailable": REJECT}):
        assert is_unavailable(route(*rows, **more))


def test_one_without_endpoints_keeps_its_share_to_be_reset() -> None:
    made = route(destination("a", 5, endpoint()), destination("b", 3))
    assert effective(made) == [5, 3]
    assert not serves(made.destinations[1])


def test_one_whose_names_have_no_address_is_as_one_that_is_down() -> None:
    """That nobody knows where it is is no reason to reset what others could serve."""
    rows = destination("a", 50, endpoint()), destination("b", 50, unresolved=1)
    assert effective(route(*rows)) == [50, 0]
    assert effective(route(*rows, on_unavailable=REJECT)) == [50, 50]
    assert effective(route(*rows, on_unavailable=FALLBACK, fallback=0)) == [100, 0]
    alone = destination("b", 50, unresolved=1)
    for policy in (RESET, HOLD):
        made = route(alone, on_all_unavailable=policy)
        assert effective(made) == [0]
        assert is_unavailable(made)
    assert not is_unavailable(route(destination("b", 50))), "nobody ever was there"


def test_a_drained_destination_has_none() -> None:
    rows = destination("a", 5, endpoint()), destination("b", 3, endpoint(2), state=DRAINING)
    for policy in (REDISTRIBUTE, REJECT):
        assert effective(route(*rows, on_unavailable=policy)) == [5, 0]


def test_priorities_and_panic() -> None:
    first, second = endpoint(1), endpoint(2, rules=EndpointRules(priority=1))
    assert route(destination("a", 1, first, second)).destinations[0].turns == (0,)
    down = replace(first, health=DOWN)
    assert route(destination("a", 1, down, second)).destinations[0].turns == (1,)
    three = [endpoint(1), endpoint(2, health=DOWN), endpoint(3, health=DOWN)]
    rules = DestinationRules(panic_percent=34)
    made = route(destination("a", 1, *three, rules=rules)).destinations[0]
    assert (made.turns, made.panic) == ((0, 1, 2), True)
    three[1] = endpoint(2, health=DOWN, state=DRAINING)  # an operator's word holds even so
    rules = DestinationRules(panic_percent=51)
    made = route(destination("a", 1, *three, rules=rules)).destinations[0]
    assert (made.turns, made.panic) == ((0, 2), True)


def test_later_tiers_are_in_reserve_in_order() -> None:
    """Of those that are healthy; each with its own turns."""
    tiers = [
        endpoint(1, rules=EndpointRules(priority=5)),
        endpoint(2, rules=EndpointRules(priority=3), weight=2),
        endpoint(3, rules=EndpointRules(priority=3)),
        endpoint(4, rules=EndpointRules(priority=9), health=DOWN),
        endpoint(5, rules=EndpointRules(priority=9), state=DRAINING),
        endpoint(6, rules=EndpointRules(priority=1)),
        endpoint(7, rules=EndpointRules(priority=100)),
    ]
    made = route(destination("a", 1, *tiers)).destinations[0]
    assert (made.turns, made.reserves) == ((5,), (1, 2, 1, 0, 6))
    tiers[5] = endpoint(6, rules=EndpointRules(priority=1), health=DOWN)
    made = route(destination("a", 1, *tiers)).destinations[0]
    assert (made.turns, made.reserves) == ((1, 2, 1), (0, 6))
    down = endpoint(1, rules=EndpointRules(priority=1), health=DOWN)
    nobody = route(destination("a", 1, down)).destinations[0]
    assert (nobody.turns, nobody.reserves) == ((), ())


def test_slow_starts_make_shares_smaller_exactly() -> None:
    made = route(
        destination("a", 80, endpoint()),
        destination("b", 20, endpoint(2), slow_start_percent=37),
    )
    assert Fraction(*effective(made)) == Fraction(80 * 100, 20 * 37)
    beside = destination(
        "a", 1, endpoint(1), endpoint(2, slow_start_percent=30), endpoint(3, weight=2)
    )
    taken = route(beside).destinations[0].turns
    assert [taken.count(i) for i in range(3)] == [10, 3, 20]


weights = st.lists(st.integers(0, 1_000_000), min_size=2, max_size=6)


@given(weights, st.data())
def test_the_rest_is_split_in_proportion(given_weights: list[int], data: st.DataObject) -> None:
    """Whatever the weights: over one period of the pick each gets what is due to it."""
    down = data.draw(st.sets(st.integers(0, len(given_weights) - 1)))
    rows = [
        destination(f"d{i}", weight, endpoint(i, health=DOWN if i in down else HEALTHY))
        for i, weight in enumerate(given_weights)
    ]
    found = effective(route(*rows))
    left = [0 if i in down else weight for i, weight in enumerate(given_weights)]
    assert found == left
    period, _, _ = pick_plan(found)
    if 0 < period <= 2000:
        picked = [pick(found, ticket) for ticket in range(period)]
        total = sum(left)
        for i, weight in enumerate(left):
            assert Fraction(picked.count(i), period) == Fraction(weight, total)


def test_conditions_change_what_they_name_and_nothing_else() -> None:
    one, two = route(destination("a", 1, endpoint(1), endpoint(2))), route(destination("a", 1))
    image = Image((one, replace(two, name="other")), ())
    key = ("r", "a", "127.0.0.1:2")
    changed = with_conditions(image, {key: (DOWN, 100), ("gone", "a", "x"): (DOWN, 100)})
    assert changed.routes[1] is image.routes[1]
    assert changed.routes[0].destinations[0].turns == (0,)
    assert changed.routes[0].destinations[0].endpoints[0] is one.destinations[0].endpoints[0]
    back = with_conditions(changed, {key: (HEALTHY, 100)})
    (same, returned) = back.routes[0].destinations[0].endpoints
    assert returned.health_since >= changed.routes[0].destinations[0].endpoints[1].health_since > 0
    assert same is one.destinations[0].endpoints[0]
    assert replace(returned, health_since=0) == one.destinations[0].endpoints[1]
    assert back.routes[0].destinations[0].turns == one.destinations[0].turns
    starting = with_conditions(image, {("r", "a"): (HEALTHY, 10)})
    assert starting.routes[0].destinations[0].slow_start_percent == 10
    assert starting.routes[0].destinations[0].endpoints[1].state == READY


# --- who may connect ----------------------------------------------------------------------------


def test_ranges_of_clients_against_the_plain_rule() -> None:
    chance = random.Random(5)

    def address_text() -> str:
        if chance.random() < 0.7:
            return f"10.0.{chance.randrange(4)}.{chance.randrange(256)}"
        return f"fd00::{chance.randrange(1 << 16):x}"

    def networks(count: int) -> list[IPv4Network | IPv6Network]:
        found = []
        for _ in range(count):
            text = address_text()
            bits = chance.randrange(112, 129) if ":" in text else chance.randrange(22, 33)
            found.append(ip_network(f"{text}/{bits}", strict=False))
        return found

    for _ in range(60):
        allow: list[Clients] = [*networks(chance.randrange(6)), *["unix"] * chance.randrange(2)]
        deny: list[Clients] = [*networks(chance.randrange(6)), *["unix"] * chance.randrange(2)]
        ranges = admitted(allow, deny)
        if ranges is None:
            assert not allow
            assert not deny
            continue
        ends = [int.from_bytes(ranges[at : at + 16], "big") for at in range(0, len(ranges), 16)]
        spans = list(zip(ends[::2], ends[1::2], strict=True))
        assert ends == sorted(ends)
        assert all(last + 1 < first for last, first in zip(ends[1::2], ends[2::2], strict=False))
        unix_is_in = any(first == 0 for first, _ in spans)
        assert unix_is_in == ((not allow or "unix" in allow) and "unix" not in deny)
        for _ in range(200):
            address = ip_address(address_text())
            number = int(address) + (0xFFFF << 32 if address.version == 4 else 0)
            is_in = any(first <= number <= last for first, last in spans)
            expected = (not allow or any(address in n for n in allow if n != "unix")) and not any(
                address in n for n in deny if n != "unix"
            )
            assert is_in == expected, (address, allow, deny)


def test_every_network_does_not_mean_unix_sockets() -> None:
    """Whose clients go by the address :: in the table."""
    every = [ip_network("::/0"), ip_network("0.0.0.0/0")]
    last = bytes([255] * 16)
    assert admitted(every, []) == bytes(15) + b"\1" + last
    assert admitted([], every) == bytes(32)
    assert admitted([*every, "unix"], []) == bytes(16) + last
    assert admitted([], ["unix"]) == bytes(15) + b"\1" + last
    assert admitted(["unix"], []) == bytes(32)
    assert admitted([ip_network("::/128")], []) == b""
    assert admitted([], ["unix", *every]) == b""
