"""nginx.conf: whose PROXY headers are read, whose address counts then, what servers are told."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tcpmux.config.document import Text
from tcpmux.config.loader import load_texts
from tcpmux.config.settings import AcceptProxy, RoutePolicy, SendProxy
from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.kinds import Input
from tests.convert.test_nginx import changes_of, routes_of, server_of

LISTENING = "listen 127.0.0.1:80 proxy_protocol; proxy_pass 127.0.0.1:81;"
EVERY = ["0.0.0.0/0"]


def converted(stream: str) -> Conversion:
    return convert("nginx", [Input("nginx.conf", f"stream {{ {stream} }}")])


def policy_of(directives: str, stream: str = "") -> RoutePolicy:
    (route,) = routes_of(f"{stream} server {{ {LISTENING} {directives} }}")
    return route.policy


def senders(policy: RoutePolicy) -> list[str]:
    return [str(network) for network in policy.accept_proxy.senders]


@pytest.mark.parametrize(
    "directives",
    [
        "",
        "set_real_ip_from 10.0.0.0/8;",  # of no use, as nothing asks for the address
        "allow 10.0.0.0/8; deny all; set_real_ip_from 0.0.0.0/0;",
        "proxy_protocol on; set_real_ip_from 128.0.0.0/1; set_real_ip_from 0.0.0.0/1;",
        "limit_conn z 2; set_real_ip_from 0.0.0.0/0;",
    ],
)
def test_a_header_of_everybody_where_that_is_the_same(directives: str) -> None:
    zone = "limit_conn_zone $remote_addr zone=z:1m;"
    assert senders(policy_of(directives, zone)) == EVERY


@pytest.mark.parametrize(
    "use", ["allow 10.0.0.0/8; deny all;", "proxy_protocol on;", "limit_conn z 2;"]
)
@pytest.mark.parametrize(
    ("trusted", "told"),
    [
        ("", "tcpmux uses the address in the header"),
        ("set_real_ip_from 10.0.0.0/8;", "relays the header as data"),
        ("set_real_ip_from ::/0;", "tcpmux uses the address in the header"),  # no IPv6 here
    ],
)
def test_addresses_that_tcpmux_would_take_from_others(use: str, trusted: str, told: str) -> None:
    """nginx asks every peer for a header, and believes some."""
    zone = "limit_conn_zone $remote_addr zone=z:1m;"
    (found,) = converted(f"{zone} server {{ {LISTENING} {use} {trusted} }}").changes
    assert told in found.note
    assert (found.text, found.needs) == ("proxy_protocol", "the PROXY protocol")


def test_a_listener_for_both_families_needs_trust_in_both() -> None:
    both = "server {{ listen [::]:80 ipv6only=off proxy_protocol; proxy_pass 127.0.0.1:81; {} }}"
    one = "proxy_protocol on; set_real_ip_from ::/0;"
    found = converted(both.format(one))
    assert found.changes
    (route,) = load_texts([Text("routes.yaml", found.text, {})]).routes
    v4 = ip_address("::ffff:10.0.0.1")  # which is in `::/0` for tcpmux, but not for nginx
    assert not any(v4 in network for network in route.policy.accept_proxy.senders)
    (route,) = routes_of(both.format(f"{one} set_real_ip_from 0.0.0.0/0;"))
    assert senders(route.policy) == ["0.0.0.0/0", "::/0"]


def test_ipv6_only_is_about_the_peer_not_about_the_client() -> None:
    """`deny: [0.0.0.0/0]` would refuse clients that headers name."""
    assert changes_of("server { listen [::]:80 proxy_protocol; proxy_pass 127.0.0.1:81; }")


def test_timeout_of_the_header() -> None:
    assert policy_of("").accept_proxy.timeout == 30
    assert policy_of("proxy_protocol_timeout 1500ms;").accept_proxy.timeout == 1.5
    assert policy_of("", "proxy_protocol_timeout 2s;").accept_proxy.timeout == 2
    assert changes_of(f"server {{ {LISTENING} proxy_protocol_timeout 0; }}")
    assert changes_of(f"server {{ {LISTENING} proxy_protocol_timeout 2d; }}")


def test_without_a_header_nothing_of_it_matters() -> None:
    said = "set_real_ip_from 10.0.0.0/8; set_real_ip_from a.example; proxy_protocol_timeout 1s;"
    assert server_of(said).policy.accept_proxy == AcceptProxy()
    assert server_of("", said).policy.accept_proxy == AcceptProxy()


def test_listeners_with_and_without_a_header_are_two_routes() -> None:
    routes = routes_of("server { listen 80 proxy_protocol; listen 81; proxy_pass 127.0.0.1:82; }")
    assert [senders(route.policy) for route in routes] == [EVERY, []]


def test_peers_that_tcpmux_does_not_know_by_address() -> None:
    assert changes_of(f"server {{ {LISTENING} set_real_ip_from a.example; }}")


UNIX = "listen unix:/x proxy_protocol; proxy_pass unix:/y; proxy_protocol on;"


@pytest.mark.parametrize("said", ["", "allow 10.0.0.0/8; deny all;"])
def test_unix_sockets_have_a_header_too(said: str) -> None:
    said += "set_real_ip_from unix:; set_real_ip_from 0.0.0.0/0;"
    (route,) = routes_of(f"server {{ {UNIX} {said} }}")
    assert route.policy.accept_proxy.senders == ("unix",)
    assert route.destinations[0].policy.send_proxy == SendProxy(1)
    (both,) = routes_of(f"server {{ listen 80 proxy_protocol; {UNIX} {said} }}")
    assert senders(both.policy) == ["0.0.0.0/0", "unix"]


@pytest.mark.parametrize("trusted", ["", "set_real_ip_from 0.0.0.0/0;"])
def test_peers_of_unix_sockets_that_nginx_does_not_trust(trusted: str) -> None:
    assert changes_of(f"server {{ {UNIX} {trusted} allow 10.0.0.0/8; deny all; }}")


def test_servers_are_told_the_client() -> None:
    (route,) = routes_of(f"proxy_protocol on; server {{ {LISTENING} proxy_protocol off; }}")
    assert route.destinations[0].policy.send_proxy == SendProxy(0)
    assert server_of("proxy_protocol on;").destinations[0].policy.send_proxy == SendProxy(1)


HASH = "upstream u { hash $proxy_protocol_addr; server 127.0.0.1:1; server 127.0.0.1:2; }"


def test_a_hash_of_the_client_in_the_header() -> None:
    (route,) = routes_of(f"{HASH} server {{ listen 80 proxy_protocol; proxy_pass u; }}")
    assert route.destinations[0].policy.balance == "source_hash"
    assert senders(route.policy) == EVERY


def test_a_hash_of_a_header_that_is_not_there() -> None:
    """nginx sends all connections to one server then."""
    assert changes_of(f"{HASH} server {{ listen 80; proxy_pass u; }}")


def test_a_limit_of_the_client_in_the_header() -> None:
    zone = "limit_conn_zone $proxy_protocol_addr zone=z:1m;"
    assert policy_of("limit_conn z 2;", zone).source.max_connections == 2
    assert changes_of(f"{zone} server {{ listen 80; proxy_pass 127.0.0.1:81; limit_conn z 2; }}")
