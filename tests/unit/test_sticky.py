"""The sticky pick: what its numbers are, for ever, and who gets whom when weights, states and
health change. Shares and moves over a million clients are in tests/c/test_sticky.c."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from decimal import Decimal, getcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmux.shm._pick import sticky_address_key, sticky_cost, sticky_key, sticky_pick
from tcpmux.shm.image import (
    DOWN,
    DRAINING,
    FALLBACK,
    HEALTHY,
    LEAVE,
    READY,
    REDISTRIBUTE,
    REJECT,
    STAY,
    DestinationRow,
    EndpointRow,
    RouteRow,
)
from tcpmux.shm.rules import RouteRules
from tcpmux.shm.serving import with_turns_and_weights
from tcpmux.shm.sticky import MAX_STAYS, carried_over, home, name_hash

MASK = (1 << 64) - 1
KEYS = [sticky_address_key(1, f"10.0.{n >> 8}.{n & 255}", 32, 64) for n in range(2000)]
TABLE = Path(__file__).resolve().parents[2] / "csrc/logarithms.def"


# --- the numbers --------------------------------------------------------------------------------


def mix(value: int) -> int:
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & MASK
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ value >> 33


def key_of(salt: int, value: bytes) -> int:
    key = mix(salt) + len(value) & MASK
    for at in range(0, len(value), 8):
        word = int.from_bytes(value[at : at + 8], "little")
        key = mix(key ^ word) + 0x9E3779B97F4A7C15 & MASK
    return mix(key)


def logarithm(hash_: int) -> Decimal:
    return -(Decimal(hash_ | 1) / Decimal(1 << 64)).ln()


def winner(key: int, contenders: list[tuple[int, int]]) -> int:
    """By logarithms of many digits."""
    costs = {i: logarithm(mix(key ^ h)) / w for i, (h, w) in enumerate(contenders) if w}
    return min(costs, key=lambda i: costs[i])


@pytest.fixture(autouse=True)
def digits() -> None:
    getcontext().prec = 50


def test_the_table_of_logarithms() -> None:
    """Each row's factor, and its logarithm to the last bit."""
    rows = re.findall(r"TM_LOGARITHM\((0x\w+)u, (0x\w+)ull\)", TABLE.read_text())
    inverses = [(1 << 31) * 512 // (257 + row) for row in range(256)]
    logarithms = [
        round((Decimal(inverse) / Decimal(1 << 31)).ln() * (1 << 58)) for inverse in inverses
    ]
    assert [(int(a, 16), int(b, 16)) for a, b in rows] == [*zip(inverses, logarithms, strict=True)]


def test_costs_are_logarithms() -> None:
    """To 33 bits after the point everywhere, and where they are next to nothing to 25 bits."""
    hashes = [mix(n) for n in range(3000)]
    hashes += [MASK >> n for n in range(64)] + [MASK - (1 << n) for n in range(64)]
    hashes += [row << 55 for row in range(256, 512)] + [(row << 55) - 1 for row in range(257, 512)]
    for hash_ in hashes:
        cost, exact = Decimal(sticky_cost(hash_)) / (1 << 58), logarithm(hash_)
        assert abs(cost - exact) < Decimal(1) / (1 << 33), hex(hash_)
        assert abs(cost - exact) < exact / (1 << 25) + Decimal(1) / (1 << 57), hex(hash_)


def test_another_program_picks_the_same() -> None:
    """A client of any kind goes where these lines of Python say."""
    for value in (b"", b"a", b"shop.example", b"12345678", b"123456789", bytes(24), b"\xff" * 112):
        assert sticky_key(77, value) == key_of(77, value)
    for text, prefixes, kept in (
        ("10.1.2.3", (32, 64), b"\x0a\x01\x02\x03"),
        ("10.1.2.3", (20, 64), b"\x0a\x01\x00\x00"),
        ("::ffff:10.1.2.3", (32, 64), b"\x0a\x01\x02\x03"),
        ("2001:db8::1", (32, 64), socket.inet_pton(socket.AF_INET6, "2001:db8::")),
        ("2001:db8::1", (32, 128), socket.inet_pton(socket.AF_INET6, "2001:db8::1")),
    ):
        assert sticky_address_key(77, text, *prefixes) == key_of(77, kept)
    contenders = [(name_hash("v1"), 900000), (name_hash("v2"), 7), (name_hash("v3"), 123456)]
    for key in KEYS[:1500]:
        assert sticky_pick(key, contenders) == winner(key, contenders)


def test_the_answers_stay_for_ever() -> None:
    """On every host, in every release: were one of these to change, so would the destination of
    every client."""
    assert name_hash("v1") == 0xDA0BFE4035078A1C
    assert sticky_address_key(name_hash("shop"), "192.0.2.1", 32, 64) == 0xBD372053003FA45F
    assert sticky_address_key(name_hash("shop"), "2001:db8::1", 32, 64) == 0x32763A8BF31D7D15
    assert sticky_key(name_hash("shop"), b"shop.example") == 0x483112013A14E266
    contenders = [(name_hash(name), weight) for name, weight in (("v1", 60), ("v2", 30), ("v3", 9))]
    keys = [sticky_address_key(name_hash("shop"), f"192.0.2.{n}", 32, 64) for n in range(64)]
    picked = "".join(str(1 + (sticky_pick(key, contenders) or 0)) for key in keys)
    assert picked == "2121112111331331211122112111221111111213211211123212222131112111"


# --- who gets whom ------------------------------------------------------------------------------


def route(
    weights: dict[str, int], before: RouteRow | None = None, down: str = "", **rules: int
) -> RouteRow:
    """A sticky route with these weights; before: what it was until now. down: names of those
    without a healthy endpoint, in one text."""
    made = RouteRules(
        **{"sticky_by": 1, "sticky_salt": 5, "sticky_ipv4": 32, "sticky_ipv6": 64, **rules}
    )
    rows = tuple(
        DestinationRow(
            name, weight, weight, 0, 0, 0, 1,
            (EndpointRow("a", 1, 1, health=DOWN if name in down else HEALTHY),),
        )
        for name, weight in weights.items()
    )  # fmt: skip
    contests = carried_over(before, made).get("", ())
    return with_turns_and_weights(RouteRow("r", 0, 0, 1, rows, made, contests=contests))


def homes(row: RouteRow) -> list[str | None]:
    """The destination of each client, by name."""
    found = [home(row.contests, key) for key in KEYS]
    return [None if index is None else row.destinations[index].name for index in found]


def moves(then: list[str | None], now: list[str | None]) -> set[tuple[str | None, str | None]]:
    return {(a, b) for a, b in zip(then, now, strict=True) if a != b}


def test_a_canary_that_grows_only_gains() -> None:
    steps = [homes(route({"a": 100 - n, "b": n})) for n in (1, 5, 20, 50, 99, 100)]
    for then, now in pairwise(steps):
        assert moves(then, now) == {("a", "b")}


def test_slow_start_only_adds_clients() -> None:
    """To the last client, though shares are of millions."""
    steps = []
    for percent in (10, 37, 83, 100):
        row = route({"a": 999983, "b": 700001})
        rows = (row.destinations[0], replace(row.destinations[1], slow_start_percent=percent))
        steps.append(homes(with_turns_and_weights(replace(row, destinations=rows))))
    for then, now in pairwise(steps):
        assert moves(then, now) == {("a", "b")}


def test_one_that_is_down_comes_back_to_its_clients() -> None:
    """They go to their next best, each by itself, and return."""
    weights = {"a": 50, "b": 30, "c": 20}
    well, ill = homes(route(weights)), homes(route(weights, down="b"))
    assert moves(well, ill) == {("b", "a"), ("b", "c")}
    assert homes(route({"a": 50, "c": 20})) == ill
    assert homes(route(weights, route(weights, down="b"))) == well


def test_a_drained_one_is_left() -> None:
    """Whatever zero says: drained means no new connections."""
    for zero in (LEAVE, STAY):
        row = route({"a": 50, "b": 50}, sticky_zero=zero)
        rows = (row.destinations[0], replace(row.destinations[1], state=DRAINING))
        drained = with_turns_and_weights(replace(row, destinations=rows))
        assert {*homes(drained)} == {"a"}
        ready = tuple(replace(one, state=READY) for one in drained.destinations)
        assert homes(with_turns_and_weights(replace(drained, destinations=ready))) == homes(row)


def test_what_on_unavailable_says_of_clients() -> None:
    """A fallback gets the clients of the one that is down, and nobody else moves; with reject they
    stay, and are reset."""
    weights = {"a": 50, "b": 30, "c": 20}
    well = homes(route(weights))
    fallback: dict[str, Any] = {"on_unavailable": FALLBACK, "fallback": 2}
    assert moves(well, homes(route(weights, down="a", **fallback))) == {("a", "c")}
    rest = homes(route(weights, down="ac", **fallback))  # nobody to fall back to
    assert {*rest} == {"b"}
    weights["c"] = 0
    assert {*homes(route(weights, down="a", **fallback))} == {"b", "c"}
    assert homes(route(weights, down="a", on_unavailable=REJECT)) == homes(route(weights))
    down = route(weights, down="ab", on_unavailable=REDISTRIBUTE)
    assert {*homes(down)} == {None}


def test_a_group_agrees() -> None:
    """Whatever the order of the destinations, as long as the ratio of their weights is the same."""
    assert homes(route({"a": 70, "b": 30})) == homes(route({"b": 300, "a": 700}))


def test_weight_0_lets_them_leave() -> None:
    row = route({"a": 50, "b": 50})
    after = route({"a": 50, "b": 0}, row)
    assert {*homes(after)} == {"a"}
    assert len(after.contests) == 1


def test_weight_0_lets_them_stay() -> None:
    """Exactly those that it had, whatever the others' weights become; and back with a weight."""
    row = route({"a": 50, "b": 30, "c": 20}, sticky_zero=STAY)
    then = homes(row)
    for weights in ({"a": 100, "b": 0, "c": 0}, {"a": 1, "b": 0, "c": 99}):
        after = route(weights, row, sticky_zero=STAY)
        now = homes(after)
        assert [a == "b" for a in then] == [a == "b" for a in now]
        again = route({"a": 7, "b": 0, "c": 8}, after, sticky_zero=STAY)
        assert [a == "b" for a in homes(again)] == [a == "b" for a in then]
        back = route({"a": 50, "b": 30, "c": 20}, again, sticky_zero=STAY)
        assert (homes(back), len(back.contests)) == (then, 1)


def test_all_weights_0_and_stay() -> None:
    row = route({"a": 50, "b": 50}, sticky_zero=STAY)
    assert homes(route({"a": 0, "b": 0}, row, sticky_zero=STAY)) == homes(row)


def test_one_that_keeps_its_clients_and_is_down() -> None:
    """They go to their next best meanwhile, and nobody else moves."""
    row = route({"a": 50, "b": 30, "c": 20}, sticky_zero=STAY)
    weights = {"a": 50, "b": 0, "c": 20}
    after = route(weights, row, sticky_zero=STAY)
    ill = route(weights, after, down="b", sticky_zero=STAY)
    assert moves(homes(after), homes(ill)) == {("b", "a"), ("b", "c")}
    assert homes(route(weights, ill, sticky_zero=STAY)) == homes(after)


def test_one_after_the_other_keeps_its_own() -> None:
    """Nobody joins one of weight 0: not when another one leaves, in whatever order, nor when its
    own weight was 0 before."""
    first = route({"a": 40, "b": 30, "c": 30}, sticky_zero=STAY)
    second = route({"a": 0, "b": 30, "c": 30}, first, sticky_zero=STAY)
    third = route({"a": 0, "b": 0, "c": 30}, second, sticky_zero=STAY)
    assert homes(third) == homes(second)
    without = route({"b": 0, "c": 30}, third, sticky_zero=STAY)  # a is gone
    assert moves(homes(third), homes(without)) == {("a", "c")}
    again = route({"a": 10, "b": 0, "c": 30}, without, sticky_zero=STAY)
    assert moves(homes(without), homes(again)) == {("c", "a")}
    once_more = route({"a": 0, "b": 0, "c": 30}, again, sticky_zero=STAY)
    assert homes(once_more) == homes(again)
    gone = route({"a": 0, "c": 30}, once_more, sticky_zero=STAY)
    assert moves(homes(once_more), homes(gone)) == {("b", "c")}


def test_what_is_remembered_is_bounded() -> None:
    """The oldest is forgotten, and its clients leave."""
    row = route({"a": 40, "b": 30, "c": 30}, sticky_zero=STAY)
    row = route({"a": 0, "b": 30, "c": 30}, row, sticky_zero=STAY)
    for _ in range(MAX_STAYS):
        row = route({"a": 0, "b": 0, "c": 30}, row, sticky_zero=STAY)
        row = route({"a": 0, "b": 30, "c": 0}, row, sticky_zero=STAY)
        assert len(row.contests) <= MAX_STAYS + 1
    assert "a" not in homes(row)


def test_other_keys_forget_who_stayed() -> None:
    row = route({"a": 50, "b": 50}, sticky_zero=STAY)
    for change in (
        {"sticky_ipv4": 24},
        {"sticky_by": 2},
        {"sticky_salt": 9},
        {"sticky_zero": LEAVE},
    ):
        rules: dict[str, Any] = {"sticky_zero": STAY, **change}
        after = route({"a": 50, "b": 0}, row, **rules)
        assert {*homes(after)} == {"a"}


def test_a_route_that_is_not_sticky_has_no_contests() -> None:
    assert route({"a": 1, "b": 1}, sticky_by=0).contests == ()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_nobody_ever_joins_one_of_weight_0(data: st.DataObject) -> None:
    """Whatever the weights do, with zero: stay. A destination of weight 0 has the clients that it
    had when it got that weight, all of them and no others."""
    names = "abcd"
    row = route(dict.fromkeys(names, 1), sticky_zero=STAY)
    now = homes(row)
    for _ in range(data.draw(st.integers(2, 7))):
        then, weights = now, {}
        for name in data.draw(st.permutations(names)):
            weights[name] = data.draw(st.sampled_from((0, 0, 1, 5)))
        gone = data.draw(st.sampled_from(("", "", *names)))
        weights.pop(gone, None)
        row = route(weights, row, sticky_zero=STAY)
        now = homes(row)
        for name, weight in weights.items():
            if weight == 0:
                assert [a == name for a in then] == [a == name for a in now]
