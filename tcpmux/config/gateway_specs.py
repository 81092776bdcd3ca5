"""The Gateway API's resources: gateway-api.sigs.k8s.io/reference/spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from tcpmux.config.problems import describe
from tcpmux.config.remarks import Changes, Harmless
from tcpmux.config.specs import (
    Labels,
    Port,
    Strict,
    Text,
    Weight,
)

_TLS = Changes("TLS is not supported yet", "TLS", refused=True)
_DEFAULTS = "tcpmux attaches routes only to the Gateways that they name"


class GatewayAddress(Strict):
    type: Text = "IPAddress"
    value: str = ""  # none: an address of the implementation's choice


class RouteKind(Strict):
    group: str = "gateway.networking.k8s.io"
    kind: Text


def _operator(value: Any) -> str:
    if value not in ("In", "NotIn", "Exists", "DoesNotExist"):
        raise ValueError(f"expected In, NotIn, Exists or DoesNotExist, got {describe(value)}")
    return str(value)


class Requirement(Strict):
    key: Text
    operator: Annotated[str, BeforeValidator(_operator)]
    values: list[str] = []

    def is_met(self, labels: Mapping[str, str]) -> bool:
        """Of a namespace, say."""
        found = labels.get(self.key)
        if self.operator == "In":
            return found in self.values
        if self.operator == "NotIn":
            return found not in self.values
        if self.operator == "Exists":
            return found is not None
        return found is None


class Selector(Strict):
    matchLabels: Labels = {}
    matchExpressions: list[Requirement] = []

    def selects(self, labels: Mapping[str, str]) -> bool:
        return self.matchLabels.items() <= labels.items() and all(
            requirement.is_met(labels) for requirement in self.matchExpressions
        )


class RouteNamespaces(Strict):
    model_config = ConfigDict(extra="forbid", frozen=True)
    from_: Text = Field(default="Same", alias="from")
    selector: Selector | None = None


class AllowedRoutes(Strict):
    kinds: list[RouteKind] = []
    namespaces: RouteNamespaces = RouteNamespaces()


class ListenerModel(Strict):
    name: Text
    port: Port
    protocol: Text
    hostname: Text | None = None
    tls: Any = None  # of a listener with it, Passthrough alone is opened
    allowedRoutes: AllowedRoutes = AllowedRoutes()

    @property
    def mode(self) -> str:
        """Of TLS."""
        return str(self.tls.get("mode", "Terminate")) if isinstance(self.tls, dict) else ""


class ApiGatewaySpec(Strict):
    listeners: list[ListenerModel] = Field(min_length=1)
    addresses: list[GatewayAddress] = []
    gatewayClassName: Annotated[Any, Harmless("tcpmux serves every Gateway")] = None
    infrastructure: Annotated[Any, Harmless("affects only what a cluster creates for it")] = None
    allowedListeners: Annotated[Any, Harmless("applies to sets of listeners only")] = None
    defaultScope: Annotated[Any, Changes(_DEFAULTS, "default Gateways", unless=("None",))] = None
    backendTLS: Annotated[Any, _TLS] = None
    tls: Annotated[Any, _TLS] = None


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
    name: Annotated[Any, Harmless("is only a name")] = None
    backendRefs: list[BackendRef] = Field(default=[], max_length=16)


class TcpRouteSpec(Strict):
    parentRefs: list[ParentRef] = []
    rules: list[TcpRouteRule] = Field(min_length=1, max_length=1)
    useDefaultGateways: Annotated[Any, Changes(_DEFAULTS, "default Gateways", unless=("None",))] = (
        None
    )


class TlsRouteRule(Strict):
    name: Annotated[Any, Harmless("is only a name")] = None
    backendRefs: list[BackendRef] = Field(default=[], max_length=16)


class TlsRouteSpec(Strict):
    """Since v1 hostnames are required, and there is one rule; before that it was 16."""

    parentRefs: list[ParentRef] = []
    hostnames: list[Text] = Field(default=[], max_length=1024)
    rules: list[TlsRouteRule] = Field(min_length=1, max_length=16)
    useDefaultGateways: Annotated[Any, Changes(_DEFAULTS, "default Gateways", unless=("None",))] = (
        None
    )


class GrantFrom(Strict):
    group: str
    kind: Text
    namespace: Text


class GrantTo(Strict):
    group: str
    kind: Text
    name: Text | None = None


class ReferenceGrantSpec(Strict):
    from_: list[GrantFrom] = Field(min_length=1, alias="from")
    to: list[GrantTo] = Field(min_length=1)
