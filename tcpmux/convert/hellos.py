"""What clients begin with, in classes that rules can tell apart: by the name (SNI) and protocols
(ALPN) of a TLS ClientHello.

A reader asks what its file does with each class, from the most specific one on; what is the same
for several becomes one rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from tcpmux.config.rule import Rule
from tcpmux.config.rule_schema import MAX_ALPN, sni

MAX_CLASSES = 4096
ALONE = "acme-tls/1"  # who offers this protocol offers nothing else (RFC 8737)
# ^ at the beginning, .* or .+ and a dot in front of the name, or a dot alone.
_NAME = re.compile(
    r"(\^)?(?:(\.\*|\.\+)(\\\.)|(\\\.))?((?:[a-z0-9-]|\\[.-])+)\$", re.ASCII | re.IGNORECASE
)
T = TypeVar("T", bound=Hashable)


class TooManyHellos(ValueError):
    """There would be more than MAX_CLASSES of them."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Those of TLS, or the others. sni: their name matches this pattern, and none of the file that
    is more specific; "" = none of the file. offers: one of the protocols that they offer; "" = none
    of the file."""

    tls: bool
    sni: str = ""
    offers: str = ""
    undecided: frozenset[str] = frozenset()  # protocols that they may offer as well

    def is_named(self, pattern: str) -> bool:
        return self.tls and bool(self.sni) and covers(pattern, self.sni)

    def is_offered(self, protocol: str) -> bool | None:
        """None: some of them offer it."""
        if protocol in self.undecided:
            return None
        return self.tls and self.offers == protocol


OTHER = Hello(tls=False)  # than TLS


def covers(pattern: str, other: str) -> bool:
    """Whether every name that matches the other one matches the pattern, too."""
    return pattern == other or (pattern.startswith("*.") and other.endswith(pattern[1:]))


@lru_cache(maxsize=MAX_CLASSES)
def patterns_of(name: str) -> frozenset[str]:
    """All that cover it, a name or a pattern."""
    labels = name.removeprefix("*.").split(".")
    suffixes = ("*." + ".".join(labels[at:]) for at in range(len(labels)))
    return frozenset(one for one in (name, *suffixes) if name and covers(one, name))


def pattern_of(name: str) -> str:
    """As rules have it, in lower case: a name, or *. and the end of one. Raises ValueError."""
    return sni(name)


def patterns_of_regex(text: str) -> list[str] | None:
    """Of a regular expression that stands for a name, or for all names with an end; None: for
    others."""
    found = _NAME.fullmatch(text)
    if not found:
        return None
    name = re.sub(r"\\(.)", r"\1", found[5])
    anywhere = found[3] or (found[4] and not found[1])
    if not anywhere and (not found[1] or found[4]):
        return None
    try:
        return [pattern_of(f"*.{name}" if anywhere else name)]
    except ValueError:
        return None


def protocol_of(text: str) -> str:
    """Raises ValueError."""
    if not re.fullmatch(rf"[!-~]{{1,{MAX_ALPN}}}", text, re.ASCII):
        raise ValueError("expected the name of a protocol such as h2")
    return text


def specificity(pattern: str) -> tuple[bool, int]:
    """Sorts patterns, the most specific ones first."""
    return pattern.startswith("*."), -pattern.count(".")


def hellos(
    names: Iterable[str], protocols: Iterable[str] = (), *, asks_tls: bool = False
) -> list[Hello]:
    """The classes that these tell apart, the most specific first; the last is of those that are not
    TLS. asks_tls: whether something is TLS counts. Nothing that counts = one class, of all. Raises
    TooManyHellos."""
    patterns = sorted(dict.fromkeys(names), key=specificity)
    offered = [*dict.fromkeys(protocols)]
    if not (patterns or offered or asks_tls):
        return [OTHER]
    if (len(patterns) + 1) * (len(offered) + 1) >= MAX_CLASSES:
        raise TooManyHellos("it depends on too many names and protocols")
    found = []
    for pattern in (*patterns, ""):
        for index, protocol in enumerate(offered):
            later = frozenset(offered[index + 1 :])
            found.append(Hello(True, pattern, protocol, later))
        found.append(Hello(True, pattern))
    return [*found, OTHER]


@dataclass(slots=True)
class _Group:
    """Classes of which the same becomes."""

    outcome: Hashable
    hellos: list[Hello]


def as_rules(
    classes: Sequence[Hello], outcome_of: Callable[[Hello], T]
) -> tuple[list[tuple[Rule, T]], T]:
    """Conditions, of which the first that a connection meets decides, and what becomes of all
    others. classes: of hellos()."""
    outcomes = [(hello, outcome_of(hello)) for hello in classes]
    rest = outcomes[-1][1]
    groups: list[_Group] = []
    for hello, outcome in outcomes[:-1]:
        group = _joined(groups, hello, outcome)
        if group is None:
            groups.append(_Group(outcome, [hello]))
        else:
            group.hellos.append(hello)
    _drop(groups, rest)
    return [(_condition(group.hellos), group.outcome) for group in groups if group.hellos], rest  # type: ignore[misc]


def _joined(groups: Sequence[_Group], hello: Hello, outcome: Hashable) -> _Group | None:
    """The group that takes it, if no group in between would lose connections to it."""
    for group in reversed(groups):
        if (
            group.outcome == outcome
            and hello.sni
            and group.hellos[0].sni
            and group.hellos[0].offers == hello.offers
        ):
            return group
        if any(_meets(hello, one) for one in group.hellos):
            return None
    return None


def _drop(groups: Sequence[_Group], rest: Hashable) -> None:
    """Takes classes out that the rules after them treat alike."""
    order = [(group, hello) for group in groups for hello in group.hellos]
    by_name: dict[str, list[int]] = {}
    for place, (_, hello) in enumerate(order):
        by_name.setdefault(hello.sni, []).append(place)
    served = [[hello] for _, hello in order]  # the classes whose connections get to each

    def next_of(place: int, hello: Hello) -> int | None:
        """The first after it that takes such connections; None = it would take only some."""
        later = sorted(
            p for name in (*patterns_of(hello.sni), "") for p in by_name.get(name, ()) if p > place
        )
        for other in later:
            if served[other] and _meets(order[other][1], hello):
                return other if _contains(order[other][1], hello) else None
        return len(order)

    for place, (group, hello) in enumerate(order):
        found = [next_of(place, one) for one in served[place]]
        outcomes = [
            ... if p is None else rest if p == len(order) else order[p][0].outcome for p in found
        ]
        if any(outcome != group.outcome for outcome in outcomes):
            continue
        for target, one in zip(found, served[place], strict=True):
            if target is not None and target < len(order):
                served[target].append(one)
        served[place] = []
        group.hellos.remove(hello)


def _contains(condition: Hello, hello: Hello) -> bool:
    """Whether the rule of one class takes all of another."""
    return _is_named_so(condition, hello) and condition.offers in ("", hello.offers)


def _meets(condition: Hello, hello: Hello) -> bool:
    """Whether it takes some of them."""
    offered = not condition.offers or hello.is_offered(condition.offers) is not False
    return offered and _is_named_so(condition, hello)


def _is_named_so(condition: Hello, hello: Hello) -> bool:
    return not condition.sni or (bool(hello.sni) and covers(condition.sni, hello.sni))


def _condition(group: Sequence[Hello]) -> Rule:
    names = tuple(dict.fromkeys(hello.sni for hello in group if hello.sni))
    offers = tuple(dict.fromkeys(hello.offers for hello in group if hello.offers))
    return Rule(sni=names, alpn=offers, tls=None if names or offers else True)
