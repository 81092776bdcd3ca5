"""What becomes of Traefik's words, one by one."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcpmux.config import ConfigError
from tcpmux.config.model import Route
from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.draft import routes_of
from tcpmux.convert.kinds import Input
from tcpmux.convert.report import Report
from tcpmux.convert.traefik import read
from tcpmux.convert.traefik.values import Rule, rule_of

FILES = Path(__file__).with_name("files") / "traefik"
WORKING = ["plain", "nested", "check", "clients", "limit", "entry", "tls", "header", "dead"]
ALL = "HostSNI(`*`)"
NOBODY = {"inFlightConn": {"amount": 0}}


def dynamic(
    *, balancer: dict[str, Any] | None = None, more: dict[str, Any] | None = None, **router: Any
) -> dict[str, Any]:
    of = {"servers": [{"address": "127.0.0.1:19101"}], **(balancer or {})}
    return {
        "entryPoints": {"db": {"address": "127.0.0.1:19001"}},
        "tcp": {
            "routers": {"db": {"rule": ALL, "service": "db", **router}},
            "services": {"db": {"loadBalancer": of}},
            **(more or {}),
        },
    }


def found_of(content: dict[str, Any]) -> tuple[list[Route], list[str]]:
    """The routes, and what changes traffic, without places."""
    report = Report()
    result = read([Input("traefik.yaml", yaml.safe_dump(content, sort_keys=False))], report)
    report.complain()
    routes = [route for route, _ in routes_of(result.drafts, report)]
    return routes, [f"{found.text}: {found.note}" for found in report.changes()]


def route_of(content: dict[str, Any]) -> Route:
    (route,), changes = found_of(content)
    assert changes == []
    return route


def converted(texts: list[str], suffix: str = "yaml") -> Conversion:
    return convert("traefik", [Input(f"{i}.{suffix}", text) for i, text in enumerate(texts)])


# --- the same, written otherwise ------------------------------------------------------------------


def shuffled(value: Any, by: random.Random) -> Any:
    if isinstance(value, dict):
        items = [
            (key.upper() if by.random() < 0.2 and key in KEYS else key, shuffled(inner, by))
            for key, inner in value.items()
        ]
        by.shuffle(items)
        return dict(items)
    return [shuffled(inner, by) for inner in value] if isinstance(value, list) else value


KEYS = ("entryPoints", "address", "tcp", "services", "loadBalancer", "servers", "weight", "rule")


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {as_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    return json.dumps(value)


def routes_text(found: Conversion) -> list[str]:
    """Each route, without the places of remarks."""
    text = re.sub(r"^ *#.*\n", "", found.text, flags=re.MULTILINE)
    return sorted(text.partition("routes:\n")[2].split("  - name: "))


@pytest.mark.parametrize("name", WORKING)
def test_order_case_and_format_do_not_matter(name: str) -> None:
    texts = [(FILES / f"{name}{part}.yaml").read_text() for part in ("", ".dynamic")]
    first = converted(texts)
    values = [yaml.safe_load(text) for text in texts]
    for seed in range(5):
        other = [shuffled(value, random.Random(seed)) for value in values]
        for found in (
            converted([yaml.safe_dump(value, sort_keys=False) for value in other]),
            converted(
                ["".join(f"{k} = {as_toml(v)}\n" for k, v in o.items()) for o in other], "toml"
            ),
        ):
            assert sum(found.totals.values()) == sum(first.totals.values())
            assert found.totals == first.totals
            assert routes_text(found) == routes_text(first)


# --- defaults that nobody writes ------------------------------------------------------------------


def test_traefik_s_defaults_hold() -> None:
    policy = route_of(dynamic()).destinations[0].policy
    assert (policy.connect_timeout, policy.idle_timeout, policy.half_open_timeout) == (
        30.0,
        0.0,
        0.1,
    )
    assert (policy.keepalive.idle, policy.keepalive.interval, policy.keepalive.count) == (15, 15, 9)
    assert (policy.passive.errors, policy.check, policy.panic_threshold) == (0, None, 0)
    assert route_of(dynamic()).policy.retry.attempts == 1


@pytest.mark.parametrize(
    ("life", "seconds"), [({}, 10.0), ({"graceTimeOut": "1m30s"}, 90.0), ({"graceTimeOut": 5}, 5.0)]
)
def test_open_connections_have_the_grace_timeout(life: dict[str, Any], seconds: float) -> None:
    content = dynamic()
    content["entryPoints"]["db"]["transport"] = {"lifeCycle": life}
    assert read([Input("t.yaml", yaml.safe_dump(content))], Report()).settings == {
        "drain_timeout": seconds
    }


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clients"),
    [
        ("HostSNI(`*`)", ""),
        ('HostSNI("*")', ""),
        (" HostSNI( `*` ) ", ""),
        ("ClientIP(`10.0.0.1/8`)", "10.0.0.0/8"),
        ("ClientIP(`::1`)", "::1/128"),
        ("ClientIP(`10.0.0.1`) || ClientIP(`10.0.0.2`)", "10.0.0.1/32 10.0.0.2/32"),
        ("HostSNI(`*`) && ClientIP(`10.0.0.1`)", "10.0.0.1/32"),
        (
            "(ClientIP(`10.0.0.1`) || ClientIP(`10.0.0.2`)) && HostSNI(`*`)",
            "10.0.0.1/32 10.0.0.2/32",
        ),
        ("ClientIP(`10.0.0.1`, `10.0.0.2`)", "10.0.0.1/32 10.0.0.2/32"),
    ],
)
def test_rules_of_addresses(text: str, clients: str) -> None:
    found = rule_of(text)
    assert (" ".join(map(str, found.clients)), found.needs) == (clients, "")


@pytest.mark.parametrize(
    "text",
    [
        "HostSNI(`a.example`)",
        "HostSNI(`*`) || HostSNI(`a`)",
        "!ClientIP(`10.0.0.1`)",
        "!HostSNI(`*`)",
        "HostSNI(`*`) || ClientIP(`10.0.0.1`)",
        "HostSNI(`*`) && ClientIP(`10.0.0.1`) || ClientIP(`10.0.0.2`)",
        "ClientIP(`10.0.0.0/8`) && ClientIP(`10.0.0.1`)",
        "(ClientIP(`10.0.0.1`) && HostSNI(`*`)) || ClientIP(`10.0.0.2`)",
        "HostSNIRegexp(`.*`)",
        "ALPN(`h2`)",
        "ClientIP(`x`)",
        "ClientIP()",
        "HostSNI(`*`",
        "",
    ],
)
def test_rules_that_tcpmux_has_not(text: str) -> None:
    assert rule_of(text).needs
    assert rule_of(text) == Rule(needs=rule_of(text).needs)


def test_of_two_routers_that_take_all_the_one_with_priority_serves() -> None:
    content = dynamic(priority=3)
    other = {"rule": ALL, "service": "other"}
    content["tcp"]["routers"]["other"] = {**other, "priority": 9}
    content["tcp"]["services"]["other"] = {
        "loadBalancer": {"servers": [{"address": "127.0.0.1:19102"}]}
    }
    assert route_of(content).name == "other"
    content["tcp"]["routers"]["other"]["priority"] = 3
    assert "same priority" in found_of(content)[1][0]


def test_routers_of_one_priority_that_meet_are_named() -> None:
    content = dynamic(rule="ClientIP(`10.0.0.0/8`)")
    content["tcp"]["routers"]["other"] = {"rule": "ClientIP(`10.1.0.0/8`)", "service": "db"}
    assert "it has the priority of db" in found_of(content)[1][0]
    content["tcp"]["routers"]["other"]["rule"] = "ClientIP(`11.0.0.0/8`)"
    assert found_of(content)[1] == []


def test_a_limit_of_one_of_several_routers_is_refused_by_its_name() -> None:
    content = dynamic(
        rule="HostSNI(`a.example`)", tls={"passthrough": True}, middlewares=["mine"],
        more={"middlewares": {"mine": {"inFlightConn": {"amount": 5}}}},
    )  # fmt: skip
    (told,) = found_of(content)[1]
    note = "inFlightConn of mine: a route has one limit for all routers of its entry point"
    assert told.endswith(note)


@pytest.mark.parametrize("by", ["HostSNI(`a.example`, `b.example`)", "ClientIP(`::1`, `::2`)"])
@pytest.mark.parametrize(("syntax", "is_said"), [("v3", True), ("v2", False), (None, True)])
def test_several_values_in_a_matcher_are_of_traefik_2(
    by: str, syntax: str | None, is_said: bool
) -> None:
    content = dynamic(rule=by)
    if syntax is not None:
        content["tcp"]["routers"]["db"]["ruleSyntax"] = syntax
    if by.startswith("HostSNI"):
        content["tcp"]["routers"]["db"]["tls"] = {"passthrough": True}
    found = converted([yaml.safe_dump(content)])
    assert not found.changes
    said = "Traefik 3 takes one value in a matcher, and drops"
    assert any(said in one.note for one in found.findings) is is_said


def test_routers_by_name_answer_postgresql_and_wait_as_long_as_traefik() -> None:
    content = dynamic(rule="HostSNI(`a.example`)", tls={"passthrough": True})
    route = route_of(content)
    assert [(rule.sni, rule.reject) for rule in route.rules] == [
        (("a.example",), False),
        ((), True),
    ]
    preread = route.policy.preread
    assert (preread.starttls, preread.silent, preread.timeout) == ("postgres", "reject", 60.0)


def test_a_router_without_entry_points_has_all_of_tcp_but_the_dashboard_s() -> None:
    content = dynamic()
    content["entryPoints"] |= {
        "two": {"address": ":19002"},
        "traefik": {"address": ":19003"},
        "dns": {"address": ":19004/udp"},
    }
    (route,), changes = found_of(content)
    assert [address.port for address in route.listen] == [19001, 19002]
    assert ["UDP" not in told and "relays TCP" in told for told in changes] == [True]
    content["entryPoints"]["two"]["asDefault"] = True
    (route,), _ = found_of(content)
    assert [address.port for address in route.listen] == [19002]


# --- services -------------------------------------------------------------------------------------


def test_weights_of_weights() -> None:
    content = yaml.safe_load((FILES / "nested.dynamic.yaml").read_text())
    content["entryPoints"] = {"shop": {"address": "127.0.0.1:19001"}}
    route = route_of(content)
    assert [(d.name, d.weight) for d in route.destinations] == [("a", 1), ("b", 2), ("c", 3)]
    assert route.policy.on_unavailable == "reject"


def test_a_diamond_of_weighted_services_is_read_once() -> None:
    """Each level names the next one twice: two to the power of 15 paths."""
    content = dynamic(service="s0")
    services = content["tcp"]["services"]
    for level in range(15):
        to = f"s{level + 1}" if level < 14 else "db"
        services[f"s{level}"] = {"weighted": {"services": [{"name": to}, {"name": to}]}}
    assert [d.weight for d in route_of(content).destinations] == [100]


@pytest.mark.parametrize(
    ("transport", "expected"),
    [
        ({"dialTimeout": "5s"}, (5.0, 15, 0.1)),
        ({"dialKeepAlive": "-1s"}, (30.0, 0, 0.1)),
        ({"dialKeepAlive": 0}, (30.0, 15, 0.1)),
        ({"terminationDelay": "-1ms"}, (30.0, 15, 0.0)),
        ({"terminationDelay": "0s"}, (30.0, 15, 0.001)),
        ({"terminationDelay": "1m"}, (30.0, 15, 60.0)),
    ],
)
def test_transports(transport: dict[str, Any], expected: tuple[float, int, float]) -> None:
    content = dynamic(
        balancer={"serversTransport": "t@file"}, more={"serversTransports": {"t": transport}}
    )
    policy = route_of(content).destinations[0].policy
    assert (policy.connect_timeout, policy.keepalive.idle, policy.half_open_timeout) == expected


def test_a_check_looks_at_the_start_of_the_answer() -> None:
    health = {"send": "PING\r\n", "expect": "+PONG", "interval": "2s"}
    check = route_of(dynamic(balancer={"healthCheck": health})).destinations[0].policy.check
    assert check is not None
    assert (check.kind, check.send, check.expect) == ("send", b"PING\r\n", rb"\A\x2bPONG")
    assert (check.interval, check.timeout, check.fall, check.rise) == (2.0, 5.0, 1, 1)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (dynamic(tls={}), "still encrypted"),
        (dynamic(rule="HostSNI(`*.example`)", tls={"passthrough": True}), "stands for one label"),
        (dynamic(rule="HostSNI(`a.example`)"), "no router gets its connections"),
        (dynamic(rule="Path(`/`)"), "expected HostSNI, HostSNIRegexp, ClientIP, ALPN, got Path"),
        (
            dynamic(rule="ALPN(`acme-tls/1`)"),
            "Traefik does not answer itself, got acme-tls/1",
        ),
        (dynamic(rule="HostSNI(`*`"), "expected HostSNI(`...`) or another matcher"),
        (
            dynamic(rule="HostSNIRegexp(`^a.+$`)", tls={"passthrough": True}),
            "^a.+$ stands for neither a name nor all names with an end",
        ),
        (dynamic(service="none"), "not in the files"),
        (dynamic(service="db@docker"), "not in the files"),
        (dynamic(middlewares=["none"]), "no such TCP middleware"),
        (dynamic(entryPoints=["none"]), "no entry point in the files"),
        (
            dynamic(balancer={"servers": [{"address": "127.0.0.1:1", "tls": True}]}),
            "does not encrypt",
        ),
        (dynamic(balancer={"servers": [{"address": "127.0.0.1"}]}), "expected IP:port"),
        (dynamic(balancer={"serversTransport": "none"}), "no such serversTransport"),
        (dynamic(balancer={"strategy": "p2c"}), "does not know it"),
        (
            dynamic(balancer={"healthCheck": {"unhealthyInterval": "1s"}}),
            "the same interval as others",
        ),
        ({**dynamic(), "providers": {"docker": {}}}, "do not contain"),
    ],
)
def test_what_changes_traffic_is_said(content: dict[str, Any], told: str) -> None:
    assert told in " ".join(found_of(content)[1])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (dynamic(priority="high"), "expected a whole number"),
        (dynamic(rule=None), "expected a rule"),
        (dynamic(balancer={"healthCheck": {"interval": "1 s"}}), "expected a duration"),
        (dynamic(balancer={"servers": {"address": "x"}}), "expected a list"),
        (dynamic(middlewares=["m"], more={"middlewares": {"m": NOBODY}}), "from 1 to"),
    ],
)
def test_mistakes_that_traefik_refuses_as_well(content: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        found_of(content)
