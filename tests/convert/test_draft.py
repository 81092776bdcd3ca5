"""From shares, servers and names of other proxies to those of tcpmux."""

from __future__ import annotations

from fractions import Fraction

import pytest

from tcpmux.config import ConfigError, EndpointPolicy
from tcpmux.config.address import Address, parse_endpoint
from tcpmux.config.model import MAX_WEIGHT, Route
from tcpmux.convert.draft import Draft, Pool, Server, plain_name, routes_of, unique, whole_weights
from tcpmux.convert.report import Effect, Report, Word


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ([1], [100]),
        ([20, 80], [20, 80]),
        ([Fraction(1, 5), Fraction(4, 5)], [20, 80]),
        ([Fraction(1, 3), Fraction(2, 3)], [1, 2]),
        ([Fraction("0.125"), Fraction("0.875")], [1, 7]),
        ([0, 1], [0, 100]),
        ([0, 0], [0, 0]),
        ([1, 10**9], [1, MAX_WEIGHT]),
    ],
)
def test_weights_are_whole(shares: list[Fraction], weights: list[int]) -> None:
    assert whole_weights([Fraction(share) for share in shares]) == weights


def test_names_are_plain_and_unique() -> None:
    taken: set[str] = set()
    assert plain_name("*:8080 (main)") == "8080-main"
    assert plain_name("***") == "route"
    assert [unique("x" * 63, taken) for _ in range(2)] == ["x" * 63, "x" * 61 + "-2"]
    assert [unique("a", taken) for _ in range(3)] == ["a", "a-2", "a-3"]


def route_of(*pools: tuple[Pool, int], names: int = 1) -> tuple[list[Route], Report]:
    report = Report()
    drafts = []
    for number in range(names):
        at = report.statement("f", [Word("server", number + 1, 1)])
        at.mapped()
        shares = [(pool, Fraction(share)) for pool, share in pools]
        drafts.append(Draft("r", [Address.parse("127.0.0.1:1")], shares, at))
    return [route for route, _ in routes_of(drafts, report)], report


def servers(*weights: int) -> list[Server]:
    return [
        Server(parse_endpoint(f"127.0.0.1:{port}"), weight)
        for port, weight in enumerate(weights, 1)
    ]


def test_servers_of_weight_0_are_left_out_and_the_same_one_twice_is_one() -> None:
    some = [*servers(1, 0), Server(parse_endpoint("127.0.0.1:1"), 2), *servers(0, 0, 1)[2:]]
    (route,), _ = route_of((Pool("p", some), 1))
    assert sorted(str(endpoint) for endpoint in route.destinations[0].endpoints) == [
        *["127.0.0.1:1"] * 3,
        "127.0.0.1:3",
    ]


def test_rounded_weights_are_remarked() -> None:
    (route,), report = route_of((Pool("p", servers(1, 100_000)), 1), (Pool("q"), 10**7))
    assert [destination.weight for destination in route.destinations] == [1, MAX_WEIGHT]
    assert report.findings()[0].note == (
        "its shares are rounded to 1 to 1000000; "
        "weights of the servers of p are rounded to 1 to 256"
    )


def test_many_servers_of_the_same_weight_are_not_rounded() -> None:
    many = [Server(parse_endpoint(f"10.0.{n >> 8}.{n & 255}:1")) for n in range(1, 1202)]
    (route,), report = route_of((Pool("p", many), 1))
    assert len(route.destinations[0].endpoints) == len(many)
    assert report.findings()[0].note == ""


def test_a_remark_on_many_weights_is_short() -> None:
    many = [Server(parse_endpoint(f"10.0.0.{n}:1"), 300 + n) for n in range(1, 200)]
    _, report = route_of((Pool("p", many), 1))
    note = report.findings()[0].note
    assert note.endswith(" ...")
    assert len(note) < 200


def test_an_endpoint_keeps_its_own_policy() -> None:
    backup = EndpointPolicy(priority=1)
    pool = Pool("p", [*servers(1), Server(parse_endpoint("127.0.0.1:9"), 1, backup)])
    (route,), _ = route_of((pool, 1))
    assert dict(route.destinations[0].endpoint_policies) == {parse_endpoint("127.0.0.1:9"): backup}


def test_two_routes_on_one_address_are_a_mistake() -> None:
    _, report = route_of((Pool("p", servers(1)), 1), names=2)
    with pytest.raises(ConfigError, match=r"f:2:1: server: 127\.0\.0\.1:1 is already .* at f:1"):
        report.complain()


def test_what_nobody_marks_changes_traffic() -> None:
    report = Report()
    at = report.statement("f", [Word("a", 1, 1), Word("b", 1, 3), Word("c", 1, 5)])
    at.harmless(at.words[1])
    at.mapped(at.words[1], note="after all")
    at.harmless(at.words[1])
    assert [(found.text, found.effect, found.note) for found in report.findings()] == [
        ("a", Effect.CHANGES, "tcpmux convert does not know it"),
        ("b", Effect.MAPPED, "after all"),
        ("c", Effect.CHANGES, "tcpmux convert does not know it"),
    ]
    assert report.totals() == {"harmless": 0, "mapped": 1, "changes traffic": 2}
