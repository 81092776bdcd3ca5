"""Where connections go, by what clients begin with, by client and by chance: as rules, of which the
first that a connection meets decides."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Generic, TypeVar

from tcpmux.config.rule import MAX_RULES, Rule
from tcpmux.config.settings import Clients
from tcpmux.convert.clients import TooManyNetworks
from tcpmux.convert.hellos import Hello, as_rules
from tcpmux.convert.truth import Among, Split, Truth, Unknown, negated, split_of, within

LONG = 8  # networks of a condition
MAX_COMPARED = 32  # cases
MAX_STEPS = 3000  # networks that are compared
T = TypeVar("T", bound=Hashable)
# By the name of where they go; "" = nowhere.
Shares = tuple[tuple[str, Fraction], ...]
# The first that a client is in decides; the last is of everybody.
Cases = tuple[tuple[tuple[Clients, ...] | None, T], ...]


class TooManyRules(ValueError):
    """A route can't have so many."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Connections for which it is true, of those that the ones before it left, go to `to`."""

    truth: Truth
    to: str


def cases_of(choices: Sequence[Choice], default: str) -> Cases[Shares]:
    """default: of what no choice takes. None of them is Unknown. Raises TooManyRules and
    TooManyNetworks."""
    found: list[tuple[tuple[Clients, ...] | None, Shares]] = []
    splits = [(_split(choice.truth), choice.to) for choice in choices]
    _Walk(splits, default, found).walk(0, None, Fraction(1), {})
    return tuple(found)


@dataclass(slots=True)
class _Walk:
    choices: Sequence[tuple[Split, str]]
    default: str
    found: list[tuple[tuple[Clients, ...] | None, Shares]]
    steps: int = 0

    def walk(
        self,
        index: int,
        clients: tuple[Clients, ...] | None,
        left: Fraction,
        shares: dict[str, Fraction],
    ) -> None:
        """Adds what becomes of these clients. left: the share that no choice has taken yet."""
        while left and index < len(self.choices):
            split, to = self.choices[index]
            for among, value in split.parts:
                self.steps += 1
                both = within(clients, among)
                if both:
                    self._take(index, both, left, shares, value)
            taken = left * Fraction(split.otherwise)
            if taken:
                shares = {**shares, to: shares.get(to, Fraction(0)) + taken}
            left -= taken
            index += 1
            if max(len(self.found) - MAX_RULES, self.steps - MAX_STEPS) > 0:
                raise TooManyRules(f"it would take more than {MAX_RULES} rules")
        if left:
            shares = {**shares, self.default: shares.get(self.default, Fraction(0)) + left}
        self.found.append((clients, tuple(shares.items())))

    def _take(
        self,
        index: int,
        clients: tuple[Clients, ...],
        left: Fraction,
        shares: dict[str, Fraction],
        value: bool | Fraction,
    ) -> None:
        """As walk(), of those for whom a choice has this value."""
        to, taken = self.choices[index][1], left * Fraction(value)
        if taken:
            shares = {**shares, to: shares.get(to, Fraction(0)) + taken}
        self.walk(index + 1, clients, left - taken, shares)


def _split(truth: Truth) -> Split:
    """Of clients, by those for whom it is not true, if these are fewer networks."""
    assert not isinstance(truth, Unknown)
    if isinstance(truth, Among) and len(truth.clients) >= LONG:
        others = negated(truth)
        if isinstance(others, Among) and len(others.clients) < len(truth.clients):
            return Split(((others.clients, False),), otherwise=True)
    return split_of(truth)


@dataclass(frozen=True, slots=True)
class Decided(Generic[T]):
    """rules: without weights, each with what becomes of its connections. rest: of all others."""

    rules: tuple[tuple[Rule, T], ...]
    rest: T


def decided(classes: Sequence[Hello], of: Callable[[Hello], Cases[T]]) -> Decided[T]:
    """What is the same for all classes comes first. Raises TooManyRules."""
    groups, rest = as_rules(classes, lambda hello: _shortened(of(hello)))
    rules: list[tuple[Rule, T]] = []
    while len(rest) > 1 and all(len(cases) > 1 and cases[0] == rest[0] for _, cases in groups):
        clients, outcome = rest[0]
        rules.append((Rule(sources=clients or ()), outcome))
        rest, groups = rest[1:], [(when, cases[1:]) for when, cases in groups]
    for when, cases in (*groups, (Rule(), rest)):
        rules += [(replace(when, sources=clients or ()), outcome) for clients, outcome in cases]
    rules = _reached(rules)
    if len(rules) > MAX_RULES:
        raise TooManyRules(f"it would take more than {MAX_RULES} rules")
    last = rules.pop()[1]
    while rules and rules[-1][1] == last:
        rules.pop()
    return Decided(tuple(rules), last)


def _shortened(cases: Cases[T]) -> Cases[T]:
    """Without those that the ones after them treat alike, and neighbours as one."""
    kept = [cases[-1]]
    for clients, outcome in reversed(cases[:-1]):
        if len(kept) < MAX_COMPARED and _is_alike(clients, outcome, kept):
            continue
        later = kept[-1]
        if outcome == later[1] and clients is not None and later[0] is not None:
            kept[-1] = tuple(dict.fromkeys((*clients, *later[0]))), outcome
        else:
            kept.append((clients, outcome))
    return tuple(reversed(kept))


def _is_alike(
    clients: tuple[Clients, ...] | None,
    outcome: T,
    later: Sequence[tuple[tuple[Clients, ...] | None, T]],
) -> bool:
    """Whether these clients would fare alike without a case of their own; not if there are too many
    to tell. later: the last first."""
    try:
        return all(of == outcome or not within(clients, others) for others, of in reversed(later))
    except TooManyNetworks:
        return False


def _reached(rules: Sequence[tuple[Rule, T]]) -> list[tuple[Rule, T]]:
    """Without those whose conditions an earlier one has, in whatever order."""
    found: dict[Hashable, tuple[Rule, T]] = {}
    for when, outcome in rules:
        key = frozenset(when.sources), frozenset(when.sni), frozenset(when.alpn), when.tls
        found.setdefault(key, (when, outcome))
    return [*found.values()]
