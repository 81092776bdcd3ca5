"""What resources look like, as far as it is of use. Names of fields are those of their APIs.

Fields that Istio and the Gateway API know and tcpmux does not are here too, with what is to be
said when they are used: Later is a warning, Refused a mistake. All others are unknown keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tcpmux.config.model import MAX_WEIGHT
from tcpmux.config.problems import Location, describe
from tcpmux.config.resources import Resource
from tcpmux.config.schema import connect_timeout, idle_timeout
from tcpmux.config.validation import add_problems
from tcpmux.config.values import duration, unlike_number

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Later:
    """Not honoured yet; message says what happens instead."""

    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Ignoring it would send traffic elsewhere or otherwise than asked for."""

    message: str


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Loose(BaseModel):
    """Kubernetes' own: much of it says nothing about traffic."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def read(resource: Resource, model: type[M], *inside: str) -> M | None:
    """The part of a resource (spec, if not named) as a model, or None and the problems noted."""
    inside = inside or ("spec",)
    value: Any = resource.value
    for step in inside:
        value = value.get(step) if isinstance(value, dict) else None
    if value is None and inside == ("spec",):
        resource.problem("spec is missing")
        return None
    return _read(resource, model, value, inside)


def read_whole(resource: Resource, model: type[M]) -> M | None:
    """As read(), for resources without a spec, whose fields stand beside metadata."""
    return _read(resource, model, resource.value, ())


def _read(resource: Resource, model: type[M], value: Any, inside: Location) -> M | None:
    root = (*resource.location, *inside)
    try:
        found = model.model_validate({} if value is None else value)
    except ValidationError as error:
        add_problems(resource.document, model, error, root)
        return None
    _say(resource, found, root)
    return found


def _say(resource: Resource, model: BaseModel, location: Location) -> None:
    for name in sorted(model.model_fields_set & type(model).model_fields.keys()):
        here = (*location, name)
        for mark in type(model).model_fields[name].metadata:
            if isinstance(mark, Later):
                resource.document.warn(here, mark.message)
            elif isinstance(mark, Refused):
                resource.document.problem(here, mark.message)
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            _say(resource, value, here)
        elif isinstance(value, list):
            for place, item in enumerate(value):
                if isinstance(item, BaseModel):
                    _say(resource, item, (*here, place))


def _port(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 65535:
        raise ValueError(f"expected a port, 1..65535, got {unlike_number(value)}")
    return value


def _weight(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_WEIGHT:
        raise ValueError(f"expected 0..{MAX_WEIGHT}, got {unlike_number(value)}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"expected a number from 0 on, got {unlike_number(value)}")
    return value


def _share(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 100:
        raise ValueError(f"expected 0..100, got {unlike_number(value)}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a text, got {describe(value)}")
    return value


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping of labels, got {describe(value)}")
    return {str(key): str(label) for key, label in value.items()}


def _target_port(value: Any) -> int | str | None:
    """A number, or the name of a container's port."""
    return value if value is None or isinstance(value, str) else _port(value)


Port = Annotated[int, BeforeValidator(_port)]
TargetPort = Annotated[int | str | None, BeforeValidator(_target_port)]
Weight = Annotated[int, BeforeValidator(_weight)]
Text = Annotated[str, BeforeValidator(_text)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels)]
ConnectTimeout = Annotated[float, BeforeValidator(connect_timeout)]
IdleTimeout = Annotated[float, BeforeValidator(idle_timeout)]
Count = Annotated[int, BeforeValidator(_count)]
Share = Annotated[int, BeforeValidator(_share)]
KeepaliveTime = Annotated[float, BeforeValidator(lambda value: duration(value, 0.001, 86400.0))]
Ignored = Any  # says nothing about traffic here

_ONLY_TCP = "tcpmux relays TCP: expected tcp"
_ONLY_SOURCE = "tcpmux does not look into connections: expected useSourceIp"
_NO_EFFECT = "is not supported yet, and has no effect"


# --- Istio (istio.io/latest/docs/reference/config/networking) ----------------------------------


class ServerPort(Strict):
    number: Port
    name: Text | None = None
    protocol: Text
    targetPort: Ignored = None


class Server(Strict):
    port: ServerPort
    hosts: list[Text]
    name: Ignored = None
    bind: Text | None = None
    tls: Annotated[Any, Refused("TLS is not supported yet: expected a server of protocol TCP")] = (
        None
    )
    defaultEndpoint: Annotated[Any, Later(_NO_EFFECT)] = None


