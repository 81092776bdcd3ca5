"""Which destination a connection would get, and why: the answer of GET
/v1/routes/{route}/explanation, and of `tcpmux explain` for files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tcpmux.config.address import Address
from tcpmux.config.rule_facts import facts_of
from tcpmux.config.rule_match import Facts, rule_met, why_not
from tcpmux.shm.build import build_image
from tcpmux.shm.image import ENDS, REFUSE, RESET, RouteRow, RuleRow
from tcpmux.shm.ranges import has
from tcpmux.shm.serving import serves
from tcpmux.shm.slots import Names
from tcpmux.shm.sticky import client_key, home, sticky_by

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tcpmux.config import Config, Route
    from tcpmux.control.schema import Explanation

Word = Callable[[str], str]  # the condition of a destination
PARAMETERS = ("source", "port", "sni", "alpn", "tls", "tlv")
SEVERAL = ("alpn", "tlv")


def facts_asked(listen: Sequence[Address], query: Mapping[str, Sequence[str]]) -> Facts:
    """query: the values of each of PARAMETERS; only SEVERAL may have more than one. Raises
    ValueError."""
    for name, values in query.items():
        if name not in PARAMETERS:
            raise ValueError(f"unknown: {name[:60]!r}: expected {', '.join(PARAMETERS)}")
        if len(values) > 1 and name not in SEVERAL:
            raise ValueError(f"{name}: expected one value, got {len(values)}")
    one = {name: values[0] for name, values in query.items() if name not in SEVERAL}
    tls = one.get("tls")
    if tls not in (None, "true", "false"):
        raise ValueError(f"tls: expected true or false, got {tls[:60]!r}")
    return facts_of(
        listen,
        source=one.get("source"),
        port=one.get("port"),
        sni=one.get("sni"),
        alpn=query.get("alpn", ()),
        tls=None if tls is None else tls == "true",
        tlvs=query.get("tlv", ()),
    )


def explain(route: RouteRow, facts: Facts, word: Word) -> Explanation:
    """As the route is now."""
    rules = [row.rule for row in route.pick_rules]
    met = rule_met(rules, facts)
    passed = route.pick_rules if met < 0 else route.pick_rules[:met]
    rule = None if met < 0 else route.pick_rules[met]
    admitted = facts.client is None or has(route.admitted, facts.client)
    rejected = rule is not None and rule.rule.reject
    effective = [row.effective_weight for row in route.destinations]
    asked = [row.weight for row in route.destinations]
    if rule is not None:
        effective, asked = list(rule.effective_weights), list(rule.weights)
    whole = sum(effective) if admitted and not rejected else 0
    own = _home(route, rule, facts) if admitted and not rejected else None
    none_has_weight = not rejected and not any(asked)
    return {
        "route": route.name,
        "listener": None if facts.listener is None else str(facts.listener),
        "admitted": admitted,
        "rule": None if rule is None else rule.name,
        "conditions": None if rule is None else str(rule.rule),
        "passed": [{"rule": row.name, "why": why_not(row.rule, facts)} for row in passed],
        "sticky": sticky_by(route.rules) or None,
        "home": None if own is None else route.destinations[own].name,
        "end": _end(route, whole, admitted=admitted, rejected=rejected) if own is None else "",
        "destinations": [
            {
                "name": row.name,
                "weight": weight,
                "effective_weight": now,
                "share": now / whole if whole else 0.0,
                "available": serves(row),
                "condition": word(row.name),
            }
            for index, (row, weight, now) in enumerate(
                zip(route.destinations, asked, effective, strict=True)
            )
            if weight or now or index == own or none_has_weight
        ],
    }


def _home(route: RouteRow, rule: RuleRow | None, facts: Facts) -> int | None:
    """The destination that it belongs to, by its client, if the route is sticky."""
    key = client_key(route.rules, facts)
    return None if key is None else home((rule or route).contests, key)


def _end(route: RouteRow, whole: int, *, admitted: bool, rejected: bool) -> str:
    """What becomes of it at once, if no destination gets it."""
    if not admitted or rejected:
        return ENDS[RESET]
    if whole:
        return ""
    end = route.rules.on_all_unavailable
    return ENDS[RESET if end == REFUSE else end]


def explain_files(config: Config, route: Route, facts: Facts) -> Explanation:
    """As the route would be after a start, with all endpoints healthy."""
    addresses = {name: [Address("192.0.2.1", 1, "")] for name in config.host_names}
    image = build_image(config, {}, Names.new(lambda _: True), {}, 1, addresses)
    row = next(row for row in image.routes if row.name == route.name)
    return explain(row, facts, lambda _: "healthy")
