"""Envoy for draining.py, with endpoints from a file, as a control plane gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.docs.pages import ROOT

KEY = "maintenance"  # a server that has it is to be taken for failed
HEALTH_CHECK = {
    "timeout": "2s", "interval": "0.5s", "unhealthy_threshold": 1, "healthy_threshold": 1,
    "reuse_connection": False,
    "custom_health_check": {
        "name": "envoy.health_checkers.redis",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.health_checkers.redis.v3.Redis",
            "key": KEY,
        },
    },
}  # fmt: skip
ENVOY = ROOT / ".venv-peers/bin/envoy"  # of peers.lock


def envoy_config(place: Path, port: int, filters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "node": {"id": "proxy", "cluster": "proxies"},
        "static_resources": {
            "listeners": [{
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                "filter_chains": [{"filters": filters}],
            }],
            "clusters": [{
                "name": "redis", "type": "EDS", "connect_timeout": "10s",
                "health_checks": [HEALTH_CHECK],
                "close_connections_on_host_health_failure": True,
                "eds_cluster_config": {"eds_config": {
                    "resource_api_version": "V3",
                    "path_config_source": {
                        "path": f"{place}/eds.yaml",
                        "watched_directory": {"path": str(place)},
                    },
                }},
            }],
        },
    }  # fmt: skip


TCP_PROXY = {
    "name": "envoy.filters.network.tcp_proxy",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "r", "cluster": "redis",
    },
}  # fmt: skip


def endpoints(place: Path, states: dict[int, str]) -> None:
    """Port -> health, as a control plane says it."""
    text = yaml.safe_dump({
        "resources": [{
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": "redis",
            "endpoints": [{"lb_endpoints": [
                {"health_status": state, "endpoint": {"address": {
                    "socket_address": {"address": "127.0.0.1", "port_value": port}}}}
                for port, state in states.items()
            ]}],
        }],
    })  # fmt: skip
    (place / "new").write_text(text)
    (place / "new").rename(place / "eds.yaml")
