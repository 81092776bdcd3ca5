"""Maps, geo and splits of nginx.conf that depend on clients, or on their first bytes, as rules."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from tcpmux.config import ConfigError, Route, Text, load_texts
from tcpmux.config.address import Address
from tcpmux.config.rule_match import Facts, rule_met
from tcpmux.config.sticky import Prefix, Sticky
from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.kinds import Input
from tests.convert.routes import lines, only_route

UPSTREAMS = "".join(f"upstream {to} {{ server 127.0.0.1:{ord(to)}; }}\n" for to in "abcd")


def conversion(stream: str, server: str = "ssl_preread on;") -> Conversion:
    own = f"server {{ listen 127.0.0.1:19001; proxy_pass $x; {server} }}"
    return convert("nginx", [Input("nginx.conf", f"stream {{ {UPSTREAMS} {stream} {own} }}")])


def route(stream: str, server: str = "ssl_preread on;") -> Route:
    return only_route(conversion(stream, server))


NESTED = " geo $z { default out; 10.0.0.0/8 in; } map $z $x { in $y; default d; }"
PROTOCOLS = "map $ssl_preread_alpn_protocols $x"


def by_name(*entries: str, hostnames: bool = True) -> str:
    first = "hostnames; " if hostnames else ""
    return f"map $ssl_preread_server_name $x {{ {first}{' '.join(f'{one};' for one in entries)} }}"


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (by_name("A.x a", "default b"), ["sni a.x -> a=1", "b"]),
        (by_name("*.x a", "default b"), ["sni *.x -> a=1", "b"]),
        (by_name(".x a", "default b"), ["sni x, *.x -> a=1", "b"]),
        (by_name("*.x a", "*.y.x b", "z.y.x a", "default c"),
         ["sni z.y.x -> a=1", "sni *.y.x -> b=1", "sni *.x -> a=1", "c"]),
        (by_name("~*\\.x$ a", "b.x b", "default c"), ["sni b.x -> b=1", "sni *.x -> a=1", "c"]),
        (by_name("~*^.+\\.x$ a", "*.y.x b", "default c"),
         ["sni *.y.x -> b=1", "sni *.x -> a=1", "c"]),
        (by_name("a.x a", '"" b', "default b"), ["sni a.x -> a=1", "b"]),
        (by_name("a.x a"), ["sni a.x -> a=1", "every connection -> reset", ""]),
        ('map $ssl_preread_protocol $x { "" a; default b; }', ["tls true -> b=1", "a"]),
        (PROTOCOLS + " { ~\\bh2\\b a; ~\\bh3\\b b; default c; }",
         ["alpn h2 -> a=1", "alpn h3 -> b=1", "c"]),
        (by_name("a.x $y", "default d") + " split_clients $remote_port $y { 25% a; * b; }",
         ["sni a.x -> a=25 b=75", "d"]),
        (by_name("a.x $y", "default $z") + " split_clients $msec $y { 25% a; * b; }"
         " split_clients $msec $z { 75% a; * b; }", ["sni a.x -> a=25 b=75", "a b"]),
        ("geo $x { default a; 10.0.0.0/8 b; 10.1.0.0/16 a; }",
         ["source 10.1.0.0/16 -> a=1", "source 10.0.0.0/8 -> b=1", "a"]),
        ("geo $remote_addr $x { default a; 10.0.0.0/8 b; delete 10.0.0.0/8; }", ["a"]),
        ("map $remote_addr $x { 10.0.0.1 b; ::1 c; default a; }",
         ["source 10.0.0.1/32 -> b=1", "source ::1/128 -> c=1", "a"]),
        (by_name("a.x a", "default b").replace("$x ", "$y ") + NESTED,
         ["source 10.0.0.0/8; sni a.x -> a=1", "sni a.x -> d=1", "source 10.0.0.0/8 -> b=1", "d"]),
    ],
)  # fmt: skip
def test_values_become_rules(stream: str, expected: list[str]) -> None:
    assert lines(route(stream)) == expected


def test_without_hostnames_a_pattern_is_a_text() -> None:
    assert "*.x is no host name" not in str(conversion(by_name("a.x a", "default b")).findings)
    found = conversion(by_name("*.x a", "a.x b", "default c", hostnames=False))
    assert not found.changes or {c.needs for c in found.changes} == {"rules by SNI"}


def test_without_preread_there_is_no_name() -> None:
    assert lines(route(by_name("a.x a", '"" b', "default c"), "")) == ["b"]


def test_the_settings_of_preread() -> None:
    said = "ssl_preread on; preread_timeout 3s; preread_buffer_size 4k;"
    policy = route(by_name("a.x a", "default b"), said).policy.preread
    assert (policy.is_asked, policy.timeout, policy.limit, policy.silent) == (
        True, 3.0, 4096, "reject",
    )  # fmt: skip
    plain = route(by_name("a.x a", "default b")).policy.preread
    assert (plain.timeout, plain.limit) == (30.0, 16384)


@pytest.mark.parametrize(
    ("stream", "needs"),
    [
        (by_name('"" a', "default b"), "rules by a missing name"),
        (by_name("www.* a", "default b"), "patterns"),
        (by_name("~^(a|b)$ a", "default b"), "patterns"),
        (by_name("_ a", "a..b b", "default b"), "rules by SNI"),
        (PROTOCOLS + " { h2,http/1.1 a; default b; }", "rules by lists of protocols"),
        (PROTOCOLS + " { ~h2 a; default b; }", "patterns"),
        (PROTOCOLS + ' { "" a; default b; }', "rules by a missing protocol"),
        ("map $ssl_preread_protocol $x { TLSv1.2 a; default b; }", "rules by version of TLS"),
        ("geo $x { ranges; 10.0.0.0-10.0.0.9 a; default b; }", "rules by source"),
        ("geo $proxy_protocol_addr $x { 10.0.0.0/8 a; default b; }", "rules by source"),
        ("map $remote_addr $x { ~^10 a; default b; }", "patterns"),
    ],
)  # fmt: skip
def test_what_rules_can_not_say_changes_traffic(stream: str, needs: str) -> None:
    assert needs in {change.needs for change in conversion(stream).changes}


@pytest.mark.parametrize("entry", ["10.0.0.0/33 a", "x a", "default"])
def test_mistakes_in_geo(entry: str) -> None:
    with pytest.raises(ConfigError):
        conversion(f"geo $x {{ {entry}; }}")


def test_many_networks_with_few_values_are_few_rules() -> None:
    nets = "".join(
        f"10.{n // 256}.{n % 256}.0/{24 if n % 3 else 25} {'ab'[n % 2]};" for n in range(2000)
    )
    made = route(f"geo $x {{ default c; {nets} }}")
    assert len(made.rules) == 2
    assert sum(len(rule.sources) for rule in made.rules) == 2000


def test_sources_of_a_listener_whose_headers_name_others_are_refused() -> None:
    stream = "geo $x { default a; 10.0.0.0/8 b; }"
    server = "listen 127.0.0.1:19001 proxy_protocol; proxy_pass $x;"
    text = f"stream {{ {UPSTREAMS} {stream} server {{ {server} }} }}"
    found = convert("nginx", [Input("nginx.conf", text)])
    assert "geo and map" in str([str(change) for change in found.changes])


# --- splits by client -----------------------------------------------------------------------------

SPLIT = "split_clients {key} ${name} {{ {share}% a; * b; }} "
LISTEN = "listen 127.0.0.1:19001;"
HEADER = "listen 127.0.0.1:19001 proxy_protocol;"
EVERY = "set_real_ip_from 0.0.0.0/0;"
PREREAD = f"{LISTEN} ssl_preread on;"
ADDRESS = Prefix(ipv6=128)


def split_by(key: str, name: str = "x", share: int = 20) -> str:
    return SPLIT.format(key=key, name=name, share=share)


def of_servers(stream: str, *servers: str) -> Conversion:
    """Of a server each, with these directives; `proxy_pass $x` unless it says otherwise."""
    text = "".join(
        f"server {{ {one} {'' if 'proxy_pass' in one else 'proxy_pass $x;'} }} " for one in servers
    )
    return convert("nginx", [Input("nginx.conf", f"stream {{ {UPSTREAMS} {stream} {text} }}")])


def stickies(stream: str, *servers: str) -> list[Sticky]:
    found = of_servers(stream, *servers)
    assert not found.changes, [str(change) for change in found.changes]
    return [made.policy.sticky for made in load_texts([Text("r", found.text, {})]).routes]


@pytest.mark.parametrize(
    ("key", "server", "expected"),
    [
        ("$remote_addr", LISTEN, Sticky("source")),
        ("${binary_remote_addr}", LISTEN, Sticky("source")),
        ('"${remote_addr}shop"', LISTEN, Sticky("source")),
        ("$remote_addr", "listen [::1]:19001;", Sticky("source", prefix=ADDRESS)),
        ("$remote_addr", HEADER + EVERY, Sticky("source", prefix=ADDRESS)),
        ("$proxy_protocol_addr", HEADER, Sticky("source", prefix=ADDRESS)),
        ("$ssl_preread_server_name", PREREAD, Sticky("sni")),
        ("$remote_addr$remote_port", LISTEN, Sticky()),
    ],
)
def test_a_split_by_client_is_sticky(key: str, server: str, expected: Sticky) -> None:
    assert stickies(split_by(key), server) == [expected]


def test_a_split_by_client_keeps_the_shares_and_says_what_differs() -> None:
    found = of_servers(split_by("$remote_addr"), LISTEN)
    (made,) = load_texts([Text("r", found.text, {})]).routes
    assert [(d.name, d.weight) for d in made.destinations] == [("a", 20), ("b", 80)]
    (note,) = [one.note for one in found.findings if one.text == "$remote_addr"]
    assert note == "the same share of clients goes to each, but not the same clients as in nginx"


def test_routes_of_one_split_agree() -> None:
    servers = (LISTEN, "listen 127.0.0.1:19002;", "listen 127.0.0.1:19003; proxy_pass $y;")
    stream = split_by("$remote_addr") + split_by("$remote_addr", "y")
    assert stickies(stream, *servers) == [
        Sticky("source", group="x"), Sticky("source", group="x"), Sticky("source"),
    ]  # fmt: skip
    notes = [one.note for one in of_servers(stream, *servers).findings if "same key" in one.note]
    assert len(notes) == 2


def test_destinations_elsewhere_that_a_client_would_not_have_together() -> None:
    stream = split_by("$remote_addr") + "map $x $y { a c; b d; }"
    (change,) = of_servers(stream, LISTEN, "listen 127.0.0.1:19002; proxy_pass $y;").changes
    assert (change.text, change.needs) == ("$remote_addr", "sticky sessions")
    assert "several sets of destinations" in change.note


def test_where_there_is_no_choice_nothing_is_sticky() -> None:
    stream = split_by("$remote_addr", "y") + "map $y $x { a c; b C; }"
    assert stickies(stream, LISTEN) == [Sticky()]


BY_NAME = by_name("a.x $y", "default $z")


@pytest.mark.parametrize(
    ("first", "second", "changed"),
    [
        ("$remote_addr", "$remote_port", ["$remote_addr"]),
        ("$remote_port", "$remote_addr", ["$remote_addr"]),
        ("$remote_addr", "$ssl_preread_server_name", ["$remote_addr", "$ssl_preread_server_name"]),
        ("$remote_addr", "$binary_remote_addr", []),
        ("$remote_port", "$msec", []),
    ],
)
def test_a_route_is_sticky_in_one_way(first: str, second: str, changed: list[str]) -> None:
    stream = BY_NAME + split_by(first, "y") + split_by(second, "z", 50)
    found = of_servers(stream, PREREAD)
    assert [change.text for change in found.changes] == changed
    assert all("is sticky in one way" in change.note for change in found.changes)
    assert ("sticky:" in found.text) is ("$remote_addr" in (first, second) and not changed)


def test_a_split_for_some_clients() -> None:
    stream = (
        split_by("$remote_addr", "y") + "geo $z { 10.0.0.0/8 in; } map $z $x { in $y; default a; }"
    )
    assert stickies(stream, LISTEN) == [Sticky("source")]


@pytest.mark.parametrize(
    ("key", "server", "text", "needs"),
    [
        ("$server_port", LISTEN, "$server_port", "sticky sessions"),
        ("$remote_addr$server_port", LISTEN, "$remote_addr$server_port", "sticky sessions"),
        ("$remote_addr", "listen unix:/x;", "$remote_addr", "sticky sessions"),
        ("$remote_addr", LISTEN + "listen unix:/x;", "$remote_addr", "sticky sessions"),
        ("$remote_addr", HEADER, "proxy_protocol", "the PROXY protocol"),
        ("$proxy_protocol_addr", LISTEN, "$proxy_protocol_addr", "the PROXY protocol"),
        ("$ssl_preread_server_name", LISTEN, "$ssl_preread_server_name", "sticky sessions"),
    ],
)
def test_keys_that_are_not_of_clients(key: str, server: str, text: str, needs: str) -> None:
    (change,) = of_servers(split_by(key), server).changes
    assert (change.text, change.needs) == (text, needs)


@pytest.mark.parametrize("of", [lambda n: "abc"[n % 3], lambda n: "ab"[n // 1500]])
def test_long_lists_of_networks_become_rules(of: Callable[[int], str]) -> None:
    nets = (f"10.{n // 256}.{n % 256}.0/24" for n in range(3000))
    entries = "".join(f"{net} {of(n)};" for n, net in enumerate(nets))
    made = route(f"geo $x {{ default d; {entries} }}")
    for n in (0, 1, 2, 1499, 1500, 2999):
        client = ip_address(f"10.{n // 256}.{n % 256}.7")
        met = rule_met(made.rules, Facts(client, Address.parse("127.0.0.1:19001")))
        assert made.rules[met].weights == ((of(n), 1),)
    assert lines(made)[-1] == "d"


# --- several servers on one address ---------------------------------------------------------------


def by_servers(*servers: str, stream: str = "ssl_preread on;") -> Conversion:
    own = " ".join(f"server {{ listen 127.0.0.1:19001; {one} }}" for one in servers)
    return convert("nginx", [Input("nginx.conf", f"stream {{ {UPSTREAMS} {stream} {own} }}")])


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        (["proxy_pass a;", "server_name B.x; proxy_pass b;"], ["sni b.x -> b=1", "a"]),
        (
            ["server_name a.x; proxy_pass a;", "server_name *.x x; proxy_pass b;"],
            ["sni a.x -> a=1", "sni x -> b=1", "sni *.x -> b=1", "a"],
        ),
        (
            ["proxy_pass a;", "server_name .x; proxy_pass b;", "server_name *.y.x; proxy_pass c;"],
            ["sni x -> b=1", "sni *.y.x -> c=1", "sni *.x -> b=1", "a"],
        ),
        (
            ["proxy_pass a;", "server_name x; proxy_pass b;", "server_name x y; proxy_pass c;"],
            ["sni x -> b=1", "sni y -> c=1", "a"],  # of the same name the first
        ),
        (["proxy_pass a;", 'server_name "" x; proxy_pass a;'], ["sni x -> a=1", "a"]),
    ],
)
def test_a_server_is_chosen_by_its_names(servers: list[str], expected: list[str]) -> None:
    assert lines(only_route(by_servers(*servers))) == expected


def test_the_default_server_has_the_rest() -> None:
    text = "server { listen 127.0.0.1:19001 default_server so_keepalive=on; proxy_pass c; }"
    made = only_route(
        by_servers("server_name a.x; proxy_pass a;", stream=f"ssl_preread on; {text}")
    )
    assert lines(made) == ["sni a.x -> a=1", "c"]
    assert {d.policy.keepalive.idle for d in made.destinations} == {7200}  # of the listener


@pytest.mark.parametrize(
    ("servers", "stream", "told"),
    [
        (["server_name ~^a; proxy_pass b;"], "ssl_preread on;", "~^a: tcpmux has no rules by reg"),
        (["server_name a.*; proxy_pass b;"], "ssl_preread on;", "a.*: tcpmux has no rules by the"),
        (["server_name a.x; proxy_pass b;"], "", "without ssl_preread on in the default server"),
        (["listen 127.0.0.1:19002; server_name a.x; proxy_pass b;"], "ssl_preread on;",
         "tcpmux chooses among servers that listen on the same addresses"),
        (["server_name a.x; proxy_pass b; allow 10.0.0.0/8; deny all;"], "ssl_preread on;",
         "a route has one set of limits"),
        (["server_name a.x; proxy_pass $x;"],
         "ssl_preread on; map $ssl_preread_server_name $x { a.x b; default c; }",
         "its own rules by name or client"),
    ],
)  # fmt: skip
def test_servers_that_tcpmux_can_not_choose_among(
    servers: list[str], stream: str, told: str
) -> None:
    found = by_servers("proxy_pass a;", *servers, stream=stream)
    assert any(told in change.note for change in found.changes), found.changes


def test_the_default_server_has_all_where_tcpmux_can_not_choose() -> None:
    default = "server { listen 127.0.0.1:19001 default_server; proxy_pass c; }"
    found = by_servers("server_name ~a; proxy_pass a;", stream=f"ssl_preread on; {default}")
    assert "the server at nginx.conf:5 gets all connections" in " ".join(
        change.note for change in found.changes
    )
    (made,) = load_texts([Text("r", found.text, {})]).routes
    assert [d.name for d in made.destinations] == ["c"]
