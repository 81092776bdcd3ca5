"""Where connections go on that are to be rehomed, and what may not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tcpmux.config import load
from tcpmux.control.convergence import NO_RULE, Candidate, surplus
from tcpmux.control.pacing import Pace
from tcpmux.control.rehoming import Move, moves_of
from tcpmux.errors import TcpmuxError

V1, V2, V3 = 1, 2, 3


def candidate(record: int, destination: int = V1, rule: int = NO_RULE) -> Candidate:
    return Candidate(0, record, 7, rule, destination, 10 + destination, 1000, 1000, True)


def counts(**many: int) -> dict[tuple[int, int, int], int]:
    slots = {"v1": V1, "v2": V2, "v3": V3}
    return {(NO_RULE, slots[name], 10 + slots[name]): count for name, count in many.items()}


def test_each_goes_where_the_most_are_lacking() -> None:
    wanted = surplus(counts(v1=10, v2=2), {NO_RULE: {V1: 2, V2: 4, V3: 6}})
    assert wanted.lacking == {(NO_RULE, V2): 2, (NO_RULE, V3): 6}
    moves = moves_of(wanted, map(candidate, range(20)), {})
    assert [move.to for move in moves] == [V3, V3, V3, V3, V2, V3, V2, V3]
    assert [move.record for move in moves] == [*range(8)]  # of the others nobody's place is left


def test_whose_key_has_a_home_goes_there() -> None:
    wanted = surplus(counts(v1=4), {NO_RULE: {V1: 1, V2: 1, V3: 0}})
    one, other = candidate(1), candidate(2)
    moves = moves_of(wanted, [one, other], {one: V3, other: None})
    assert [(move.record, move.to) for move in moves] == [(1, V3), (2, V2)]


def test_one_that_is_under_way_is_not_moved_twice_and_keeps_its_place() -> None:
    wanted = surplus(counts(v1=4), {NO_RULE: {V1: 1, V2: 1}})
    first, second, third = (candidate(n) for n in range(3))
    (earlier,) = moves_of(wanted, [first], {})
    pace = Pace()
    pace.ordered(earlier, 1.0)
    moves = moves_of(wanted, [first, second, third], {}, pace.outstanding)
    assert [(move.record, move.to) for move in moves] == [(1, V2)]


def test_rules_have_places_of_their_own() -> None:
    rule = 50
    found = {(NO_RULE, V1, 11): 2, (rule, V2, 12): 2}
    wanted = surplus(found, {NO_RULE: {V1: 0, V2: 1}, rule: {V1: 1, V2: 0}})
    moves = moves_of(wanted, [candidate(1), candidate(2, V2, rule)], {})
    assert [move.to for move in moves] == [V2, V1]


def test_who_leaves_an_endpoint_may_stay_in_its_destination() -> None:
    wanted = surplus(counts(v1=3), {NO_RULE: {V1: 1, V2: 0}}, leaving=[11])
    (move,) = moves_of(wanted, [candidate(1)], {})
    assert move == Move(0, 1, 7, V1, 11, V1)


def config(path: Path, converge: str, route: str = "") -> Any:
    file = path / "routes.yaml"
    file.write_text(
        "routes:\n  - name: r\n    listen: 127.0.0.1:8080\n"
        f"{route}    converge: {{when: manual, method: rehome{converge}}}\n"
        "    destinations: [{name: v1, weight: 1, endpoints: ['127.0.0.1:9001']}]\n"
    )
    return load([str(file)])


@pytest.mark.parametrize("protocol", ["none", "memcached", "http1", "redis"])
def test_protocols_without_a_session_may_be_rehomed(tmp_path: Path, protocol: str) -> None:
    (route,) = config(tmp_path, f", protocol: {protocol}").routes
    assert route.policy.converge.method == "rehome"


@pytest.mark.parametrize("protocol", ["postgres", "mysql", "mqtt"])
def test_those_with_one_may_not(tmp_path: Path, protocol: str) -> None:
    with pytest.raises(TcpmuxError, match=f"{protocol} has a session .* use method close"):
        config(tmp_path, f", protocol: {protocol}")


def test_nor_what_says_goodbye_or_begins_tls(tmp_path: Path) -> None:
    with pytest.raises(TcpmuxError, match="goodbye is for method close"):
        config(tmp_path, ", goodbye: true")
    with pytest.raises(TcpmuxError, match="does not know the TLS session of a client"):
        config(tmp_path, "", "    preread: {starttls: postgres}\n")
