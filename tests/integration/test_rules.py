"""Rules of a route, with clients that a PROXY header names: the first that a connection meets
decides where it goes, exactly, whatever happens meanwhile."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.client_hellos import of_openssl
from tests.integration.conftest import StartProxy
from tests.integration.disturbances import address, closed, kill_workers, set_workers, upgrade
from tests.integration.proxy import Proxy, tcpmux
from tests.integration.routes import routes
from tests.integration.test_accept_proxy import v2
from tests.support import DEADLINE, EchoServer, free_port, read_all, wait_for

Rules = Sequence[dict[str, Any]]
TESTERS: dict[str, Any] = {"name": "testers", "source": "198.51.100.0/28", "to": "v2"}
SPLIT: dict[str, Any] = {
    "name": "split",
    "source": "198.51.100.16/28",
    "weights": {"v1": 2, "v2": 1},
}
BANNED: dict[str, Any] = {"name": "banned", "source": ["198.51.100.32/28"], "reject": True}


def ruled(one: EchoServer, two: EchoServer, rules: Rules, **more: Any) -> dict[str, Any]:
    """A route of v1 (all the weight) and v2 with rules, behind a load balancer."""
    return {
        "name": "r",
        "listen": f"127.0.0.1:{free_port()}",
        "accept_proxy": {"from": ["127.0.0.1"], "timeout": "10m"},
        "destinations": [
            {"name": "v1", "weight": 1, "endpoints": [one.address]},
            {"name": "v2", "weight": 0, "endpoints": [two.address]},
        ],
        "rules": [*rules],
        **more,
    }


def ask(proxy: Proxy, client: int) -> str:
    """Who answers 198.51.100.`client`. Raises ConnectionResetError."""
    with socket.create_connection(address(proxy), timeout=DEADLINE) as sock:
        sock.sendall(f"PROXY TCP4 198.51.100.{client} 192.0.2.1 1000 443\r\nhello\n".encode())
        with suppress(OSError):  # it may have been reset already
            sock.shutdown(socket.SHUT_WR)
        return read_all(sock).partition(b" ")[0].decode()


def who(proxy: Proxy, clients: Sequence[int]) -> dict[str, int]:
    return Counter(ask(proxy, client) for client in clients)


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


# --- weights at run time --------------------------------------------------------------------------


def test_weights_of_a_rule_change_like_others(proxy: Proxy) -> None:
    done = proxy.run("weight", "r/split", "v1=1", "v2=+2", "--wait")
    assert done.returncode == 0
    assert done.stdout.startswith("r: rule split v1 2->1, rule split v2 1->3\n")
    assert who(proxy, [16] * 8) == {"one": 2, "two": 6}
    assert who(proxy, [1, 99]) == {"two": 1, "one": 1}
    assert "v1 25%, v2 75% (file: v1 2, v2 1)" in proxy.run("status", "r").stdout
    done = proxy.run("undo", "r/split")
    assert "r/split is split now: v1 66.7%, v2 33.3%" in done.stdout
    assert who(proxy, [16] * 3) == {"one": 2, "two": 1}


def test_what_is_set_at_run_time_ends_with_a_reload_and_outlives_the_master(proxy: Proxy) -> None:
    assert proxy.run("weight", "r/testers", "v1=1", "v2=0").returncode == 0
    proxy.process.kill()
    proxy.process.wait()
    proxy.start()
    assert ask(proxy, 1) == "one"
    upgrade(proxy, 1)
    assert ask(proxy, 1) == "one"
    at = len(proxy.log)
    proxy.reload(proxy.file.read_text())
    proxy.says(
        "r/testers: the file's weights replace the ones set at run time (v1=1, v2=0)", after=at
    )
    assert ask(proxy, 1) == "two"


def test_weights_of_a_rule_are_saved(proxy: Proxy) -> None:
    """`to` becomes weights. Nothing else of the file changes."""
    proxy.file.write_text(
        f"""# mine
admin: {{socket: {proxy.admin}}}
routes:
  - name: r
    listen: {":".join(map(str, address(proxy)))}
    rules:
      - {{source: 10.9.0.0/16, to: v2}}  # testers
      - name: split
        weights:
          v1: 2  # two
          v2: 1
    destinations:
      - {{name: v1, endpoints: []}}
      - {{name: v2, endpoints: []}}
      - {{name: v3, endpoints: []}}
