"""Rules in the route table: they come back whole, and workers find the first that a connection
meets: compared with a plain search, rule after rule."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, TypeVar

import pytest

from tcpmux.config import Address, Admin, Config, Destination, Route, Rule
from tcpmux.config import rule as rule_module
from tcpmux.config.rule_match import Client, Facts, is_named, rule_met, why_not
from tcpmux.control.explanation import facts_asked
from tcpmux.shm import _pick, build
from tcpmux.shm._image import publish_image, read_image
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.image import Image, with_addresses
from tcpmux.shm.rule_index import index_of
from tcpmux.shm.slots import Names, TableFull

LISTEN = (
    Address("127.0.0.1", 5432, ""),
    Address("127.0.0.1", 5433, ""),
    Address("::1", 5432, ""),
    Address("", 0, "/run/db.sock"),
)
IDS = {address: 7 + 3 * n for n, address in enumerate(reversed(LISTEN))}


def image_of(*routes: tuple[Rule, ...]) -> Image:
    made = []
    for n, rules in enumerate(routes):
        listen = LISTEN if n == len(routes) - 1 else ()
        destinations = (
            Destination("v1", 9, (Address("127.0.0.1", 1, ""),)),
            Destination("v2", 1, (Address("127.0.0.1", 2, ""),)),
        )
        made.append(Route(f"r{n}", listen, destinations, rules=rules))
    config = Config(None, None, Admin("/x"), 45.0, tuple(made))
    return build_image(config, {}, Names.new(lambda _: True), IDS, 1, {})


@pytest.fixture
def table() -> Table:
    return Table.create(1, 1, 1, 0)


def found(table: Table, rules: Sequence[Rule], facts: Facts) -> int:
    """By the lists, in the second route of an image."""
    assert facts.listener is not None
    return _pick.rule_met(table, 1, facts, IDS[facts.listener])


# --- what there can be, drawn at random ---------------------------------------------------------

NETWORKS = [ip_network(n) for n in (
    "0.0.0.0/0", "10.0.0.0/8", "10.9.0.0/16", "10.9.1.0/24", "10.9.1.2", "10.9.1.3", "11.0.0.0/8",
    "255.255.255.255", "::/0", "fd00::/8", "fd09::/16", "fd09::1", "ffff::/16",
    "::ffff:10.9.0.0/112",
)]  # fmt: skip
NAMES = ("shop.example", "a.shop.example", "b.a.shop.example", "example", "xample", "other.test")
PATTERNS = (*NAMES, "*.example", "*.shop.example", "*.a.shop.example", "*.test", "*.xample")
ALPN = ("h2", "http/1.1", "postgresql", "h")
VALUES = (b"a", b"ab", b"\x01vpce-1", b"")
CLIENTS: list[Client] = [
    "unix",
    *map(IPv4Address, ("0.0.0.0", "10.9.1.2", "10.9.1.3", "10.9.1.4", "10.9.2.0", "10.255.255.255",
                       "11.0.0.0", "9.255.255.255", "255.255.255.255")),
    *map(IPv6Address, ("::1", "fd09::1", "fd09::2", "fd10::", "ffff::", "fcff::", "fe00::",
                       "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
]  # fmt: skip


T = TypeVar("T")


def some(draw: random.Random, of: Sequence[T], chance: float) -> tuple[T, ...]:
    if draw.random() > chance:
        return ()
    return tuple(draw.sample(list(of), draw.randint(1, min(3, len(of)))))


def a_rule(draw: random.Random, number: int) -> Rule:
    kinds = some(draw, (0x05, 0xEA), 0.2)
    chance = draw.choice((0.1, 0.4))
    return Rule(
        name=f"r{number}",
        sources=some(draw, [*NETWORKS, "unix"], 0.6),
        ports=some(draw, (5432, 5433), chance),
        listen=some(draw, LISTEN, chance / 2),
        sni=some(draw, PATTERNS, chance),
        alpn=some(draw, ALPN, chance / 2),
        tlvs=tuple((kind, some(draw, VALUES, 1)) for kind in sorted(kinds)),
        tls=draw.choice((None, None, None, True, False)),
        weights=(("v1", 1),),
    )


def some_facts(draw: random.Random) -> Facts:
    return Facts(
        client=draw.choice(CLIENTS),
        listener=draw.choice(LISTEN),
        tls=draw.choice((None, True, False)),
        sni=draw.choice(("", *NAMES, ".example", "a..example", "..", "a" * 255, "example.")),
        alpn=some(draw, ALPN, 0.7),
        tlvs=tuple(
            (kind, draw.choice(VALUES)) for kind in some(draw, (0x05, 0xEA, 0x20, 0xEA), 0.7)
        ),
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_lists_find_what_a_search_from_the_first_rule_on_finds(table: Table, seed: int) -> None:
    draw = random.Random(seed)
    rules = tuple(a_rule(draw, n) for n in range(draw.choice((1, 3, 10, 40))))
    first = (Rule(sources=(ip_network("10.0.0.0/8"),), sni=("a.b",), alpn=("x",), reject=True),)
    publish_image(table, image_of(first, rules))
    met = 0
    for _ in range(400):
        facts = some_facts(draw)
        wanted = rule_met(rules, facts)
        assert found(table, rules, facts) == wanted, (rules, facts)
        met += wanted >= 0
    assert met > 0


@pytest.mark.parametrize("seed", range(8))
def test_networks_drawn_at_random(table: Table, seed: int) -> None:
    """Of all lengths and nested, with clients at their edges."""
    draw = random.Random(seed)
    networks = []
    for _ in range(300):
        bits = draw.randint(8, 32)
        base = (10 << 24 | draw.getrandbits(24)) >> (32 - bits) << (32 - bits)
        networks.append(ip_network((base, bits)))
    rules = tuple(
        Rule(name=f"r{n}", sources=tuple(networks[n * 3 : n * 3 + 3]),
             tls=draw.choice((None, True)), reject=True)
        for n in range(100)
    )  # fmt: skip
    publish_image(table, image_of((), rules))
    edges = [e for n in networks for e in (int(n.network_address), int(n.broadcast_address))]
    for edge in draw.sample(edges, 200):
        for at in (edge - 1, edge, edge + 1):
            for tls in (True, False):
                facts = Facts(IPv4Address(at), LISTEN[0], tls=tls)
                assert found(table, rules, facts) == rule_met(rules, facts), facts


def test_names_with_the_same_end(table: Table) -> None:
    rules = tuple(Rule(sni=(p,), reject=True) for p in ("*.b.c", "b.c", "*.c", "x.b.c", "c"))
    publish_image(table, image_of((), rules))
    for sni, wanted in {
        "b.c": 1, "a.b.c": 0, "x.b.c": 0, "a.a.b.c": 0, "ab.c": 2, "c": 4, "d": -1, "": -1,
        ".b.c": 2, ".c": -1, "bc": -1, "a.b.c.d": -1, "A.B.C": -1,
    }.items():  # fmt: skip
        facts = Facts("unix", LISTEN[3], True, sni)
        assert found(table, rules, facts) == wanted, sni


# --- the image ----------------------------------------------------------------------------------

EVERYTHING = Rule(
    name="testers", sources=(ip_network("10.9.0.0/16"), ip_network("fd00::/8"), "unix"),
    ports=(5432,), listen=LISTEN, sni=("*.example", "a.b"), alpn=("h2",),
    tlvs=((0x05, (b"a", b"\x00\xff")), (0xEA, (b"\x01vpce",))), tls=True,
    weights=(("v2", 3), ("v1", 9)),
)  # fmt: skip


def test_an_image_with_rules_comes_back_whole(table: Table) -> None:
    rules = (EVERYTHING, Rule(tls=False, reject=True), Rule(weights=(("v1", 0),)))
    image = image_of((Rule(weights=(("v2", 1),)),), rules)
    publish_image(table, image)
    _, again = read_image(table)
    assert [route.pick_rules for route in again.routes] == [r.pick_rules for r in image.routes]
    of = again.routes[1].pick_rules
    assert [rule.name for rule in of] == [rule.called for rule in rules]
    assert of[0].weights == of[0].file_weights == (9, 3)
    assert of[0].effective_weights == (3, 1)
    numbers = [(r.slot, r.ticket) for r in again.routes]
    numbers += [(r.slot, r.ticket) for route in again.routes for r in route.pick_rules]
    assert len({slot for slot, _ in numbers}) == len({t for _, t in numbers}) == 6


def test_an_image_that_was_read_can_be_published(table: Table) -> None:
    """As a master does whose files can't be applied: workers find the same rules."""
    rules = (EVERYTHING, Rule(sources=(ip_network("10.0.0.0/8"),), reject=True))
    publish_image(table, image_of((), rules))
    _, image = read_image(table)
    publish_image(table, with_addresses(image))
    assert read_image(table)[1] == image
    facts = Facts(IPv4Address("10.1.1.1"), LISTEN[0])
    assert found(table, rules, facts) == 1
    assert found(table, rules, Facts(IPv4Address("11.1.1.1"), LISTEN[0])) == -1


