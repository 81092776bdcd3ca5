"""Kubernetes' own resources, as far as they say where endpoints are."""

from __future__ import annotations

from typing import Annotated, Any

from tcpmux.config.remarks import Changes
from tcpmux.config.specs import (
    Labels,
    Loose,
    Port,
    TargetPort,
    Text,
)

# What the name of a Service's port begins with, or its appProtocol says, where it is not TCP to
# Istio. All others are: mongo, mysql, redis, postgres, and names that say nothing.
NOT_TCP = frozenset(
    {
        "http",
        "https",
        "http2",
        "grpc",
        "grpc-web",
        "tls",
        "udp",
        "quic",
        "hbone",
        "h2c",
        "ws",
        "wss",
    }
)
_NEAR = "tcpmux uses its endpoints on every node"


class ServicePort(Loose):
    name: str = ""
    port: Port
    targetPort: TargetPort = None
    protocol: str = "TCP"
    appProtocol: str | None = None

    @property
    def is_tcp(self) -> bool:
        """Its transport is."""
        return self.protocol == "TCP"

    @property
    def is_plain(self) -> bool:
        """Istio's rules for TCP hold for it."""
        word = self.name.partition("-")[0]
        if self.name.startswith("grpc-web"):
            word = "grpc-web"
        if self.appProtocol:
            word = self.appProtocol.rpartition("/")[2]
        return self.is_tcp and word.lower() not in NOT_TCP


class ServiceSpec(Loose):
    ports: list[ServicePort] = []
    selector: Labels | None = None
    type: str = "ClusterIP"
    externalName: str = ""
    publishNotReadyAddresses: bool = False
    sessionAffinity: Annotated[
        Any,
        Changes(
            "tcpmux does not keep a client at its endpoint", "sticky sessions", unless=("None",)
        ),
    ] = None
    internalTrafficPolicy: Annotated[Any, Changes(_NEAR, "localities", unless=("Cluster",))] = None
    trafficDistribution: Annotated[Any, Changes(_NEAR, "localities")] = None


class TargetRef(Loose):
    kind: str = ""
    name: str = ""


class Conditions(Loose):
    """serving and terminating say the same for those that publishNotReadyAddresses."""

    ready: bool | None = None


class SliceEndpoint(Loose):
    addresses: list[Text] = []
    conditions: Conditions = Conditions()
    targetRef: TargetRef = TargetRef()


class SlicePort(Loose):
    name: str | None = ""
    port: Port | None = None
    protocol: str | None = "TCP"


class SliceModel(Loose):
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class EndpointsAddress(Loose):
    ip: Text
    targetRef: TargetRef = TargetRef()


class EndpointsSubset(Loose):
    addresses: list[EndpointsAddress] | None = None
    notReadyAddresses: list[EndpointsAddress] | None = None
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
