"""What becomes of Envoy's words, one by one."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcpmux.config import ConfigError
from tcpmux.config.model import Destination, Route
from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.draft import routes_of
from tcpmux.convert.envoy import read
from tcpmux.convert.kinds import Input
from tcpmux.convert.report import Report

FILES = Path(__file__).with_name("files") / "envoy"
PREFIX = "type.googleapis.com/envoy.extensions.filters.network."
WORKING = ["split", "limits", "clients", "hash", "backup", "outliers", "checks", "hosts", "tls"]


def filters(name: str, **config: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{PREFIX}x.v3.{name}", **config}}


def address(port: int, host: str = "127.0.0.1", **more: Any) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port, **more}}


def servers(*ports: int, **more: Any) -> dict[str, Any]:
    return {"lb_endpoints": [{"endpoint": {"address": address(port)}} for port in ports], **more}


def cluster(*localities: dict[str, Any], **more: Any) -> dict[str, Any]:
    found = [*localities] or [servers(19101)]
    return {"name": "db", "load_assignment": {"endpoints": found}, **more}


def breakers(**threshold: Any) -> dict[str, Any]:
    return cluster(circuit_breakers={"thresholds": [threshold]})


def rbac(principal: dict[str, Any], action: str = "ALLOW") -> dict[str, Any]:
    policies = {"one": {"permissions": [{"any": True}], "principals": [principal]}}
    return filters("RBAC", rules={"action": action, "policies": policies})


def bootstrap(
    proxy: dict[str, Any] | None = None,
    of: dict[str, Any] | None = None,
    before: tuple[dict[str, Any], ...] = (),
    chain: dict[str, Any] | None = None,
    **listener: Any,
) -> dict[str, Any]:
    chains = [
        {
            "filters": [*before, filters("TcpProxy", **{"cluster": "db", **(proxy or {})})],
            **(chain or {}),
        }
    ]
    first = {"name": "db", "address": address(19001), "filter_chains": chains, **listener}
    return {"static_resources": {"listeners": [first], "clusters": [of or cluster()]}}


def found_of(content: dict[str, Any]) -> tuple[list[Route], list[str]]:
    """The routes, and what changes traffic, without places."""
    report = Report()
    result = read([Input("envoy.yaml", yaml.safe_dump(content, sort_keys=False))], report)
    report.complain()
    routes = [route for route, _ in routes_of(result.drafts, report)]
    return routes, [f"{found.text}: {found.note}" for found in report.changes()]


def destination(of: dict[str, Any], proxy: dict[str, Any] | None = None) -> Destination:
    (route,), changes = found_of(bootstrap(proxy, of))
    assert changes == []
    return route.destinations[0]


def refused(content: dict[str, Any]) -> str:
    """The one thing that changes traffic."""
    _, changes = found_of(content)
    (told,) = changes
    return told


def converted(text: str, name: str = "envoy.yaml") -> Conversion:
    return convert("envoy", [Input(name, text)])


# --- the same, written otherwise ------------------------------------------------------------------


def camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            re.sub(r"_([a-z])", lambda m: m[1].upper(), k) if k[:1] != "@" else k: camel(v)
            for k, v in value.items()
        }
    return [camel(inner) for inner in value] if isinstance(value, list) else value


def shuffled(value: Any, by: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(inner, by)) for key, inner in value.items()]
        by.shuffle(items)
        return dict(items)
    return [shuffled(inner, by) for inner in value] if isinstance(value, list) else value


def classes(found: Conversion) -> list[tuple[str, str]]:
    """Of what matters: where it is said that a part is not converted depends on the order."""
    return sorted((f.effect.value, f.note) for f in found.findings if "a part of" not in f.note)


@pytest.mark.parametrize("name", WORKING)
def test_order_spelling_and_format_do_not_matter(name: str) -> None:
    text = (FILES / f"{name}.yaml").read_text()
    first = converted(text)
    value = yaml.safe_load(text)
    plain = re.sub(r"envoy\.yaml:\d+", "", first.text)
    for seed in range(5):
        other = shuffled(value, random.Random(seed))
        for written in (
            yaml.safe_dump(other, sort_keys=False),
            json.dumps(other, indent="\t"),
            json.dumps(camel(other)),
        ):
            found = converted(written)
            assert classes(found) == classes(first)
            if not first.changes:
                assert re.sub(r"envoy\.yaml:\d+", "", found.text) == plain
            assert sum(found.totals.values()) == sum(first.totals.values())


# --- defaults that nobody writes ------------------------------------------------------------------


def test_envoy_s_defaults_hold() -> None:
    (route,), changes = found_of(bootstrap())
    policy = route.destinations[0].policy
    assert changes == []
    assert (policy.connect_timeout, policy.idle_timeout) == (5.0, 3600.0)
    assert (policy.max_connections, policy.panic_threshold) == (1024, 50)
    assert (policy.passive.errors, policy.keepalive.idle, policy.check) == (0, 0, None)
    assert route.policy.retry.attempts == 1


def test_a_share_of_a_split_is_not_redistributed() -> None:
    """Envoy chooses the cluster first, whatever the health of its servers."""
    other = {**cluster(servers(19102)), "name": "other"}
    content = bootstrap()
    proxy = content["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    del proxy["typed_config"]["cluster"]
    proxy["typed_config"]["weighted_clusters"] = {
        "clusters": [{"name": "db", "weight": 3}, {"name": "other", "weight": 1}]
    }
    content["static_resources"]["clusters"].append(other)
    (route,), _ = found_of(content)
    assert route.policy.on_unavailable == "reject"
    assert [(d.name, d.weight) for d in route.destinations] == [("db", 75), ("other", 25)]


def test_a_written_limit_that_two_routes_share_changes_traffic() -> None:
    breakers = {"thresholds": [{"max_connections": 7}]}
    content = bootstrap(of=cluster(circuit_breakers=breakers))
    listeners = content["static_resources"]["listeners"]
    listeners.append({**listeners[0], "name": "two", "address": address(19002)})
    assert refused(content).endswith(
        "the limit applies to each of the routes db and two, not to their total"
    )


# --- times and numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0.0), ("1.5s", 1.5), ("0.001s", 0.001), ("2592000s", 2592000.0)]
)
def test_idle_timeouts(text: str, seconds: float) -> None:
    assert destination(cluster(), {"idle_timeout": text}).policy.idle_timeout == seconds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2592001s", "it is outside tcpmux's range, 1ms..30d"),
        ("0.0001s", "it is outside tcpmux's range, 1ms..30d"),
        ("0.0015s", "tcpmux counts in whole milliseconds"),
    ],
)
def test_idle_timeouts_beyond_tcpmux(text: str, told: str) -> None:
    assert refused(bootstrap({"idle_timeout": text})).endswith(told)


@pytest.mark.parametrize("text", ["5", "5m", "5 s", "", "s", "1e3s", "\u0665s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="expected seconds such as 5s"):
        found_of(bootstrap({"idle_timeout": text}))


@pytest.mark.parametrize(
    ("bucket", "rate", "burst"),
    [
        ({"max_tokens": 10, "tokens_per_fill": 5, "fill_interval": "1s"}, 5.0, 10),
        ({"max_tokens": 1, "fill_interval": "60s"}, 60 / 3600, 1),
        ({"max_tokens": 7, "tokens_per_fill": 1, "fill_interval": "0.05s"}, 20.0, 7),
    ],
)
def test_rates(bucket: dict[str, Any], rate: float, burst: int) -> None:
    (route,), changes = found_of(
        bootstrap(before=(filters("LocalRateLimit", token_bucket=bucket),))
    )
    assert changes == []
    assert route.policy.rate is not None
    assert (route.policy.rate.per_second, route.policy.rate.burst) == (rate, burst)


# --- clusters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "balance"),
    [
        ({}, "round_robin"),
        ({"lb_policy": "RANDOM"}, "round_robin"),
        ({"lb_policy": "LEAST_REQUEST"}, "random_two"),
        ({"lb_policy": 1}, "random_two"),
        (
            {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"choice_count": 3}},
            "least_connections",
        ),
        ({"lb_policy": "MAGLEV"}, "round_robin"),
    ],
)
def test_balancing(more: dict[str, Any], balance: str) -> None:
    assert destination(cluster(servers(19101, 19102), **more)).policy.balance == balance


@pytest.mark.parametrize(
    ("policy", "balance"), [("MAGLEV", "maglev"), ("RING_HASH", "source_hash")]
)
def test_balancing_by_the_client(policy: str, balance: str) -> None:
    proxy: dict[str, Any] = {"hash_policy": [{"source_ip": {}}]}
    assert destination(cluster(lb_policy=policy), proxy).policy.balance == balance


def test_random_knows_no_weights() -> None:
    locality = servers(19101, 19102)
    locality["lb_endpoints"][0]["load_balancing_weight"] = 9
    assert len(destination(cluster(locality)).endpoints) == 10
    assert len(destination(cluster(locality, lb_policy="RANDOM")).endpoints) == 2


CHECK = [
    {
        "timeout": "1s",
        "interval": "1s",
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "tcp_health_check": {},
    }
]


def test_a_backup_of_one_server() -> None:
    of = cluster(servers(19101), servers(19102, priority=1), health_checks=CHECK)
    found = destination(of)
    assert [str(e) for e in found.endpoints] == ["127.0.0.1:19101", "127.0.0.1:19102"]
    assert [policy.priority for _, policy in found.endpoint_policies] == [1]
    assert found.policy.panic_threshold == 1  # only if neither is healthy


@pytest.mark.parametrize(
    ("first", "factor", "panic", "is_same"),
    [(2, 140, 50, False), (2, 200, 50, True), (1, 140, 50, True), (2, 140, 0, False)],
)
def test_priorities_of_several_servers(first: int, factor: int, panic: int, is_same: bool) -> None:
    of = cluster(
        servers(*range(19101, 19101 + first)), servers(19110, priority=3), health_checks=CHECK
    )
    of["load_assignment"]["policy"] = {"overprovisioning_factor": factor}
    of["common_lb_config"] = {"healthy_panic_threshold": {"value": panic}}
    _, changes = found_of(bootstrap(of=of))
    assert (changes == []) is is_same
    assert all("as soon as some of those fail" in told for told in changes)


def test_a_backup_that_nothing_brings_into_use_is_left_out() -> None:
    found = destination(cluster(servers(19101), servers(19102, priority=1)))
    assert [str(e) for e in found.endpoints] == ["127.0.0.1:19101"]


@pytest.mark.parametrize(
    ("ports", "outliers", "errors"),
    [
        (2, {}, 0),
        (10, {"enforcing_success_rate": 0}, 5),
        (2, {"max_ejection_percent": 50}, 5),
        (3, {"max_ejection_percent": 30}, 0),
        (2, {"always_eject_one_host": True, "consecutive_5xx": 3}, 3),
        (2, {"always_eject_one_host": True, "enforcing_consecutive_5xx": 0}, 0),
        (2, {"always_eject_one_host": True, "consecutive_gateway_failure": 2}, 5),
        (
            2,
            {
                "always_eject_one_host": True,
                "consecutive_gateway_failure": 2,
                "enforcing_consecutive_gateway_failure": 100,
            },
            2,
        ),
        (
            2,
            {
                "always_eject_one_host": True,
                "split_external_local_origin_errors": True,
                "consecutive_local_origin_failure": 4,
                "consecutive_5xx": 1,
            },
            4,
        ),
    ],
)
def test_outlier_detection(ports: int, outliers: dict[str, Any], errors: int) -> None:
    """Envoy ejects a server only within max_ejection_percent: of few servers perhaps none."""
    of = cluster(servers(*range(19101, 19101 + ports)), outlier_detection=outliers)
    assert destination(of).policy.passive.errors == errors


@pytest.mark.parametrize(
    ("threshold", "most"),
    [
        ({"max_connections": 5, "max_pending_requests": 5}, 5),
        ({"max_requests": 1, "max_retries": 1}, 1024),
        ({"priority": "HIGH", "max_connections": 5}, 1024),
    ],
)
def test_circuit_breakers(threshold: dict[str, Any], most: int) -> None:
    of = cluster(circuit_breakers={"thresholds": [threshold]})
    assert destination(of).policy.max_connections == most


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"of": cluster(type="EDS")}, "it has no servers"),
        ({"of": breakers(max_pending_requests=3)}, "pending connections"),
        ({"of": breakers(max_connections=0)}, "1..10000000"),
        ({"of": cluster(transport_socket={"name": "envoy.x.tls"})}, "does not encrypt"),
        ({"of": cluster(lb_policy="CLUSTER_PROVIDED")}, "round robin"),
        ({"of": cluster(preconnect_policy={"ratio": 2})}, "does not know it"),
        ({"of": cluster(health_checks=[*CHECK, *CHECK])}, "only the first check"),
        ({"proxy": {"tunneling_config": {"hostname": "x:1"}}}, "without an HTTP tunnel"),
        ({"proxy": {"cluster": "none"}}, "no such cluster"),
        ({"proxy": {"max_connect_attempts": 256}}, "above 255"),
        ({"transparent": True}, "other addresses"),
        ({"address": address(19001, "::")}, "only IPv6 clients"),
        ({"address": address(0)}, "from 1 to 65535"),
        ({"address": {"pipe": {"path": "@abstract"}}}, "absolute path"),
        ({"listener_filters": [{"name": "envoy.x.original_dst"}]}, "another listener"),
        ({"chain": {"filter_chain_match": {"destination_port": 80}}}, "no filter chain matches"),
        ({"before": (filters("ExtAuthz"),)}, "no such filter"),
        ({"before": (rbac({"authenticated": {}}),)}, "only rules by the client's address"),
    ],
)
def test_what_changes_traffic_is_said(parts: dict[str, Any], told: str) -> None:
    assert told in refused(bootstrap(**parts))


def test_overload_actions_change_traffic() -> None:
    content = {**bootstrap(), "overload_manager": {"actions": [{"name": "stop"}]}}
    assert "is overloaded" in refused(content)


def test_an_rbac_filter_that_allows_nobody() -> None:
    (route,), changes = found_of(bootstrap(before=(filters("RBAC", rules={"action": "ALLOW"}),)))
    assert changes == []
    assert [str(net) for net in route.policy.deny] == ["0.0.0.0/0", "::/0", "unix"]


def test_two_rbac_filters_must_both_accept() -> None:
    before = (
        rbac({"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}),
        rbac({"remote_ip": {"address_prefix": "10.1.0.0", "prefix_len": 16}}, "DENY"),
    )
    (route,), _ = found_of(bootstrap(before=before))
    accepted = [net for net in route.policy.allow if not isinstance(net, str)]
    assert sum(net.num_addresses for net in accepted) == 2**24 - 2**16
    assert len(accepted) == len(route.policy.allow)
    assert route.policy.deny == ()


def test_a_name_in_a_cluster_of_type_static_is_refused_as_envoy_refuses_it() -> None:
    locality = {"lb_endpoints": [{"endpoint": {"address": address(80, "db.example")}}]}
    with pytest.raises(ConfigError, match="is a name, but the cluster has type STATIC"):
        found_of(bootstrap(of=cluster(locality)))


def test_what_is_empty_is_as_if_it_were_not_there() -> None:
    of = cluster(common_lb_config={}, circuit_breakers={}, outlier_detection={}, health_checks=[])
    assert destination(of).policy == destination(cluster()).policy