def test_a_listener_that_is_closed_is_none_of_a_rules(table: Table) -> None:
    """While the route refuses connections."""
    rules = (Rule(ports=(5432,), reject=True),)
    route = Route("r", LISTEN, (Destination("v1", 1, ()),), rules=rules)
    config = Config(None, None, Admin("/x"), 45.0, (route,))
    some = {LISTEN[1]: 5, LISTEN[0]: 9}
    publish_image(table, build_image(config, {}, Names.new(lambda _: True), some, 1, {}))
    assert [_pick.rule_met(table, 0, Facts("unix", LISTEN[0]), n) for n in (5, 9, 7)] == [-1, 0, -1]


def test_a_reload_makes_each_name_of_rules_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for every other rule: the master serves nobody while it makes an image."""
    made: list[bytes] = []

    def counted(text: bytes, *, digest_size: int) -> Any:
        made.append(text)
        return blake2b(text, digest_size=digest_size)

    monkeypatch.setattr(rule_module, "blake2b", counted)
    count = 100
    rules = tuple(Rule(sni=(f"a{n}.b",), weights=(("v1", 1),)) for n in range(count))
    names = Names.new(lambda _: True)
    route = Route("r", LISTEN, (Destination("v1", 1, ()),), rules=rules)
    config = Config(None, None, Admin("/x"), 45.0, (route,))
    before = build_image(config, {}, names, IDS, 1, {})
    made.clear()
    after = build_image(config, {}, names, IDS, 2, {}, before)
    assert [row.name for row in after.routes[0].pick_rules] == [rule.called for rule in rules]
    assert count <= len(made) <= 2 * count  # of the rows before and after


# --- bounds -------------------------------------------------------------------------------------


def test_rules_of_sources_alone_take_one_entry_a_segment() -> None:
    """However often they overlap: what comes after the first is not met."""
    rules = [Rule(sources=(ip_network((10 << 24, 8 + n % 24)),), reject=True) for n in range(1000)]
    index = index_of(rules)
    assert len(index.numbers) <= 2 * 25


def test_rules_that_overlap_too_often_are_refused() -> None:
    nested = [ip_network(("fd00::", 20 + n // 10)) for n in range(1000)]
    lists = [Rule(sources=(n,), alpn=("h2",), reject=True) for n in nested]
    assert index_of(lists).sizes[3] < 100_000
    apart = [ip_network((0xFD << 120 | n << 64, 64)) for n in range(1600)]
    rules = (
        *(Rule(name=f"w{n}", sources=(nested[0],), alpn=("h2",), reject=True) for n in range(900)),
        *(Rule(name=f"a{n}", sources=tuple(apart[n::40]), reject=True) for n in range(40)),
        *(Rule(name=f"b{n}", sources=tuple(apart[40 * n : 40 * n + 40]), reject=True, tls=True)
          for n in range(40)),
    )  # fmt: skip
    rules = tuple(replace(rule, tls=True) for rule in rules)
    with pytest.raises(TableFull, match=r"^r0: the sources of its rules overlap too often: .* than "
                       r"1,048,576 entries$"):  # fmt: skip
        image_of(rules)


def test_what_all_routes_together_may_have_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = (Rule(sources=(ip_network("10.0.0.0/8"),), sni=("a.b",), alpn=("h2",), reject=True),)
    for limit, told in (
        ("MAX_RANGES", "ranges of client addresses"),
        ("MAX_RULE_NAMES", "names in rules"),
        ("MAX_RULE_VALUES", "ALPN protocols and TLVs in rules"),
        ("MAX_RULE_NUMBERS", "entries in lists of rules"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(build, limit, 1)
            image_of(rules)
            with pytest.raises(
                TableFull, match=rf"^the configuration needs 2 {told}, of at most 1$"
            ):
                image_of(rules, rules)


# --- why not ------------------------------------------------------------------------------------


def test_the_condition_that_is_not_met_is_told() -> None:
    facts = Facts(IPv4Address("10.8.1.1"), LISTEN[0], True, "c.d", ("h2",), ((5, b"x"),))
    for rule, told in (
        (Rule(sources=(ip_network("10.9.0.0/16"),)), "source 10.8.1.1 is not in 10.9.0.0/16"),
        (Rule(ports=(5433, 1)), "port 5432 is not 5433, 1"),
        (Rule(listen=LISTEN[1:2]), "listen 127.0.0.1:5432 is not 127.0.0.1:5433"),
        (Rule(tls=False), "tls false: it is TLS"),
        (Rule(sni=("a", "b", "*.c", "e", "f")), "sni c.d is not a, b, *.c or 2 more"),
        (Rule(alpn=("x",)), "alpn h2 does not offer x"),
        (Rule(tlvs=((5, (b"y",)),)), "tlv 0x05 is x, not y"),
        (Rule(tlvs=((6, (b"y",)),)), "tlv 0x06 is missing, not y"),
        (Rule(), ""),
    ):
        assert why_not(rule, facts) == told
    assert is_named("a.b", "*.b")
    assert not is_named("b", "*.b")
    unread = Facts("unix", LISTEN[3])
    assert why_not(Rule(tls=True), unread) == "tls true: whether it is TLS is not said"
    assert why_not(Rule(ports=(1,)), unread) == "port unix:/run/db.sock is not 1"


# --- what somebody asks ---------------------------------------------------------------------------


def test_what_is_asked_has_one_value_of_each_kind_but_for_lists() -> None:
    facts = facts_asked(LISTEN[:1], {"tlv": ["5=a,b", "6=c"], "alpn": ["x,y"], "tls": ["true"]})
    assert facts == Facts(None, LISTEN[0], True, "", ("x,y",), ((5, b"a,b"), (6, b"c")))
    for query, told in (
        ({"source": ["10.0.0.1", "10.0.0.2"]}, "^source: expected one value, got 2$"),
        ({"port": [""]}, "^port: the route listens on unix:/run/db.sock, not on ''$"),
    ):
        with pytest.raises(ValueError, match=told):
            facts_asked(LISTEN[3:], query)
