"""Rules of a route, with clients that a PROXY header names: the first that a connection meets
decides where it goes, exactly, whatever happens meanwhile."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client_hellos import of_openssl
from tests.integration.conftest import StartProxy
from tests.integration.disturbances import address, closed, kill_workers, set_workers, upgrade
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.ruled import BANNED, SPLIT, TESTERS, ask, ruled, who, who_answers
from tests.integration.test_accept_proxy import tlv, v2
from tests.support import DEADLINE, EchoServer, free_port, wait_for


def counts(proxy: Proxy) -> dict[str, tuple[int, int]]:
    """(open, all) of each rule."""
    return {
        rule["name"]: (rule["connections_active"], rule["connections_total"])
        for rule in proxy.status()["routes"][0]["rules"]
    }


@pytest.fixture
def proxy(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> Proxy:
    return start_proxy(routes(ruled(one, two, [TESTERS, SPLIT, BANNED]), workers=2))


def test_the_first_rule_that_is_met_decides(proxy: Proxy) -> None:
    assert who(proxy, [1, 2, 3]) == {"two": 3}
    assert who(proxy, [16] * 6) == {"one": 4, "two": 2}
    assert who(proxy, [99, 100]) == {"one": 2}
    with pytest.raises(ConnectionResetError):
        ask(proxy, 40)
    wait_for(
        lambda: counts(proxy) == {"testers": (0, 3), "split": (0, 6), "banned": (0, 1)}, "ends"
    )
    assert closed(proxy) == {"finished": 11, "rejected_by_rule": 1}


def test_the_named_client_is_asked_about_and_not_the_peer(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    rules: list[dict[str, Any]] = [{"source": "127.0.0.0/8", "reject": True}, {"to": "v2"}]
    proxy = start_proxy(routes(ruled(one, two, rules)))
    assert ask(proxy, 1) == "two"


# --- exact, whatever happens ----------------------------------------------------------------------

THIRDS: dict[str, Any] = {
    "name": "thirds",
    "source": "198.51.100.16/28",
    "weights": {"v1": 2, "v2": 1},
}
UNNAMED: dict[str, Any] = {"source": "198.51.100.64/28", "weights": {"v1": 1, "v2": 4}}


class Load:
    """Connections of three kinds, in turn, and who has answered each kind."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.found: dict[str, Counter[str]] = {"thirds": Counter(), "fifths": Counter()}

    def add(self, count: int) -> None:
        for n in range(count):
            self.found["thirds"][ask(self.proxy, 16 + n % 16)] += 1
            self.found["fifths"][ask(self.proxy, 64 + n % 16)] += 1
            assert ask(self.proxy, 200) == "one"


