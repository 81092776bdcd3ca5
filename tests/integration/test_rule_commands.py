"""Rules of a running instance as commands show and change them."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.disturbances import address, upgrade
from tests.integration.proxy import Proxy, tcpmux
from tests.integration.routes import routes
from tests.integration.ruled import BANNED, SPLIT, TESTERS, ask, ruled, who
from tests.support import DEADLINE, EchoServer, free_port


@pytest.fixture
def proxy(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> Proxy:
    return start_proxy(routes(ruled(one, two, [TESTERS, SPLIT, BANNED]), workers=2))


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


def test_a_reload_says_which_weights_set_at_run_time_it_drops(
    proxy: Proxy, one: EchoServer, two: EchoServer
) -> None:
    """Since the rule, the route or the destination has another name, or is no more."""
    listen = ":".join(map(str, address(proxy)))

    def reload(*rules: dict[str, Any], name: str = "r", v1: str = "v1") -> str:
        config = routes({**ruled(one, two, rules), "name": name, "listen": listen}, workers=2)
        config["routes"][0]["destinations"][0]["name"] = v1
        proxy.write(config)
        at = len(proxy.log)
        done = proxy.run("reload")
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            if "dropped" in line:
                proxy.says(f"WARNING {line.removeprefix('warning: ')} [", after=at)
        return done.stdout

    dropped = "weights set at run time are dropped"
    proxy.run("weight", "r/testers", "v1=1", "v2=3")
    told = reload({**TESTERS, "name": "trial"}, SPLIT, BANNED)
    now = "the rule is r/trial now, with the file's weights (v2=1)"
    assert f"warning: r/testers: {dropped} (v1=1, v2=3): {now}\n" in told
    assert ask(proxy, 1) == "two"

    proxy.run("weight", "r/trial", "v1=1", "v2=3")
    proxy.run("weight", "r/split", "v1=5")
    told = reload({**SPLIT, "to": None, "weights": None, "reject": True}, BANNED)
    assert f"r/trial: {dropped} (v1=1, v2=3): no rule has its conditions now\n" in told
    assert f"r/split: {dropped} (v1=5): its connections are reset now, by r/split\n" in told

    proxy.run("weight", "r", "v1=5", "v2=5")
    told = reload(TESTERS, v1="old")
    assert "r: the file's weights replace the ones set at run time (v1=5, v2=5)\n" in told

    proxy.run("weight", "r", "v2=5")
    proxy.run("weight", "r/testers", "old=2")
    told = reload(TESTERS, name="s", v1="old")
    assert f"r: {dropped} (v2=5): the route is s now, with the file's weights (old=1)\n" in told
    now = "the rule is s/testers now, with the file's weights (v2=1)"
    assert f"r/testers: {dropped} (old=2): {now}\n" in told

    proxy.run("weight", "s/testers", "old=2")
    listen = f"127.0.0.1:{free_port()}"
    assert f"s/testers: {dropped} (old=2): the route is gone\n" in reload(name="t")
    assert dropped not in reload(TESTERS, name="t")


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
    ("r/testrs", "v1=1"): "no rule named 'testrs': did you mean testers?",
    ("r/v1", "v1=1"): "no rule named 'v1': it is a destination, whose weight is set as r v1=WEIGHT",
    (
        "r/testers=1",
    ): "'r/testers' is a rule of route r, and this is about destinations: rules have",
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


def test_connections_of_a_rule_are_listed_and_reset(proxy: Proxy) -> None:
    head = "PROXY TCP4 198.51.100.{} 192.0.2.1 1000 443\r\nhello\n"
    with ExitStack() as stack:
        clients = []
        for last in (1, 2, 16, 99):
            client = stack.enter_context(socket.create_connection(address(proxy), DEADLINE))
            client.sendall(head.format(last).encode())
            assert client.recv(1000)
            clients.append(client)
        found = proxy.client.connections(rule="testers")["connections"]
        assert sorted(one["client"] for one in found) == ["198.51.100.1:1000", "198.51.100.2:1000"]
        for rule, count in (("testers", 0), ("split", 1)):
            of_v1 = proxy.client.connections(rule=rule, route="r", destination="v1")
            assert of_v1["total"] == count
        groups = proxy.client.connection_groups("route", rule="testers")["groups"]
        assert [group["connections"] for group in groups] == [2]
        assert "198.51.100.16" in proxy.run("conns", "r", "--rule", "split").stdout
        done = proxy.run("conns", "r", "--rule", "splt")
        assert "no rule of route r named 'splt': did you mean split?" in done.stderr
        assert proxy.run("kill", "--rule", "testers", "--yes").stdout == "reset 2 connections\n"
        for client in clients[:2]:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert proxy.client.connections()["total"] == 2


def test_the_stream_has_the_counts_of_rules_if_asked(proxy: Proxy) -> None:
    assert who(proxy, [1, 1, 99]) == {"two": 2, "one": 1}
    told = []
    for rules in (True, False):
        updates = proxy.client.stream(rules=rules)
        told.append(next(update.data for update in updates if update.kind == "sample"))
    assert "rule_counts" not in told[1]
    (rows,) = told[0]["rule_counts"]
    assert [total for _active, total in rows] == [2, 0, 0]
    shown = proxy.run("top", "--once").stdout
    assert "r/testers" in shown


# --- explain --------------------------------------------------------------------------------------


def test_a_value_may_have_commas(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> None:
    """And there may be several of a kind."""
    rule = {"name": "comma", "tlv": {"0xE0": "a,b", "0xE1": "c"}, "alpn": ["x,y"], "to": "v2"}
    proxy = start_proxy(routes(ruled(one, two, [rule])))
    for more in ([], ["-c", str(proxy.file)]):
        asked = ["--tlv", "0xE0=a,b", "--tlv", "0xE1=c", "--alpn", "h2", "--alpn", "x,y"]
        done = proxy.run("explain", "r", *asked, *more)
        assert done.stdout.splitlines()[-1] == "it goes to v2", done.stderr
        done = proxy.run("explain", "r", *asked[:-1], "x", *more)
        assert "alpn h2, x does not offer x,y" in done.stdout, done.stderr


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


def test_a_rule_in_which_nobody_has_weight_rejects_nothing(tmp_path: Path) -> None:
    """Nor does a route without weights: explain tells them from a rule that rejects."""
    file = tmp_path / "routes.yaml"
    file.write_text(
        "routes:\n  - name: r\n    listen: 127.0.0.1:1\n    on_all_unavailable: {hold: 1s}\n"
        "    rules:\n      - {sni: zero.example, weights: {v1: 0}}\n"
        "      - {sni: no.example, reject: true}\n"
        "    destinations: [{name: v1, weight: 0, endpoints: [127.0.0.1:2]}]\n"
    )
    for name, told in (
        ("zero.example", "it is held: no destination has weight"),
        ("no.example", "it is reset: the rule rejects it"),
        ("other.example", "it is held: no destination has weight"),
    ):
        done = tcpmux("explain", "r", "--sni", name, "-c", str(file))
        assert done.stdout.splitlines()[-1] == told, done.stdout + done.stderr


def test_what_can_t_be_asked_is_said(proxy: Proxy) -> None:
    for asked, told in (
        (["r", "--source", "10.0.0.0/8"], "source: expected an address, or unix, got '10.0.0.0/8'"),
        (["r", "--port", "1"], "port: the route listens on 127.0.0.1:"),
        (["r", "--tlv", "0xEA"], "tlv: expected TYPE=VALUE such as 0xEA=vpce-123, got '0xEA'"),
        (["r", "--no-tls", "--sni", "a"], "a client without TLS sends no name"),
        (["r", "--sni", "*.eu.example"], "sni: '*.eu.example' is no host name"),
        (["r", "--sni", "a" * 64 + ".example"], "to rules its client asks for none"),
        (["r", "--alpn", "x" * 61, "--alpn", "h2"], "alpn: of a list rules see 64 bytes"),
        (["r", "--tlv", "0xE0=" + "x" * 110], "tlv: of a header 112 bytes are kept"),
        (["r", "--tlv", "5=" + "x" * 60, "--tlv", "6=" + "x" * 60], "tlv: of a header 112 bytes"),
        (["r", "--sni", "a." * 127 + "ab"], "... is longer than 253 characters: to rules its"),
        (["r", "--sni", ""], "sni: expected a host name, got an empty string"),
        (["r", "--no-tls", "--sni", ""], "a client without TLS sends no name"),
        (["r", "--alpn", ""], "alpn: expected a protocol such as postgresql, got an empty string"),
        (["r", "--tlv", ""], "tlv: expected TYPE=VALUE such as 0xEA=vpce-123, got ''"),
        (["r", "--source", ""], "source: expected an address, or unix, got ''"),
        (["r", "--port", ""], "port: the route listens on 127.0.0.1:"),
        (["s"], "no route named 's'"),
    ):
        for more in ([], ["-c", str(proxy.file)]):
            done = proxy.run("explain", *asked, *more)
            assert done.returncode in (1, 2), done.stdout
            assert told in done.stderr