class GatewaySpec(Strict):
    servers: list[Server] = Field(min_length=1)
    selector: Ignored = None


class PortNumber(Strict):
    number: Port


class TargetModel(Strict):
    host: Text
    subset: Text | None = None
    port: PortNumber | None = None


class WeightedTarget(Strict):
    destination: TargetModel
    weight: Weight = 0


_BY_SOURCE = "matching by where a connection comes from is not supported yet"


class MatchModel(Strict):
    port: Port | None = None
    gateways: list[Text] | None = None
    destinationSubnets: Annotated[Any, Refused("matching by address is not supported yet")] = None
    sourceSubnet: Annotated[Any, Refused(_BY_SOURCE)] = None
    sourceLabels: Annotated[Any, Refused(_BY_SOURCE)] = None
    sourceNamespace: Annotated[Any, Refused(_BY_SOURCE)] = None


class TcpRule(Strict):
    match: list[MatchModel] = []
    route: list[WeightedTarget] = Field(min_length=1)


class VirtualServiceSpec(Strict):
    hosts: list[Text] = []
    gateways: list[Text] | None = None
    tcp: list[TcpRule] = []
    http: Annotated[Any, Refused(_ONLY_TCP)] = None
    tls: Annotated[Any, Refused(_ONLY_TCP)] = None
    exportTo: Ignored = None


class TcpKeepalive(Strict):
    probes: Count | None = None
    time: KeepaliveTime | None = None
    interval: KeepaliveTime | None = None


class TcpPool(Strict):
    connectTimeout: ConnectTimeout | None = None
    idleTimeout: IdleTimeout | None = None
    maxConnections: Count | None = None
    tcpKeepalive: TcpKeepalive | None = None
    maxConnectionDuration: IdleTimeout | None = None


class PoolModel(Strict):
    tcp: TcpPool = TcpPool()
    http: Annotated[Any, Later("is about HTTP, and has no effect")] = None


class ConsistentHash(Strict):
    useSourceIp: bool = False
    maglev: Any = None
    ringHash: Ignored = None
    minimumRingSize: Ignored = None
    httpHeaderName: Annotated[Any, Refused(_ONLY_SOURCE)] = None
    httpCookie: Annotated[Any, Refused(_ONLY_SOURCE)] = None
    httpQueryParameterName: Annotated[Any, Refused(_ONLY_SOURCE)] = None


class WarmupModel(Strict):
    duration: IdleTimeout
    minimumPercent: Share | None = None
    aggression: Annotated[Any, Later("has no effect: the share grows evenly")] = None


class OutlierDetection(Strict):
    """Istio's consecutive5xxErrors and consecutiveGatewayErrors count connections that fail, where
    the protocol is TCP."""

    consecutiveErrors: Count | None = None
    consecutive5xxErrors: Count | None = None
    consecutiveGatewayErrors: Count | None = None
    consecutiveLocalOriginFailures: Count | None = None
    splitExternalLocalOriginErrors: Ignored = None
    interval: KeepaliveTime | None = None
    baseEjectionTime: KeepaliveTime | None = None
    maxEjectionPercent: Share | None = None
    minHealthPercent: Share | None = None


class LoadBalancer(Strict):
    simple: Text | None = None
    consistentHash: ConsistentHash | None = None
    localityLbSetting: Annotated[Any, Later(_NO_EFFECT)] = None
    warmup: WarmupModel | None = None
    warmupDurationSecs: IdleTimeout | None = None


class TlsPolicy(Strict):
    model_config = ConfigDict(extra="ignore", frozen=True)
    mode: Text = "DISABLE"


class TrafficPolicy(Strict):
    connectionPool: PoolModel = PoolModel()
    loadBalancer: LoadBalancer = LoadBalancer()
    outlierDetection: OutlierDetection | None = None
    portLevelSettings: Annotated[Any, Later(_NO_EFFECT)] = None
    tls: TlsPolicy = TlsPolicy()
    tunnel: Annotated[Any, Refused("tunnels are not supported yet")] = None
    proxyProtocol: Annotated[Any, Refused("the PROXY protocol is not supported yet")] = None
    retryBudget: Annotated[Any, Later(_NO_EFFECT)] = None


class SubsetModel(Strict):
    name: Text
    labels: Labels = {}
    trafficPolicy: TrafficPolicy = TrafficPolicy()


class DestinationRuleSpec(Strict):
    host: Text
    subsets: list[SubsetModel] = []
    trafficPolicy: TrafficPolicy = TrafficPolicy()
    exportTo: Ignored = None
    workloadSelector: Annotated[Any, Later(_NO_EFFECT)] = None


