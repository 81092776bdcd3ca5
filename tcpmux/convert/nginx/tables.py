"""Directives that are the same wherever they stand: harmless, or without an equivalent.

Those that are mapped, or whose class depends on their value, are in the modules that map them.
"""

from __future__ import annotations

_LOG = "logs"
_BUFFERS = "buffers"
_TABLES = "size of an internal table of nginx"
_PROCESS = "affects only nginx's processes"
_STATUS = "affects only nginx's status"
_UDP_ONLY = "applies to UDP only"

# --- in no braces, and in events {} --------------------------------------------------------------

HARMLESS_IN_MAIN = {
    **dict.fromkeys(("error_log", "debug_points"), _LOG),
    **dict.fromkeys(
        (
            *("accept_mutex", "accept_mutex_delay", "daemon", "debug_connection", "env", "group"),
            *("load_module", "lock_file", "master_process", "multi_accept", "pcre_jit", "pid"),
            *("ssl_engine", "ssl_object_cache_inheritable", "thread_pool", "timer_resolution"),
            *("use", "worker_aio_requests", "worker_cpu_affinity", "worker_priority"),
            *("worker_rlimit_core", "worker_rlimit_nofile", "working_directory"),
        ),
        _PROCESS,
    ),
    "user": f"{_PROCESS}; see `user` of tcpmux if it needs access to UNIX sockets",
    "worker_connections": "tcpmux is limited only by its maximum number of open files",
}

MAPPED_IN_MAIN = ("include", "worker_processes", "worker_shutdown_timeout")

# --- in stream {} and in a server ----------------------------------------------------------------

HARMLESS = {
    **dict.fromkeys(
        ("access_log", "error_log", "log_format", "open_log_file_cache", "limit_conn_log_level"),
        _LOG,
    ),
    **dict.fromkeys(
        (
            *("map_hash_bucket_size", "map_hash_max_size", "variables_hash_bucket_size"),
            *("variables_hash_max_size", "server_names_hash_bucket_size"),
            "server_names_hash_max_size",
        ),
        _TABLES,
    ),
    **dict.fromkeys(
        ("proxy_buffer_size", "proxy_downstream_buffer", "proxy_upstream_buffer"),
        _BUFFERS,
    ),
    **dict.fromkeys(("proxy_requests", "proxy_responses"), _UDP_ONLY),
    "resolver_timeout": "affects lookups, not connections",
    "status_zone": _STATUS,
    "tcp_nodelay": "tcpmux always sends at once",
}

SCRIPTS = "scripted rules"
# name: (what happens without it, the feature that would map it)
CHANGES = {
    **dict.fromkeys(
        (
            *("js_access", "js_fetch_proxy", "js_filter", "js_import", "js_include", "js_path"),
            *("js_periodic", "js_preload_object", "js_preread", "js_set", "js_shared_dict_zone"),
            "js_var",
        ),
        ("tcpmux runs no scripts", SCRIPTS),
    ),
    "mqtt": ("tcpmux does not read what clients send", "MQTT"),
    "mqtt_preread": ("tcpmux does not read what clients send", "MQTT"),
    "mqtt_set_connect": ("tcpmux does not read what clients send", "MQTT"),
    "proxy_session_drop": (
        "connections to a server that is removed stay open",
        "closing open connections",
    ),
    "zone_sync": ("tcpmux shares nothing with other hosts", "state shared between hosts"),
    "zone_sync_server": ("tcpmux shares nothing with other hosts", "state shared between hosts"),
    "health_check": ("tcpmux does not check these servers; see `check` of tcpmux", "active checks"),
    "health_check_timeout": ("tcpmux does not check these servers", "active checks"),
    "match": ("tcpmux does not check these servers", "scripted checks"),
}

# Other ways to handle connections than proxy_pass.
OTHER_HANDLERS = {
    "return": ("tcpmux sends no answers of its own: its port is not opened", "fixed answers"),
    "pass": (
        "tcpmux does not pass connections to another listener",
        "passing connections to listeners",
    ),
}

# --- in an upstream ------------------------------------------------------------------------------

HARMLESS_IN_UPSTREAM = {
    "zone": "all workers of tcpmux share their state",
    "resolver_timeout": "affects lookups, not connections",
}
CHANGES_IN_UPSTREAM = {
    "state": (
        "the servers are in another file, which tcpmux does not read",
        "servers from a state file",
    ),
    "least_time": ("tcpmux does not choose servers by response time", "least_time"),
}

# --- variables that a connection's client or content decides --------------------------------------


_CLIENTS = ("remote_addr", "binary_remote_addr", "proxy_protocol_addr", "realip_remote_addr")


def need_of(variable: str) -> str:
    """The feature that would choose a destination by it; "" = none comes to mind."""
    if variable in _CLIENTS or variable.startswith("geoip"):
        return "rules by source"
    if variable.startswith("ssl_preread"):
        return "rules by SNI"
    if variable.startswith("ssl"):
        return "TLS"
    if variable.startswith("proxy_protocol_tlv"):
        return "rules by TLV"
    if variable.startswith("proxy_protocol_server"):
        return "rules by destination address"
    return ""
