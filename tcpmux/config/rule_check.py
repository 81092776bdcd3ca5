"""What no single value of a route's rules can tell: names, destinations, addresses, and rules that
no connection gets to."""

from __future__ import annotations

from tcpmux.config.document import Document
from tcpmux.config.problems import Location, describe
from tcpmux.config.rule import Rule
from tcpmux.config.rule_schema import RuleModel
from tcpmux.config.schema import RouteModel
from tcpmux.config.validation import Names


def check_rules(route: RouteModel, document: Document, here: Location) -> None:
    """Adds what is wrong with them to the document."""
    called = Names("a rule named")
    takes_all = ""
    for r, model in enumerate(route.rules):
        at = (*here, "rules", r)
        _check_destinations(route, model, document, at)
        _check_listeners(route, model, document, at)
        rule = model.made()
        _check_name(called, rule, document, at)
        if takes_all:
            document.warn(at, f"never reached: {takes_all} takes every connection")
        elif not rule.conditions:
            takes_all = f"rules[{r}]"
        if rule.tlvs and not route.accept_proxy:
            document.warn((*at, "tlv"), "never met: the route has no accept_proxy")
        elif rule.tlvs and route.accept_proxy and 2 not in route.accept_proxy.versions:
            document.warn((*at, "tlv"), "never met: accept_proxy.versions leaves out 2")
        if model.weights and not any(model.weights.values()):
            document.warn(
                (*at, "weights"),
                "all weights are 0: its connections are reset until one has weight",
            )


def takes_all(route: RouteModel) -> bool:
    """Whether one of its rules is about every connection, so that none goes by its weights."""
    return any(not rule.made().conditions for rule in route.rules)


def _check_name(called: Names, rule: Rule, document: Document, at: Location) -> None:
    if rule.name:
        called.add(rule.name, document, (*at, "name"))
    elif rule.called in called.first:
        place = called.first[rule.called]
        document.problem(at, f"never reached: the same conditions are already at {place}")
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
