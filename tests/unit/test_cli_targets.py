"""Names of what a command is about: routes, destinations, endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tcpmux.cli import targets
from tcpmux.cli.targets import Target
from tcpmux.control.asking import AdminError, Refused
from tcpmux.errors import TcpmuxError

if TYPE_CHECKING:
    from tcpmux.control.client import RouteNames

ROUTES: Any = [
    {
        "name": route,
        "destinations": [
            {
                "name": name,
                "connections_active": 5,
                "endpoints": [
                    {"address": "10.0.0.7:9000", "connections_active": 2},
                    {"address": f"unix:/{route}", "connections_active": 3},
                ],
            }
            for name in names
        ],
    }
    for route, names in (("shop", ("v1", "v2")), ("mail", ("v1",)), ("empty", ()))
]


def named(**routes: dict[str, list[str]]) -> list[RouteNames]:
    """As GET /v1/names has them."""
    return [
        {
            "name": route,
            "destinations": [{"name": name, "endpoints": at} for name, at in destinations.items()],
            "rules": ["testers"] if route == "shop" else [],
        }
        for route, destinations in routes.items()
    ]


NAMES = named(
    shop={"v1": ["10.0.0.7:9000", "unix:/run/a/b"], "v2": ["10.0.0.7:9000"]},
    mail={"v1": ["[::1]:25"]},
    empty={},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shop", [Target("shop")]),
        ("shop/", [Target("shop")]),
        ("empty", [Target("empty")]),
        ("shop/v1", [Target("shop", "v1")]),
        ("shop/v1/", [Target("shop", "v1")]),
        ("v2", [Target("shop", "v2")]),
        ("shop/v1/10.0.0.7:9000", [Target("shop", "v1", "10.0.0.7:9000")]),
        ("mail/v1/[::1]:25", [Target("mail", "v1", "[::1]:25")]),
        ("shop/v1/unix:/run/a/b", [Target("shop", "v1", "unix:/run/a/b")]),
        ("unix:/run/a/b", [Target("shop", "v1", "unix:/run/a/b")]),
        (
            "10.0.0.7:9000",
            [Target("shop", "v1", "10.0.0.7:9000"), Target("shop", "v2", "10.0.0.7:9000")],
        ),
    ],
)
def test_a_target_is_found_by_each_of_its_names(text: str, expected: list[Target]) -> None:
    """An address alone is every endpoint that has it."""
    assert targets.find(NAMES, text) == expected
    (*_, last) = expected
    assert targets.find(NAMES, str(last)) == [last]


def test_names_are_found_in_a_status_as_well() -> None:
    """Of a running instance that is too old to tell names alone."""
    assert targets.find(ROUTES, "v2") == [Target("shop", "v2")]
    assert targets.find(ROUTES, "mail/v1/unix:/mail") == [Target("mail", "v1", "unix:/mail")]
    assert len(targets.find(ROUTES, "10.0.0.7:9000")) == 3


def test_connections_of_targets_are_counted_once() -> None:
    assert targets.active(ROUTES, targets.find(ROUTES, "10.0.0.7:9000")) == 6
    assert targets.active(ROUTES, targets.find(ROUTES, "v2")) == 5
    whole = targets.parts(ROUTES, targets.find(ROUTES, "shop"))
    assert targets.active(ROUTES, whole) == 10
    assert targets.active(ROUTES, [*whole, Target("shop", "v1", "10.0.0.7:9000")]) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v1", "'v1' is ambiguous: use one of shop/v1, mail/v1"),
        ("shop/v3", "no destination of route shop named 'v3': there are v1, v2"),
        ("shop/zzz", "no destination of route shop named 'zzz': there are v1, v2"),
        ("shop/testers", "'shop/testers' is a rule of route shop, and this is about destinations"),
        ("mail/testers", "no destination of route mail named 'testers': there are v1"),
        ("empty/v1", "no destination of route empty named 'v1': there are none"),
        ("mail/v1/[::1]:26", "no endpoint of mail/v1 named '[::1]:26': did you mean [::1]:25?"),
        ("mail/v1/x", "no endpoint of mail/v1 named 'x': there are [::1]:25"),
        ("shpo", "no route, destination or endpoint named 'shpo': did you mean shop?"),
        ("shpo/v2", "no route, destination or endpoint named 'shpo/v2': did you mean shop/v2?"),
        ("10.0.0.7:9001", "no route, destination or endpoint named '10.0.0.7:9001': did you mean"),
        ("zzzzzz", "no route, destination or endpoint named 'zzzzzz': `tcpmux routes` lists them"),
        ("", "no route, destination or endpoint named ''"),
        ("/", "no route, destination or endpoint named '/'"),
        ("/v2", "no route, destination or endpoint named '/v2'"),
        ("v2/", "no route, destination or endpoint named 'v2/': did you mean v2?"),
    ],
)
def test_a_target_that_is_not_clear_is_refused(text: str, message: str) -> None:
    with pytest.raises(TcpmuxError) as caught:
        targets.find(NAMES, text)
    assert str(caught.value).startswith(message)


def test_a_name_of_a_route_and_of_a_destination_is_not_guessed() -> None:
    routes = named(web={"web": ["1.1.1.1:1"], "other": []}, api={"web": []})
    with pytest.raises(TcpmuxError) as caught:
        targets.find(routes, "web")
    assert str(caught.value) == (
        "'web' is ambiguous: use one of web/ (the route), web/web, api/web"
    )
    assert targets.find(routes, "web/") == [Target("web")]
    assert targets.find(routes, "web/web") == [Target("web", "web")]


def test_the_only_destination_of_a_route_may_be_called_as_it_is() -> None:
    """Most routes that come of a Gateway API file are like that."""
    assert targets.find(named(web={"web": ["1.1.1.1:1"]}), "web") == [Target("web")]


def test_names_with_slashes_are_compared_as_a_whole() -> None:
    """A file of Istio may have any, though a cluster would not."""
    routes = named(**{"a/b": {"c": ["x:1"]}, "a": {"b": ["y:1"], "b/c": []}})
    assert targets.find(routes, "a/b/c/x:1") == [Target("a/b", "c", "x:1")]
    for text in ("a/b", "a/b/c"):
        with pytest.raises(TcpmuxError, match="is ambiguous"):
            targets.find(routes, text)


def test_names_of_an_answer_make_no_lines_of_their_own() -> None:
    """What listens there may say anything."""
    with pytest.raises(TcpmuxError) as caught:
        targets.find(named(**{"a\nb": {"v1": ["x:1"]}, "c": {"v1": ["y:1"]}}), "v1")
    assert str(caught.value) == "'v1' is ambiguous: use one of a\\nb/v1, c/v1"


def test_an_address_twice_in_a_destination_is_one_endpoint() -> None:
    assert targets.find(named(r={"v1": ["x:1", "x:1"]}), "x:1") == [Target("r", "v1", "x:1")]


def test_so_many_are_not_all_listed() -> None:
    routes = named(**{f"r{number}": {"v1": ["x:1"]} for number in range(30)})
    with pytest.raises(TcpmuxError, match=r"r9/v1 and 20 more$"):
        targets.find(routes, "v1")


def test_an_instance_that_is_too_old_to_tell_names_is_asked_for_its_routes() -> None:
    """Commands are newer than the instance until it is upgraded. Nothing else is hidden by that."""

    class Old:
        status = 404

        def names(self) -> None:
            raise Refused("no such path: /v1/names", self.status)

        def routes(self) -> Any:
            return ROUTES

    old: Any = Old()
    assert targets.find_in(old, "shop/v2") == [Target("shop", "v2")]
    old.status = 403
    with pytest.raises(AdminError):
        targets.find_in(old, "shop/v2")
