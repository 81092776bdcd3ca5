"""What becomes of nginx's directives, one by one."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tcpmux.config import ConfigError
from tcpmux.config.document import Text
from tcpmux.config.loader import load_texts
from tcpmux.config.model import Config, Destination, Route
from tcpmux.config.settings import Bandwidth, Keepalive, Passive, Retry, SlowStart
from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.kinds import Input
from tcpmux.convert.nginx import server
from tcpmux.convert.nginx.lexer import Node, parse
from tcpmux.convert.nginx.values import milliseconds, size
from tcpmux.convert.report import Report
from tests.convert.beside import NGINX, NGINX_STREAM

FILES = Path(__file__).with_name("files") / "nginx"
LISTENING = "listen 127.0.0.1:80; proxy_pass 127.0.0.1:81;"
TWO = "server 127.0.0.1:81; server 127.0.0.1:82;"


def of(text: str) -> Conversion:
    return convert("nginx", [Input("nginx.conf", text)])


def config_of(text: str) -> Config:
    """Of a file that is converted whole."""
    found = of(text)
    assert not found.changes, [str(change) for change in found.changes]
    return load_texts([Text("routes.yaml", found.text, {})])


def routes_of(stream: str) -> tuple[Route, ...]:
    return config_of(f"stream {{ {stream} }}").routes


def server_of(directives: str, stream: str = "") -> Route:
    (route,) = routes_of(f"{stream} server {{ {LISTENING} {directives} }}")
    return route


def upstream_of(directives: str) -> Destination:
    (route,) = routes_of(f"upstream u {{ {directives} }} server {{ listen 80; proxy_pass u; }}")
    (destination,) = route.destinations
    return destination


def changes_of(stream: str) -> list[tuple[str, str]]:
    """(text, the feature that it needs)"""
    return [(one.text, one.needs) for one in of(f"stream {{ {stream} }}").changes]


# --- words --------------------------------------------------------------------------------------


def nodes_of(text: str) -> list[Node]:
    report = Report()
    found = parse("f", text, report)
    report.complain()
    return found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b;", ["a", "b"]),
        ("a 'b c' \"d;e\";", ["a", "b c", "d;e"]),
        ("a b#c#d; # e", ["a", "b#c#d"]),
        ("a b\"c'd;", ["a", "b\"c'd"]),
        ("a b}c;", ["a", "b}c"]),
        ("a ${b}c$d;", ["a", "${b}c$d"]),
        (r"a b\ c\;d\{;", ["a", r"b\ c\;d\{"]),
        (r"""a "\"\\\t\x" '\'';""", ["a", '"\\\t\\x', "'"]),
        ("a '' \"\";", ["a", "", ""]),
        ("a\n\tb\r\n;", ["a", "b"]),
        ("a b\u00a0c;", ["a", "b\u00a0c"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    (node,) = nodes_of(text)
    assert [word.text for word in node.words] == words


def test_a_word_knows_its_place() -> None:
    (outer,) = nodes_of("# x\na {\n  b 'c\nd'\n    e; f;}")
    assert outer.inside is not None
    places = [(w.text, w.line, w.column) for n in outer.inside for w in n.words]
    assert places == [("b", 3, 3), ("c\nd", 3, 5), ("e", 5, 5), ("f", 5, 8)]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a {", (1, 4), 'expected ";" or "}"'),
        ("a b", (1, 4), 'expected ";" or "{"'),
        ("a; }", (1, 4), 'unexpected "}"'),
        ("a }", (1, 3), 'unexpected "}"'),
        (";", (1, 1), 'unexpected ";"'),
        ("{}", (1, 1), 'unexpected "{"'),
        ('a "b', (1, 3), "is not closed"),
        ('a "b"c;', (1, 6), 'unexpected "c" after a quote'),
        ("a b\\", (1, 3), "is not closed"),
        (f"a {'b' * 5000};", (1, 3), "more than 4095 bytes"),
        ("a {" * 30, (1, 63), "levels of braces"),
    ],
)
def test_a_mistake_of_form(text: str, place: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        nodes_of(text)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == place
    assert message in problem.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10", 10_000),
        ("1500ms", 1500),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("1s500ms", 1500),
        ("2w", 1_209_600_000),
        ("1M", 2_592_000_000),
        ("1y", 31_536_000_000),
        ("1h30", 3_630_000),
        ("0", 0),
        ("30m1h", None),
        ("1.5s", None),
        ("", None),
        ("s", None),
        ("-1", None),
        ("1us", None),
        ("\u0661s", None),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    assert milliseconds(text) == expected


def test_times_of_whole_seconds() -> None:
    assert milliseconds("1500ms", whole_seconds=True) is None
    assert milliseconds("10s", whole_seconds=True) == 10_000


@pytest.mark.parametrize(
    ("text", "expected"), [("10", 10), ("2k", 2048), ("1M", 1 << 20), ("1g", None), ("", None)]
)
def test_sizes(text: str, expected: int | None) -> None:
    assert size(text) == expected


# --- a server -----------------------------------------------------------------------------------


def test_defaults_are_nginxs_own() -> None:
    route = server_of("")
    assert (route.connect_timeout, route.idle_timeout) == (60, 600)
    assert route.destinations[0].policy.keepalive.idle == 0
    assert route.destinations[0].policy.passive.errors == 0, "an only server is never left out"


def test_a_server_inherits_from_stream() -> None:
    stream = "proxy_timeout 12h; proxy_connect_timeout 2s;"
    route = server_of("proxy_timeout 1m;", stream)
    assert (route.connect_timeout, route.idle_timeout) == (2, 60)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("80", ["0.0.0.0:80"]),
        ("*:80", ["0.0.0.0:80"]),
        ("[::]:80 ipv6only=off", ["[::]:80"]),
        ("[::1]:80", ["[::1]:80"]),
        ("127.0.0.1:80-82", ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82"]),
        ("80-80", ["0.0.0.0:80"]),
        ("unix:/run/a.sock", ["unix:/run/a.sock"]),
        ("80 reuseport backlog=9 bind deferred fastopen=5 rcvbuf=1k sndbuf=1k", ["0.0.0.0:80"]),
    ],
)
def test_listen(listen: str, expected: list[str]) -> None:
    (route,) = routes_of(f"server {{ listen {listen}; proxy_pass 127.0.0.1:99; }}")
    assert [str(address) for address in route.listen] == expected
    assert route.policy.deny == ()


def test_ipv6_only_refuses_ipv4_where_the_port_has_none() -> None:
    (route,) = routes_of("server { listen [::]:80; proxy_pass 127.0.0.1:81; }")
    assert [str(network) for network in route.policy.deny] == ["0.0.0.0/0"]
    first, second = routes_of(
        "server { listen [::]:80; proxy_pass 127.0.0.1:81; }"
        "server { listen 80; proxy_pass 127.0.0.1:82; }"
    )
    assert first.policy.deny == second.policy.deny == ()


@pytest.mark.parametrize(
    ("listen", "server", "expected"),
    [
        ("so_keepalive=on", "", Keepalive(7200, 75, 9)),
        ("so_keepalive=off", "", Keepalive(0)),
        ("so_keepalive=30m::10", "", Keepalive(1800, 75, 10)),
        ("so_keepalive=30s:5s:", "proxy_socket_keepalive on;", Keepalive(30, 5, 9)),
        ("", "proxy_socket_keepalive on;", Keepalive(7200, 75, 9)),
    ],
)
def test_keepalive(listen: str, server: str, expected: Keepalive) -> None:
    (route,) = routes_of(f"server {{ listen 80 {listen}; proxy_pass 127.0.0.1:81; {server} }}")
    assert route.destinations[0].policy.keepalive == expected


def test_listeners_of_different_keepalive_are_two_routes() -> None:
    routes = routes_of("server { listen 80; listen 81 so_keepalive=on; proxy_pass 127.0.0.1:82; }")
    assert [str(route.listen[0]) for route in routes] == ["0.0.0.0:80", "0.0.0.0:81"]


def test_rates() -> None:
    route = server_of("proxy_upload_rate 512k; proxy_download_rate 1m;")
    assert route.destinations[0].policy.connection_bandwidth == Bandwidth(512 << 10, 1 << 20)


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ("", Retry(0, 100, 1_000_000)),
        ("proxy_next_upstream on;", Retry(0, 100, 1_000_000)),
        ("proxy_next_upstream off;", Retry(1)),
        ("proxy_next_upstream_tries 2;", Retry(2, 100, 1_000_000)),
        ("proxy_next_upstream_tries 0; proxy_next_upstream_timeout 0;", Retry(0, 100, 1_000_000)),
        ("proxy_next_upstream off; proxy_next_upstream_tries 3;", Retry(1)),
        ("proxy_next_upstream_tries 300;", Retry(0, 100, 1_000_000)),
    ],
)
def test_failover(directives: str, expected: Retry) -> None:
    (route,) = routes_of(
        f"upstream u {{ {TWO} }} server {{ listen 80; proxy_pass u; {directives} }}"
    )
    assert route.policy.retry == expected


@pytest.mark.parametrize(
    ("directives", "allow", "deny"),
    [
        ("allow 10.0.0.0/8; deny all;", ["10.0.0.0/8"], []),
        ("deny 10.0.0.1; allow 10.0.0.0/8; deny all;", ["10.0.0.0/8"], ["10.0.0.1/32"]),
        ("deny 10.0.0.1;", [], ["10.0.0.1/32"]),
        ("allow all; deny 10.0.0.1;", [], []),
        ("deny all;", [], ["0.0.0.0/0", "::/0", "unix"]),
        ("allow 10.1.2.3/8; allow unix:; deny all;", ["10.0.0.0/8", "unix"], []),
    ],
)
def test_access(directives: str, allow: list[str], deny: list[str]) -> None:
    policy = server_of(directives, "deny 192.0.2.1;").policy
    assert [str(one) for one in policy.allow] == allow
    assert [str(one) for one in policy.deny] == deny


def test_access_rules_are_inherited_all_or_none() -> None:
    assert [str(one) for one in server_of("", "deny 192.0.2.1;").policy.deny] == ["192.0.2.1/32"]


@pytest.mark.parametrize(
    ("stream", "needs"),
    [
        ("server { listen 80 ssl; proxy_pass 127.0.0.1:81; }", "TLS"),
        (f"server {{ {LISTENING} proxy_ssl on; }}", "TLS"),
        ("server { listen 80 udp; proxy_pass 127.0.0.1:81; }", "UDP"),
        ("server { listen 80; listen 80 udp; proxy_pass 127.0.0.1:81; }", "UDP"),
        (f"server {{ {LISTENING} proxy_bind 127.0.0.2; }}", "source addresses"),
        ("server { listen 80; return hello; }", "fixed answers"),
        ("server { listen 80; proxy_pass $remote_addr:80; }", "rules by source"),
        ("server { listen 80; proxy_pass $ssl_preread_server_name:80; }", "rules by SNI"),
        ("server { listen 80; proxy_pass $proxy_protocol_addr:80; }", "rules by source"),
        (
            "split_clients $server_port $x { 50% 127.0.0.1:81; * 127.0.0.1:82; } "  # noqa: ISC004
            "server { listen 80; proxy_pass $x; }",
            "sticky sessions",
        ),
    ],
)
def test_what_changes_traffic_says_what_would_map_it(stream: str, needs: str) -> None:
    assert needs in [found for _, found in changes_of(stream)]


@pytest.mark.parametrize(
    "directives",
    [
        "access_log off; error_log /dev/null; tcp_nodelay off; proxy_buffer_size 4k;",
        "ssl_preread off; preread_timeout 1s; preread_buffer_size 1k;",
        "proxy_ssl off; proxy_ssl_verify on; ssl_protocols TLSv1.2;",
        "proxy_protocol off; proxy_bind off; proxy_responses 1; proxy_requests 1;",
        "resolver 127.0.0.1; resolver_timeout 1s; status_zone x;",
    ],
)
def test_harmless(directives: str) -> None:
    for place in (server_of(directives), server_of("", directives)):
        assert place.policy == server_of("").policy
        assert place.destinations == server_of("").destinations


def test_a_setting_that_every_server_overrules_is_harmless() -> None:
    assert server_of("proxy_protocol off;", "proxy_protocol on;").policy == server_of("").policy


# --- an upstream --------------------------------------------------------------------------------


def test_an_upstream_is_one_destination() -> None:
    found = upstream_of("server 127.0.0.1:81 weight=2; server 127.0.0.1:82;")
    assert Counter(map(str, found.endpoints)) == {"127.0.0.1:81": 2, "127.0.0.1:82": 1}
    assert found.name == "u"


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        (TWO, Passive(1, 10, 10, 100)),
        ("server 127.0.0.1:81;", Passive(0)),
        ("server 127.0.0.1:81 max_fails=3;", Passive(0)),
        (
            "server 127.0.0.1:81 max_fails=3 fail_timeout=5s; server 127.0.0.1:82 backup;",
            Passive(3, 5, 5, 100),
        ),
        ("server 127.0.0.1:81 max_fails=0; server 127.0.0.1:82 max_fails=0;", Passive(0)),
        ("server 127.0.0.1:81; server 127.0.0.1:82 down;", Passive(1, 10, 10, 100)),
        ("server app.example:81;", Passive(1, 10, 10, 100)),
    ],
)
def test_when_a_server_is_left_out(directives: str, expected: Passive) -> None:
    assert upstream_of(directives).policy.passive == expected


def test_servers_that_are_left_out_by_different_rules() -> None:
    upstream = "upstream u { server 127.0.0.1:81 max_fails=3; server 127.0.0.1:82; }"
    found = changes_of(f"{upstream} server {{ listen 80; proxy_pass u; }}")
    assert found == [("max_fails=3", "ejection rules per endpoint")]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("", "round_robin"),
        ("least_conn;", "least_connections"),
        ("hash $remote_addr;", "source_hash"),
        ("hash $binary_remote_addr consistent;", "source_hash"),
        ("hash $remote_addr$remote_port;", "round_robin"),
        ("random;", "round_robin"),
        ("random two;", "random_two"),
        ("random two least_conn;", "random_two"),
        ("hash $remote_addr; least_conn;", "least_connections"),
    ],
)
def test_methods(method: str, expected: str) -> None:
    assert upstream_of(f"{method} {TWO}").policy.balance == expected


def test_slow_start() -> None:
    found = upstream_of("server 127.0.0.1:81 slow_start=30s; server 127.0.0.1:82 slow_start=30s;")
    assert found.policy.slow_start == SlowStart(30, 1)


def test_backups_limits_and_what_is_down() -> None:
    found = upstream_of(
        "zone u 64k; server 127.0.0.1:81 max_conns=5; server 127.0.0.1:82 backup;"
        "server 127.0.0.1:83 down;"
    )
    policies = {str(address): policy for address, policy in found.endpoint_policies}
    assert [str(endpoint) for endpoint in found.endpoints] == ["127.0.0.1:81", "127.0.0.1:82"]
    assert policies["127.0.0.1:81"].max_connections == 5
    assert policies["127.0.0.1:82"].priority == 1


def test_the_same_server_twice() -> None:
    found = upstream_of(
        "server 127.0.0.1:81 max_conns=5; server 127.0.0.1:82 weight=3;"
        "server 127.0.0.1:81 max_conns=6 weight=2;"
    )
    assert Counter(map(str, found.endpoints)) == {"127.0.0.1:81": 1, "127.0.0.1:82": 1}
    assert [policy.max_connections for _, policy in found.endpoint_policies] == [11]


def test_an_upstream_of_two_servers_has_no_common_limit() -> None:
    found = changes_of(
        "upstream u { zone u 64k; server 127.0.0.1:81 max_conns=5; server 127.0.0.1:82; }"
        "server { listen 79; proxy_pass u; } server { listen 80; proxy_pass u; }"
    )
    assert found == [("max_conns=5", "limits across routes")]


def test_names() -> None:
    found = config_of(
        "stream { resolver 127.0.0.1 [::1]:5353; upstream u { zone u 1m; "
        "server a.example:80 resolve; server b.example service=db resolve; } "
        "server { listen 80; proxy_pass u; } }"
    )
    (destination,) = found.routes[0].destinations
    expected = ["a.example:80", "srv:_db._tcp.b.example"]
    assert [str(endpoint) for endpoint in destination.endpoints] == expected
    assert [str(server) for server in found.dns_servers] == ["127.0.0.1:53", "[::1]:5353"]


# --- shares -------------------------------------------------------------------------------------


def test_a_split_keeps_its_percentages() -> None:
    (route,) = routes_of(
        "split_clients $remote_addr$remote_port $x { 0.5% a; 19.5% a; * b; }"
        f"upstream a {{ server 127.0.0.1:80; }} upstream b {{ {TWO} server 127.0.0.1:83; }}"
        "server { listen 79; proxy_pass $x; }"
    )
    assert [(d.name, d.weight) for d in route.destinations] == [("a", 20), ("b", 80)]
    assert route.policy.on_unavailable == "reject", "another upstream does not take its share"


def test_what_a_split_leaves_is_reset() -> None:
    (route,) = routes_of(
        "split_clients $remote_port $x { 30% 127.0.0.1:80; 20% nowhere; }"
        "server { listen 79; proxy_pass $x; }"
    )
    found = [(d.weight, len(d.endpoints)) for d in route.destinations]
    assert found == [(30, 1), (20, 0), (50, 0)]


def test_variables_of_a_listener() -> None:
    routes = routes_of(
        "map $server_port $x { default 127.0.0.1:1; 80 127.0.0.1:2; }"
        "server { listen 80; listen 81; listen 82; proxy_pass $x; }"
    )
    found = [([a.port for a in r.listen], str(r.destinations[0].endpoints[0])) for r in routes]
    assert found == [([80], "127.0.0.1:2"), ([81, 82], "127.0.0.1:1")]


def test_a_map_of_a_split() -> None:
    (route,) = routes_of(
        "split_clients $remote_port $x { 25% new; * old; }"
        "map $x $y { new 127.0.0.1:1; old 127.0.0.1:2; }"
        "server { listen 80; set $z $y; proxy_pass ${z}; }"
    )
    assert [d.weight for d in route.destinations] == [25, 75]


def test_a_name_of_a_variable_needs_a_resolver() -> None:
    stream = "set $x a.example:1; proxy_pass $x;"
    assert changes_of(f"server {{ listen 80; {stream} }}")
    assert not changes_of(f"server {{ listen 80; {stream} resolver 127.0.0.1; }}")


def test_a_split_into_more_than_a_route_has() -> None:
    shares = "".join(f"1% 10.0.0.{n}:1; " for n in range(80))
    stream = f"split_clients $remote_port $x {{ {shares} }} server {{ listen 80; proxy_pass $x; }}"
    assert changes_of(stream)


def test_a_long_list_of_clients_for_many_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result would have all of it for each."""
    monkeypatch.setattr(server, "MAX_ALL_NETWORKS", 10)
    rules = "".join(f"deny 10.0.0.{n}; " for n in range(4))
    servers = "".join(f"server {{ listen {n}; proxy_pass 10.1.0.1:1; }}" for n in range(100, 103))
    assert [text.partition(" ")[0] for text, _ in changes_of(f"{rules} {servers}")] == ["deny"] * 4
    assert len(routes_of(f"{rules} {servers.partition('}')[0]}}}")) == 1


