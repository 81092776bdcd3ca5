"""Istio's resources: istio.io/latest/docs/reference/config/networking."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tcpmux.config.specs import (
    ConnectTimeout,
    Count,
    IdleTimeout,
    Ignored,
    KeepaliveTime,
    Labels,
    Later,
    Port,
    Refused,
    Share,
    Strict,
    Text,
    Weight,
)

_ONLY_TCP = "tcpmux relays TCP: expected tcp"
_ONLY_SOURCE = "tcpmux does not look into connections: expected useSourceIp"
_NO_EFFECT = "is not supported yet, and has no effect"


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
