"""What a converter makes of another proxy's files, before it is a configuration of tcpmux.

All proxies have the same things under other names: a pool of servers (backend, upstream, cluster,
service), and a listener whose connections go to one or several pools by share. Here weights, names
and limits of all of them are brought into tcpmux's form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tcpmux.config.address import Address, Endpoint
from tcpmux.config.model import MAX_WEIGHT, Destination, Route
from tcpmux.config.rule import Rule
from tcpmux.config.settings import DestinationPolicy, EndpointPolicy, RoutePolicy
from tcpmux.config.turns import turns, whole_turns
from tcpmux.convert.report import Report, Statement

MAX_NAME = 63  # characters of a route's or a destination's name
MAX_TOLD = 20  # numbers in a note
ONLY_SHARE = 100  # weight of a route's only destination: room for others beside it


@dataclass(slots=True)
class Server:
    """An endpoint of a pool. weight: 0 = it gets no connection, and is left out."""

    endpoint: Endpoint
    weight: int = 1
    policy: EndpointPolicy = field(default_factory=EndpointPolicy)


@dataclass(slots=True)
class Pool:
    """A destination. servers may be empty: its share is reset."""

    name: str
    servers: list[Server] = field(default_factory=list)
    policy: DestinationPolicy = DestinationPolicy()


Shares = list[tuple[Pool, Fraction]]


@dataclass(slots=True)
class Branch:
    """Connections of a route that meet the conditions of a rule, which has no weights. shares: as
    of a Draft; none = they are reset."""

    when: Rule
    shares: Shares


@dataclass(slots=True)
class Draft:
    """A route. shares: parts of its connections, of any sum; none = only those that a branch takes
    go anywhere, the rest is reset. at: the statement that it is made of. sections: those whose
    remarks belong to it (Statement.section). branches: the first that a connection meets decides.
    """

    name: str
    listen: list[Address]
    shares: Shares
    at: Statement
    source: str = ""
    policy: RoutePolicy = RoutePolicy()
    sections: set[str] = field(default_factory=set)
    branches: list[Branch] = field(default_factory=list)

    @property
    def pools(self) -> list[Pool]:
        """All that it leads to, each once."""
        every = [*self.shares, *(share for branch in self.branches for share in branch.shares)]
        return [*{id(pool): pool for pool, _ in every}.values()]


def plain_name(text: str, otherwise: str = "route") -> str:
    """A name of tcpmux's: other characters become '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:MAX_NAME] or otherwise


def unique(name: str, taken: set[str]) -> str:
    """The name, or one like it that is not taken: NAME-2, NAME-3. It is taken then."""
    found, number = name, 1
    while found in taken:
        number += 1
        tail = f"-{number}"
        found = name[: MAX_NAME - len(tail)] + tail
    taken.add(found)
    return found


def routes_of(drafts: Iterable[Draft], report: Report) -> list[tuple[Route, Draft]]:
    """The routes, with names that are unique. A listening address that two have is a problem."""
    taken: set[str] = set()
    listens: dict[Address, Draft] = {}
    found = []
    for draft in drafts:
        for address in dict.fromkeys(draft.listen):
            other = listens.setdefault(address, draft)
            if other is not draft:
                place = f"{other.at.file}:{other.at.line}"
                report.problem(draft.at, f"{address} is already used by the listener at {place}")
        route = _route(draft, unique(plain_name(draft.name), taken))
        found.append((route, draft))
    return found


def _route(draft: Draft, name: str) -> Route:
    taken: set[str] = set()
    weights = _weights(draft.shares, draft.at, alone=ONLY_SHARE)
    names = {id(pool): unique(plain_name(pool.name, "destination"), taken) for pool in draft.pools}
    destinations = tuple(
        _destination(pool, names[id(pool)], weights.get(id(pool), 0), draft.at)
        for pool in draft.pools
    )
    rules = []
    for branch in draft.branches:
        of = _weights(branch.shares, draft.at, alone=1)
        pairs = tuple((names[key], weight) for key, weight in of.items())
        rules.append(replace(branch.when, weights=pairs, reject=not pairs))
    if not draft.shares and rules:
        rules.append(Rule(reject=True))
    policy = draft.policy
    if destinations:
        of_first = destinations[0].policy
        policy = replace(
            policy,
            connect_timeout=of_first.connect_timeout,
            idle_timeout=of_first.idle_timeout,
        )
    listen = tuple(dict.fromkeys(draft.listen))
    return Route(name, listen, destinations, draft.source, policy, tuple(rules))


def _weights(shares: Shares, at: Statement, *, alone: int) -> dict[int, int]:
    """By the pool's id. alone: of one that has no other beside it."""
    merged: dict[int, Fraction] = {}
    for pool, share in shares:
        merged[id(pool)] = merged.get(id(pool), Fraction(0)) + share
    parts = [*merged.values()]
    weights = [alone] if len(parts) == 1 else whole_weights(parts)
    if len(parts) > 1 and not _is_exact(parts, weights):
        at.remark(f"its shares are rounded to {_ratio(weights)}")
    return dict(zip(merged, weights, strict=True))


def whole_weights(shares: Sequence[Fraction]) -> list[int]:
    """In the same proportion, as percentages where these are whole, else as small as they get;
    within 0..MAX_WEIGHT, rounded if need be, and never to 0."""
    total = sum(shares)
    if not total:
        return [0] * len(shares)
    percentages = [share * 100 / total for share in shares]
    if all(share.denominator == 1 for share in percentages):
        return [share.numerator for share in percentages]
    scale = math.lcm(*(share.denominator for share in shares))
    numbers = [(share * scale).numerator for share in shares]
    divisor = math.gcd(*numbers)
    numbers = [number // divisor for number in numbers]
    largest = max(numbers)
    if largest > MAX_WEIGHT:
        numbers = [
            max(round(Fraction(number * MAX_WEIGHT, largest)), int(number > 0))
            for number in numbers
        ]
    return numbers


def _is_exact(shares: Sequence[Fraction], weights: Sequence[int]) -> bool:
    total, sum_ = sum(shares), sum(weights)
    return all(s * sum_ == w * total for s, w in zip(shares, weights, strict=True))


def _ratio(numbers: Sequence[int]) -> str:
    """The first ones."""
    more = " ..." if len(numbers) > MAX_TOLD else ""
    return " to ".join(map(str, numbers[:MAX_TOLD])) + more


def _destination(pool: Pool, name: str, weight: int, at: Statement) -> Destination:
    merged: dict[Endpoint, Server] = {}
    for server in pool.servers:
        before = merged.get(server.endpoint)
        weight_so_far = before.weight if before else 0
        merged[server.endpoint] = replace(server, weight=weight_so_far + server.weight)
    used = [server for server in merged.values() if server.weight > 0]
    numbers, is_exact = whole_turns([server.weight for server in used])
    if not is_exact:
        at.remark(f"weights of the servers of {pool.name} are rounded to {_ratio(numbers)}")
    return Destination(
        name,
        weight,
        turns(list(zip((server.endpoint for server in used), numbers, strict=True))),
        pool.policy,
        tuple((s.endpoint, s.policy) for s in used if s.policy != EndpointPolicy()),
    )
