"""The file as a whole: listeners that become routes, and what else is in it."""

from __future__ import annotations

from collections.abc import Sequence

from tcpmux.convert.draft import Draft
from tcpmux.convert.envoy.clusters import Clusters
from tcpmux.convert.envoy.listeners import drafts_of
from tcpmux.convert.envoy.values import CHANGES, HARMLESS, fold
from tcpmux.convert.kinds import Input, Result
from tcpmux.convert.report import Report
from tcpmux.convert.tree import Node, read_tree

_DYNAMIC = "the file does not contain what a control plane would send"
_OWN = "tcpmux has its own, in routes.yaml or on its command line"
_TOP = {
    "admin": (HARMLESS, _OWN, ""),
    "node": (HARMLESS, "only identifies this Envoy to a control plane", ""),
    "stats_sinks": (HARMLESS, "metrics", ""),
    "stats_config": (HARMLESS, "metrics", ""),
    "stats_flush_interval": (HARMLESS, "metrics", ""),
    "stats_flush_on_admin": (HARMLESS, "metrics", ""),
    "stats_server_version_override": (HARMLESS, "metrics", ""),
    "tracing": (HARMLESS, "applies to HTTP only", ""),
    "watchdog": (HARMLESS, "affects the process, not its connections", ""),
    "watchdogs": (HARMLESS, "affects the process, not its connections", ""),
    "flags_path": (HARMLESS, "a runtime setting", ""),
    "header_prefix": (HARMLESS, "applies to HTTP only", ""),
    "perf_tracing_file_path": (HARMLESS, "tracing", ""),
    "inline_headers": (HARMLESS, "applies to HTTP only", ""),
    "grpc_async_client_manager_config": (HARMLESS, "applies to HTTP only", ""),
    "application_log_config": (HARMLESS, "logs", ""),
    "memory_allocator_manager": (HARMLESS, "memory", ""),
    "dynamic_resources": (CHANGES, _DYNAMIC, "a control plane"),
    "xds_config_tracker_extension": (CHANGES, _DYNAMIC, "a control plane"),
    "config_sources": (CHANGES, _DYNAMIC, "a control plane"),
    "default_config_source": (CHANGES, _DYNAMIC, "a control plane"),
    "hds_config": (CHANGES, _DYNAMIC, "a control plane"),
    "overload_manager": (
        CHANGES,
        "tcpmux does not reject clients when the host is overloaded",
        "overload actions",
    ),
    "runtime": (CHANGES, "tcpmux has no runtime values", "runtime values"),
}


def read(files: Sequence[Input], report: Report) -> Result:
    roots = [root for file in files for root in read_tree(file, report, fold)]
    clusters = Clusters()
    for root in roots:
        for node in root["static_resources"]["clusters"]:
            clusters.add(node)
    drafts: list[Draft] = []
    for root in roots:
        _instance(root)
        for node in root["static_resources"]["listeners"]:
            drafts += drafts_of(node, clusters)
    clusters.finish()
    return Result(drafts)


def _instance(root: Node) -> None:
    root.sort_out(_TOP)
    root["static_resources"]["secrets"].harmless("certificates: reported where they are used")
    for layer in root["layered_runtime"]["layers"]:
        if set(layer.fields) <= {"name", "admin_layer"}:
            layer.harmless("it sets no values")
        else:
            layer.changes("tcpmux has no runtime values", "runtime values")
    manager = root["cluster_manager"]
    manager["outlier_detection"].harmless("logs")
