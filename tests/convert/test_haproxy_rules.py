"""Conditions of haproxy.cfg on names and clients as rules."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from tcpmux.config import ConfigError, Route
from tcpmux.config.address import Address
from tcpmux.config.rule_match import Facts, rule_met
from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.haproxy import routing
from tcpmux.convert.haproxy.access import truth_of
from tcpmux.convert.hellos import Hello, patterns_of_regex
from tcpmux.convert.kinds import Input
from tcpmux.convert.truth import Truth
from tests.convert.routes import lines, only_route

WAITS = " tcp-request inspect-delay 5s\n tcp-request content accept if { req_ssl_hello_type 1 }\n"
BACKENDS = "".join(f"backend {to}\n server s 127.0.0.1:1910{ord(to) - 97}\n" for to in "abcd")
TO_B = "; default_backend b"
LISTEN = "listen l; bind :19001; server s 127.0.0.1:1; server t 127.0.0.1:2; "


def conversion(rules: str, *, waits: str = WAITS) -> Conversion:
    text = f"{BACKENDS}frontend f\n bind 127.0.0.1:19001\n{waits} {rules}\n".replace("; ", "\n ")
    return convert("haproxy", [Input("haproxy.cfg", text)])


def route(rules: str, *, waits: str = WAITS) -> Route:
    return only_route(conversion(rules, waits=waits))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("use_backend a if { req.ssl_sni -i A.x }", ["sni a.x -> a=1", "b"]),
        ("use_backend a if { req_ssl_sni -i a.x b.x }", ["sni a.x, b.x -> a=1", "b"]),
        ("use_backend a if { req.ssl_sni -m end .x }", ["sni *.x -> a=1", "b"]),
        ("use_backend a unless { req.ssl_sni -i a.x }", ["sni a.x -> b=1", "a"]),
        (
            "acl n req_ssl_sni a.x; acl n req_ssl_sni b.x; use_backend a if n !{ src 10.0.0.0/8 }",
            ["source 10.0.0.0/8; sni a.x, b.x -> b=1", "sni a.x, b.x -> a=1", "b"],
        ),
        (
            "use_backend a if { req.ssl_sni -i a.x } or { src 10.0.0.0/8 }",
            ["source 10.0.0.0/8 -> a=1", "sni a.x -> a=1", "b"],
        ),
        ("use_backend a if { req.ssl_hello_type 1 }", ["tls true -> a=1", "b"]),
        (
            "use_backend a if { src 10.0.0.0/8 } { rand(4) 0 }",
            ["source 10.0.0.0/8 -> a=25 b=75", "b"],
        ),
        ("tcp-request content reject if { rand(4) 0 }", ["tls true -> b=1", "no-backend b"]),
        (
            "tcp-request content reject",
            ["tls true -> b=1", "every connection -> reset", ""],
        ),
    ],
)
def test_conditions_become_rules(rules: str, expected: list[str]) -> None:
    assert sorted(lines(route(rules + TO_B))) == sorted(expected)


def by_map(directory: Path, entries: str, *, match: str = "", more: str = "") -> Conversion:
    """Of a haproxy.cfg in that directory, with this map beside it."""
    (directory / "names").write_text(entries)
    text = f"{BACKENDS}frontend f\n bind 127.0.0.1:19001\n{WAITS}"
    text += f" use_backend %[req.ssl_sni,lower,map{match}(names{more})]\n default_backend b\n"
    return convert("haproxy", [Input(str(directory / "haproxy.cfg"), text)])


def test_the_first_entry_of_a_map_decides(tmp_path: Path) -> None:
    made = only_route(by_map(tmp_path, "# all\n\na.x a\na.x c\nB.x a\nno.x none\nc.x a\n"))
    assert lines(made) == ["sni a.x, c.x -> a=1", "b"]
    made = only_route(by_map(tmp_path, ".y.x a\n.x c\n", match="_end", more=",b"))
    assert lines(made) == ["sni *.y.x -> a=1", "sni *.x -> c=1", "b"]


def test_a_default_of_a_map_is_none_of_clients_that_ask_for_no_name(tmp_path: Path) -> None:
    made = by_map(tmp_path, "a.x a\n", more=",c")
    assert ["ask for no name go to c as well" in found.note for found in made.changes] == [True]


@pytest.mark.parametrize("match", ["_dom", "_beg", "_sub", "_reg"])
def test_other_matches_of_maps_are_named(tmp_path: Path, match: str) -> None:
    made = by_map(tmp_path, "^a. a\n", match=match)
    assert made.changes
    assert "tcpmux compares whole names" in made.changes[0].note or match == "_reg"


@pytest.mark.parametrize(
    ("entries", "told"),
    [("a.x\n", "expected a key and a value in the map"), (None, "can't be read: ")],
)
def test_a_map_with_a_mistake_is_one_line(tmp_path: Path, entries: str | None, told: str) -> None:
    rules = "use_backend %[req.ssl_sni,map(/no/such/file)]" + TO_B
    with pytest.raises(ConfigError, match=told) as caught:
        _ = conversion(rules) if entries is None else by_map(tmp_path, entries)
    assert len(caught.value.problems) == 1


def test_what_has_no_backend_is_reset() -> None:
    made = route("use_backend a if { req.ssl_sni -i a.x }")
    assert lines(made) == ["sni a.x -> a=1", "every connection -> reset", ""]


def test_the_delay_is_the_time_to_read_the_hello() -> None:
    made = route("use_backend a if { req.ssl_sni -i a.x }" + TO_B)
    assert (made.policy.preread.is_asked, made.policy.preread.timeout) == (True, 5.0)
    assert made.policy.preread.silent == "default"


def test_what_depends_on_no_hello_reads_none() -> None:
    made = route("use_backend a if { src 10.0.0.0/8 }" + TO_B)
    assert not made.policy.preread.is_asked


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        ("{ req.ssl_sni -m beg a }", "rules by parts of names"),
        ("{ req.ssl_sni -m end a.x }", "rules by parts of names"),
        ("{ req.ssl_sni -m dom x }", "rules by parts of names"),
        ("{ req.ssl_sni -m found }", "rules by parts of names"),
        ("{ req.ssl_sni -i 10.0.0..1 }", "rules by parts of names"),
        ("{ req.ssl_sni A.x }", "rules that mind the case"),
        ("{ req.ssl_alpn h2 }", "rules by lists of protocols"),
        ("{ req.ssl_sni,field(1,.) a }", "rules by SNI"),
        ("{ req.ssl_sni -i a.x } { req.len gt 1 }", "rules on content"),
    ],
)
def test_what_rules_can_not_say_changes_traffic(rule: str, needs: str) -> None:
    found = conversion(f"use_backend a if {rule}" + TO_B)
    assert {change.needs for change in found.changes} == {needs}


@pytest.mark.parametrize(
    "waits", ["", WAITS.split("\n", maxsplit=1)[0] + "\n", WAITS.split("\n")[1] + "\n"]
)
def test_a_name_that_haproxy_does_not_wait_for_is_refused(waits: str) -> None:
    rules = "use_backend a if { req.ssl_sni -i a.x }" + TO_B
    found = conversion(rules, waits=waits)
    assert {change.needs for change in found.changes} == {"rules that do not wait"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"^a\.x$", ["a.x"]),
        (r"\.x$", ["*.x"]),
        (r"^.*\.x$", ["*.x"]),
        (r"^.+\.a-b\.x$", ["*.a-b.x"]),
        (r".*\.x$", ["*.x"]),
        ("^a.x$", None),
        (r"a\.x$", None),
        (r"^\.x$", None),
        (r"^a\.x", None),
        (r"^(a|b)\.x$", None),
        (r"^[^.]+\.x$", None),
        ("", None),
    ],
)
def test_regular_expressions_that_are_names(text: str, expected: list[str] | None) -> None:
    assert patterns_of_regex(text) == expected


# --- compared with the conditions themselves -----------------------------------------------------

NAMES = ("a.x", "b.x", "c.a.x", "y", "")
CLIENTS = [*map(ip_address, ("10.0.0.1", "10.1.0.1", "192.0.2.1", "8.8.8.8"))]
# Test: the names that it is true for; None = that of a client without TLS.
BY_NAME = {
    "req.ssl_sni -i a.x": {"a.x"},
    "req.ssl_sni -i -m end .x": {"a.x", "b.x", "c.a.x"},
    "req.ssl_sni -i y b.x": {"y", "b.x"},
    "req_ssl_hello_type 1": {*NAMES},
}
BY_CLIENT = {"src 10.0.0.0/8": {*CLIENTS[:2]}, "src 10.1.0.0/16 192.0.2.1": {*CLIENTS[1:3]}}
Terms = list[tuple[str, str]]  # "!" or "", and the test


def holds(joint: str, terms: Terms, name: str | None, client: IPv4Address | IPv6Address) -> bool:
    values = [
        (name in BY_NAME[test] if test in BY_NAME else client in BY_CLIENT[test]) is not (no == "!")
        for no, test in terms
    ]
    return any(values) if joint == "or" else all(values)


@pytest.mark.parametrize("seed", range(40))
def test_rules_send_every_client_where_the_conditions_do(seed: int) -> None:
    chance = random.Random(seed)
    chosen: list[tuple[str, str, Terms]] = []
    for _ in range(4):
        tests = chance.sample([*BY_NAME, *BY_CLIENT], chance.randrange(1, 3))
        terms = [(chance.choice(["", "!"]), test) for test in tests]
        chosen.append((chance.choice("abc"), chance.choice(["", "or"]), terms))
    text = "".join(
        f"use_backend {to} if {f' {joint} '.join(f'{no}{{ {test} }}' for no, test in terms)}; "
        for to, joint, terms in chosen
    )
    made = route(text + "default_backend d")
    rest = next((d.name for d in made.destinations if d.weight), "")
    for name in (None, *NAMES):
        for client in CLIENTS:
            fitting = (to for to, joint, terms in chosen if holds(joint, terms, name, client))
            facts = Facts(client, Address.parse("127.0.0.1:19001"), name is not None, name or "")
            met = rule_met(made.rules, facts)
            found = made.rules[met].weights[0][0] if met >= 0 else rest
            assert found == next(fitting, "d"), (text, name, client, made.rules)


def test_a_list_of_names_that_can_not_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="/nonexistent can't be read") as caught:
        conversion("use_backend a if { req.ssl_sni -i -f /nonexistent }" + TO_B)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "rules",
    [
        "accept if {{ src -f {} }}; tcp-request content reject if {{ rand(4) 0 }}",
        "reject if {{ src -f {} }}; tcp-request content reject if {{ src ::1 }} {{ rand(4) 0 }}",
    ],
)
def test_lists_too_long_to_combine_change_traffic(tmp_path: Path, rules: str) -> None:
    (tmp_path / "l").write_text("\n".join(f"10.{n // 256}.{n % 256}.1" for n in range(1100)))
    (change,) = conversion(f"tcp-request content {rules.format(tmp_path / 'l')}{TO_B}").changes
    assert "it has too many networks: clients are" in change.note
    assert change.needs == "longer lists"


def test_a_rule_is_looked_at_once_for_all_names_that_it_does_not_tell_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[Hello] = []

    def look(*of: Any) -> Truth:
        looked.append(of[-1])
        return truth_of(*of)

    monkeypatch.setattr(routing, "truth_of", look)
    many = "; ".join(f"use_backend a if {{ req.ssl_sni -i n{n}.x }}" for n in range(50))
    assert len(lines(route(many + TO_B))) == 2
    assert len(looked) <= 50 * 3 + 2  # its own name, other names, and what is not TLS


@pytest.mark.parametrize(
    "said",
    [
        "stick-table type ip size 1m; stick on src",
        "stick-table type ipv6 size 1m expire 1h; stick match src; stick store-request src",
        "balance leastconn; stick-table type ip size 1; stick on src",
    ],
)
def test_clients_that_stick_to_servers_are_hashed(said: str) -> None:
    found = convert("haproxy", [Input("h", (LISTEN + said).replace("; ", "\n ") + "\n")])
    assert not found.changes
    assert "balance: source_hash" in found.text


@pytest.mark.parametrize(
    "said",
    [
        "stick on src",
        "stick-table type ip size 1m peers p; stick on src",
        "stick-table type string size 1m; stick on src",
        "stick-table type ip size 1m; stick on src table other",
        "stick-table type ip size 1m; stick on src if { dst_port 1 }",
        "stick-table type ip size 1m; stick on dst",
        "stick-table type ip size 1m; balance first; stick on src",
        "stick-table type ip size 1m; stick on src; stick on dst",
    ],
)
def test_other_stick_tables_change_traffic(said: str) -> None:
    found = convert("haproxy", [Input("h", (LISTEN + said).replace("; ", "\n ") + "\n")])
    assert "stick tables" in {change.needs for change in found.changes}