class EntryPort(Strict):
    number: Port
    name: Text = "tcp"
    protocol: Ignored = None
    targetPort: Port | None = None


class WorkloadSpec(Strict):
    address: Text
    ports: dict[str, Port] = {}
    labels: Labels = {}
    weight: Weight = 1
    network: Ignored = None
    locality: Ignored = None
    serviceAccount: Ignored = None


class LabelSelector(Strict):
    labels: Labels = {}


class ServiceEntrySpec(Strict):
    hosts: list[Text] = Field(min_length=1)
    ports: list[EntryPort] = []
    endpoints: list[WorkloadSpec] = []
    resolution: Text = "NONE"
    workloadSelector: LabelSelector | None = None
    addresses: Ignored = None
    location: Ignored = None
    exportTo: Ignored = None
    subjectAltNames: Annotated[Any, Later(_NO_EFFECT)] = None


# --- Gateway API (gateway-api.sigs.k8s.io/reference/spec) --------------------------------------


class GatewayAddress(Strict):
    type: Text = "IPAddress"
    value: Text


class RouteKind(Strict):
    group: str = "gateway.networking.k8s.io"
    kind: Text


class RouteNamespaces(Strict):
    model_config = ConfigDict(extra="allow", frozen=True)
    from_: Text = Field(default="Same", alias="from")


class AllowedRoutes(Strict):
    kinds: list[RouteKind] = []
    namespaces: RouteNamespaces = RouteNamespaces()


class ListenerModel(Strict):
    name: Text
    port: Port
    protocol: Text
    hostname: Ignored = None
    tls: Annotated[
        Any, Refused("TLS is not supported yet: expected a listener of protocol TCP")
    ] = None
    allowedRoutes: AllowedRoutes = AllowedRoutes()


class ApiGatewaySpec(Strict):
    listeners: list[ListenerModel] = Field(min_length=1)
    addresses: list[GatewayAddress] = []
    gatewayClassName: Ignored = None
    infrastructure: Ignored = None
    allowedListeners: Ignored = None
    backendTLS: Annotated[Any, Refused("TLS is not supported yet")] = None
    tls: Annotated[Any, Refused("TLS is not supported yet")] = None


class ParentRef(Strict):
    group: str = "gateway.networking.k8s.io"
    kind: Text = "Gateway"
    namespace: Text | None = None
    name: Text
    sectionName: Text | None = None
    port: Port | None = None


class BackendRef(Strict):
    group: str = ""
    kind: Text = "Service"
    namespace: Text | None = None
    name: Text
    port: Port | None = None
    weight: Weight = 1


class TcpRouteRule(Strict):
    name: Ignored = None
    backendRefs: list[BackendRef] = Field(min_length=1, max_length=16)


class TcpRouteSpec(Strict):
    parentRefs: list[ParentRef] = Field(min_length=1)
    rules: list[TcpRouteRule] = Field(min_length=1, max_length=1)
    useDefaultGateways: Ignored = None


# --- Kubernetes --------------------------------------------------------------------------------


class ServicePort(Loose):
    name: str = ""
    port: Port
    targetPort: TargetPort = None
    protocol: str = "TCP"


class ServiceSpec(Loose):
    ports: list[ServicePort] = []
    selector: Labels | None = None
    type: str = "ClusterIP"
    externalName: str = ""


class TargetRef(Loose):
    kind: str = ""
    name: str = ""


class Conditions(Loose):
    ready: bool | None = None


class SliceEndpoint(Loose):
    addresses: list[Text] = []
    conditions: Conditions = Conditions()
    targetRef: TargetRef = TargetRef()


class SlicePort(Loose):
    name: str | None = ""
    port: Port | None = None


class SliceModel(Loose):
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class EndpointsAddress(Loose):
    ip: Text
    targetRef: TargetRef = TargetRef()


class EndpointsSubset(Loose):
    addresses: list[EndpointsAddress] | None = None
    ports: list[SlicePort] | None = None


class EndpointsModel(Loose):
    subsets: list[EndpointsSubset] | None = None


class ContainerPort(Loose):
    name: str = ""
    containerPort: Port


class Container(Loose):
    ports: list[ContainerPort] | None = None


class PodSpec(Loose):
    containers: list[Container] = []


class PodCondition(Loose):
    type: str = ""
    status: str = ""


class PodStatus(Loose):
    podIP: str = ""
    conditions: list[PodCondition] | None = None
