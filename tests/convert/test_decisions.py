"""Rules that say what lists of conditions say: compared with the conditions, connection by
connection."""

from __future__ import annotations

import random
from collections.abc import Iterable
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from tcpmux.config.rule import Rule
from tcpmux.config.settings import Clients
from tcpmux.convert.clients import TooManyNetworks
from tcpmux.convert.decisions import Choice, TooManyRules, cases_of, decided
from tcpmux.convert.hellos import OTHER, Hello, as_rules, covers, hellos, patterns_of
from tcpmux.convert.truth import Among, Split, Truth, Unknown, all_of, any_of, negated

PATTERNS = ("a.x", "b.x", "*.x", "*.b.x", "c.b.x", "y", "*.y", "*.z.y")
NAMES = ("", "a.x", "b.x", "c.x", "x", "c.b.x", "d.b.x", "y", "a.y", "b.z.y", "z.y", "q")
PROTOCOLS = ("p1", "p2")


def _meets(rule: Rule, tls: bool, name: str, offers: frozenset[str]) -> bool:
    if rule.tls is not None and rule.tls is not tls:
        return False
    if rule.sni and not (name and any(covers(p, name) for p in rule.sni)):
        return False
    return not rule.alpn or bool(offers & {*rule.alpn})


def _best(patterns: list[str], name: str) -> str:
    """The most specific pattern of a name."""
    fitting = [p for p in patterns if name and covers(p, name)]
    return min(fitting, key=lambda p: (p.startswith("*."), -len(p)), default="")


@pytest.mark.parametrize("seed", range(0, 200, 50))
def test_classes_become_rules_that_tell_names_apart(seed: int) -> None:
    """Whatever is done with each pattern's names, the rules do it with every name."""
    for chance in map(random.Random, range(seed, seed + 50)):
        patterns = chance.sample(PATTERNS, chance.randrange(1, 6))
        outcomes = {p: chance.choice("ABC") for p in (*patterns, "", "other")}

        def of(hello: Hello, outcomes: dict[str, str] = outcomes) -> str:
            return outcomes[hello.sni if hello.tls else "other"]

        rules, rest = as_rules(hellos(patterns), of)
        for name in NAMES:
            for tls in (True, False) if not name else (True,):
                found = next((o for r, o in rules if _meets(r, tls, name, frozenset())), rest)
                expected = outcomes[_best(patterns, name)] if tls else outcomes["other"]
                assert found == expected, (name, tls, rules, rest)


@pytest.mark.parametrize("seed", range(0, 100, 50))
def test_protocols_and_names_together(seed: int) -> None:
    """The first protocol that a client offers decides within its name."""
    for chance in map(random.Random, range(seed, seed + 50)):
        patterns = chance.sample(PATTERNS, chance.randrange(0, 4))
        keys = [(p, q) for p in (*patterns, "") for q in (*PROTOCOLS, "")]
        outcomes = {key: chance.choice("AB") for key in keys}

        def of(hello: Hello, outcomes: dict[tuple[str, str], str] = outcomes) -> str:
            return outcomes[hello.sni, hello.offers] if hello.tls else "other"

        rules, rest = as_rules(hellos(patterns, PROTOCOLS), of)
        assert rest == "other"
        for name in NAMES:
            for offers in ((), ("p1",), ("p2",), PROTOCOLS):
                first = next((p for p in PROTOCOLS if p in offers), "")
                found = next(
                    (o for r, o in rules if _meets(r, True, name, frozenset(offers))), rest
                )
                assert found == outcomes[_best(patterns, name), first], (name, offers, rules)


def test_the_patterns_that_cover_a_name() -> None:
    assert patterns_of("a.b.x") == {"a.b.x", "*.b.x", "*.x"}
    assert patterns_of("*.b.x") == {"*.b.x", "*.x"}
    assert patterns_of("") == frozenset()


def test_nothing_to_tell_apart_takes_no_rule() -> None:
    assert hellos([]) == [OTHER]
    assert as_rules(hellos(["a.x", "*.x"]), lambda _: "same") == ([], "same")


def test_a_name_that_its_suffix_treats_alike_takes_no_rule() -> None:
    def of(hello: Hello) -> str:
        return "x" if hello.is_named("*.x") else "rest"

    assert as_rules(hellos(["a.x", "*.x", "b.x"]), of) == ([(Rule(sni=("*.x",)), "x")], "rest")


