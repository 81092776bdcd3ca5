"""haproxy.cfg: of whom a PROXY header is expected, and which servers get one."""

from __future__ import annotations

import pytest

from tcpmux.config.document import Text
from tcpmux.config.loader import load_texts
from tcpmux.config.model import Config
from tcpmux.config.problems import ConfigError
from tcpmux.config.settings import SendProxy
from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.kinds import Input

EXPECT = "tcp-request connection expect-proxy layer4"
EVERY = ["0.0.0.0/0", "::/0"]


def conversion(lines: str, server: str = "", bind: str = "bind 127.0.0.1:1") -> Conversion:
    text = (
        f"listen f\n mode tcp\n timeout client 3s\n {bind}\n {lines}\n"
        f" server a 127.0.0.1:2 {server}\n server b 127.0.0.1:3 {server}\n"
    )
    return convert("haproxy", [Input("haproxy.cfg", text)])


def config(lines: str, server: str = "", bind: str = "bind 127.0.0.1:1") -> Config:
    found = conversion(lines, server, bind)
    assert not found.changes, [str(one) for one in found.changes]
    return load_texts([Text("routes.yaml", found.text, {})])


def senders(of: Config) -> list[list[str]]:
    """Of each route."""
    return [[str(net) for net in route.policy.accept_proxy.senders] for route in of.routes]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("", EVERY),
        ("if { always_true }", EVERY),
        ("if { src 10.0.0.0/8 }", ["10.0.0.0/8"]),
        ("if { src 10.0.0.1 } or { src fd00::/64 }", ["10.0.0.1/32", "fd00::/64"]),
        ("unless !{ src 10.0.0.1 }", ["10.0.0.1/32"]),
        ("if { src 10.0.0.0/8 } { src 10.1.0.0/16 }", ["10.1.0.0/16"]),
        ("if { always_false }", []),
        ("if { dst_port 1 } { src 10.0.0.1 }", ["10.0.0.1/32"]),
        ("if { dst_port 2 }", []),
    ],
)  # fmt: skip
def test_whose_header_is_expected(condition: str, expected: list[str]) -> None:
    assert senders(config(f"{EXPECT} {condition}")) == [expected]


def test_rules_add_up() -> None:
    one, other = (f"{EXPECT} if {{ src {address} }}" for address in ("10.0.0.1", "10.0.0.2"))
    assert senders(config(f"{one}\n {other}")) == [["10.0.0.1/32", "10.0.0.2/32"]]


def test_a_header_on_some_ports_only_makes_two_routes() -> None:
    found = config("", bind="bind 127.0.0.1:1\n bind 127.0.0.1:4 accept-proxy")
    assert senders(found) == [[], EVERY]
    assert found.routes[1].policy.accept_proxy.timeout == 3


@pytest.mark.parametrize(
    "line",
    [
        "tcp-request connection expect-proxy",
        "tcp-request connection expect-proxy layer7",
        f"{EXPECT} always if {{ src 10.0.0.1 }}",
    ],
)
def test_lines_that_haproxy_refuses(line: str) -> None:
    with pytest.raises(ConfigError):
        conversion(line)


@pytest.mark.parametrize(
    "lines",
    [
        f"tcp-request connection reject if {{ src 10.0.0.1 }}\n {EXPECT}",
        f"{EXPECT}\n tcp-request connection accept if {{ src ::1 }}",
    ],
)
def test_rules_about_the_peer_beside_it(lines: str) -> None:
    """allow and deny are about the client that the header names."""
    (found,) = conversion(lines).changes
    assert "apply to the address that sends the header" in found.note


def test_rules_about_the_client_beside_it() -> None:
    lines = f"{EXPECT}\n tcp-request session reject if {{ src ::1 }}"
    (route,) = config(lines).routes
    assert [str(net) for net in route.policy.deny] == ["::1/128"]


@pytest.mark.parametrize(
    ("server", "version"),
    [
        ("", 0),
        ("send-proxy", 1),
        ("send-proxy-v2", 2),
        ("send-proxy-v2-ssl", 2),
        ("send-proxy-v2-ssl-cn proxy-v2-options ssl-cipher,cert-key", 2),
        ("send-proxy no-send-proxy", 0),
    ],
)
def test_which_header_servers_get(server: str, version: int) -> None:
    assert config("", server).routes[0].destinations[0].policy.send_proxy == SendProxy(version)
    by_default = config(f"default-server {server}") if server else config("")
    assert by_default.routes[0].destinations[0].policy.send_proxy == SendProxy(version)


def test_checks_have_the_header_as_well() -> None:
    check = config("option httpchk", "check send-proxy-v2").routes[0].destinations[0].policy.check
    assert check is not None
    assert check.proxy == 2


@pytest.mark.parametrize(
    ("server", "sent"),
    [
        ("crc32c", SendProxy(2, crc32c=True)),
        ("crc32c,ssl,unique-id", SendProxy(2, crc32c=True, unique_id=True)),
        ("authority", SendProxy(2, passed=(0x02,))),
    ],
)
def test_what_else_servers_are_told(server: str, sent: SendProxy) -> None:
    found = config("", f"send-proxy-v2 proxy-v2-options {server}")
    assert found.routes[0].destinations[0].policy.send_proxy == sent


@pytest.mark.parametrize(
    ("server", "version"), [("", 0), ("check-send-proxy", 1), ("no-check-send-proxy", 0)]
)
def test_checks_of_another_port_have_it_if_they_are_to(server: str, version: int) -> None:
    found = config("option httpchk", f"check port 9 send-proxy {server}")
    check = found.routes[0].destinations[0].policy.check
    assert check is not None
    assert check.proxy == version


def test_checks_of_another_port_are_the_same_for_all_servers() -> None:
    text = "option httpchk\n server c 127.0.0.1:4 check port 9 send-proxy check-send-proxy"
    assert len(conversion(text, "check port 9 send-proxy").changes) == 1


@pytest.mark.parametrize(
    ("lines", "bind", "expected"),
    [
        ("", "bind /x accept-proxy", [["unix"]]),
        ("", "bind /x accept-proxy\n bind :1 accept-proxy", [[*EVERY, "unix"]]),
        (EXPECT, "bind /x", [["unix"]]),
        (f"{EXPECT} if {{ src 10.0.0.1 }}", "bind /x", [[]]),  # one without an address
    ],
)
def test_unix_sockets_have_a_header_too(lines: str, bind: str, expected: list[list[str]]) -> None:
    assert senders(config(lines, bind=bind)) == expected


def test_servers_on_unix_sockets_get_one_too() -> None:
    found = config("server c unix@/y send-proxy", "send-proxy")
    assert found.routes[0].destinations[0].policy.send_proxy == SendProxy(1)
