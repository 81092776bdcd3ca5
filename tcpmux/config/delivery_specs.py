"""What delivers versions step by step in a cluster: Rollout of Argo Rollouts
(argo-rollouts.readthedocs.io/en/stable/features/specification) and Canary of Flagger
(docs.flagger.app/usage/how-it-works). Of their templates and workloads tcpmux reads nothing."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from tcpmux.config.remarks import Changes, Harmless
from tcpmux.config.rows import DAY
from tcpmux.config.specs import Loose, Share, Text
from tcpmux.config.values import duration

_NO_SERVERS = "tcpmux starts and stops no servers"
_OWN = "tcpmux compares the connections of both versions itself: `judge` in `rollout`"
_HTTP = Harmless("applies to HTTP only, and has no effect", told=True)


def _moment(value: Any) -> float:
    """Seconds, of a number of them (Argo writes those as strings, too) or of a duration."""
    is_number = type(value) is int or (isinstance(value, str) and value.isdecimal())
    text = f"{value}s" if is_number else value
    return duration(text, 0.0, 30 * DAY)


Moment = Annotated[float, BeforeValidator(_moment)]


# --- Argo Rollouts --------------------------------------------------------------------------------


class Pause(Loose):
    duration: Moment | None = None  # None = until somebody promotes it


class ArgoStep(Loose):
    setWeight: Share | None = None
    pause: Pause | None = None
    analysis: Annotated[Any, Harmless(_OWN, told=True)] = None
    experiment: Annotated[Any, Changes("tcpmux runs no experiments", "experiments")] = None
    setCanaryScale: Annotated[Any, Harmless(_NO_SERVERS)] = None
    setHeaderRoute: Annotated[Any, _HTTP] = None
    setMirrorRoute: Annotated[Any, _HTTP] = None
    plugin: Annotated[Any, Changes("tcpmux runs no plugins", "plugins")] = None


class Subsets(Loose):
    name: Annotated[Any, Harmless("its subsets are those of the routes in these files")] = None
    canarySubsetName: Text | None = None
    stableSubsetName: Text | None = None


class ArgoIstio(Loose):
    destinationRule: Subsets | None = None
    virtualService: Annotated[Any, Harmless("routes are found by their destinations")] = None
    virtualServices: Annotated[Any, Harmless("routes are found by their destinations")] = None


class TrafficRouting(Loose):
    istio: ArgoIstio | None = None


class ArgoCanary(Loose):
    stableService: Text | None = None
    canaryService: Text | None = None
    steps: list[ArgoStep] = []
    trafficRouting: TrafficRouting | None = None
    analysis: Annotated[Any, Harmless(_OWN, told=True)] = None


class Strategy(Loose):
    canary: ArgoCanary | None = None
    blueGreen: Annotated[Any, Harmless("it has no steps by weight")] = None


class ArgoRolloutSpec(Loose):
    strategy: Strategy


# --- Flagger --------------------------------------------------------------------------------------


class TargetRef(Loose):
    name: Text


class CanaryService(Loose):
    name: Text | None = None


class Analysis(Loose):
    interval: Moment = 60.0
    stepWeight: Share | None = None
    stepWeights: list[Share] = []
    maxWeight: Share | None = None
    stepWeightPromotion: Annotated[Any, Harmless("after the last step the new version has all")] = (
        None
    )
    iterations: Annotated[Any, Harmless("steps by weight have none")] = None
    mirror: Annotated[Any, _HTTP] = None
    match: Annotated[Any, _HTTP] = None
    sessionAffinity: Annotated[Any, _HTTP] = None
    threshold: Annotated[Any, Harmless(_OWN)] = None
    metrics: Annotated[Any, Harmless(_OWN, told=True)] = None
    alerts: Annotated[Any, Harmless("use `hooks` in `rollout`", told=True)] = None
    webhooks: Annotated[Any, Changes("use `hooks` in `rollout`", "webhooks")] = None


class FlaggerCanarySpec(Loose):
    targetRef: TargetRef
    service: CanaryService = CanaryService()
    analysis: Analysis | None = None
