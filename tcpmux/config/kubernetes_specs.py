"""Kubernetes' own resources, as far as they say where endpoints are."""

from __future__ import annotations

from tcpmux.config.specs import (
    Labels,
    Loose,
    Port,
    TargetPort,
    Text,
)


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
