"""From configuration to table: numbers stay with their names, and the image comes back whole."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from tcpmux.config import Address, Admin, Config, Destination, Route
from tcpmux.config.settings import RoutePolicy
from tcpmux.shm._commons import Commons
from tcpmux.shm._image import publish_image, read_image
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.diff import describe_changes
from tcpmux.shm.image import Image
from tcpmux.shm.serving import with_weights
from tcpmux.shm.slots import Names, Numbers, TableFull


def address(port: int) -> Address:
    return Address("127.0.0.1", port, "")


def config(*routes: Route) -> Config:
    return Config(None, None, Admin("/x"), 45.0, routes)


def route(name: str, port: int, **weights: int) -> Route:
    destinations = tuple(Destination(d, w, (address(9000),)) for d, w in weights.items())
    return Route(name, (address(port),), destinations)


def image(names: Names, generation: int, *routes: Route) -> Image:
    ids = {a: i for i, a in enumerate(a for r in routes for a in r.listen)}
    return build_image(config(*routes), {}, names, ids, generation, {})


def test_numbers_stay_with_their_names() -> None:
    names = Names.new(lambda _: True)
    first = image(names, 1, route("a", 1, v1=1, v2=2), route("b", 2, v1=1))
    second = image(names, 2, route("b", 2, v1=1), route("c", 3, v1=1), route("a", 1, v2=5, v1=1))
    before = {
        (r.name, d.name): (d.slot, d.ticket, d.since_generation)
        for r in first.routes
        for d in r.destinations
    }
    after = {
        (r.name, d.name): (d.slot, d.ticket, d.since_generation)
        for r in second.routes
        for d in r.destinations
    }
    assert before.items() <= after.items()
    assert after["c", "v1"][2] == 2
    assert len({slot for slot, _, _ in after.values()}) == 4


def test_a_number_is_given_again_only_when_it_is_idle_and_no_fresh_one_is_left() -> None:
    busy = {0}
    numbers = Numbers(2, lambda number: number not in busy)
    assert numbers.of(("a",), 1) == (0, 1)
    assert numbers.of(("b",), 1) == (1, 1)
    numbers.keep_only({("b",)})
    with pytest.raises(TableFull):
        numbers.of(("c",), 2)
    busy.clear()
    assert numbers.of(("c",), 3) == (0, 3)


def test_trying_out_on_a_copy_changes_nothing() -> None:
    names = Names.new(lambda _: True)
    image(names, 1, route("a", 1, v1=1))
    image(names.copy(), 2, route("b", 2, v1=1))
    assert image(names, 2, route("c", 2, v1=1)).routes[0].slot == 3


def test_a_published_image_is_read_back() -> None:
    table = Table.create(1, 2, os.getpid(), 7)
    names = Names.new(lambda _: True)
    assert read_image(Table.attach(table.fd)) == (0, Image((), ()))
    for generation in (1, 2, 3):
        written = image(names, generation, route("a", 1, v1=generation, v2=2))
        assert publish_image(table, written) == generation
        found, read = read_image(Table.attach(table.fd))
        assert found == generation
        assert read.routes[0].destinations[0].weight == generation
        assert read.routes[0].destinations[1].endpoints[0].address == "127.0.0.1:9000"
        assert describe_changes(read, Image((), ())) == ["a: removed"]
    table.close()


def test_regions_of_another_kind_are_refused() -> None:
    commons = Commons.create()
    with pytest.raises(ValueError, match="not a tcpmux"):
        Table.attach(commons.fd)
    with pytest.raises(ValueError, match="not a tcpmux"):
        Live.attach(commons.fd)
    commons.close()


def test_changes_in_words() -> None:
    names = Names.new(lambda _: True)
    old = image(names, 1, route("a", 1, v1=80, v2=20), route("b", 2, v1=1))
    new = image(names, 2, route("a", 3, v1=50, v3=20), route("c", 4, v1=1))
    assert describe_changes(old, new) == [
        (
            "a: v1 80->50, v3 added with weight 20, v2 removed, listens on 127.0.0.1:3, "
            "no longer listens on 127.0.0.1:1"
        ),
        "c: added, listening on 127.0.0.1:4",
        "b: removed",
    ]
    assert describe_changes(new, new) == []


def with_policy(order: str, **policy: Any) -> Image:
    """A route whose destinations are listed in that order."""
    made = replace(route("a", 1, **dict.fromkeys(order.split(), 1)), policy=RoutePolicy(**policy))
    return image(Names.new(lambda _: True), 1, made)


def test_a_change_of_the_fallback_is_told_by_names() -> None:
    first, second = {"on_unavailable": "fallback", "fallback": "v1"}, {"fallback": "v2"}
    plain, old = with_policy("v1 v2"), with_policy("v1 v2", **first)
    new = with_policy("v1 v2", **(first | second))
    assert describe_changes(old, new) == ["a: on_unavailable {fallback: v1}->{fallback: v2}"]
    assert describe_changes(plain, new) == ["a: on_unavailable redistribute->{fallback: v2}"]
    assert describe_changes(new, plain) == ["a: on_unavailable {fallback: v2}->redistribute"]


def test_the_fallback_is_the_same_whatever_the_order_of_destinations() -> None:
    policy = {"on_unavailable": "fallback", "fallback": "v2"}
    old, new = with_policy("v1 v2", **policy), with_policy("v2 v1", **policy)
    assert old.routes[0].rules.fallback != new.routes[0].rules.fallback
    assert describe_changes(old, new) == []
    renamed = with_policy("v3 v1", **(policy | {"fallback": "v3"}))
    assert renamed.routes[0].rules.fallback == new.routes[0].rules.fallback
    assert "on_unavailable {fallback: v2}->{fallback: v3}" in describe_changes(new, renamed)[0]


def test_weights_of_one_route_leave_every_other_row_as_it_is() -> None:
    old = image(Names.new(lambda _: True), 1, route("a", 1, v1=80, v2=20), route("b", 2, v1=1))
    new = with_weights(old, "a", {"v1": 80, "v2": 30})
    assert describe_changes(old, new) == ["a: v2 20->30"]
    assert new.routes[1] is old.routes[1]
    assert new.routes[0].destinations[0] is old.routes[0].destinations[0]
    changed = new.routes[0].destinations[1]
    assert (changed.weight, changed.effective_weight, changed.file_weight) == (30, 30, 20)
    assert new.listeners is old.listeners
