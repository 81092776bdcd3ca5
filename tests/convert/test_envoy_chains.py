"""Filter chains of Envoy as rules: its steps, from the port to the client."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.kinds import Input
from tests.convert import routes
from tests.convert.routes import only_route

PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
Match = dict[str, Any]


def chain(to: str, match: Match | None = None) -> dict[str, Any]:
    config = {"@type": PROXY, "stat_prefix": "s", "cluster": to}
    found: dict[str, Any] = {"filters": [{"name": "p", "typed_config": config}]}
    return found | ({"filter_chain_match": match} if match else {})


def sources(*networks: str) -> Match:
    found = [network.split("/") for network in networks]
    ranges = [{"address_prefix": one, "prefix_len": int(length)} for one, length in found]
    return {"source_prefix_ranges": ranges}


def conversion(*chains: dict[str, Any], default: str = "", host: str = "127.0.0.1") -> Conversion:
    listener = {
        "name": "l",
        "address": {"socket_address": {"address": host, "port_value": 19001}},
        "filter_chains": [*chains],
    }
    if default:
        listener["default_filter_chain"] = chain(default)
    clusters = []
    for name in "abc":
        at = {"socket_address": {"address": "127.0.0.1", "port_value": ord(name)}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": at}}]}]
        load = {"cluster_name": name, "endpoints": endpoints}
        clusters.append({"name": name, "type": "STATIC", "load_assignment": load})
    file = {"static_resources": {"listeners": [listener], "clusters": clusters}}
    return convert("envoy", [Input("envoy.yaml", yaml.safe_dump(file))])


def lines(*chains: dict[str, Any], default: str = "") -> list[str]:
    return routes.lines(only_route(conversion(*chains, default=default)))


RESET = ["every connection -> reset", ""]


def test_the_most_specific_name_decides() -> None:
    assert lines(
        chain("a", {"server_names": ["*.x", "y"]}),
        chain("b", {"server_names": ["B.x", "*.y.x"]}),
        chain("c"),
    ) == ["sni b.x, *.y.x -> b=1", "sni y, *.x -> a=1", "c"]


def test_what_no_chain_matches_is_reset_or_the_default_ones() -> None:
    assert lines(chain("a", {"server_names": ["x"]})) == ["sni x -> a=1", *RESET]
    assert lines(chain("a", {"server_names": ["x"]}), default="c") == ["sni x -> a=1", "c"]


def test_there_is_no_way_back_from_a_name() -> None:
    """A client of another network is not of the chain without a name."""
    only = {"server_names": ["x"]} | sources("10.0.0.0/8")
    assert lines(chain("a", only), chain("c")) == [
        "source 10.0.0.0/8; sni x -> a=1",
        "sni x -> reset",
        "c",
    ]


def test_the_longest_prefix_of_a_client_decides() -> None:
    found = lines(
        chain("a", sources("10.0.0.0/8", "192.0.2.0/24")), chain("b", sources("10.1.0.0/16"))
    )
    assert found == [
        "source 192.0.2.0/24 -> a=1",
        "source 10.1.0.0/16 -> b=1",
        "source 10.0.0.0/8 -> a=1",
        *RESET,
    ]


def test_a_protocol_of_tls_comes_after_its_transport() -> None:
    """A chain for TLS that names no protocol leaves out one that names no transport."""
    both = chain("a", {"application_protocols": ["h2"]}), chain("b", {"transport_protocol": "tls"})
    assert lines(*both, default="c") == ["tls true -> b=1", "c"]


@pytest.mark.parametrize(("port", "expected"), [(19001, ["a"]), (19002, ["c"])])
def test_a_port_is_that_of_the_listener(port: int, expected: list[str]) -> None:
    assert lines(chain("a", {"destination_port": port}), chain("c")) == expected


@pytest.mark.parametrize(("network", "expected"), [("127.0.0.0", ["a"]), ("10.0.0.0", ["c"])])
def test_an_address_is_that_of_the_listener(network: str, expected: list[str]) -> None:
    ranges = [{"address_prefix": network, "prefix_len": 8}]
    assert lines(chain("a", {"prefix_ranges": ranges}), chain("c")) == expected


@pytest.mark.parametrize(
    ("match", "needs"),
    [
        ({"source_ports": [1]}, "rules by the client's port"),
        ({"source_type": "EXTERNAL"}, "rules by source"),
        ({"transport_protocol": "quic"}, "rules by transport"),
        ({"server_names": ["a..b"]}, "rules by SNI"),
        ({"application_protocols": ["h2", "h3"]}, ""),
    ],
)
def test_what_tcpmux_can_not_tell_changes_traffic(match: Match, needs: str) -> None:
    found = conversion(chain("a", match), chain("c"))
    assert {change.needs for change in found.changes} == ({needs} if needs else set())


def test_a_protocol_that_the_client_prefers_can_not_be_told() -> None:
    both = (
        chain("a", {"application_protocols": ["h2"]}),
        chain("b", {"application_protocols": ["h3"]}),
    )
    assert "rules by preference" in {change.needs for change in conversion(*both).changes}


def test_limits_of_single_chains_are_refused() -> None:
    limit = (
        "type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"
    )
    limited = chain("a", {"server_names": ["x"]})
    config = {"@type": limit, "stat_prefix": "s", "max_connections": 5}
    limited["filters"].insert(0, {"name": "l", "typed_config": config})
    found = conversion(limited, chain("c"))
    assert "limits of filter chains" in {change.needs for change in found.changes}


def test_a_cluster_of_two_chains_is_one_destination() -> None:
    found = conversion(
        chain("a", {"server_names": ["x"]}), chain("b", {"server_names": ["y"]}), chain("a")
    )
    assert found.text.count("- name: a") == 1


def test_too_many_names_and_protocols_are_refused_and_not_compared() -> None:
    names = {"server_names": [f"n{n}.x" for n in range(2000)]}
    protocols = {"application_protocols": [f"p{n}" for n in range(2000)]}
    (change,) = conversion(chain("a", names), chain("b", protocols)).changes
    assert "too many names and protocols" in change.note
    assert change.needs == "longer lists"


def test_a_chain_without_filters_closes_its_connections() -> None:
    refused = {"filter_chain_match": {"server_names": ["no.x"]}, "filters": []}
    assert lines(chain("a"), refused) == ["sni no.x -> reset", "a"]
    (told,) = conversion({"filters": []}).changes
    assert told.note == "Envoy closes each connection, as it has no filters: its port is not opened"