def test_each_rule_is_exact_on_its_own_over_reloads_deaths_and_upgrades(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """Of any 3 (or 5) connections of a rule, 2 (or 1) go to v1, whichever workers took them and
    whatever came between them; here the steps are never whole rounds of a rule."""
    made = ruled(one, two, [THIRDS, UNNAMED])
    proxy = start_proxy(routes(made, workers=3))
    load = Load(proxy)
    load.add(7)
    proxy.reload(routes({**made, "rules": [TESTERS, UNNAMED, THIRDS]}, workers=3))
    load.add(7)
    kill_workers(proxy)
    load.add(4)
    set_workers(proxy, {**made, "rules": [BANNED, UNNAMED, TESTERS, THIRDS]}, 1)
    load.add(4)
    upgrade(proxy, 1)
    load.add(8)
    assert load.found == {"thirds": {"one": 20, "two": 10}, "fifths": {"one": 6, "two": 24}}
    totals = {name: total for name, (_, total) in counts(proxy).items()}
    assert totals["thirds"] == 30
    assert sorted(totals.values()) == [0, 0, 30, 30]


def test_open_connections_of_a_rule_are_counted_through_all_of_it(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    made = ruled(one, two, [TESTERS])
    proxy = start_proxy(routes(made, workers=2))
    socks = [socket.create_connection(address(proxy), timeout=DEADLINE) for _ in range(8)]
    for sock in socks:
        sock.sendall(b"PROXY TCP4 198.51.100.1 192.0.2.1 1000 443\r\nhello\n")
        with sock.makefile("rb") as lines:
            assert lines.readline() == b"two hello\n"
    disturbances: list[Callable[[], None]] = [
        lambda: kill_workers(proxy),
        lambda: set_workers(proxy, made, 1),
        lambda: upgrade(proxy, 1),
        lambda: proxy.reload(routes({**made, "rules": [BANNED, TESTERS]}, workers=1)),
    ]
    for disturb in disturbances:
        disturb()
        wait_for(lambda: counts(proxy)["testers"] == (8, 8), "all to be counted")
    for sock in socks:
        sock.close()
    wait_for(lambda: counts(proxy)["testers"] == (0, 8), "all to have ended")


# --- within its own destinations ------------------------------------------------------------------


def test_what_is_full_spills_to_destinations_of_the_rule_alone(
    start_proxy: StartProxy,
    one: EchoServer,
    two: EchoServer,
    echo_servers: Callable[..., EchoServer],
) -> None:
    """v3 has all the weight of the route, and none in the rule."""
    three = echo_servers("three")
    made = ruled(one, two, [{"weights": {"v1": 1_000_000, "v2": 1}}])
    made["destinations"] = [
        {"name": "v1", "endpoints": [one.address], "max_connections": 1, "on_full": "spill"},
        {"name": "v2", "weight": 0, "endpoints": [two.address]},
        {"name": "v3", "weight": 1000, "endpoints": [three.address]},
    ]
    proxy = start_proxy(routes(made, workers=1))
    with socket.create_connection(address(proxy), timeout=DEADLINE) as sock:
        sock.sendall(b"PROXY UNKNOWN\r\nhello\n")
        with sock.makefile("rb") as lines:
            assert lines.readline() == b"one hello\n"
        assert who(proxy, range(6)) == {"two": 6}


def test_across_goes_to_destinations_of_the_rule_alone(
    start_proxy: StartProxy, two: EchoServer, echo_servers: Callable[..., EchoServer]
) -> None:
    three = echo_servers("three")
    dead = f"127.0.0.1:{free_port()}"
    made = ruled(three, two, [{"weights": {"v1": 1_000_000, "v2": 1}}])
    made["destinations"] = [
        {"name": "v1", "endpoints": [dead], "passive": "off"},
        {"name": "v2", "weight": 0, "endpoints": [two.address]},
        {"name": "v3", "weight": 1000, "endpoints": [three.address]},
    ]
    made["retry"] = {"across": True, "budget": "100%"}
    proxy = start_proxy(routes(made, workers=1))
    assert who(proxy, range(5)) == {"two": 5}


def test_the_share_of_a_drained_destination_stays_in_the_rule(
    start_proxy: StartProxy,
    one: EchoServer,
    two: EchoServer,
    echo_servers: Callable[..., EchoServer],
) -> None:
    """Where it has no other, connections end as on_all_unavailable says."""
    three = echo_servers("three")
    rules = [{**SPLIT, "weights": {"v2": 1, "v3": 1}}, TESTERS]
    made = ruled(one, two, rules)
    made["destinations"].append({"name": "v3", "weight": 0, "endpoints": [three.address]})
    proxy = start_proxy(routes(made, workers=1))
    assert who(proxy, [16] * 4) == {"two": 2, "three": 2}
    assert proxy.run("drain", "r/v2", "--force").returncode == 0
    assert who(proxy, [16] * 4) == {"three": 4}
    assert ask(proxy, 200) == "one"
    with pytest.raises(ConnectionResetError):
        ask(proxy, 1)
    assert closed(proxy)["no_endpoint"] == 1


def test_a_connection_that_is_held_goes_by_its_rule(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    made = ruled(one, two, [TESTERS], on_all_unavailable={"hold": "10m"})
    proxy = start_proxy(routes(made, workers=1))
    assert proxy.run("drain", "r/v2", "--force").returncode == 0
    with socket.create_connection(address(proxy), timeout=DEADLINE) as sock:
        sock.sendall(b"PROXY TCP4 198.51.100.1 192.0.2.1 1000 443\r\nhello\n")
        wait_for(
            lambda: (
                [row["state"] for row in proxy.client.connections()["connections"]] == ["waiting"]
            ),
            "it to be held",
        )
        assert ask(proxy, 200) == "one"
        kill_workers(proxy)
        assert counts(proxy) == {"testers": (1, 1)}
        assert proxy.run("enable", "r/v2").returncode == 0
        with sock.makefile("rb") as lines:
            assert lines.readline() == b"two hello\n"


def test_the_fallback_that_a_route_names_stands_in_for_rules_too(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    made = ruled(one, two, [{"to": "v2"}], on_unavailable={"fallback": "v1"})
    made["destinations"][1]["endpoints"] = [dead]
    proxy = start_proxy(routes(made, workers=1))
    assert who(proxy, range(3)) == {"one": 3}


def test_a_route_listens_while_a_rule_is_served(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """That those who meet no rule have no destination is no reason to refuse the others."""
    made = ruled(one, two, [TESTERS], on_all_unavailable="refuse")
    made["check"] = {"type": "tcp", "interval": "200ms", "fast_interval": "100ms"}
    made["destinations"][0]["endpoints"] = [f"127.0.0.1:{free_port()}"]
    proxy = start_proxy(routes(made, workers=1))
    proxy.says("r: no destination with weight has a healthy endpoint: new connections are reset")
    wait_for(lambda: proxy.status()["routes"][0]["condition"] == "degraded", "it to be seen")
    assert ask(proxy, 1) == "two"
    with pytest.raises(ConnectionResetError):
        ask(proxy, 200)
    (lost, _) = proxy.status()["problems"]
    assert (lost["severity"], lost["destination"]) == ("error", None)
    assert lost["text"].startswith("without a rule, new connections are reset: v1 is down")
    assert proxy.client.readyz()
    two.close()
    wait_for(lambda: not proxy.status()["routes"][0]["listen"], "nobody to be listened to")


def test_a_rule_that_nobody_serves_is_a_problem(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    made = ruled(one, two, [SPLIT, TESTERS])
    made["check"] = {"type": "tcp", "interval": "200ms", "fast_interval": "100ms"}
    proxy = start_proxy(routes(made, workers=1))
    two.close()
    wait_for(lambda: proxy.status()["routes"][0]["condition"] == "degraded", "it to be seen")
    lost, down = proxy.status()["problems"]
    assert (lost["severity"], lost["text"]) == ("error", "connections of rule testers are reset")
    assert lost["action"] == "Shift to v1: tcpmux weight r/testers v1=100 v2=0"
    assert (down["severity"], down["destination"]) == ("warning", "v2")
    assert down["text"].endswith("; it has weight in rule split (and 1 more)")


# --- what a ClientHello says ----------------------------------------------------------------------

BY_HELLO: list[dict[str, Any]] = [
    {"name": "shop", "sni": ["shop.example", "*.shop.example"], "alpn": "h2", "to": "v2"},
    {"name": "others", "sni": "*.example", "weights": {"v1": 1, "v2": 1}},
    {"name": "tls", "tls": True, "to": "v1"},
    {"name": "plain", "tls": False, "reject": True},
]


def test_rules_read_the_client_hello_without_being_told_to(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer, tmp_path: Path
) -> None:
    """The key `preread` is not needed."""
    made = ruled(one, two, BY_HELLO)
    del made["accept_proxy"]
    log = tmp_path / "log"
    proxy = start_proxy(routes(made, workers=1, access_log=str(log)))
    assert who_answers(proxy, of_openssl("Shop.Example", ("h2",)) + b"\n") == "two"
    assert who_answers(proxy, of_openssl("a.b.shop.example", ("http/1.1", "h2")) + b"\n") == "two"
    found = Counter(
        who_answers(proxy, of_openssl("shop.example", ("http/1.1",)) + b"\n") for _ in range(4)
    )
    assert found == {"one": 2, "two": 2}
    assert who_answers(proxy, of_openssl("example", ()) + b"\n") == "one"
    with pytest.raises(ConnectionResetError):
        who_answers(proxy, b"GET / HTTP/1.1\r\n\n")
    wait_for(lambda: len(log.read_text().splitlines()) == 8, "their lines")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["rule"] for line in lines] == ["shop"] * 2 + ["others"] * 4 + ["tls", "plain"]
    assert [line["destination"] for line in lines][-2:] == ["v1", None]
    refused = {key: lines[-1][key] for key in ("connection_termination_details", "limit")}
    assert refused == {"connection_termination_details": "rejected_by_rule", "limit": "rules"}
    assert lines[-1]["response_flags"] == "UAEX"


@pytest.mark.parametrize(
    ("size", "end"), [(9, "rejected_by_rule"), (106, "proxy_header")], ids=["short", "long"]
)
def test_a_tlv_that_rules_are_about_is_not_pushed_out(
    start_proxy: StartProxy, one: EchoServer, size: int, end: str
) -> None:
    """By one in front of it, as of the name that a client has asked its balancer for."""
    made = route("r", free_port(), v1=(1, one.address))
    rules = [{"tlv": {"0xEA": "hex:00"}, "reject": True}, {"tlv": {2: "a.example"}, "to": "v1"}]
    proxy = start_proxy(routes({**made, "accept_proxy": {"from": ["127.0.0.1"]}, "rules": rules}))
    with socket.create_connection(address(proxy), DEADLINE) as client:
        client.sendall(v2(1, tlv(2, b"x" * size) + tlv(0xEA, b"\0")))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    wait_for(lambda: closed(proxy) == {end: 1}, "its end")


def test_a_client_that_waits_first_is_none_of_tls(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """Else it could wait, and then say what the rule keeps out."""
    made = ruled(one, two, BY_HELLO, preread={"timeout": "100ms"})
    del made["accept_proxy"]
    proxy = start_proxy(routes(made, workers=1))
    with (
        socket.create_connection(address(proxy), timeout=DEADLINE) as sock,
        pytest.raises(ConnectionResetError),
    ):
        sock.recv(1)
    assert closed(proxy) == {"rejected_by_rule": 1}


def test_a_value_in_the_header_of_the_balancer(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """As AWS names the endpoint of a VPC: 0xEA, with its subtype in front."""
    rules = [{"name": "vpc", "tlv": {"0xEA": ["vpce-1", "vpce-2"], "0x05": "hex:00ff"}, "to": "v2"}]
    proxy = start_proxy(routes(ruled(one, two, rules), workers=1))

    def answers(tlvs: bytes) -> str:
        return who_answers(proxy, v2(1, tlvs) + b"hello\n")

    other, vpc, unique = b"\x04\0\3any", b"\xea\0\7\x01vpce-2", b"\5\0\2\0\xff"
    assert answers(other + vpc + unique) == "two"
    assert answers(vpc + other) == "one"
    assert answers(unique + b"\xea\0\6vpce-2") == "one"
    assert answers(b"") == "one"
    asked = ("--tlv", "0xEA=vpce-1", "--tlv", "5=hex:00ff")
    assert proxy.run("explain", "r", *asked).stdout.endswith("it goes to v2\n")
