"""The keys for health, balancing and limits: what they become, and what is said of mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tcpmux.config import (
    Check,
    ConfigError,
    DestinationPolicy,
    EndpointPolicy,
    Keepalive,
    RoutePolicy,
    Rule,
    load,
    settings,
)
from tcpmux.config.native import to_text
from tcpmux.config.needs import kept_tlvs, needs_client_hello
from tcpmux.config.settings import SendProxy, SlowStart
from tcpmux.shm import image
from tcpmux.shm.rules import route_rules

HEAD = """
routes:
  - name: r
    listen: 127.0.0.1:1
"""
TAIL = """
    destinations:
      - {name: v1, weight: 3, endpoints: [127.0.0.1:2]}
      - name: v2
        endpoints:
          - {address: 127.0.0.1:3, max_connections: 5, backup: true}
          - {address: 127.0.0.1:4, priority: 7, weight: 2}
"""


def problems(tmp_path: Path, lines: str, tail: str = TAIL) -> list[str]:
    file = tmp_path / "r.yaml"
    file.write_text(HEAD + lines + tail)
    with pytest.raises(ConfigError) as found:
        load([file])
    return [f"{problem.where}: {problem.message}" for problem in found.value.problems]


MISTAKES = {
    "    check: htp": "expected one of off, tcp, send, tls, http, redis, postgres, mysql, got htp",
    "    check: {type: tcp, path: /}": "path is not for checks of type tcp",
    "    check: {type: send, expect: a, expect_regex: b}": "expected one of expect, expect_hex",
    "    check: {type: send, expect_regex: '('}": "got one that fails: missing ): (",
    "    check: {type: send, expect_regex: '(?=a)'}": "as RE2 has them (no look-around, no "
    "backreferences), got one that fails: invalid perl operator: (?=",
    r"    check: {type: send, expect_regex: '(a)\1'}": r"fails: invalid escape sequence: \1",
    "    check: {type: send, expect_regex: '(a|b){900}'}": "it is too large: ",
    f"    check: {{type: send, send: {'a' * 65537}}}": "expected at most 65536 bytes, got 65537",
    f"    check: {{type: send, expect_hex: '{'00' * 65537}'}}": "expected at most 65536 bytes",
    "    check: {type: http, status: 400-200}": "expected a status such as 200 or 200-399",
    "    on_all_unavailable: hold": "expected reset, refuse or {hold: 5s}, got hold",
    "    on_unavailable: {fallback: v9}": "expected one of v1, v2, got v9",
    "    on_unavailable: {fall: v1}": "unknown key fall: did you mean fallback?",
    "    keepalive: {idle: 0s}": "expected 1s..",
    "    rate: 5": "expected a rate such as 100/s or 30/m, got 5",
    "    rate: {rate: 5/s, burst: 0}": "expected 1..1000000, got 0",
    "    allow: [10.0.0.1/8]": "expected 10.0.0.0/8 (bits after the prefix must be 0)",
    "    deny: [everybody]": "an address, a network such as 10.0.0.0/8, or unix, got everybody",
    "    accept_proxy: {versions: [1]}": "from is missing",
    "    accept_proxy: {from: []}": "expected at least one entry, got none",
    "    accept_proxy: {from: [10.0.0.1], versions: [3]}": "expected 1..2, got 3",
    "    accept_proxy: {from: [10.0.0.1], timeout: 0s}": "expected 1ms..1d, got 0s",
    "    accept_proxy: on": "expected a mapping",
    "    accept_proxy: {from: [unixes]}": "a network such as 10.0.0.0/8, or unix, got unixes",
    "    check: {type: tcp, proxy: 2}": "expected true or false",
    "    preread: on": "expected a mapping",
    "    preread: {timeout: 0s}": "expected 1ms..1d, got 0s",
    "    preread: {limit: 16}": "expected a size such as 60KiB, got 16",
    "    preread: {limit: 64KiB}": "expected 512B..60KiB, got 64KiB",
    "    preread: {silent: reset}": "expected one of default, reject, got reset",
    "    preread: {starttls: smtp}": "expected one of none, postgres, got smtp",
    "    accept_proxy: {from: [10.0.0.1], keep: 0xEA}": "expected a list of types such as [0x",
    "    accept_proxy: {from: [10.0.0.1], keep: [0x100]}": "such as 0xea, 0x01..0xff, got 0x100",
    "    accept_proxy: {from: [10.0.0.1], keep: [on]}": "expected a type such as 0xea, 0x",
    "    accept_proxy: {from: [10.0.0.1], keep: [3]}": "0x03 is of one header alone",
    "    send_proxy: 3": "expected 0..2, got 3",
    "    send_proxy: on": "expected 0..2, got on",
    "    send_proxy: {crc32c: true}": "version is missing",
    "    send_proxy: {version: 1, unique_id: true}": "expected version 2 with these keys, got "
    "version 1: only version 2 has TLVs",
    "    send_proxy: {version: 0, pass: [0xEA]}": "with these keys, got no header",
    "    send_proxy: {version: 2, decision: 0xEA, pass: [0xEA]}": "got 0xea twice",
    "    send_proxy: {version: 2, decision: 0x02}": "a type such as 0xea, 0xe0..0xef, got 0x02",
    "    send_proxy: {version: 2, passed: [0xEA]}": "unknown key passed: did you mean pass?",
    "    sticky: tls": "expected source, sni or tlv:0xEA, got tls",
    "    sticky: tlv:0x100": "expected source, sni or tlv:0xEA, got tlv:0x100",
    "    sticky: tlv:256": "such as 0xea, 0x01..0xff, got 256",
    "    sticky: tlv:0x03": "0x03 is of one header alone",
    "    sticky: {group: a}": "by is missing",
    "    sticky: tlv:0xEA": "sticky by a TLV needs accept_proxy",
    "    sticky: {by: source, prefix: {ipv4: 0}}": "expected 1..32, got 0",
    "    sticky: {by: source, prefix: 24}": "expected a mapping, got 24",
    "    sticky: {by: source, group: a b}": "expected 1 to 63 letters",
    "    sticky: {by: source, zero: keep}": "expected one of leave, stay, got keep",
    "    bandwidth: {up: 5MB}": "expected a rate such as 10MiB/s, got 5MB",
    "    bandwidth: {up: 0.4B/s}": "expected 1B..",
    "    panic_threshold: 101%": "expected 0%..100%, got 101%",
    "    slow_start: {floor: 5%}": "duration is missing",
    "    max_connections: 0": "expected 1..10000000, got 0",
}


@pytest.mark.parametrize("lines", MISTAKES)
def test_one_line_says_what_is_wrong(tmp_path: Path, lines: str) -> None:
    found = problems(tmp_path, lines)
    assert len(found) == 1, found
    assert MISTAKES[lines] in found[0]


def test_the_nearest_says_it(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "defaults: {check: redis, balance: random_two, keepalive: off, slow_start: 9s}\n"
        + HEAD
        + "    check: {type: tcp, interval: 7s}\n"
        + TAIL.replace("name: v2\n", "name: v2\n        check: off\n        balance: maglev\n")
    )
    one, two = load([file]).routes[0].destinations
    assert one.policy.check == Check("tcp", interval=7.0)
    assert two.policy.check is None
    assert (one.policy.balance, two.policy.balance) == ("random_two", "maglev")
    assert one.policy.keepalive == Keepalive(0)
    assert one.policy.slow_start == SlowStart(9.0, 10)
    assert [policy for _, policy in two.endpoint_policies] == [
        EndpointPolicy(5, 1),
        EndpointPolicy(0, 7),
    ]


@pytest.mark.parametrize("file", ["{0}", "{{defaults: {{{0}}}, {1}}}"], ids=["route", "defaults"])
def test_a_former_name_is_taken_and_the_new_one_is_said(tmp_path: Path, file: str) -> None:
    path = tmp_path / "r.yaml"
    route = "routes: [{name: r, listen: ':1', destinations: [{name: v, endpoints: [1.2.3.4:1]}]"
    if file == "{0}":
        path.write_text(f"{{{route}, warmup: {{duration: 9s, floor: 5%}}}}]}}")
    else:
        path.write_text(file.format("warmup: {duration: 9s, floor: 5%}", f"{route}}}]"))
    config = load([path])
    assert config.routes[0].destinations[0].policy.slow_start == SlowStart(9.0, 5)
    assert [warning.message for warning in config.warnings] == [
        "warmup is called slow_start now; the old name is valid for one release"
    ]
    assert "warmup" not in to_text(config)


def test_a_former_name_is_warned_of_once(tmp_path: Path) -> None:
    """However many routes use it: a warning for each would be the whole log."""
    path = tmp_path / "r.yaml"
    path.write_text("defaults: {warmup: 1s}\n" + HEAD + "    warmup: 9s" + TAIL)
    (warning,) = load([path]).warnings
    assert (warning.line, warning.message) == (
        1,
        "warmup is called slow_start now (and 1 time more); the old name is valid for one release",
    )


def test_mistakes_of_a_former_name_are_told_where_they_are(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, "    warmup: {duration: 9s, flor: 5%}")
    assert "routes[0].warmup: unknown key flor: did you mean floor?" in told
    (told,) = problems(tmp_path, "    warmup: 99")
    assert "routes[0].warmup: expected a duration such as" in told
    (told,) = problems(tmp_path, "    slow_start: 1s\n    warmup: 1s")
    assert "routes[0]: unknown key warmup: did you mean slow_start?" in told
    (told,) = problems(tmp_path, "    rate: {rate: 1/s, warmup: 1s}")
    assert "routes[0].rate: unknown key warmup: there are: rate, burst" in told


def test_nothing_said_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(HEAD + TAIL)
    route = load([file]).routes[0]
    assert route.policy == RoutePolicy()
    assert route.destinations[0].policy == DestinationPolicy()


def test_a_limit_of_a_route_is_not_its_destinations_limit(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"{HEAD}    max_connections: 10\n{TAIL}")
    route = load([file]).routes[0]
    assert route.policy.max_connections == 10
    assert {d.policy.max_connections for d in route.destinations} == {0}


WHOLE = """
    max_connections: 10
    listener_max_connections: 9
    source: {max_connections: 3, rate: 7/h}
    rate: {rate: 100/s, burst: 5}
    bandwidth: {up: 1MiB/s}
    allow: [10.0.0.0/8, "fd00::/8"]
    deny: [10.1.0.0/16]
    preread: {timeout: 2s, limit: 4KiB, starttls: postgres, silent: reject}
    accept_proxy: {from: [10.2.0.0/16, "fd01::/16", unix], versions: [2], timeout: 3s,
      keep: [0xEA, 0x05]}
    send_proxy: {version: 2, crc32c: true, unique_id: true, authority: true, alpn: true,
      decision: 0xE0, pass: [0xEA]}
    sticky: {by: tlv:0xEA, prefix: {ipv4: 24, ipv6: 56}, group: "7", zero: stay}
    retry: {attempts: 3, budget: 5%, burst: 0, across: true}
    on_unavailable: {fallback: v2}
    on_all_unavailable: {hold: 1500ms}
    balance: least_connections
    check:
      type: send
      send: "a\\r\\n\\x00: #"
      expect_regex: "^[a-z]+: \\"x\\"$"
      interval: 3s
      fast_interval: 500ms
      timeout: 250ms
      fall: 2
      rise: 4
      port: 99
    passive: {errors: 2, interval: 1s, ejection_time: 2s, most_ejected: 50%, early_close: 5ms,
      resets: on}
    panic_threshold: 30%
    slow_start: {duration: 1m, floor: 1%}
    max_connection_duration: {duration: 1h, jitter: 10%}
    half_open_timeout: 5m
    keepalive: {idle: 10s, interval: 5s, count: 2}
    tcp_user_timeout: 30s
    connection_bandwidth: {up: 64KiB/s, down: 1MiB/s}
