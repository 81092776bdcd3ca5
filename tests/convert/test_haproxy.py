"""haproxy.cfg: what its words come to. Each rule was looked up in HAProxy's manual, and most were
tried with HAProxy itself: test_beside.py."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmux.config import ConfigError, Destination, Route, load
from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.haproxy.conditions import Malformed, value_of
from tcpmux.convert.haproxy.lexer import Mistake, words_of
from tcpmux.convert.haproxy.tables import DIRECTIVES
from tcpmux.convert.kinds import Input

FILES = Path(__file__).with_name("files") / "haproxy"
LISTEN = "listen f\n bind 127.0.0.1:19001\n server a 127.0.0.1:19101\n server b 127.0.0.1:19102\n"


def found_in(text: str, *more: str) -> Conversion:
    names = ["a.cfg", *(f"{number}.cfg" for number, _ in enumerate(more))]
    inputs = [Input(n, t) for n, t in zip(names, (text, *more), strict=True)]
    return convert("haproxy", inputs)


def routes(tmp_path: Path, text: str, *more: str) -> tuple[Route, ...]:
    """Of a file that converts without loss."""
    found = found_in(text, *more)
    assert not found.changes, [str(change) for change in found.changes]
    file = tmp_path / "routes.yaml"
    file.write_text(found.text)
    return load([file]).routes


def destination(tmp_path: Path, extra: str, servers: str = "") -> Destination:
    text = LISTEN if not servers else f"listen f\n bind 127.0.0.1:19001\n{servers}\n"
    (route,) = routes(tmp_path, f"{text}{extra}\n")
    (made,) = route.destinations
    return made


def refusals(text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        found_in(text)
    return [problem.message for problem in error.value.problems]


def changes(text: str) -> list[tuple[str, str]]:
    """(words, what tcpmux needs)."""
    return [(found.text, found.needs) for found in found_in(text).changes]


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a b#c d", ["a", "b"]),
        (r"a\ b \# \\ \"", ["a b", "#", "\\", '"']),
        ("'a \"#\\n' \"b '#\"", ['a "#\\n', "b '#"]),
        (r"\x41\t\n \q", ["A\t\n", r"\q"]),
        ('"$ONE" "${ONE}2" $ONE \'$ONE\'', ["1 2", "1 22", "$ONE", "$ONE"]),
        ('"${NO-x y}" "${EMPTY-x}" ""', ["x y", "", ""]),
        ('"${ONE[*]}" b"${ONE[*]}"c', ["1", "2", "b1", "2c"]),
        ("a\tb\r", ["a", "b"]),
        ('"a\\$ONE"', ["a$ONE"]),
    ],
)
def test_words_of_a_line(line: str, words: list[str]) -> None:
    found = words_of(line, 1, {"ONE": "1 2", "EMPTY": ""})
    assert [word.text for word in found.words] == words
    assert not found.missing


@pytest.mark.parametrize("line", ['a "b', "a 'b", "a\\", "\\xg1", '"$"', "a\0b", "x " * 65])
def test_lines_that_haproxy_refuses(line: str) -> None:
    with pytest.raises(Mistake):
        words_of(line, 1, {})


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("", False),
        ("0", False),
        ("7", True),
        ("defined(ONE)", True),
        ("!defined(TWO) && streq(a,a)", True),
        ("streq(a,b) || strneq(a,b) && 0", False),
        ("(streq(a,b) || strneq(a,b)) && 1", True),
        ("feature(OPENSSL)", None),
        ("feature(OPENSSL) && 0", False),
        ("1 || version_atleast(2.8)", True),
        ("!version_before(2.8)", None),
    ],
)
def test_conditions(condition: str, value: bool | None) -> None:
    assert value_of(condition, {"ONE": ""}) is value


@pytest.mark.parametrize("text", ["(", "a b", "unknown(x)", "1 &&", "!" * 99 + "1", "(" * 99])
def test_conditions_that_haproxy_refuses(text: str) -> None:
    with pytest.raises(Malformed):
        value_of(text, {})


def test_a_branch_that_can_not_be_decided_is_left_out_by_name() -> None:
    found = changes(
        f".if feature(X)\n{LISTEN}.elif 1\n bind a:1\n.else\n bind b:1\n.endif\n{LISTEN}"
    )
    assert [text for text, _ in found][:2] == [".if feature(X)", "listen f"]
    assert any(text.startswith(".else") for text, _ in found)


# --- timeouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "idle", "half_open"),
    [
        ("", 0, 0),
        ("timeout client 30s\n timeout server 30s", 30, 0),
        ("timeout client 30s\n timeout server 10s", 10, 0),
        ("timeout client 10s\n timeout server 30s", 10, 30),
        ("timeout tunnel 2h\n timeout client 30s\n timeout server 30s", 7200, 0),
        ("timeout client 30s\n timeout server 30s\n timeout tunnel 2h", 7200, 0),
        ("timeout client 30s\n timeout server 30s\n timeout tunnel 0", 30, 0),
        ("timeout server 1h\n timeout client-fin 5s\n timeout server-fin 5s", 3600, 5),
        ("timeout client 500us\n timeout server 1001us", 0.001, 0.002),
        ("timeout client 24d\n timeout server 24d", 24 * 86400, 0),
        ("timeout client 1m\n timeout client 2m\n timeout server 2m", 120, 0),
    ],
)
def test_idle_times(tmp_path: Path, lines: str, idle: float, half_open: float) -> None:
    made = destination(tmp_path, f" {lines}")
    assert (made.policy.idle_timeout, made.policy.half_open_timeout) == (idle, half_open)


def test_the_clients_time_is_the_frontends_and_the_others_the_backends(tmp_path: Path) -> None:
    text = (
        "defaults\n mode tcp\n timeout client 1h\n timeout server 1h\n timeout connect 1s\n"
        "frontend f\n bind 127.0.0.1:19001\n timeout client 50m\n timeout server 1s\n"
        " default_backend b\n"
        "backend b\n timeout client 1s\n timeout server 50m\n timeout connect 3s\n"
        " server a 127.0.0.1:19101\n"
    )
    (route,) = routes(tmp_path, text)
    policy = route.destinations[0].policy
    assert (policy.idle_timeout, policy.connect_timeout) == (3000, 3)


@pytest.mark.parametrize("text", ["60d", "1h30m", "ten", "", "-1", "1e3", "9" * 30])
def test_times_that_haproxy_refuses(text: str) -> None:
    assert refusals(f"{LISTEN} timeout client {text}\n")


def test_fins_that_differ_change_traffic() -> None:
    found = changes(f"{LISTEN} timeout client-fin 1s\n")
    assert found == [("timeout client-fin 1s", "timeouts of one side")]


# --- servers --------------------------------------------------------------------------------------


def test_defaults_of_servers_are_those_of_the_lines_before(tmp_path: Path) -> None:
    made = destination(
        tmp_path,
        "",
        " default-server weight 20 check inter 1s\n server a 127.0.0.1:1\n"
        " default-server weight 40\n server b 127.0.0.1:2\n server c 127.0.0.1:3 weight 60",
    )
    turns = [made.endpoints.count(one) for one in dict.fromkeys(sorted(made.endpoints, key=str))]
    assert turns == [1, 2, 3]
    assert made.policy.check is not None
    assert made.policy.check.interval == 1


@pytest.mark.parametrize(
    ("extra", "priorities"),
    [
        (" server a 127.0.0.1:1 check\n server b 127.0.0.1:2 check backup", [0, 1]),
        (" server a 127.0.0.1:1\n server b 127.0.0.1:2 backup", [0]),
        (" server b 127.0.0.1:2 backup\n server c 127.0.0.1:3 backup", [1, 2]),
        (
            " option allbackups\n server b 127.0.0.1:2 backup\n server c 127.0.0.1:3 backup",
            [1, 1],
        ),
        (" server a 127.0.0.1:1 weight 0\n server b 127.0.0.1:2 backup", [1]),
        (
            " server a 127.0.0.1:1 check\n server b 127.0.0.1:2\n server c 127.0.0.1:3 backup",
            [0, 0],
        ),
    ],
)
def test_backups(tmp_path: Path, extra: str, priorities: list[int]) -> None:
    """HAProxy uses them once every other server is down, which only a check can say."""
    made = destination(tmp_path, "", extra)
    policies = dict(made.endpoint_policies)
    assert [
        policies[e].priority if e in policies else 0 for e in sorted(made.endpoints, key=str)
    ] == (priorities)


def test_the_same_address_twice_is_one_endpoint_with_both_limits(tmp_path: Path) -> None:
    made = destination(
        tmp_path, "", " server a 127.0.0.1:1 maxconn 5\n server b 127.0.0.1:1 maxconn 7"
    )
    (policy,) = dict(made.endpoint_policies).values()
    assert policy.max_connections == 12


@pytest.mark.parametrize(
    ("word", "needs"),
    [
        ("send-proxy-v2 proxy-v2-options crc32c,tlv", "PROXY header extensions"),
        ("proxy-v2-options ssl", "PROXY header extensions"),
        ("check check-send-proxy", "the PROXY protocol"),
        ("ssl verify none", "TLS"),
        ("check agent-check agent-port 9", "agent checks"),
        ("source 10.0.0.1", "source addresses"),
        ("source 0.0.0.0 usesrc clientip", "source addresses"),
        ("check on-marked-down shutdown-sessions", "closing open connections"),
        ("minconn 5 maxconn 10", "dynamic limits"),
        ("surprise", ""),
        ("check inter 1s downinter 5s", "the interval while down"),
        ("check observe layer4", "observed errors"),
        ("track other/x", "tracked states"),
    ],
)
def test_words_of_a_server_that_change_traffic(word: str, needs: str) -> None:
    text = f"listen f\n bind 127.0.0.1:1\n server a 127.0.0.1:2 {word}\n"
    found = changes(text)
    assert found
    assert {n for _, n in found} == {needs}
    # Not of a server that gets no connection.
    if word != "surprise":
        assert not changes(f"{text.rstrip()} disabled\n")


def test_a_word_that_a_later_one_undoes_does_not_count(tmp_path: Path) -> None:
    made = destination(
        tmp_path,
        "",
        " default-server send-proxy check backup\n"
        " server a 127.0.0.1:1 no-send-proxy no-check no-backup\n",
    )
    assert made.policy.check is None
    assert not made.endpoint_policies


def test_a_servers_port_may_follow_the_clients(tmp_path: Path) -> None:
    text = "listen f\n bind 127.0.0.1:19001-19003\n server a 10.0.0.1\n server b 10.0.0.2:-1\n"
    made = {
        route.listen[0].port: sorted(map(str, route.destinations[0].endpoints))
        for route in routes(tmp_path, text)
    }
    assert made == {
        port: [f"10.0.0.1:{port}", f"10.0.0.2:{port - 1}"] for port in (19001, 19002, 19003)
    }


# --- rules ----------------------------------------------------------------------------------------

PAIR = "backend v1\n server a 127.0.0.1:1\nbackend v2\n server b 127.0.0.1:2\n"


def shares(tmp_path: Path, rules: str) -> dict[str, Fraction]:
    text = f"{PAIR}frontend f\n bind 127.0.0.1:19001\n{rules}\n default_backend v1\n"
    (route,) = routes(tmp_path, text)
    total = sum(d.weight for d in route.destinations)
    return {d.name: Fraction(d.weight, total) for d in route.destinations}


@pytest.mark.parametrize(
    ("rules", "part"),
    [
        ("use_backend v2 if { rand(100) lt 20 }", Fraction(1, 5)),
        ("use_backend v2 if { rand(100) ge 20 }", Fraction(4, 5)),
        ("use_backend v2 unless { rand(100) lt 20 }", Fraction(4, 5)),
        ("use_backend v2 if !{ rand(100) le 19 }", Fraction(4, 5)),
        ("use_backend v2 if { rand(3) 0 2 }", Fraction(2, 3)),
        ("use_backend v2 if { rand(10) 0:4 3:6 }", Fraction(7, 10)),
        ("use_backend v2 if { rand(2) 0 } { rand(2) 0 }", Fraction(1, 4)),
        ("use_backend v2 if { rand(2) 0 } or { rand(2) 0 }", Fraction(3, 4)),
        ("use_backend v2 if { rand(2) 0 }\n use_backend v2 if { rand(2) 0 }", Fraction(3, 4)),
        ("acl x rand(4) 0\n use_backend v2 if x || x", Fraction(7, 16)),
        ("use_backend v2 if { rand lt 429496730 }", Fraction(429496730, 2**32)),
        ("use_backend v2 if { rand(100) lt 20 } { dst_port 19001 }", Fraction(1, 5)),
        ("use_backend v2 if { rand(100) lt 20 } FALSE", Fraction(0)),
        ("use_backend v2 if TRUE", Fraction(1)),
    ],
)
def test_a_rule_by_chance_is_a_share(tmp_path: Path, rules: str, part: Fraction) -> None:
    found = shares(tmp_path, f" {rules}").get("v2", Fraction(0))
    assert abs(found - part) < Fraction(1, 1_000_000)
    assert found == part or "429496730" in rules


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        ("use_backend v2 if { req.ssl_sni -i a.example }", "rules that do not wait"),
        ("use_backend %[req.ssl_sni,lower]", "rules by SNI"),
        ("use_backend v2 if { nbsrv(v1) lt 1 }", "rules by load"),
        ("use_backend v2 if { req.len gt 0 }", "rules on content"),
        ("tcp-request connection reject if { src_conn_rate gt 10 }", "tracking of clients"),
        ("tcp-request content reject if !{ req.ssl_hello_type 1 }", "rules that do not wait"),
        ("tcp-request session reject if !{ req.ssl_hello_type 1 }", "rules by SNI"),
        ("use_backend v2 if { src_port lt 1024 }", "tracking of clients"),
        ("tcp-request connection expect-proxy layer4 if { rand(2) 0 }", "the PROXY protocol"),
        ("rate-limit sessions 10", "queues at a rate limit"),
    ],
)
def test_rules_that_change_traffic(rule: str, needs: str) -> None:
    found = changes(f"{PAIR}frontend f\n bind 127.0.0.1:19001\n {rule}\n default_backend v1\n")
    assert {n for _, n in found} == {needs}


def test_a_rule_by_port_makes_a_route_of_each_port(tmp_path: Path) -> None:
    text = (
        f"{PAIR}frontend f\n bind 127.0.0.1:19001-19003\n use_backend v2 if {{ dst_port 19002: }}\n"
        " tcp-request connection reject if { dst_port 19003 } !{ src 10.0.0.0/8 }\n"
        " default_backend v1\n"
    )
    made = {r.name: (r.destinations[0].name, r.policy.allow) for r in routes(tmp_path, text)}
    assert [(name, to, [str(n) for n in allow]) for name, (to, allow) in made.items()] == [
        ("f-19001", "v1", []),
        ("f-19002", "v2", []),
        ("f-19003", "v2", ["10.0.0.0/8"]),
    ]


@pytest.mark.parametrize(
    ("rules", "allow", "deny"),
    [
        ("connection reject if { src 10.0.0.0/8 }", [], ["10.0.0.0/8"]),
        ("connection reject unless { src 10.0.0.0/8 }", ["10.0.0.0/8"], []),
        ("content reject if !{ src 10.0.0.0/8 }", ["10.0.0.0/8"], []),
        ("session accept if { src 10.1.2.3/8 }\n tcp-request session reject", ["10.0.0.0/8"], []),
        ("connection reject", [], ["0.0.0.0/0", "::/0", "unix"]),
        ("connection accept\n tcp-request connection reject", [], []),
    ],
)
def test_clients(tmp_path: Path, rules: str, allow: list[str], deny: list[str]) -> None:
    (route,) = routes(tmp_path, f"{LISTEN} tcp-request {rules}\n")
    assert [str(one) for one in route.policy.allow] == allow
    assert [str(one) for one in route.policy.deny] == deny


def test_a_client_is_accepted_at_each_stage(tmp_path: Path) -> None:
    rules = (
        " tcp-request connection accept if { src 10.0.0.0/14 }\n tcp-request connection reject\n"
        " tcp-request content reject if { src 10.1.0.0/16 }\n"
    )
    (route,) = routes(tmp_path, LISTEN + rules)
    assert [str(one) for one in route.policy.allow] == ["10.0.0.0/16", "10.2.0.0/15"]
    assert not route.policy.deny


def test_lists_in_files(tmp_path: Path) -> None:
    file = tmp_path / "office.lst"
    file.write_text("# the office\n10.0.0.0/8\n\n192.168.0.0/16\n")
    rule = f" tcp-request connection reject unless {{ src -f {file} }}\n"
    (route,) = routes(tmp_path, LISTEN + rule)
    assert [str(one) for one in route.policy.allow] == ["10.0.0.0/8", "192.168.0.0/16"]
    file.unlink()
    assert "can't be read" in refusals(LISTEN + rule)[0]


# --- files ----------------------------------------------------------------------------------------


def test_several_files_are_one(tmp_path: Path) -> None:
    (route,) = routes(
        tmp_path,
        "defaults\n mode tcp\n timeout client 5s\n timeout server 5s\n",
        "frontend f\n bind 127.0.0.1:1\n default_backend b\n",
        "backend b\n server a 127.0.0.1:2\n",
    )
    assert route.destinations[0].policy.idle_timeout == 5
    with pytest.raises(ConfigError, match="outside of a section"):
        found_in(LISTEN, " server c 127.0.0.1:3\n")


CONVERTED = [
    path
    for path in sorted(FILES.glob("*.cfg"))
    if "[exit 0]" in path.with_suffix(".out").read_text() and "--" not in path.name
]


def _quoted(word: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.:,/@*+-]+", word):
        return random.choice([word, f'"{word}"', f"'{word}'", f"{word[:1]}'{word[1:]}'"])
    return word


def _respaced(line: str) -> str:
    if '"' in line or "'" in line or "\\" in line:
        return f"\t {line.strip()}   "
    body, mark, comment = line.partition("#")
    words = [_quoted(word) for word in body.split()]
    if words and words[0].strip("\"'").startswith("."):
        words = body.split()
    return "  " + "\t ".join(words) + f" {mark}{comment}"


@pytest.mark.parametrize("path", CONVERTED, ids=lambda path: path.stem)
def test_comments_white_space_and_quotes_change_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)  # maps are beside a file
    random.seed(1)
    text = path.read_text()
    other = "\n# a comment\n".join(_respaced(line) for line in text.split("\n")) + " # end\n"
    assert _plain(found_in(other).text) == _plain(found_in(text).text)


@pytest.mark.parametrize("path", CONVERTED, ids=lambda path: path.stem)
def test_the_order_of_sections_and_of_single_directives_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)  # maps are beside a file
    random.seed(2)
    text = path.read_text()
    if "\n.if" in text:
        return
    head, *sections = re.split(
        r"^(?=global|defaults|frontend|backend|listen|resolvers)", text, flags=re.MULTILINE
    )
    fixed = [s for s in sections if s.startswith(("global", "defaults"))]
    moved = [s for s in sections if s not in fixed]
    random.shuffle(moved)
    other = head + "".join(fixed) + "".join(_shuffled(section) for section in moved)
    found = _routes_of(found_in(other).text)
    assert found == _routes_of(found_in(text).text)


_SINGLE = ("timeout", "option", "balance", "maxconn", "retries", "mode", "hash-type", "fullconn")


def _shuffled(section: str) -> str:
    """Directives that stand once, in another order, behind all others."""
    head, *lines = section.rstrip("\n").split("\n")
    single = [line for line in lines if line.split()[:1] and line.split()[0] in _SINGLE]
    others = [line for line in lines if line not in single]
    random.shuffle(single)
    return "\n".join([head, *others, *single]) + "\n"


def _plain(text: str) -> str:
    return re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)


def _routes_of(text: str) -> list[str]:
    return sorted(re.split(r"^  - ", _plain(text), flags=re.MULTILINE))


@pytest.mark.parametrize("path", sorted(FILES.glob("*.cfg")), ids=lambda path: path.stem)
def test_every_word_is_in_exactly_one_class(path: Path) -> None:
    try:
        found = found_in(path.read_text())
    except ConfigError:
        return
    lines = enumerate(path.read_text().split("\n"), 1)
    words = [word for number, line in lines for word in words_of(line, number, {}).words]
    assert sum(found.totals.values()) == len(words)
    places = {(finding.line, finding.column) for finding in found.findings}
    assert len(places) == len(found.findings)
    assert places <= {(word.line, word.column) for word in words}


WORDS = [
    *DIRECTIVES,
    "server a 127.0.0.1:1",
    "server-template a 1-9 x:1",
    "no",
    "if",
    "{",
    "}",
    "!",
]


@given(st.lists(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=6), max_size=8))
def test_directives_without_sense_are_refused_or_told(lines: Sequence[Sequence[str]]) -> None:
    text = LISTEN + "".join(f" {' '.join(line)}\n" for line in lines)
    try:
        found = found_in(text)
    except ConfigError:
        return
    assert all(str(finding).isprintable() for finding in found.findings)


def _many(line: str) -> Callable[[int], str]:
    """So many lines in the section; @: their number."""
    return lambda n: LISTEN + "".join(f" {line.replace('@', str(i))}\n" for i in range(n))


LONG: dict[str, Callable[[int], str]] = {
    "servers": _many("server s@ 10.0.0.1:1@"),
    "default-server": _many("default-server inter 1s"),
    "backends": lambda n: (
        "defaults\n"
        + " option tcplog\n" * n
        + "".join(f"backend b{i}\n server a 127.0.0.1:1\n" for i in range(n))
        + LISTEN
    ),
    "options": _many("option independent-streams"),
    "rules": _many("tcp-request connection reject if { src 10.0.0.1 }"),
    "networks": _many("tcp-request connection reject if { src 10.@.0.0/30 }"),
    "binds": lambda n: LISTEN.replace("19001", "20000-24000") + " acl x dst_port 1\n" * n,
    "quotes": lambda n: LISTEN + " description '" + "x" * n + "'\n",
    "conditions": lambda n: ".if 1\n" * n + LISTEN,
    "chains": lambda n: "".join(f"defaults d{i + 1} from d{i}\n" for i in range(n)),
}


@pytest.mark.parametrize("kind", LONG)
def test_long_files_take_a_time_in_proportion(kind: str) -> None:
    """Twelve times as long, and not some hundred times as much work."""

    def took(count: int) -> float:
        text = LONG[kind](count)
        start = time.process_time()
        with suppress(ConfigError):
            found_in(text)
        return time.process_time() - start

    took(100)
    assert took(3000) < 60 * took(250) + 1