# --- by client ------------------------------------------------------------------------------------

NETWORKS = [ip_network(n) for n in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.0.2.0/24")]
ADDRESSES = [ip_address(a) for a in ("10.9.9.9", "10.1.9.9", "10.1.2.9", "192.0.2.9", "8.8.8.8")]


def _random_truth(chance: random.Random) -> Truth:
    kind = chance.randrange(5)
    if kind == 0:
        return chance.random() < 0.5
    if kind == 1:
        return Fraction(chance.randrange(1, 4), 4)
    some: tuple[Clients, ...] = tuple(chance.sample(NETWORKS, chance.randrange(1, 3)))
    return Among(some)


def test_many_names_take_little_time() -> None:
    """Each of 3,000 names goes to one of two places, in turn."""
    classes = hellos(f"n{n}.x" for n in range(3000))
    places = {hello.sni: hello.sni[1:-2][-1:] in "02468" for hello in classes}
    rules, _ = as_rules(classes, lambda hello: places[hello.sni])
    assert len(rules) <= 2
    assert sum(len(rule.sni) for rule, _ in rules) == 1500


def _is_in(address: IPv4Address | IPv6Address, clients: Iterable[Clients]) -> bool:
    return any(not isinstance(one, str) and address in one for one in clients)


def _value(truth: Truth, address: IPv4Address | IPv6Address) -> Fraction:
    """For one client."""
    if isinstance(truth, Among):
        return Fraction(_is_in(address, truth.clients))
    if isinstance(truth, Split):
        fitting = (value for clients, value in truth.parts if _is_in(address, clients))
        return Fraction(next(fitting, truth.otherwise))
    assert not isinstance(truth, Unknown)
    return Fraction(truth)


@pytest.mark.parametrize("seed", range(0, 200, 50))
def test_truths_by_client_and_by_chance_combine(seed: int) -> None:
    """All of, any of and not, for each client on its own."""
    for chance in map(random.Random, range(seed, seed + 50)):
        truths = [_random_truth(chance) for _ in range(3)]
        both, either = all_of(truths[:2]), any_of([*truths[1:], negated(truths[0])])
        for address in ADDRESSES:
            one, two, three = (_value(truth, address) for truth in truths)
            assert _value(both, address) == one * two
            assert _value(either, address) == 1 - (1 - two) * (1 - three) * one


@pytest.mark.parametrize("seed", range(0, 200, 50))
def test_choices_become_cases_with_the_same_shares(seed: int) -> None:
    """Each client's shares are those that the choices give it, one after the other."""
    for chance in map(random.Random, range(seed, seed + 50)):
        choices = [Choice(_random_truth(chance), chance.choice("ABC")) for _ in range(4)]
        cases = cases_of(choices, "D")
        for address in ADDRESSES:
            expected: dict[str, Fraction] = {}
            left = Fraction(1)
            for choice in choices:
                taken = left * _value(choice.truth, address)
                expected[choice.to] = expected.get(choice.to, Fraction(0)) + taken
                left -= taken
            expected["D"] = expected.get("D", Fraction(0)) + left
            found = next(
                shares for clients, shares in cases
                if clients is None or _is_in(address, clients)
            )  # fmt: skip
            assert dict(found) == {to: share for to, share in expected.items() if share}


def test_what_holds_for_every_name_comes_first_and_once() -> None:
    testers = (ip_network("10.9.0.0/16"),)

    def of(hello: Hello) -> tuple[tuple[tuple[Clients, ...] | None, str], ...]:
        return (testers, "v2"), (None, "x" if hello.is_named("*.x") else "v1")

    found = decided(hellos(["*.x"]), of)
    assert found.rules == ((Rule(sources=testers), "v2"), (Rule(sni=("*.x",)), "x"))
    assert found.rest == "v1"


def test_too_many_rules_are_refused_and_not_made() -> None:
    """Halves of many networks would double with each."""
    choices = [
        Choice(
            all_of([Fraction(1, 2), Among((ip_network(f"10.{n // 256}.{n % 256}.0/24"),))]), f"b{n}"
        )
        for n in range(2000)
    ]
    with pytest.raises((TooManyRules, TooManyNetworks)):
        cases_of(choices, "D")