"""
    )
    assert proxy.run("reload").returncode == 0
    derived = proxy.status()["routes"][0]["rules"][0]["name"]
    assert derived.startswith("source-10.9.0.0-16-")
    for path, weights in ((f"r/{derived}", ("v2=80", "v1=20")), ("r/split", ("v1=3", "v3=4"))):
        done = proxy.run("weight", path, *weights, "--save", "--force")
        assert done.returncode == 0, done.stderr
    text = proxy.file.read_text()
    assert "      - {source: 10.9.0.0/16, weights: {v2: 80, v1: 20}}  # testers\n" in text
    assert "          v3: 4\n          v1: 3  # two\n          v2: 1\n" in text
    assert proxy.run("diff", "-c", str(proxy.file)).stdout == ""
    rules = proxy.status()["routes"][0]["rules"]
    assert all(d["weight"] == d["file_weight"] for rule in rules for d in rule["destinations"])


REFUSED = {
    ("r/nobody", "v1=1"): "no rule named 'nobody'",
    ("r/banned", "v1=1"): "r/banned rejects its connections: it has no weights",
    ("r/split", "v9=1"): "no destination named 'v9'",
    ("r/split", "v1=0", "v2=0"): "all weights would be 0: r/split would have no destination left",
    ("r/split", "v1=-5"): "v1: 2-5 is -3, not 0..1000000",
    ("x/split", "v1=1"): "no route named 'x'",
}


def test_what_weights_of_a_rule_can_t_be_is_refused(proxy: Proxy) -> None:
    for arguments, told in REFUSED.items():
        done = proxy.run("weight", *arguments)
        assert done.returncode == 1
        assert told in done.stderr.replace("of route r ", "")


def test_a_drain_that_leaves_a_rule_without_a_destination_is_refused(proxy: Proxy) -> None:
    done = proxy.run("drain", "r/v2")
    assert done.returncode == 1
    assert "r/testers would have no destination left and reset every connection" in done.stderr


def test_diff_tells_what_becomes_of_rules(proxy: Proxy, one: EchoServer, two: EchoServer) -> None:
    rules: list[dict[str, Any]] = [
        {**BANNED, "reject": False, "to": "v1"},
        {**TESTERS, "source": "192.0.2.0/24"},
        {"tls": False, "reject": True},
    ]
    listen = ":".join(map(str, address(proxy)))
    proxy.write(routes(ruled(one, two, rules, listen=listen), workers=2))
    done = proxy.run("diff", "-c", str(proxy.file))
    (line,) = done.stdout.splitlines()
    for told in (
        "rule banned to v1",
        "rule testers is of source 192.0.2.0/24 now",
        "added (tls false: rejects)",
        "rule split removed",
        "rules are in another order",
    ):
        assert told in line


# --- what a ClientHello says ----------------------------------------------------------------------

BY_HELLO: list[dict[str, Any]] = [
    {"name": "shop", "sni": ["shop.example", "*.shop.example"], "alpn": "h2", "to": "v2"},
    {"name": "others", "sni": "*.example", "weights": {"v1": 1, "v2": 1}},
    {"name": "tls", "tls": True, "to": "v1"},
    {"name": "plain", "tls": False, "reject": True},
]


def says(proxy: Proxy, first: bytes) -> str:
    """Who answers a client that begins so. Raises ConnectionResetError."""
    with socket.create_connection(address(proxy), timeout=DEADLINE) as sock:
        sock.sendall(first + b"\n")
        with suppress(OSError):  # it may have been reset already
            sock.shutdown(socket.SHUT_WR)
        return read_all(sock).partition(b" ")[0].decode()


def test_rules_read_the_client_hello_without_being_told_to(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer, tmp_path: Path
) -> None:
    """The key `preread` is not needed."""
    made = ruled(one, two, BY_HELLO)
    del made["accept_proxy"]
    log = tmp_path / "log"
    proxy = start_proxy(routes(made, workers=1, access_log=str(log)))
    assert says(proxy, of_openssl("Shop.Example", ("h2",))) == "two"
    assert says(proxy, of_openssl("a.b.shop.example", ("http/1.1", "h2"))) == "two"
    found = Counter(says(proxy, of_openssl("shop.example", ("http/1.1",))) for _ in range(4))
    assert found == {"one": 2, "two": 2}
    assert says(proxy, of_openssl("example", ())) == "one"
    with pytest.raises(ConnectionResetError):
        says(proxy, b"GET / HTTP/1.1\r\n")
    wait_for(lambda: len(log.read_text().splitlines()) == 8, "their lines")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["rule"] for line in lines] == ["shop"] * 2 + ["others"] * 4 + ["tls", "plain"]
    assert [line["destination"] for line in lines][-2:] == ["v1", None]
    refused = {key: lines[-1][key] for key in ("connection_termination_details", "limit")}
    assert refused == {"connection_termination_details": "rejected_by_rule", "limit": "rules"}
    assert lines[-1]["response_flags"] == "UAEX"


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


def test_conns_and_metrics_have_the_rule(proxy: Proxy) -> None:
    with socket.create_connection(address(proxy), timeout=DEADLINE) as sock:
        sock.sendall(b"PROXY TCP4 198.51.100.1 192.0.2.1 1000 443\r\nhello\n")
        with sock.makefile("rb") as lines:
            assert lines.readline() == b"two hello\n"
        (row,) = proxy.client.connections()["connections"]
        assert row["rule"] == "testers"
        head, line = proxy.run("conns").stdout.splitlines()[:2]
        assert "RULE" in head
        assert "testers" in line
        metrics = proxy.client.metrics()
        assert 'tcpmux_rule_connections_active{route="r",rule="testers"} 1\n' in metrics
        assert 'tcpmux_rule_connections_total{route="r",rule="split"} 0\n' in metrics


# --- explain --------------------------------------------------------------------------------------


def test_explain_says_which_rule_is_met_and_why_others_are_not(proxy: Proxy) -> None:
    done = proxy.run("explain", "r", "--source", "198.51.100.17")
    assert (done.returncode, done.stdout.splitlines()[1:]) == (
        0,
        [
            "  testers: no: source 198.51.100.17 is not in 198.51.100.0/28",
            "  split: yes: source 198.51.100.16/28",
            "it goes to v1 66.7%, v2 33.3% of such connections",
        ],
    )
    assert proxy.run("explain", "r").stdout.splitlines()[-2:] == [
        "no rule is met: by the weights of the route",
        "it goes to v1",
    ]
    banned = proxy.client.explain("r", source="198.51.100.40")
    assert (banned["rule"], banned["end"], banned["destinations"]) == ("banned", "reset", [])


def test_explain_knows_what_is_so_now(proxy: Proxy) -> None:
    """Weights that were set, and who is out."""
    assert proxy.run("weight", "r/split", "v1=1", "v2=3").returncode == 0
    found = proxy.client.explain("r", source="198.51.100.17")
    assert [(d["name"], d["share"]) for d in found["destinations"]] == [("v1", 0.25), ("v2", 0.75)]
    assert proxy.run("drain", "r/v2", "--force").returncode == 0
    done = proxy.run("explain", "r", "--source", "198.51.100.17")
    assert done.stdout.splitlines()[-2:] == ["it goes to v1", "  v2 is drained"]
    done = proxy.run("explain", "r", "--source", "198.51.100.1")
    assert done.stdout.splitlines()[-2:] == ["it is reset: nobody is available", "  v2 is drained"]


def test_explain_reads_files_too(proxy: Proxy) -> None:
    """The same words, without an instance."""
    for asked in (["--source", "198.51.100.1"], ["--no-tls"], ["--tlv", "5=a", "--sni", "a.b"]):
        here = proxy.run("explain", "r", *asked)
        there = tcpmux("explain", "r", *asked, "-c", str(proxy.file))
        assert (there.returncode, there.stdout) == (here.returncode, here.stdout), there.stderr


def test_what_can_t_be_asked_is_said(proxy: Proxy) -> None:
    for asked, told in (
        (["r", "--source", "10.0.0.0/8"], "source: expected an address, or unix, got '10.0.0.0/8'"),
        (["r", "--port", "1"], "port: the route listens on 127.0.0.1:"),
        (["r", "--tlv", "0xEA"], "tlv: expected TYPE=VALUE such as 0xEA=vpce-123, got '0xEA'"),
        (["r", "--no-tls", "--sni", "a"], "a client without TLS sends no name"),
        (["r", "--sni", "*.eu.example"], "sni: '*.eu.example' is no host name"),
        (["r", "--sni", "a" * 64 + ".example"], "to rules its client asks for none"),
        (["r", "--alpn", "x" * 61, "--alpn", "h2"], "alpn: of a list rules see 64 bytes"),
        (["s"], "no route named 's'"),
    ):
        for more in ([], ["-c", str(proxy.file)]):
            done = proxy.run("explain", *asked, *more)
            assert done.returncode in (1, 2), done.stdout
            assert told in done.stderr


def test_a_value_in_the_header_of_the_balancer(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """As AWS names the endpoint of a VPC: 0xEA, with its subtype in front."""
    rules = [{"name": "vpc", "tlv": {"0xEA": ["vpce-1", "vpce-2"], "0x05": "hex:00ff"}, "to": "v2"}]
    proxy = start_proxy(routes(ruled(one, two, rules), workers=1))

    def answers(tlvs: bytes) -> str:
        with socket.create_connection(address(proxy), timeout=DEADLINE) as sock:
            sock.sendall(v2(1, tlvs) + b"hello\n")
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock).partition(b" ")[0].decode()

    other, vpc, unique = b"\x04\0\3any", b"\xea\0\7\x01vpce-2", b"\5\0\2\0\xff"
    assert answers(other + vpc + unique) == "two"
    assert answers(vpc + other) == "one"
    assert answers(unique + b"\xea\0\6vpce-2") == "one"
    assert answers(b"") == "one"
    asked = ("--tlv", "0xEA=vpce-1", "--tlv", "5=hex:00ff")
    assert proxy.run("explain", "r", *asked).stdout.endswith("it goes to v2\n")
