"""What no single value of a route's rules can tell: names, destinations, addresses, and rules that
no connection gets to."""

from __future__ import annotations

from collections.abc import Iterator

from tcpmux.config.document import Document
from tcpmux.config.problems import Location, describe
from tcpmux.config.rule import Rule
from tcpmux.config.rule_reach import Clientele, shadowed
from tcpmux.config.rule_schema import RuleModel
from tcpmux.config.schema import RouteModel
from tcpmux.config.settings import UNIX
from tcpmux.config.validation import Names


def check_rules(route: RouteModel, document: Document, here: Location) -> None:
    """Adds what is wrong with them to the document."""
    called = Names("a rule named")
    clientele = clientele_of(route)
    rules = [model.made() for model in route.rules]
    taken = dict(shadowed(rules, clientele))
    for r, (model, rule) in enumerate(zip(route.rules, rules, strict=True)):
        at = (*here, "rules", r)
        _check_destinations(route, model, document, at)
        _check_listeners(route, model, document, at)
        _check_name(called, rule, document, at)
        why = next(_why_never(route, rule, clientele), None)
        if why:
            key, reason = why
            document.warn((*at, key), f"{_never(rule)}: {reason}")
        elif r in taken:
            by = rules[taken[r]]
            what = "all of its connections" if by.conditions else "every connection"
            document.warn(at, f"{_never(rule)}: {_named(by, taken[r])} takes {what}")
        if model.weights and not any(model.weights.values()):
            of = f" of rule {rule.name}" if rule.name else ""
            document.warn(
                (*at, "weights"),
                f"all weights{of} are 0: its connections are reset until one has weight",
            )


def takes_all(route: RouteModel) -> bool:
    """Whether one of its rules is about every connection, so that none goes by its weights."""
    return any(not rule.made().conditions for rule in route.rules)


def clientele_of(route: RouteModel) -> Clientele:
    listen = frozenset(address for addresses in route.listen for address in addresses)
    named = route.accept_proxy is not None and UNIX in route.accept_proxy.senders
    return Clientele(listen, named or any(not address.path for address in listen))


def _never(rule: Rule) -> str:
    return f"rule {rule.name} is never met" if rule.name else "never met"


def _named(rule: Rule, number: int) -> str:
    if rule.name:
        return f"rule {rule.name} (rules[{number}])"
    return f"rules[{number}] ({rule})" if rule.conditions else f"rules[{number}]"


def _why_never(route: RouteModel, rule: Rule, clientele: Clientele) -> Iterator[tuple[str, str]]:
    """The key of each condition that no connection meets, and the reason."""
    there = clientele.of(rule)
    if not there:
        yield "listen", "none of these addresses has one of its ports"
        return
    of = "that it names" if rule.ports or rule.listen else "of the route"
    if rule.sources == (UNIX,) and all(not address.path for address in there):
        yield "source", f"no listener {of} is a UNIX socket"
    named = route.accept_proxy is not None and UNIX in route.accept_proxy.senders
    if rule.sources and UNIX not in rule.sources and not named and all(a.path for a in there):
        yield "source", f"every listener {of} is a UNIX socket, whose clients have no address"
    if rule.tlvs and not route.accept_proxy:
        yield "tlv", "the route has no accept_proxy"
    elif rule.tlvs and route.accept_proxy and 2 not in route.accept_proxy.versions:
        yield "tlv", "accept_proxy.versions leaves out 2, and version 1 has no TLVs"


def _check_name(called: Names, rule: Rule, document: Document, at: Location) -> None:
    if rule.name:
        called.add(rule.name, document, (*at, "name"))
    elif rule.called in called.first:
        place = called.first[rule.called]
        document.problem(at, f"never met: the same conditions are already at {place}")
    else:
        called.first[rule.called] = document.place(at)


def _check_destinations(
    route: RouteModel, model: RuleModel, document: Document, at: Location
) -> None:
    names = [destination.name for destination in route.destinations]
    named = [((*at, "to"), model.to)] if model.to else []
    named += [((*at, "weights", name), name) for name in model.weights or ()]
    for location, name in named:
        if name not in names:
            document.problem(location, f"expected one of {', '.join(names)}, got {describe(name)}")


def _check_listeners(route: RouteModel, model: RuleModel, document: Document, at: Location) -> None:
    listens = {address for addresses in route.listen for address in addresses}
    ports = {address.port for address in listens if not address.path}
    for p, port in enumerate(model.port or ()):
        if port not in ports:
            known = ", ".join(map(str, sorted(ports)[:8])) or "none: it has no TCP listener"
            document.problem(
                (*at, "port", p), f"expected a port that the route listens on ({known}), got {port}"
            )
    for i, addresses in enumerate(model.listen or ()):
        for address in addresses:
            if address not in listens:
                document.problem(
                    (*at, "listen", i), f"expected an address of the route's listen, got {address}"
                )
