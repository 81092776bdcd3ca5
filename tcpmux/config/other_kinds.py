"""Kinds of resources that tcpmux reads nothing from: which of them change traffic.

A kind that is not here may do anything, so it changes traffic.
"""

from __future__ import annotations

from typing import Any

from tcpmux.config.problems import one_line
from tcpmux.config.remarks import Changes, Harmless

_NOT_ROUTED = "does not affect where connections go"
_HTTP = "tcpmux relays TCP: its ports are not opened"
_TLS = "tcpmux relays TLS without decrypting it: its ports are not opened"
_UDP = "tcpmux relays TCP: its UDP ports are not opened"
_DENIES = "it may deny connections, and tcpmux does not apply it: use `allow` and `deny`"
_ENCRYPTS = "tcpmux does not encrypt connections to servers"
_JUDGED = "tcpmux compares versions itself: `judge` in `rollout`"
_ANY = "it may change anything, and tcpmux does not apply it"

# Groups that have no kind about connections: of a name, or of a name that ends so.
HARMLESS_GROUPS = frozenset(
    {
        "",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "apps",
        "autoscaling",
        "batch",
        "cert-manager.io",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "metrics.k8s.io",
        "monitoring.coreos.com",
        "node.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "resource.k8s.io",
        "scheduling.k8s.io",
        "snapshot.storage.k8s.io",
        "storage.k8s.io",
        "storagemigration.k8s.io",
        "telemetry.istio.io",
    }
)

_ISTIO, _SECURITY = "networking.istio.io", "security.istio.io"
_GATEWAY_API, _EXPERIMENTS = "gateway.networking.k8s.io", "gateway.networking.x-k8s.io"
_KUBERNETES = "networking.k8s.io"
_ARGO, _FLAGGER = "argoproj.io", "flagger.app"

KINDS: dict[tuple[str, str], Changes | Harmless] = {
    (_KUBERNETES, "Ingress"): Harmless(_HTTP, needs="HTTP"),
    (_KUBERNETES, "IngressClass"): Harmless(_NOT_ROUTED),
    (_KUBERNETES, "IPAddress"): Harmless(_NOT_ROUTED),
    (_KUBERNETES, "ServiceCIDR"): Harmless(_NOT_ROUTED),
    (_KUBERNETES, "NetworkPolicy"): Changes(_DENIES, "network policies"),
    ("policy.networking.k8s.io", "AdminNetworkPolicy"): Changes(_DENIES, "network policies"),
    ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy"): Changes(
        _DENIES, "network policies"
    ),
    (_GATEWAY_API, "GatewayClass"): Harmless("tcpmux serves every Gateway"),
    (_GATEWAY_API, "HTTPRoute"): Harmless(_HTTP, needs="HTTP"),
    (_GATEWAY_API, "GRPCRoute"): Harmless(_HTTP, needs="HTTP"),
    (_GATEWAY_API, "UDPRoute"): Harmless(_UDP, needs="UDP"),
    (_GATEWAY_API, "BackendTLSPolicy"): Changes(_ENCRYPTS, "TLS"),
    (_GATEWAY_API, "BackendLBPolicy"): Changes(
        "tcpmux does not keep a client at its endpoint", "sticky sessions"
    ),
    (_GATEWAY_API, "ListenerSet"): Changes("its ports are not opened", "sets of listeners"),
    (_EXPERIMENTS, "XListenerSet"): Changes("its ports are not opened", "sets of listeners"),
    (_EXPERIMENTS, "XBackendTrafficPolicy"): Changes(
        "tcpmux does not keep a client at its endpoint", "sticky sessions"
    ),
    (_ISTIO, "EnvoyFilter"): Changes(_ANY, "Envoy's filters"),
    (_ISTIO, "ProxyConfig"): Harmless("affects only Envoy's processes"),
    (_ISTIO, "Sidecar"): Changes(
        "it limits what sidecars may reach, and tcpmux does not apply it", "sidecars"
    ),
    (_ISTIO, "WorkloadGroup"): Harmless("a workload counts once it has a WorkloadEntry"),
    (_SECURITY, "AuthorizationPolicy"): Changes(_DENIES, "authorization policies"),
    (_SECURITY, "PeerAuthentication"): Changes(
        "it may require mutual TLS, which is not supported yet",
        "TLS",
    ),
    (_SECURITY, "RequestAuthentication"): Harmless("applies to HTTP only"),
    ("extensions.istio.io", "WasmPlugin"): Changes(_ANY, "Envoy's filters"),
    (_ARGO, "AnalysisTemplate"): Harmless(_JUDGED),
    (_ARGO, "ClusterAnalysisTemplate"): Harmless(_JUDGED),
    (_ARGO, "AnalysisRun"): Harmless(_JUDGED),
    (_FLAGGER, "MetricTemplate"): Harmless(_JUDGED),
    (_FLAGGER, "AlertProvider"): Harmless("use `hooks` in `rollout`"),
}


def _modes(spec: Any) -> set[str]:
    """Of mutual TLS: that of a PeerAuthentication, and those of its ports. One that it leaves open
    is that of another."""
    spec = spec if isinstance(spec, dict) else {}
    ports = spec.get("portLevelMtls")
    every = [spec.get("mtls"), *(ports.values() if isinstance(ports, dict) else ())]
    return {str(one.get("mode")) if isinstance(one, dict) else "" for one in every}


def what_it_does(group: str, kind: str, value: Any) -> Changes | Harmless:
    """To connections, if tcpmux takes no notice of it. value: the resource."""
    known = KINDS.get((group, kind))
    if kind == "PeerAuthentication" and _modes(value.get("spec")) <= {"PERMISSIVE", "DISABLE"}:
        known = Harmless("it does not require TLS")
    if known is None and group in HARMLESS_GROUPS:
        known = Harmless(_NOT_ROUTED)
    if known is None:
        return Changes(f"{one_line(kind)} is ignored: tcpmux does not know what it does")
    said = f"{one_line(kind)} is ignored: {known.note}"
    if isinstance(known, Changes):
        return Changes(said, known.needs)
    return Harmless(said, told=True, needs=known.needs)
