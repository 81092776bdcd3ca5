"""The Gateway API's resources: gateway-api.sigs.k8s.io/reference/spec."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tcpmux.config.specs import (
    Ignored,
    Port,
    Refused,
    Strict,
    Text,
    Weight,
)


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
