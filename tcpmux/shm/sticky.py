"""Who gets a sticky route's clients, for csrc/sticky.h. Runs in the master, as part of what follows
from weights, states and health (serving.py); in control, to explain a pick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from tcpmux.config.rule_match import Facts
from tcpmux.config.settings import UNIX
from tcpmux.config.sticky import STICKY_BY
from tcpmux.config.written import by_text
from tcpmux.shm._address import address_hash
from tcpmux.shm._declared import MAX_CONTENDERS, MAX_CONTESTS
from tcpmux.shm._pick import sticky_address_key, sticky_key, sticky_pick
from tcpmux.shm.image import (
    LATER_CONTEST,
    NEXT_CONTEST,
    READY,
    STAY,
    Contender,
    Contest,
    DestinationRow,
    RouteRow,
)
from tcpmux.shm.rules import RouteRules
from tcpmux.shm.slots import TableFull

MAX_STAYS = 15  # contests of destinations that keep clients, of one set of weights


@lru_cache(4096)
def name_hash(name: str) -> int:
    """Of a destination's name; the same everywhere and in every release."""
    return address_hash(name)


def sticky_by(rules: RouteRules) -> str:
    """What a route tells its clients apart by, as in the file; "" = it is not sticky."""
    return by_text([*STICKY_BY][rules.sticky_by], rules.sticky_tlv) if rules.sticky_by else ""


def all_contests(route: RouteRow) -> Iterator[Contest]:
    """Of the route and its rules."""
    yield from route.contests
    for rule in route.pick_rules:
        yield from rule.contests


def carried_over(before: RouteRow | None, rules: RouteRules) -> dict[str, tuple[Contest, ...]]:
    """What is remembered of the weights that a route had, as "", and its rules, by their names.
    Nothing, if its clients are told apart otherwise now: who had whom would be another question."""
    keys = ("sticky_by", "sticky_tlv", "sticky_ipv4", "sticky_ipv6", "sticky_salt")
    if before is None or any(getattr(before.rules, key) != getattr(rules, key) for key in keys):
        return {}
    return {"": before.contests, **{row.name: row.contests for row in before.pick_rules}}


def contests(
    before: Sequence[Contest],
    rules: RouteRules,
    rows: Sequence[DestinationRow],
    weights: Sequence[int],
    effective: Sequence[int],
    stand_in: int | None,
) -> tuple[Contest, ...]:
    """Those of a route, or of a rule of it. before: those until now; weights: as asked for;
    effective: of the pick; stand_in: the destination that the clients go to of one that has lost
    its weight."""
    if not rules.sticky_by:
        return ()
    kept = _stays(before, rows, weights) if before and rules.sticky_zero == STAY else []
    last = Contest(
        0,
        tuple(
            _contender(index, row, weights[index], effective[index], stand_in)
            for index, row in enumerate(rows)
            if weights[index]
        ),
    )
    return (*kept, last)


def check_room(routes: Sequence[RouteRow]) -> None:
    """Raises TableFull if these have more contests than an image has room for."""
    sticky = [route for route in routes if route.rules.sticky_by]
    found = [contest for route in sticky for contest in all_contests(route)]
    for what, count, most in (
        ("sets of weights", len(found), MAX_CONTESTS),
        ("weights", sum(len(contest.contenders) for contest in found), MAX_CONTENDERS),
    ):
        if count > most:
            raise TableFull(
                f"sticky routes would need {count} {what}, of at most {most}, with those that are "
                "remembered for zero: stay"
            )


def stays(route: RouteRow) -> set[tuple[str, str]]:
    """(rule, destination) of those that keep the clients that they had; "" = of the route."""
    names = {name_hash(row.name): row.name for row in route.destinations}
    found = {("", contest.owner) for contest in route.contests}
    found |= {(rule.name, c.owner) for rule in route.pick_rules for c in rule.contests}
    return {(rule, names[owner]) for rule, owner in found if owner in names}


def client_key(rules: RouteRules, facts: Facts) -> int | None:
    """What a route knows a client by. None: it has no such thing, or it is not said."""
    salt, by = rules.sticky_salt, [*STICKY_BY][rules.sticky_by]
    if by == "source" and facts.client is not None and facts.client != UNIX:
        address = str(facts.client).partition("%")[0]
        return sticky_address_key(salt, address, rules.sticky_ipv4, rules.sticky_ipv6)
    if by == "sni" and facts.sni:
        return sticky_key(salt, facts.sni.encode())
    if by == "tlv":
        values = (value for kind, value in facts.tlvs if kind == rules.sticky_tlv)
        return next((sticky_key(salt, value) for value in values), None)
    return None


def home(contests: Sequence[Contest], key: int) -> int | None:
    """The index of the destination that gets a client. None: no destination has weight."""
    at = 0
    while at < len(contests):
        contenders = contests[at].contenders
        best = sticky_pick(key, [(one.hash, one.weight) for one in contenders])
        winner = NEXT_CONTEST if best is None else contenders[best].destination
        if winner not in (NEXT_CONTEST, LATER_CONTEST):
            return winner
        at += 1 + (contests[at].skip if winner == LATER_CONTEST else 0)
    return None


def _contender(
    index: int, row: DestinationRow, weight: int, effective: int, stand_in: int | None
) -> Contender:
    asked = weight * row.slow_start_percent
    gets = index if effective else stand_in
    if row.state != READY or gets is None:
        return Contender(name_hash(row.name), 0, asked, NEXT_CONTEST)
    return Contender(name_hash(row.name), asked, asked, gets)


def _stays(
    before: Sequence[Contest], rows: Sequence[DestinationRow], weights: Sequence[int]
) -> list[Contest]:
    """The contests in which destinations of weight 0 keep clients: those so far, and one for each
    whose weight has just become 0, by the weights until then.

    One whose destination keeps nobody any more remains while there are others of its time: its
    clients never belonged to those."""
    zero = {name_hash(row.name) for row, weight in zip(rows, weights, strict=True) if not weight}
    serving = {
        name_hash(row.name): index
        for index, row in enumerate(rows)
        if row.state == READY and row.turns
    }
    *kept, last = before
    kept += [_began(one.hash, last) for one in last.contenders if one.hash in zero]
    after = [len(kept) - 1 - at for at in range(len(kept))]  # how many come after each
    for at, contest in enumerate(kept):
        if contest.owner:
            owner = contest.owner if contest.owner in zero else 0
            kept[at] = _now(replace(contest, owner=owner, skip=after[at]), serving.get(owner))
    while kept and not kept[-1].owner:
        kept.pop()
    kept = kept[-MAX_STAYS:]
    return [
        replace(contest, skip=min(contest.skip, len(kept) - 1 - at))
        for at, contest in enumerate(kept)
    ]


def _began(owner: int, last: Contest) -> Contest:
    """That of the one whose weight becomes 0."""
    return Contest(
        owner,
        tuple(
            Contender(
                one.hash, one.asked, one.asked, LATER_CONTEST if one.hash == owner else NEXT_CONTEST
            )
            for one in last.contenders
        ),
    )


def _now(contest: Contest, owner: int | None) -> Contest:
    """owner: its index, if it can take connections."""
    gets = LATER_CONTEST if owner is None else owner
    return replace(
        contest,
        contenders=tuple(
            one if one.destination == NEXT_CONTEST else replace(one, destination=gets)
            for one in contest.contenders
        ),
    )