"""


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """As `tcpmux convert` does."""
    file, again = tmp_path / "r.yaml", tmp_path / "again.yaml"
    more = "        max_connections: 4\n        on_full: {queue: {size: 7, timeout: 9s}}\n"
    file.write_text(HEAD + WHOLE + TAIL.replace("name: v2\n", "name: v2\n" + more))
    first = load([file])
    again.write_text(to_text(first))
    second = load([again])
    assert second.routes[0].policy == first.routes[0].policy
    for one, two in zip(first.routes[0].destinations, second.routes[0].destinations, strict=True):
        assert replace(one, endpoints=(), endpoint_policies=()) == replace(
            two, endpoints=(), endpoint_policies=()
        )
        assert set(one.endpoint_policies) == set(two.endpoint_policies)
    check = first.routes[0].destinations[0].policy.check
    assert check is not None
    assert check.send == b"a\r\n\x00: #"
    assert check.is_pattern


def test_words_and_numbers_go_together() -> None:
    """What the files say and what the table says are in the same order."""
    assert list(settings.ON_FULL) == ["reject", "spill", "queue"]
    assert (image.FULL_REJECT, image.FULL_SPILL, image.FULL_QUEUE) == (0, 1, 2)
    words = list(settings.ON_UNAVAILABLE)
    assert words.index("reject") == image.REJECT
    assert words.index("fallback") == image.FALLBACK
    assert words.index("redistribute") == image.REDISTRIBUTE
    words = list(settings.ON_ALL_UNAVAILABLE)
    assert words.index("hold") == image.HOLD
    assert words.index("refuse") == image.REFUSE
    assert words.index("reset") == image.RESET


def test_a_header_is_a_version_alone_or_more(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    for lines, wanted in (
        ("send_proxy: 1", SendProxy(1)),
        ("send_proxy: {version: 2}", SendProxy(2)),
        ("send_proxy: {version: 2, pass: [0xEA, 5, 0xea]}", SendProxy(2, passed=(5, 0xEA))),
        ("send_proxy: {version: 2, decision: 0xEF}", SendProxy(2, decision=0xEF)),
    ):
        file.write_text(f"{HEAD}    {lines}\n{TAIL}")
        route = load([file]).routes[0]
        assert {each.policy.send_proxy for each in route.destinations} == {wanted}


def test_what_is_kept_is_what_somebody_asks_for(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    more = "        send_proxy: {version: 2, authority: true, alpn: true, pass: [0xE1]}\n"
    file.write_text(
        f"{HEAD}    accept_proxy: {{from: [10.0.0.1], keep: [0xEA]}}\n"
        + TAIL.replace("name: v2\n", "name: v2\n" + more)
    )
    route = load([file]).routes[0]
    assert kept_tlvs(route) == (0x01, 0x02, 0xE1, 0xEA)
    rule = Rule(tlvs=((0xE5, (b"x",)),), reject=True)
    assert kept_tlvs(replace(route, rules=(rule,))) == (0x01, 0x02, 0xE1, 0xE5, 0xEA)
    rules = route_rules(route)
    assert [rules.keep_tlvs0, rules.keep_tlvs1, rules.keep_tlvs2] == [0b110, 0, 0]
    assert rules.keep_tlvs3 == 1 << 0xE1 - 192 | 1 << 0xEA - 192


@pytest.mark.parametrize(
    ("lines", "needed"),
    [
        ("", False),
        ("    preread: {}\n", True),
        ("    send_proxy: {version: 2, unique_id: true, pass: [0x01, 0x02]}\n", False),
        ("    send_proxy: {version: 2, authority: true}\n", True),
        ("    send_proxy: {version: 2, alpn: true}\n", True),
        ("    rules: [{source: 10.0.0.1, tlv: {0xEA: x}, to: v1}]\n", False),
        ("    rules: [{to: v1}, {sni: a.example, to: v1}]\n", True),
        ("    rules: [{alpn: h2, to: v1}]\n", True),
        ("    rules: [{tls: false, reject: true}]\n", True),
    ],
)
def test_a_client_hello_is_read_where_something_needs_it(
    lines: str, needed: bool, tmp_path: Path
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"{HEAD}{lines}{TAIL}")
    route = load([file]).routes[0]
    assert needs_client_hello(route) is needed
    assert bool(route_rules(route).preread) is needed


@pytest.mark.parametrize(
    ("check", "version"),
    [
        ("tcp", 2),
        ("{type: tcp, proxy: on}", 2),
        ("{type: tcp, proxy: off}", 0),
        ("{type: tcp, port: 9}", 0),  # it may be of another program
        ("{type: tcp, port: 9, proxy: on}", 2),
        ("{type: tcp, port: 9, proxy: off}", 0),
    ],
)
def test_checks_send_the_header_of_their_destination(
    check: str, version: int, tmp_path: Path
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"{HEAD}    send_proxy: 2\n    check: {check}\n{TAIL}")
    config = load([file])
    for destination in config.routes[0].destinations:
        assert destination.policy.check is not None
        assert destination.policy.check.proxy == version
        assert destination.policy.send_proxy == SendProxy(2)
    file.write_text(to_text(config))
    again = load([file])
    assert [d.policy for d in again.routes[0].destinations] == [
        d.policy for d in config.routes[0].destinations
    ]
