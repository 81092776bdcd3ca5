"""The pages for people who come from Envoy and Traefik: their tables of classes say what the report
says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcpmux.convert.kinds import Input, reader_of
from tcpmux.convert.report import Report
from tests.convert.test_envoy import (
    CHECK,
    address,
    bootstrap,
    breakers,
    cluster,
    filters,
    rbac,
    servers,
)
from tests.convert.test_envoy_headers import header, sending
from tests.convert.test_traefik import dynamic

DOCS = Path(__file__).resolve().parents[2] / "docs/migrate"
CLASSES = ("changes traffic", "harmless", "mapped")

BUCKET = {"max_tokens": 1, "fill_interval": "1s"}
HTTP = [{"filters": [{"name": "http_connection_manager"}]}]
KEEPALIVE = {"tcp_keepalive": {"keepalive_time": 7}}
SLOW = {"slow_start_config": {"slow_start_window": "7s"}}
TCP_CHECK = CHECK[0]
OUTLIERS = {"consecutive_5xx": 2, "max_ejection_percent": 1}
WEIGHTED = {"clusters": [{"name": "db", "weight": 7}]}


def check(kind: str, **more: Any) -> dict[str, Any]:
    plain = {key: value for key, value in TCP_CHECK.items() if key != "tcp_health_check"}
    return cluster(health_checks=[{**plain, kind: {"path": "/"}, **more}])


def weighted_server(**more: Any) -> dict[str, Any]:
    locality = servers(19101)
    locality["lb_endpoints"][0] |= more
    return cluster(locality)


def named(**more: Any) -> dict[str, Any]:
    found = {"lb_endpoints": [{"endpoint": {"address": address(80, "db.example")}}]}
    return cluster(found, type="STRICT_DNS", **more)


def matching(**match: Any) -> dict[str, Any]:
    """A filter chain for some connections, beside one for all others."""
    (plain,) = bootstrap()["static_resources"]["listeners"][0]["filter_chains"]
    return bootstrap(default_filter_chain=plain, chain={"filter_chain_match": match})


def top(**more: Any) -> dict[str, Any]:
    return {**bootstrap(), **more}


ENVOY = {
    "cluster": bootstrap(),
    "weighted_clusters": bootstrap({"cluster": None, "weighted_clusters": WEIGHTED}),
    "idle_timeout": bootstrap({"idle_timeout": "7s"}),
    "max_downstream_connection_duration": bootstrap({"max_downstream_connection_duration": "7s"}),
    "max_connect_attempts": bootstrap({"max_connect_attempts": 2}),
    "source_ip": bootstrap({"hash_policy": [{"source_ip": {}}]}),
    "additional_addresses": bootstrap(additional_addresses=[{"address": address(19002)}]),
    "source_prefix_ranges": bootstrap(
        chain={
            "filter_chain_match": {
                "source_prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]
            }
        }
    ),
    "ConnectionLimit": bootstrap(before=(filters("ConnectionLimit", max_connections=7),)),
    "LocalRateLimit": bootstrap(before=(filters("LocalRateLimit", token_bucket=BUCKET),)),
    "RBAC": bootstrap(before=(rbac({"any": True}),)),
    "remote_ip": bootstrap(
        before=(rbac({"remote_ip": {"address_prefix": "10.0.0.1", "prefix_len": 32}}),)
    ),
    "direct_remote_ip": bootstrap(
        before=(rbac({"direct_remote_ip": {"address_prefix": "10.0.0.1", "prefix_len": 32}}),)
    ),
    "connect_timeout": bootstrap(of=cluster(connect_timeout="7s")),
    "lb_endpoints": bootstrap(),
    "load_balancing_weight": bootstrap(of=weighted_server(load_balancing_weight=7)),
    "lb_policy": bootstrap(of=cluster(lb_policy="LEAST_REQUEST")),
    "max_connections": bootstrap(of=breakers(max_connections=7)),
    "healthy_panic_threshold": bootstrap(
        of=cluster(common_lb_config={"healthy_panic_threshold": {"value": 7}})
    ),
    "tcp_health_check": bootstrap(of=cluster(health_checks=CHECK)),
    "http_health_check": bootstrap(of=check("http_health_check")),
    "slow_start_window": bootstrap(of=cluster(round_robin_lb_config=SLOW)),
    "keepalive_time": bootstrap(of=cluster(upstream_connection_options=KEEPALIVE)),
    "outlier_detection": bootstrap(of=cluster(outlier_detection=OUTLIERS)),
    "max_ejection_percent": bootstrap(of=cluster(outlier_detection=OUTLIERS)),
    "priority": bootstrap(
        of=cluster(servers(19101), servers(19102, priority=1), health_checks=CHECK)
    ),
    "access_log": bootstrap({"access_log": [{"name": "a"}]}),
    "stat_prefix": bootstrap({"stat_prefix": "a"}),
    "admin": top(admin={"address": {"pipe": {"path": "/admin"}}}),
    "node": top(node={"id": "node"}),
    "connection_balance_config": bootstrap(connection_balance_config={"exact_balance": {}}),
    "per_connection_buffer_limit_bytes": bootstrap(per_connection_buffer_limit_bytes=7),
    "max_requests": bootstrap(of=breakers(max_requests=7)),
    "max_retries": bootstrap(of=breakers(max_retries=7)),
    "interval_jitter": bootstrap(of=check("http_health_check", interval_jitter="1s")),
    "dns_refresh_rate": bootstrap(of=named(dns_lookup_family="ALL", dns_refresh_rate="7s")),
    "transport_socket": bootstrap(of=cluster(transport_socket={"name": "envoy.tls"})),
    "proxy_protocol": bootstrap(listener_filters=[{"name": "envoy.x.proxy_protocol"}]),
    "disallowed_versions": header(disallowed_versions=["V1"]),
    "allow_requests_without_proxy_protocol": header(allow_requests_without_proxy_protocol=True),
    "upstream_proxy_protocol": bootstrap(of=cluster(transport_socket=sending())),
    "pass_through_tlvs": bootstrap(of=cluster(transport_socket=sending(
        pass_through_tlvs={"match_type": "INCLUDE_ALL"}
    ))),
    "server_names": matching(server_names=["a"]),
    "application_protocols": matching(application_protocols=["h2"]),
    "transport_protocol": matching(transport_protocol="tls"),
    "destination_port": matching(destination_port=19001),
    "prefix_ranges": matching(prefix_ranges=[{"address_prefix": "127.0.0.0", "prefix_len": 8}]),
    "source_ports": matching(source_ports=[7]),
    "original_dst": bootstrap(listener_filters=[{"name": "envoy.x.original_dst"}]),
    "tunneling_config": bootstrap({"tunneling_config": {"hostname": "a:1"}}),
    "http_connection_manager": bootstrap(name=None, address=None, filter_chains=HTTP),
    "UDP": bootstrap(name=None, address=address(1, protocol="UDP")),
    "dynamic_resources": top(dynamic_resources={"ads_config": {"api_type": "GRPC"}}),
    "EDS": bootstrap(of=cluster(type="EDS")),
    "overload_manager": top(overload_manager={"actions": [{"name": "a"}]}),
    "layered_runtime": top(layered_runtime={"layers": [{"static_layer": {"layered_runtime": 1}}]}),
    "upstream_bind_config": bootstrap(
        of=cluster(upstream_bind_config={"source_address": {"address": "10.0.0.1"}})
    ),
    "lb_subset_config": bootstrap(of=cluster(lb_subset_config={"fallback_policy": 1})),
    "max_pending_requests": bootstrap(of=breakers(max_pending_requests=7)),
    "per_host_thresholds": bootstrap(
        of=cluster(circuit_breakers={"per_host_thresholds": [{"max_connections": 7}]})
    ),
    "grpc_health_check": bootstrap(of=check("grpc_health_check")),
    "DRAINING": bootstrap(of=weighted_server(health_status="DRAINING")),
    "V4_ONLY": bootstrap(of=named(dns_lookup_family="V4_ONLY")),
}  # fmt: skip


def static(**more: Any) -> dict[str, Any]:
    content = dynamic()
    content["entryPoints"]["db"] |= more
    return content


def transport(**more: Any) -> dict[str, Any]:
    return dynamic(balancer={"serversTransport": "t"}, more={"serversTransports": {"t": more}})


def middleware(**kind: Any) -> dict[str, Any]:
    return dynamic(middlewares=["m"], more={"middlewares": {"m": kind}})


TRAEFIK = {
    "address": dynamic(),
    "ClientIP": dynamic(rule="ClientIP(`10.0.0.1`)"),
    "priority": dynamic(priority=7),
    "entryPoints": dynamic(entryPoints=["db"]),
    "servers": dynamic(),
    "weighted": dynamic(service="w", more={"services": {
        "w": {"weighted": {"services": [{"name": "db", "weight": 7}]}},
        "db": dynamic()["tcp"]["services"]["db"],
    }}),
    "healthCheck": dynamic(balancer={"healthCheck": {"interval": "7s"}}),
    "ipAllowList": middleware(ipAllowList={"sourceRange": ["10.0.0.1"]}),
    "inFlightConn": middleware(inFlightConn={"amount": 7}),
    "dialTimeout": transport(dialTimeout="7s"),
    "dialKeepAlive": transport(dialKeepAlive="7s"),
    "terminationDelay": transport(terminationDelay="7s"),
    "graceTimeOut": static(transport={"lifeCycle": {"graceTimeOut": "7s"}}),
    "passthrough": dynamic(tls={"passthrough": True}),
    "api": {**dynamic(), "api": {"insecure": True}},
    "log": {**dynamic(), "log": {"level": "INFO"}},
    "accessLog": {**dynamic(), "accessLog": {}},
    "metrics": {**dynamic(), "metrics": {"prometheus": {}}},
    "respondingTimeouts": static(transport={"respondingTimeouts": {"idleTimeout": "7s"}}),
    "forwardedHeaders": static(forwardedHeaders={"insecure": True}),
    "watch": {**dynamic(), "providers": {"file": {"watch": True}}},
    "tls": dynamic(tls={"options": "default"}),
    "HostSNI": dynamic(rule="HostSNI(`a.x`)", tls={"passthrough": True}),
    "HostSNIRegexp": dynamic(rule="HostSNIRegexp(`^a\\.x$`)", tls={"passthrough": True}),
    "ALPN": dynamic(rule="ALPN(`h2`)", tls={"passthrough": True}),
    "proxyProtocol": static(proxyProtocol={"insecure": True}),
    "trustedIPs": static(proxyProtocol={"trustedIPs": ["10.0.0.1"]}),
    "docker": {**dynamic(), "providers": {"docker": {"watch": True}}},
    "directory": {**dynamic(), "providers": {"file": {"directory": "/x"}}},
    "http": {**dynamic(), "http": {"routers": {"a": {"rule": "Host(`a`)"}}}},
    "udp": {**dynamic(), "udp": {"routers": {"a": {"service": "a"}}}},
    "unhealthyInterval": dynamic(balancer={"healthCheck": {"unhealthyInterval": "7s"}}),
    "requestAcceptGraceTimeout": static(
        transport={"lifeCycle": {"requestAcceptGraceTimeout": "7s"}}
    ),
}  # fmt: skip
PAGES = {"envoy": ("istio.md", ENVOY), "traefik": ("traefik.md", TRAEFIK)}


def rows(kind: str) -> list[tuple[str, str, str]]:
    """Of the table: the kind, each key, and its class."""
    text = (DOCS / PAGES[kind][0]).read_text()
    table = text.partition(f"| | Class of {kind.capitalize()}'s keys |")[2].partition("\n\n")[0]
    found = []
    for line in table.splitlines()[2:]:
        keys, said = (cell.strip() for cell in line.strip("|").rsplit("|", 1))
        (effect,) = [one for one in CLASSES if said.startswith(one)]
        found += [(kind, key, effect) for key in re.findall(r"(?<!`)`(\w+)`", keys)]
    return found


def effects(kind: str, key: str) -> set[str]:
    """The classes of what stands at or below a key, or has it as its value."""
    report = Report()
    text = yaml.safe_dump(PAGES[kind][1][key], sort_keys=False)
    assert key in text
    reader_of(kind)([Input("file.yaml", text)], report)
    assert not report.problems
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if re.search(rf"\b{key}\b", line))
    depth = len(lines[first]) - len(lines[first].lstrip(" -"))
    last = first + 1
    while last < len(lines) and len(lines[last]) - len(lines[last].lstrip(" -")) > depth:
        last += 1
    found = [of for of in report.findings() if first < of.line <= last]
    assert found
    return {CLASSES[0] if "part of a value that" in of.note else of.effect.value for of in found}


@pytest.mark.parametrize(("kind", "key", "effect"), [*rows("envoy"), *rows("traefik")])
def test_a_key_is_in_the_class_that_the_page_says(kind: str, key: str, effect: str) -> None:
    assert effects(kind, key) == {effect}


@pytest.mark.parametrize("kind", PAGES)
def test_the_page_names_every_example(kind: str) -> None:
    assert {key for _, key, _ in rows(kind)} == PAGES[kind][1].keys()