def test_bombs_of_variables_end() -> None:
    """Each doubles the one before."""
    sets = "".join(f"set $v{n} $v{n - 1}$v{n - 1};" for n in range(1, 15))
    assert changes_of(f"server {{ listen 80; set $v0 aaaaaaaa; {sets} proxy_pass $v14; }}")


# --- names --------------------------------------------------------------------------------------


def test_names_are_readable_and_differ() -> None:
    long = "u" * 80
    routes = routes_of(
        f"upstream {long} {{ {TWO} }} upstream db {{ {TWO} }}"
        f"server {{ listen 80; proxy_pass {long}; }} server {{ listen 86; proxy_pass {long}; }}"
        "server { listen [::1]:82; proxy_pass [::1]:83; }"
        "server { listen 84; proxy_pass db; } server { listen unix:/run/x.sock; proxy_pass db; }"
    )
    assert [route.name for route in routes] == [
        f"{'u' * 57}-80",
        f"{'u' * 57}-86",
        "tcp-82",
        "db-84",
        "db",
    ]
    assert routes[2].destinations[0].name == "ipv6-1-83"
    assert all(len(route.name) <= 63 for route in routes)


# --- files --------------------------------------------------------------------------------------


def test_files_are_included_in_nginxs_order(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("b", "a", "C", ".hidden"):
        (tmp_path / "d" / f"{name}.conf").write_text(f"server 127.0.0.1:{1000 + ord(name[0])};")
    main = tmp_path / "nginx.conf"
    main.write_text(
        "stream { upstream u { include d/*.conf; } server { listen 80; proxy_pass u; } }"
    )
    found = convert("nginx", [Input(str(main), main.read_text())]).text
    ports = [line.rpartition(":")[2] for line in found.splitlines() if "- 127.0.0.1" in line]
    assert ports == [str(1000 + ord(name)) for name in "Cab"]


def test_including_is_bounded(tmp_path: Path) -> None:
    """Each file includes the next twice: 2^20 of them."""
    for n in range(20):
        (tmp_path / f"{n}.conf").write_text(f"include {n + 1}.conf; include {n + 1}.conf;")
    with pytest.raises(ConfigError):
        convert("nginx", [Input(str(tmp_path / "x"), "stream { include 0.conf; }")])


def test_a_file_of_another_kind_is_no_stream() -> None:
    found = of("server { listen 80; location / { proxy_pass http://x; } }")
    assert found.text == ""
    assert found.changes


def test_http_does_not_leak() -> None:
    found = of(
        "http { upstream u { server 127.0.0.1:1; } server { listen 80; } } "
        "stream { upstream u { server 127.0.0.1:2; } server { listen 81; proxy_pass u; } }"
    )
    assert [change.text.partition(" ")[0] for change in found.changes] == ["http"]
    assert "127.0.0.1:1\n" not in found.text
    assert ":80" not in found.text


def test_settings_of_the_instance() -> None:
    found = config_of(
        "worker_processes 3; worker_shutdown_timeout 1m; events { worker_connections 9; } "
        f"http {{ types {{ text/html html; }} }} stream {{ server {{ {LISTENING} }} }}"
    )
    assert (found.workers, found.drain_timeout) == (3, 60)


# --- properties ---------------------------------------------------------------------------------

WHOLE = sorted(
    path
    for path in FILES.glob("*.conf")
    if path.stem not in ("mistakes", "unbalanced", "include-cycle")
)
IN_ORDER = ("server", "allow", "deny", "listen", "hash", "random", "least_conn", "include", "set")
KEPT = ("split_clients", "map", "geo", "http")


def written(nodes: list[Node], dice: random.Random, *, shuffle: bool = True) -> str:
    """The same directives, otherwise."""
    if shuffle:
        ordered = iter([node for node in nodes if node.words[0].text in IN_ORDER])
        mixed = dice.sample(nodes, len(nodes))
        nodes = [next(ordered) if node.words[0].text in IN_ORDER else node for node in mixed]
    parts = []
    for node in nodes:
        parts += [_word(word.text, dice) + _gap(dice) for word in node.words]
        if node.inside is None:
            parts.append(";" + _gap(dice, may_be_none=True))
        else:
            keeps = node.words[0].text in KEPT
            inner = written(node.inside, dice, shuffle=shuffle and not keeps)
            parts.append(f"{{{_gap(dice, may_be_none=True)}{inner}}}")
    return "".join(parts)


def _word(text: str, dice: random.Random) -> str:
    needs = not text or any(sign in text for sign in " \t\r\n;{}'\"\\#")
    style = dice.choice("'\"" if needs else "'\" ")
    if style == " ":
        return text
    escaped = text.replace("\\", "\\\\").replace(style, f"\\{style}")
    return f"{style}{escaped}{style}"


def _gap(dice: random.Random, *, may_be_none: bool = False) -> str:
    gaps = [" ", "\n", "\t \r\n", "\n# } ; { ' \" x\n"]
    return dice.choice([*gaps, ""] if may_be_none else gaps)


def _meant(found: Conversion) -> tuple[list[str], Counter[tuple[str, str]]]:
    """Without places."""
    lines = [line for line in found.text.splitlines() if not line.lstrip().startswith("#")]
    words = Counter(
        (word, finding.effect.value)
        for finding in found.findings
        for word in finding.text.split(" ")
    )
    return lines, words


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_order_space_comments_and_quotes_change_nothing(path: Path) -> None:
    report = Report()
    nodes = parse(str(path), path.read_text(), report)
    expected = _meant(convert("nginx", [Input(str(path), path.read_text())]))
    for seed in range(5):
        text = written(nodes, random.Random(seed))
        found = _meant(convert("nginx", [Input(str(path), text)]))
        assert found == expected, text


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_every_word_is_in_one_class(path: Path) -> None:
    """All words of the file itself are in the report, once."""
    pending = parse(str(path), path.read_text(), Report())
    words: Counter[tuple[int, int]] = Counter()
    while pending:
        node = pending.pop()
        words.update((word.line, word.column) for word in node.words)
        pending += node.inside or []
    found = convert("nginx", [Input(str(path), path.read_text())])
    assert max(words.values()) == 1
    if all(finding.file == str(path) for finding in found.findings):
        assert sum(found.totals.values()) == len(words)


# --- nginx's own opinion ------------------------------------------------------------------------

REFUSED = [
    "upstream u { server 127.0.0.1:1; } server { listen 80; proxy_pass u:5432; }",
    "upstream u { server 127.0.0.1; } server { listen 80; proxy_pass u; }",
    "upstream u { server 127.0.0.1:1 weight=0; } server { listen 80; proxy_pass u; }",
    "upstream u { server 127.0.0.1:1 backup; } server { listen 80; proxy_pass u; }",
    "upstream u { server 127.0.0.1:1 max_fails=-1; } server { listen 80; proxy_pass u; }",
    "upstream u { server 127.0.0.1:1 fail_timeout=1500ms; } server { listen 80; proxy_pass u; }",
    "upstream u { hash $remote_addr; server 127.0.0.1:1; server 127.0.0.1:2 backup; }",
    "upstream u { } server { listen 80; proxy_pass u; }",
    "upstream u { server 127.0.0.1:1; } upstream U { server 127.0.0.1:2; }",
    "server { listen 80; proxy_pass nowhere; }",
    "server { listen 80; proxy_pass 127.0.0.1; }",
    "server { listen 80; proxy_pass 127.0.0.1:0; }",
    "server { listen 80; proxy_pass 127.0.0.1:70000; }",
    "server { listen 80; }",
    "server { proxy_pass 127.0.0.1:1; }",
    "server { listen 82-80; proxy_pass 127.0.0.1:1; }",
    "server { listen 0; proxy_pass 127.0.0.1:1; }",
    "server { listen 80 so_keepalive=::; proxy_pass 127.0.0.1:1; }",
    "server { listen 80 ipv6only=maybe; proxy_pass 127.0.0.1:1; }",
    "server { listen 80; listen 80; proxy_pass 127.0.0.1:1; }",
    f"server {{ {LISTENING} proxy_timeout 1s; proxy_timeout 2s; }}",
    f"server {{ {LISTENING} proxy_timeout 30m1h; }}",
    f"server {{ {LISTENING} proxy_timeout 1 s; }}",
    f"server {{ {LISTENING} proxy_upload_rate 10x; }}",
    f"server {{ {LISTENING} proxy_half_close maybe; }}",
    f"server {{ {LISTENING} allow host.example; }}",
    f"server {{ {LISTENING} deny 10.0.0.0/33; }}",
    f"server {{ {LISTENING} limit_conn nowhere 1; }}",
    f"limit_conn_zone $pid zone=z:1m; server {{ {LISTENING} limit_conn z 1; limit_conn z 2; }}",
    f"server {{ {LISTENING} }} }} stream {{",
    f"limit_conn_zone $remote_addr zone=z:64k; server {{ {LISTENING} limit_conn z 0; }}",
    "split_clients $remote_port $x { 0% a; * b; } server { listen 80; proxy_pass $x; }",
    "split_clients $remote_port $x { 60% a; 50% b; } server { listen 80; proxy_pass $x; }",
    "split_clients $remote_port $x { 1.234% a; * b; } server { listen 80; proxy_pass $x; }",
    "split_clients $remote_port $x { * b; 50% c; } server { listen 80; proxy_pass $x; }",
    "server { listen 80; proxy_pass '127.0.0.1:1'x; }",
    "server { listen 80; proxy_pass 127.0.0.1:1",
]


@pytest.mark.parametrize("stream", REFUSED)
def test_what_nginx_refuses_is_refused(stream: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        of(f"stream {{ {stream} }}")
    if NGINX_STREAM.exists():
        file = tmp_path / "nginx.conf"
        head = f"load_module {NGINX_STREAM}; pid {tmp_path}/pid; events {{}}"
        file.write_text(f"{head} stream {{ {stream} }}")
        tried = subprocess.run(
            [NGINX, "-e", "stderr", "-t", "-c", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert tried.returncode == 1, tried.stderr
        assert "[emerg]" in tried.stderr
