"""Istio's resources: istio.io/latest/docs/reference/config/networking."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tcpmux.config.kubernetes_specs import NOT_TCP
from tcpmux.config.problems import describe
from tcpmux.config.remarks import Changes, Harmless
from tcpmux.config.specs import (
    ConnectTimeout,
    Count,
    IdleTimeout,
    KeepaliveTime,
    Labels,
    Loose,
    Moment,
    Port,
    Probes,
    Share,
    Strict,
    Text,
    Weight,
)

_ONLY_SOURCE = "tcpmux does not read what clients send: expected useSourceIp"
_NO_EFFECT = "is not supported yet, and has no effect"
_OF_TLS = Changes("TLS is not supported yet", "TLS")
_HTTP = Harmless("applies to HTTP only, and has no effect", told=True)
_EXPORT = Changes(
    "tcpmux applies it to every namespace",
    "visibility",
    unless=(["*"],),
    harmless="it applies to every namespace",
)
_LOCALITY = Changes("tcpmux has no localities: give endpoints a priority", "localities")
_HASHED = Changes(_ONLY_SOURCE, "sticky sessions", refused=True)


class ServerPort(Strict):
    number: Port
    name: Text | None = None
    protocol: Text
    targetPort: Annotated[Any, Harmless("is deprecated, and Istio does not use it")] = None


class Server(Strict):
    port: ServerPort
    hosts: list[Text]
    name: Annotated[Any, Harmless("is only a name")] = None
    bind: Text | None = None
    tls: Any = None  # of a server with it, PASSTHROUGH alone is opened
    defaultEndpoint: Annotated[Any, Changes(_NO_EFFECT, "default endpoints")] = None


class GatewaySpec(Strict):
    servers: list[Server] = Field(min_length=1)
    selector: Annotated[Any, Harmless("tcpmux serves every Gateway")] = None


class PortNumber(Strict):
    number: Port


class TargetModel(Strict):
    host: Text
    subset: Text | None = None
    port: PortNumber | None = None


class WeightedTarget(Strict):
    destination: TargetModel
    weight: Weight = 0


_BY_LABELS = Changes(
    "tcpmux does not know the labels and namespaces of clients: use sourceSubnet",
    "rules by workload",
    refused=True,
)


def _subnet(value: Any) -> IPv4Network | IPv6Network:
    if not isinstance(value, str):
        raise ValueError(f"expected a network such as 10.0.0.0/8, got {describe(value)}")
    try:
        return ip_network(value, strict=False)
    except ValueError:
        message = f"expected a network such as 10.0.0.0/8, got {describe(value)}"
        raise ValueError(message) from None


Subnet = Annotated[IPv4Network | IPv6Network, BeforeValidator(_subnet)]


class MatchModel(Strict):
    port: Port | None = None
    gateways: list[Text] | None = None
    destinationSubnets: list[Subnet] = []
    sourceSubnet: Subnet | None = None
    sourceLabels: Annotated[Any, _BY_LABELS] = None
    sourceNamespace: Annotated[Any, _BY_LABELS] = None

    @property
    def is_whole(self) -> bool:
        """tcpmux knows all that it asks for."""
        return not (self.sourceLabels or self.sourceNamespace)


class TlsMatchModel(MatchModel):
    sniHosts: list[Text] = Field(min_length=1)


class TcpRule(Strict):
    match: list[MatchModel] = []
    route: list[WeightedTarget] = Field(min_length=1)


class TlsRule(Strict):
    match: list[TlsMatchModel] = Field(min_length=1)
    route: list[WeightedTarget] = Field(min_length=1)


class VirtualServiceSpec(Strict):
    hosts: list[Text] = []
    gateways: list[Text] | None = None
    tcp: list[TcpRule] = []
    http: Annotated[
        Any, Harmless("tcpmux relays TCP: these rules are not served", True, "HTTP")
    ] = None
    tls: list[TlsRule] = []
    exportTo: Annotated[Any, _EXPORT] = None


class TcpKeepalive(Strict):
    probes: Probes | None = None
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
    http: Annotated[Any, _HTTP] = None


class ConsistentHash(Strict):
    useSourceIp: bool = False
    maglev: Any = None
    ringHash: Annotated[Any, Harmless("the size of tcpmux's hash table is fixed")] = None
    minimumRingSize: Annotated[Any, Harmless("the size of tcpmux's hash table is fixed")] = None
    httpHeaderName: Annotated[Any, _HASHED] = None
    httpCookie: Annotated[Any, _HASHED] = None
    httpQueryParameterName: Annotated[Any, _HASHED] = None


class WarmupModel(Strict):
    duration: IdleTimeout
    minimumPercent: Share | None = None
    aggression: Annotated[
        Any,
        Changes(
            "has no effect: tcpmux increases the share linearly",
            "nonlinear slow start",
            unless=(1,),
        ),
    ] = None


class OutlierDetection(Strict):
    """Istio's consecutive5xxErrors and consecutiveGatewayErrors count connections that fail, where
    the protocol is TCP."""

    consecutiveErrors: Count | None = None
    consecutive5xxErrors: Count | None = None
    consecutiveGatewayErrors: Count | None = None
    consecutiveLocalOriginFailures: Count | None = None
    splitExternalLocalOriginErrors: bool = False
    interval: Moment | None = None
    baseEjectionTime: Moment | None = None
    maxEjectionPercent: Share | None = None
    minHealthPercent: Share | None = None


class LoadBalancer(Strict):
    simple: Text | None = None
    consistentHash: ConsistentHash | None = None
    localityLbSetting: Annotated[
        Any,
        Changes(_NO_EFFECT, "localities", unless=({"enabled": False},)),
    ] = None
    warmup: WarmupModel | None = None
    warmupDurationSecs: IdleTimeout | None = None


class TlsPolicy(Loose):
    mode: Annotated[
        Text,
        Changes(
            "TLS is not supported yet: expected DISABLE", "TLS", refused=True, unless=("DISABLE",)
        ),
    ] = "DISABLE"
    clientCertificate: Annotated[Any, _OF_TLS] = None
    privateKey: Annotated[Any, _OF_TLS] = None
    caCertificates: Annotated[Any, _OF_TLS] = None
    caCrl: Annotated[Any, _OF_TLS] = None
    credentialName: Annotated[Any, _OF_TLS] = None
    subjectAltNames: Annotated[Any, _OF_TLS] = None
    sni: Annotated[Any, _OF_TLS] = None
    insecureSkipVerify: Annotated[Any, _OF_TLS] = None


class ProxyProtocol(Strict):
    version: Literal["V1", "V2"] = "V1"


class TrafficPolicy(Strict):
    connectionPool: PoolModel | None = None
    loadBalancer: LoadBalancer | None = None
    outlierDetection: OutlierDetection | None = None
    portLevelSettings: list[Any] = []  # each a PortPolicy, read once a route goes to that port
    tls: TlsPolicy = TlsPolicy()
    tunnel: Annotated[Any, Changes("tunnels are not supported yet", "tunnels", refused=True)] = None
    proxyProtocol: ProxyProtocol | None = None
    retryBudget: Annotated[Any, _HTTP] = None


class PortPolicy(Strict):
    port: PortNumber
    connectionPool: PoolModel | None = None
    loadBalancer: LoadBalancer | None = None
    outlierDetection: OutlierDetection | None = None
    tls: TlsPolicy = TlsPolicy()


class SubsetModel(Strict):
    name: Text
    labels: Labels = {}
    trafficPolicy: TrafficPolicy = TrafficPolicy()


class DestinationRuleSpec(Strict):
    host: Text
    subsets: list[SubsetModel] = []
    trafficPolicy: TrafficPolicy = TrafficPolicy()
    exportTo: Annotated[Any, _EXPORT] = None
    workloadSelector: Annotated[
        Any, Changes("tcpmux applies it to all clients, whatever their labels", "rules by source")
    ] = None


class EntryPort(Strict):
    number: Port
    name: Text = "tcp"
    protocol: str = ""
    targetPort: Port | None = None

    @property
    def is_plain(self) -> bool:
        """Rules for TCP hold for it: its protocol is TCP, MONGO, MYSQL, REDIS or unnamed."""
        return self.protocol.lower() not in NOT_TCP


class WorkloadSpec(Strict):
    address: Text
    ports: dict[str, Port] = {}
    labels: Labels = {}
    weight: Weight = 1
    network: Annotated[
        Any,
        Changes(
            "tcpmux connects to its own address, not through a gateway", "networks", unless=("",)
        ),
    ] = None
    locality: Annotated[Any, _LOCALITY] = None
    serviceAccount: Annotated[Any, Harmless("is an identity, which applies to TLS only")] = None


class LabelSelector(Strict):
    labels: Labels = {}


class ServiceEntrySpec(Strict):
    hosts: list[Text] = Field(min_length=1)
    ports: list[EntryPort] = []
    endpoints: list[WorkloadSpec] = []
    resolution: Text = "NONE"
    workloadSelector: LabelSelector | None = None
    addresses: Annotated[Any, Harmless("clients connect to tcpmux instead")] = None
    location: Annotated[Any, Harmless("applies to TLS and telemetry only")] = None
    exportTo: Annotated[Any, _EXPORT] = None
    subjectAltNames: Annotated[
        Any, Harmless("applies to TLS only, and has no effect", told=True)
    ] = None
