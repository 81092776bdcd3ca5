"""The key `rules` of a route: what is taken, what is written of it, and the answer to each
mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tcpmux.config import Config, ConfigError, Rule, load
from tcpmux.config.native import to_text
from tcpmux.config.rule import tlv_text, tlv_value
from tests.support import patient
from tests.unit.calling import tcpmux

FILE = """
routes:
  - name: db
    listen: [127.0.0.1:5432, 127.0.0.1:5433, "unix:/run/db.sock"]
    destinations:
      - {name: v1, endpoints: [127.0.0.1:1]}
      - {name: v2, endpoints: [127.0.0.1:2]}
    rules:
"""


def read(tmp_path: Path, *rules: str) -> Config:
    file = tmp_path / "r.yaml"
    file.write_text(FILE + "".join(f"      - {rule}\n" for rule in rules))
    return load([file])


def rules_of(tmp_path: Path, *rules: str) -> tuple[Rule, ...]:
    return read(tmp_path, *rules).routes[0].rules


def problems(tmp_path: Path, *rules: str) -> list[str]:
    with pytest.raises(ConfigError) as found:
        read(tmp_path, *rules)
    return [f"{problem.where}: {problem.message}" for problem in found.value.problems]


MISTAKES = {
    "{to: v3}": "rules[0].to: expected one of v1, v2, got v3",
    "{weights: {v1: 1, v3: 1}}": "rules[0].weights.v3: expected one of v1, v2, got v3",
    "{weights: {}}": "rules[0].weights: expected at least one entry, got none",
    "{weights: {v1: -1}}": "rules[0].weights.v1: expected 0..1000000, got -1",
    "{weights: {v1: 1000001}}": "rules[0].weights.v1: expected 0..1000000, got 1000001",
    "{weights: [v1]}": "rules[0].weights: expected a mapping, got a list",
    "{source: 10.0.0.1}": "rules[0]: expected to, weights or reject: true, got none of them",
    "{reject: false}": "rules[0]: expected to, weights or reject: true, got none of them",
    "{to: v1, weights: {v1: 1}}": "expected to, weights or reject: true, got to and weights",
    "{weights: {v1: 1}, reject: true}": "got weights and reject",
    "{to: v1, reject: 1}": "rules[0].reject: expected true or false, got 1",
    "{source: 10.0.0.1/8, to: v1}": "expected 10.0.0.0/8 (bits after the prefix must be 0)",
    "{source: [], to: v1}": "rules[0].source: expected at least one entry, got none",
    "{source: example.com, to: v1}": "an address, a network such as 10.0.0.0/8, or unix",
    "{port: 80, to: v1}": "expected a port that the route listens on (5432, 5433), got 80",
    "{port: 0, to: v1}": "rules[0].port: expected 1..65535, got 0",
    "{port: http, to: v1}": "rules[0].port: expected 1..65535, got http",
    "{listen: 127.0.0.1:80, to: v1}": "expected an address of the route's listen, got 127.0.0.1:80",
    "{listen: 5432, to: v1}": "expected IP:port, [IPv6]:port or unix:/path, got 5432",
    "{sni: '*', to: v1}": "got * (tls: true is any client of TLS)",
    "{sni: bücher.example, to: v1}": "expected a host name as clients send it: "
    "xn--bcher-kva.example, got bücher.example",
    "{sni: a.*.example, to: v1}": "expected a host name such as shop.example or *.example, got",
    "{sni: w*.example, to: v1}": "(* stands for whole labels at the beginning)",
    "{sni: '*.', to: v1}": "expected a host name such as shop.example or *.example, got *.",
    "{sni: '', to: v1}": "expected a host name such as shop.example or *.example, got an empty",
    "{sni: a..b, to: v1}": "expected a host name such as shop.example or *.example, got a..b",
    "{sni: -a.b, to: v1}": "expected a host name such as shop.example or *.example, got -a.b",
    "{sni: 'a b', to: v1}": "expected a host name such as shop.example or *.example, got a b",
    "{sni: 192.0.2.1, to: v1}": "expected a host name such as shop.example or *.example, got 192",
    f"{{sni: {'a' * 64}.b, to: v1}}": "expected a host name such as shop.example or *.example",
    f"{{sni: {'a.' * 126}ab, to: v1}}": "expected a host name such as shop.example or *.example",
    "{sni: 5, to: v1}": "expected a host name such as shop.example, got 5",
    "{alpn: '', to: v1}": "expected a protocol of 1 to 63 characters such as postgresql",
    f"{{alpn: {'a' * 64}, to: v1}}": "expected a protocol of 1 to 63 characters",
    "{tlv: 0xEA, to: v1}": "expected a mapping such as {0xEA: vpce-123}, got",
    "{tlv: {}, to: v1}": "expected a mapping such as {0xEA: vpce-123}, got an empty one",
    "{tlv: {0x100: a}, to: v1}": "expected a type such as 0xea, 0x01..0xff, got 0x100",
    "{tlv: {0: a}, to: v1}": "expected a type such as 0xea, 0x01..0xff, got 0",
    "{tlv: {3: a}, to: v1}": "0x03 is of one header alone",
    "{tlv: {authority: a}, to: v1}": "expected a type such as 0xea, 0x01..0xff, got authority",
    "{tlv: {0x5: a, 5: b}, to: v1}": "expected each type once, got 0x05 twice",
    "{tlv: {5: 7}, to: v1}": "expected a text as the value of 0x05, got 7 (put it in quotes)",
    "{tlv: {5: []}, to: v1}": "expected a value of 0x05, got an empty list",
    "{tlv: {5: 'hex:0'}, to: v1}": "expected hexadecimal digits after hex:, got hex:0",
    f"{{tlv: {{5: {'a' * 110}}}, to: v1}}": "expected 1 to 109 bytes, got 110",
    "{tls: yes please, to: v1}": "rules[0].tls: expected true or false, got yes please",
    "{tls: false, sni: a.b, to: v1}": "sni needs TLS: with tls: false nothing would ever match",
    "{name: a/b, to: v1}": "rules[0].name: expected 1 to 63 letters, digits",
    "{snl: a.b, to: v1}": "rules[0]: unknown key snl: did you mean sni?",
    "{hour: 5, to: v1}": "rules[0]: unknown key hour: ",
    "5": "rules[0]: expected a mapping, got 5",
}


@pytest.mark.parametrize("rule", MISTAKES)
def test_one_line_says_what_is_wrong(tmp_path: Path, rule: str) -> None:
    found = problems(tmp_path, rule)
    assert len(found) == 1, found
    assert MISTAKES[rule] in found[0]


def test_a_name_is_given_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "{name: a, tls: true, to: v1}", "{name: a, tls: false, to: v1}")
    assert len(found) == 1
    assert "rules[1].name: a rule named a is already at " in found[0]


def test_a_name_given_and_one_derived_do_not_meet(tmp_path: Path) -> None:
    called = rules_of(tmp_path, "{tls: true, to: v1}")[0].called
    found = problems(tmp_path, "{tls: true, to: v1}", f"{{name: {called}, tls: false, to: v1}}")
    assert f"a rule named {called} is already at " in found[0]


def test_the_same_conditions_twice_are_refused_whatever_their_order(tmp_path: Path) -> None:
    """The second would never be met, and have the same derived name."""
    found = problems(
        tmp_path, "{port: [5432, 5433], sni: [b.c, a.b], to: v1}",
        "{sni: [a.b, B.C.], port: [5433, 5432], to: v2}",
    )  # fmt: skip
    assert len(found) == 1
    assert "rules[1]: never met: the same conditions are already at " in found[0]


def test_up_to_1024_rules(tmp_path: Path) -> None:
    rules = [f"{{source: 10.0.{n >> 8}.{n & 255}, to: v1}}" for n in range(1025)]
    assert len(rules_of(tmp_path, *rules[:-1])) == 1024
    assert problems(tmp_path, *rules) == [
        "routes[0].rules: expected at most 1024 entries, got 1025"
    ]


def test_what_no_connection_gets_to_is_a_warning(tmp_path: Path) -> None:
    config = read(tmp_path, "{to: v1}", "{tls: true, to: v2}", "{weights: {v1: 0}, port: 5432}")
    assert [f"{w.where}: {w.message}" for w in config.warnings] == [
        "routes[0].rules[1]: never met: rules[0] takes every connection",
        "routes[0].rules[2]: never met: rules[0] takes every connection",
        (
            "routes[0].rules[2].weights: all weights are 0: its connections are reset until one "
            "has weight"
        ),
    ]


def test_a_tlv_of_a_route_without_headers_is_a_warning(tmp_path: Path) -> None:
    config = read(tmp_path, "{tlv: {0xEA: x}, to: v1}")
    assert [f"{w.where}: {w.message}" for w in config.warnings] == [
        "routes[0].rules[0].tlv: never met: the route has no accept_proxy"
    ]


def test_a_tlv_of_a_route_whose_headers_have_none_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(
        "routes:\n  - name: r\n    listen: 127.0.0.1:5432\n"
        "    accept_proxy: {from: [127.0.0.1], versions: [1]}\n"
        "    rules: [{tlv: {0xEA: x}, to: v1}]\n"
        "    destinations: [{name: v1, endpoints: [127.0.0.1:1]}]\n"
    )
    assert [f"{w.where}: {w.message}" for w in load([file]).warnings] == [
        (
            "routes[0].rules[0].tlv: never met: accept_proxy.versions leaves out 2, and version 1 "
            "has no TLVs"
        )
    ]


def warnings(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "routes.yaml"
    file.write_text(
        "routes:\n  - name: r\n    destinations:\n      - {name: v1, endpoints: [127.0.0.1:1]}\n"
        "      - {name: v2, endpoints: [127.0.0.1:2]}\n" + text
    )
    return [f"{w.where}: {w.message}".removeprefix("routes[0].") for w in load([file]).warnings]


def test_clients_that_do_not_come_to_a_listener_are_a_warning(tmp_path: Path) -> None:
    tcp, unix = "    listen: 127.0.0.1:1234\n", "    listen: unix:/run/db.sock\n"
    both = "    listen: [127.0.0.1:1234, 'unix:/run/db.sock']\n"
    for text, told in (
        (
            f"{tcp}    rules: [{{name: local, source: unix, to: v1}}]\n",
            ["rules[0].source: rule local is never met: no listener of the route is a UNIX socket"],
        ),
        (
            f"{both}    rules: [{{source: unix, port: 1234, to: v1}}]\n",
            ["rules[0].source: never met: no listener that it names is a UNIX socket"],
        ),
        (
            f"{unix}    rules: [{{source: '::/0', to: v1}}]\n",
            [
                (
                    "rules[0].source: never met: every listener of the route is a UNIX socket, "
                    "whose clients have no address"
                )
            ],
        ),
        (
            f"{unix}    accept_proxy: {{from: [unix]}}\n    rules: [{{source: '::/0', to: v1}}]\n",
            [],
        ),
        (
            f"{both}    rules: [{{port: 1234, listen: 'unix:/run/db.sock', to: v1}}]\n",
            ["rules[0].listen: never met: none of these addresses has one of its ports"],
        ),
        (f"{both}    rules: [{{source: unix, to: v1}}, {{source: 10.0.0.0/8, to: v1}}]\n", []),
    ):
        assert warnings(tmp_path, text) == told


def test_a_sticky_route_that_can_not_tell_clients_apart_is_a_warning(tmp_path: Path) -> None:
    tcp, unix = "    listen: 127.0.0.1:1234\n", "    listen: unix:/run/db.sock\n"
    proxy = "    accept_proxy: {from: [127.0.0.1, unix], versions: [1]}\n"
    split = "connections are split as without sticky"
    of_addresses = "sticky.prefix: has no effect: it is of addresses, and sticky goes by"
    for text, told in (
        (
            f"{unix}    sticky: source\n",
            [f"sticky: no client has an address, as each comes by a UNIX socket: {split}"],
        ),
        (f"{unix}{proxy}    sticky: source\n", []),
        (f"{tcp}    sticky: {{by: source, prefix: {{ipv4: 24}}}}\n", []),
        (
            f"{tcp}{proxy}    sticky: tlv:0xEA\n",
            [f"sticky: no client has a TLV, as accept_proxy.versions leaves out 2: {split}"],
        ),
        (f"{tcp}{proxy.replace('[1]', '[1, 2]')}    sticky: tlv:0xEA\n", []),
        (f"{tcp}    sticky: {{by: sni, prefix: {{ipv4: 24}}}}\n", [f"{of_addresses} sni"]),
    ):
        assert warnings(tmp_path, text) == told


def test_a_rule_whose_connections_another_takes_is_a_warning(tmp_path: Path) -> None:
    config = read(
        tmp_path, "{name: wide, source: 10.0.0.0/8, to: v1}", "{source: 10.9.0.0/16, to: v2}",
        "{sni: ['*.eu.example', shop.example], to: v1}", "{name: late, sni: a.eu.example, to: v2}",
    )  # fmt: skip
    assert [f"{w.where}: {w.message}".removeprefix("routes[0].") for w in config.warnings] == [
        "rules[1]: never met: rule wide (rules[0]) takes all of its connections",
        (
            "rules[3]: rule late is never met: rules[2] (sni *.eu.example, shop.example) takes all "
            "of its connections"
        ),
    ]


def test_a_header_for_which_clients_wait_is_a_warning(tmp_path: Path) -> None:
    """Unless the file says that ClientHellos are read, or needs it anyway."""
    sent = "    send_proxy: {version: 2, authority: true}\n"
    plain = "    listen: 127.0.0.1:1234\n"
    for text, keys in (
        (plain + sent, ["authority"]),
        (plain + sent.replace("authority", "alpn"), ["alpn"]),
        (plain + "defaults:\n" + sent, ["authority"]),
        (plain + sent.replace("authority", "unique_id"), []),
        (plain + sent + "    preread: {silent: default}\n", []),
        (plain + sent + "    sticky: sni\n", []),
        (plain + sent + "    rules: [{tls: false, to: v1}]\n", []),
    ):
        assert warnings(tmp_path, text) == [
            (
                f"destinations[0]: send_proxy.{key}: each connection waits up to 5s for its "
                "client's first bytes, as its ClientHello has the value: leave this out where the "
                "server speaks first, or say preread: {silent: default} if that is meant"
            )
            for key in keys
        ]


def test_check_lists_rules(tmp_path: Path) -> None:
    rules = [
        "{name: testers, source: 10.9.0.0/16, to: v2}",
        "{name: split, sni: [a.example, b.example], weights: {v1: 9, v2: 1}}",
        "{name: none, tls: false, reject: true}",
    ]
    read(tmp_path, *rules)
    found = tcpmux("check", "-c", str(tmp_path / "r.yaml"))
    assert found.output.splitlines()[1:5] == [
        "db on 127.0.0.1:5432, 127.0.0.1:5433, unix:/run/db.sock",
        "  rule testers (source 10.9.0.0/16): to v2",
        "  rule split (sni a.example, b.example): v1 9, v2 1",
        "  rule none (tls false): rejected",
    ]
    found = tcpmux("check", "--json", "-c", str(tmp_path / "r.yaml"))
    assert json.loads(found.output)["routes"][0]["rules"][1:] == [
        {
            "name": "split",
            "conditions": "sni a.example, b.example",
            "reject": False,
            "weights": {"v1": 9, "v2": 1},
        },
        {"name": "none", "conditions": "tls false", "reject": True, "weights": {}},
    ]


def test_values_are_taken_alone_or_in_a_list(tmp_path: Path) -> None:
    one, two = rules_of(
        tmp_path,
        "{source: 10.9.0.0/16, port: 5432, sni: Shop.Example., alpn: h2, tlv: {234: a}, to: v2}",
        "{source: [unix], port: [5433], sni: ['*.Example'], alpn: [h2], tlv: {0xea: [a]}, to: v2}",
    )
    assert [str(source) for source in one.sources] == ["10.9.0.0/16"]
    assert (one.ports, one.sni, one.alpn) == ((5432,), ("shop.example",), ("h2",))
    assert one.tlvs == two.tlvs == ((0xEA, (b"\x01a",)),)
    assert one.weights == (("v2", 1),)
    assert two.sni == ("*.example",)
    assert two.sources == ("unix",)


WHOLE = (
    "{name: testers, source: [10.9.0.0/16, 'fd00::/8', unix], port: [5432, 5433], to: v2}",
    "{sni: ['*.eu.example', shop.example, '1.2e3', 'on'], alpn: [postgresql, 'on', '#'], to: v1}",
    "{tls: false, reject: true}",
    r"{tlv: {0xEA: vpce-123, 5: [shop, 'hex:00ff', ' a', 'a\"$$b'], 6: 'hex:6865783a'}, to: v1}",
    "{listen: 'unix:/run/db.sock', weights: {v2: 0, v1: 9}}",
    "{tls: true, weights: {v1: 2}}",
    "{to: v1}",
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """As `tcpmux convert` does."""
    first = read(tmp_path, *WHOLE)
    again = tmp_path / "again.yaml"
    again.write_text(to_text(first))
    assert load([again]).routes[0].rules == first.routes[0].rules
    assert "name: testers" in again.read_text()
    assert again.read_text().count("name: ") == 4  # those that follow from conditions are not there


def test_a_derived_name_depends_on_the_conditions_alone(tmp_path: Path) -> None:
    """So rules that come or go in front of one change nothing for it."""
    alone = rules_of(tmp_path, "{source: 10.9.0.0/16, port: 5432, to: v1}")
    behind = rules_of(
        tmp_path, "{tls: true, to: v1}", "{port: 5432, weights: {v2: 3}, source: 10.9.0.0/16}"
    )
    assert alone[0].called == behind[1].called
    assert alone[0].called.startswith("source-10.9.0.0-16-port-5432-")
    assert all(len(rule.called) <= 63 for rule in rules_of(tmp_path, *WHOLE))
    assert rules_of(tmp_path, *WHOLE)[0].called == "testers"


def test_rules_are_told_in_words(tmp_path: Path) -> None:
    told = [str(rule) for rule in rules_of(tmp_path, *WHOLE)]
    assert told[0] == "source 10.9.0.0/16, fd00::/8, unix; port 5432, 5433"
    assert told[1] == "sni *.eu.example, shop.example, 1.2e3 and 1 more; alpn postgresql, on, #"
    assert told[2] == "tls false"
    assert told[-1] == "every connection"


@pytest.mark.parametrize("value", [b"\x01vpce-1", b"vpce-1", b"\x01", b"\x01hex:1", b"\x00", b"a"])
@pytest.mark.parametrize("kind", [0x05, 0xEA])
def test_every_value_of_a_tlv_has_a_text(kind: int, value: bytes) -> None:
    text = tlv_text(kind, value)
    found = bytes.fromhex(text[4:]) if text.startswith("hex:") else tlv_value(kind, text)
    assert found == value


def test_the_schema_takes_what_a_file_may_say(tmp_path: Path) -> None:
    """In an editor: of types and of keys."""
    found = subprocess.run(
        [sys.executable, "-m", "tcpmux", "schema"],
        check=True, capture_output=True, timeout=patient(30),
    )  # fmt: skip
    rule = json.loads(found.stdout)["$defs"]["RuleModel"]
    assert rule["additionalProperties"] is False
    assert set(rule["properties"]) == {
        "name", "source", "port", "listen", "sni", "alpn", "tlv", "tls", "to", "weights", "reject",
    }  # fmt: skip
