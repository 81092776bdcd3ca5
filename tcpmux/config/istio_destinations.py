"""Destinations of a rule of an Istio VirtualService."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tcpmux.config.hosts import Hosts, NoEndpoints
from tcpmux.config.istio_rules import Rules, policy
from tcpmux.config.istio_specs import TargetModel, WeightedTarget
from tcpmux.config.model import Destination
from tcpmux.config.problems import Location
from tcpmux.config.resources import Resource

ONLY_DESTINATION = 100  # its weight says nothing


def destinations_of(
    resource: Resource,
    here: Location,
    targets: Sequence[WeightedTarget],
    rules: Rules,
    names: Mapping[TargetModel, str],
) -> tuple[Destination, ...] | None:
    """here: where the targets stand. names: of names_of(). None if something is wrong with one of
    them."""
    if len(targets) > 1 and not any(target.weight for target in targets):
        resource.problem("expected at least one weight above 0", *here)
    if len({target.destination for target in targets}) < len(targets):
        resource.problem("the same destination is listed twice", *here)
    destinations = []
    for at, target in enumerate(targets):
        made = _destination(resource, (*here, at, "destination"), target, rules.hosts, rules)
        if made is not None:
            weight = target.weight if len(targets) > 1 else ONLY_DESTINATION
            destinations.append(replace(made, name=names[target.destination], weight=weight))
    return tuple(destinations) if len(destinations) == len(targets) else None


def names_of(targets: Iterable[TargetModel]) -> dict[TargetModel, str]:
    """As short as they can be told apart: the subset, or the host, or more of it."""
    every = [*dict.fromkeys(targets)]

    def names(form: int) -> list[str]:
        found = []
        for to in every:
            host = to.host.split(".")[0] if form < 2 else to.host
            parts = [to.subset] if to.subset and form == 0 else [host, to.subset]
            if form == 3 and to.port:
                parts.append(str(to.port.number))
            found.append("-".join(part for part in parts if part))
        return found

    best = next((n for n in map(names, range(4)) if len(set(n)) == len(n)), names(3))
    return dict(zip(every, best, strict=True))


def _destination(
    resource: Resource,
    here: tuple[str | int, ...],
    target: WeightedTarget,
    hosts: Hosts,
    rules: Rules,
) -> Destination | None:
    to = target.destination
    rule = rules.of_host(to.host, resource.namespace)
    labels, subset = {}, None
    if to.subset is not None:
        subsets = {subset.name: subset for subset in rule[1].subsets} if rule else {}
        if to.subset not in subsets:
            known = ", ".join(subsets) or "none"
            resource.problem(
                f"no DestinationRule defines subset {to.subset} of {to.host}; there are: {known}",
                *(*here, "subset"),
            )
            return None
        subset = subsets[to.subset]
        labels = subset.labels
    port = to.port.number if to.port else None
    try:
        endpoints = hosts.endpoints(
            to.host,
            resource.namespace,
            port,
            to.subset or "",
            labels,
            in_namespace=resource.has_namespace,
        )
    except NoEndpoints as error:
        resource.problem(str(error), *here)
        return None
    made = policy(rule, subset, port)
    if rule and made.max_connections and rules.is_limited_again(rule, subset, port):
        note = f"its limit, {made.max_connections} connections, applies to each route on its own"
        resource.changes(note, *here, needs="limits across routes")
    return Destination("", 0, endpoints, made)
