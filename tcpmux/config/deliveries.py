"""`rollout` of routes, from a Rollout of Argo Rollouts and a Canary of Flagger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tcpmux.config.delivery_specs import (
    Analysis,
    ArgoCanary,
    ArgoRolloutSpec,
    FlaggerCanarySpec,
)
from tcpmux.config.duration import format_duration
from tcpmux.config.problems import Location
from tcpmux.config.resources import ARGO, FLAGGER, Made, Resource
from tcpmux.config.specs import read
from tcpmux.errors import plural
from tcpmux.rollout.plan import MAX_STEPS, Plan

ALL = 100  # %
_BEGINS = "a change of the template does not start it: use `tcpmux rollout start`"


@dataclass(frozen=True, slots=True)
class _Delivery:
    """pairs: (stable, canary), what destinations may be called. at: where its steps stand."""

    resource: Resource
    pairs: tuple[tuple[str, str], ...]
    shares: tuple[int, ...]
    bake: float
    at: Location

    def plan(self, to: str) -> Plan:
        return Plan(to, tuple(share / ALL for share in (*self.shares, ALL)), self.bake)


def with_rollouts(found: Sequence[Made], resources: Sequence[Resource]) -> list[Made]:
    """Routes, those that a Rollout or a Canary is about with it."""
    made = [*found]
    for delivery in _deliveries(resources):
        if not _apply(delivery, made):
            names = " or ".join(f"{stable} and {canary}" for stable, canary in delivery.pairs)
            delivery.resource.warn(f"no route for TCP has destinations {names}: it is ignored")
    return made


def _apply(delivery: _Delivery, made: list[Made]) -> bool:
    """Whether there is a route that it is about."""
    resource, is_used = delivery.resource, False
    for at, (one, pair) in enumerate((one, _pair_of(delivery, one)) for one in made):
        if pair is None:
            continue
        resource.use()
        is_used = True
        if one.route.rollout is not None:
            resource.warn(f"{one.resource} has another rollout already: this one is ignored")
            continue
        plan = delivery.plan(pair)
        made[at] = replace(one, route=replace(one.route, rollout=plan))
        resource.mapped(_BEGINS, "spec", told=True)
    return is_used


def _pair_of(delivery: _Delivery, made: Made) -> str | None:
    """The new version's destination, if it is about this route."""
    if made.resource.namespace != delivery.resource.namespace:
        return None
    names = {destination.name for destination in made.route.destinations}
    return next((pair[1] for pair in delivery.pairs if names >= {*pair}), None)


def _deliveries(resources: Sequence[Resource]) -> Iterator[_Delivery]:
    for resource in resources:
        made = None
        if (resource.group, resource.kind) == (ARGO, "Rollout"):
            argo = read(resource, ArgoRolloutSpec)
            canary = argo.strategy.canary if argo is not None else None
            if canary is not None:
                made = _of_argo(resource, canary)
            elif argo is not None:
                resource.warn("it has no steps by weight: it is ignored")
        elif (resource.group, resource.kind) == (FLAGGER, "Canary"):
            flagger = read(resource, FlaggerCanarySpec)
            analysis = flagger.analysis if flagger is not None else None
            if flagger is not None and analysis is not None:
                made = _of_flagger(resource, flagger, analysis)
            elif flagger is not None:
                resource.warn("it has no analysis: it is ignored")
        if made is not None and _can_be_followed(made):
            yield made


def _can_be_followed(made: _Delivery) -> bool:
    """Else what is wrong with it is noted."""
    resource, shares = made.resource, made.shares
    if not made.pairs:
        resource.changes("it names no two services or subsets: it is ignored", needs="such steps")
    elif not shares or shares[0] in (0, ALL) or len(shares) >= MAX_STEPS:
        message = "expected steps that grow, the first one above 0 and below 100"
        resource.problem(f"{message}, at most {plural(MAX_STEPS - 1, 'step')}", *made.at)
    elif any(later <= one for one, later in pairwise(shares)):
        resource.problem("expected steps that grow", *made.at)
    else:
        return True
    return False


# --- Argo Rollouts --------------------------------------------------------------------------------


def _of_argo(resource: Resource, canary: ArgoCanary) -> _Delivery:
    at = ("spec", "strategy", "canary", "steps")
    shares = [step.setWeight for step in canary.steps if step.setWeight is not None]
    pauses = []
    for number, step in enumerate(canary.steps):
        if step.pause is None:
            continue
        if step.pause.duration is None:
            note = "it does not wait for a person: use `tcpmux rollout pause` or `hooks`"
            resource.changes(note, *at, number, "pause", needs="pauses without an end")
        else:
            pauses.append(step.pause.duration)
    bake = max(pauses, default=0.0)
    if len({*pauses}) > 1:
        note = f"each step lasts at least {format_duration(bake)}, the longest of these pauses"
        resource.mapped(note, *at, told=True)
    istio = canary.trafficRouting.istio if canary.trafficRouting else None
    subsets = istio.destinationRule if istio else None
    pairs = [
        (subsets.stableSubsetName, subsets.canarySubsetName) if subsets else (None, None),
        (canary.stableService, canary.canaryService),
    ]
    named = tuple((stable, new) for stable, new in pairs if stable and new)
    return _Delivery(resource, named, tuple(_growing(shares)), bake, at)


def _growing(shares: Sequence[int]) -> Iterator[int]:
    """Without what is said twice in a row, and the last step, which is all."""
    before = None
    for share in shares:
        if share not in (before, ALL):
            yield share
        before = share


# --- Flagger --------------------------------------------------------------------------------------


def _of_flagger(resource: Resource, spec: FlaggerCanarySpec, analysis: Analysis) -> _Delivery:
    name = spec.service.name or spec.targetRef.name
    shares = [*analysis.stepWeights]
    if not shares and analysis.stepWeight:
        most = ALL if analysis.maxWeight is None else analysis.maxWeight
        shares = [*range(analysis.stepWeight, most + 1, analysis.stepWeight)]
    pairs = ((f"{name}-primary", f"{name}-canary"),)
    at = ("spec", "analysis")
    return _Delivery(resource, pairs, tuple(_growing(shares)), analysis.interval, at)
