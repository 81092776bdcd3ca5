"""Which rules are said never to be met: each of their connections meets an earlier one, and a look
at every pair finds the same."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_network

import pytest

from tcpmux.config import Rule
from tcpmux.config.rule_match import Facts, why_not
from tcpmux.config.rule_reach import Clientele, _Reach, shadowed
from tests.unit.test_rule_index import CLIENTS, LISTEN, a_rule, some_facts

EVERYBODY = Clientele(frozenset(LISTEN), True)


def possible(draw: random.Random) -> Facts:
    """A connection that there can be."""
    facts = some_facts(draw)
    is_unix = bool(facts.listener and facts.listener.path)
    clients = ["unix"] if is_unix else [client for client in CLIENTS if client != "unix"]
    tls = bool(facts.tls or facts.sni or facts.alpn)
    return replace(facts, client=draw.choice(clients), tls=tls)


def drawn(draw: random.Random, count: int) -> list[Rule]:
    """As a file may have them."""
    rules = (a_rule(draw, n) for n in range(count))
    return [replace(rule, tls=None) if rule.sni or rule.alpn else rule for rule in rules]


@pytest.mark.parametrize("seed", range(8))
def test_what_a_shadowed_rule_would_take_meets_the_one_before_it(seed: int) -> None:
    draw = random.Random(seed)
    rules = drawn(draw, 60)
    found = dict(shadowed(rules, EVERYBODY))
    assert found
    met = 0
    for _ in range(200):
        facts = possible(draw)
        for later, earlier in found.items():
            if not why_not(rules[later], facts):
                assert not why_not(rules[earlier], facts), (rules[later], rules[earlier], facts)
                met += 1
    assert met


@pytest.mark.parametrize("seed", range(20))
def test_every_pair_is_looked_at(seed: int) -> None:
    draw = random.Random(1000 + seed)
    rules = drawn(draw, 100)
    reaches = [_Reach.of(rule, EVERYBODY) for rule in rules]
    wanted: dict[int, int] = {}
    for later, reach in enumerate(reaches):
        if not reach.listeners:
            continue
        before = [
            n
            for n in range(later)
            if n not in wanted and reaches[n].listeners and reaches[n].has_all_of(reach)
        ]
        if before:
            wanted[later] = before[0]
    assert dict(shadowed(rules, EVERYBODY)) == wanted


def rule(**conditions: object) -> Rule:
    return Rule(reject=True, **conditions)  # type: ignore[arg-type]


NET, ALL_IPV4, ALL = map(ip_network, ("10.0.0.0/8", "0.0.0.0/0", "::/0"))


@pytest.mark.parametrize(
    ("earlier", "later", "is_shadowed"),
    [
        (rule(tls=True), rule(sni=("a.b",)), True),
        (rule(tls=True), rule(tls=None), False),
        (rule(sni=("*.b",)), rule(sni=("a.b", "*.a.b")), True),
        (rule(sni=("*.b",)), rule(sni=("a.b", "b")), False),
        (rule(sni=("*.a.b",)), rule(sni=("*.b",)), False),
        (rule(alpn=("h2", "x")), rule(alpn=("x",)), True),
        (rule(alpn=("x",)), rule(alpn=("h2", "x")), False),
        (rule(tlvs=((5, (b"a", b"b")),)), rule(tlvs=((4, (b"x",)), (5, (b"b",)))), True),
        (rule(tlvs=((5, (b"a",)),)), rule(tlvs=((5, (b"a", b"b")),)), False),
        (rule(ports=(5432,)), rule(listen=LISTEN[:1]), True),
        (rule(listen=LISTEN[:1]), rule(ports=(5432,)), False),
        (rule(ports=(5432, 5433), listen=()), rule(), False),
        (rule(sources=(ALL, "unix")), rule(), True),
        (rule(sources=(ALL,)), rule(), False),
        (rule(sources=(ALL,)), rule(sources=(NET,)), True),
        (rule(sources=(ALL_IPV4,)), rule(sources=(NET, "unix")), False),
        (rule(sources=(NET,)), rule(sources=(ip_network("::ffff:10.9.0.0/112"),)), True),
        (rule(sources=(NET,), sni=("a",)), rule(sources=(NET,)), False),
    ],
)
def test_cases(earlier: Rule, later: Rule, is_shadowed: bool) -> None:
    assert [*shadowed([earlier, later], EVERYBODY)] == [(1, 0)] * is_shadowed


def test_clients_that_do_not_come_need_no_rule() -> None:
    """Without a UNIX listener, who has every address has everybody."""
    rules = [rule(sources=(ALL,)), rule()]
    assert [*shadowed(rules, Clientele(frozenset(LISTEN[:3]), True))] == [(1, 0)]
    rules = [rule(sources=("unix",)), rule()]
    assert [*shadowed(rules, Clientele(frozenset(LISTEN[3:]), False))] == [(1, 0)]


def test_a_rule_of_very_many_values_is_found_as_well() -> None:
    names = tuple(f"n{n}.example" for n in range(100))
    networks = tuple(ip_network(f"10.0.{n}.0/24") for n in range(100))
    rules = [rule(sni=names, sources=networks), rule(sni=names[-1:], sources=networks[-1:])]
    assert [*shadowed(rules, EVERYBODY)] == [(1, 0)]
