"""What each directive of a proxy's section is: harmless, mapped by one of the rooms here, or more
than tcpmux has."""

from __future__ import annotations

from dataclasses import dataclass

FRONT, BACK, BOTH = "frontend", "backend", "frontend backend"
HTTP = "HAProxy ignores it in mode tcp"
LOGS = "logs"
NAMES = "only a name or a description"


@dataclass(frozen=True, slots=True)
class Directive:
    """sides: of which proxies. harmless: the reason. changes: what happens without it. Neither: it
    is translated elsewhere. repeats: each counts, not only the last."""

    sides: str
    harmless: str = ""
    changes: str = ""
    needs: str = ""
    repeats: bool = False


def _harmless(reason: str, sides: str, *names: str) -> dict[str, Directive]:
    return {name: Directive(sides, harmless=reason, repeats=True) for name in names}


def _mapped(sides: str, *names: str, repeats: bool = False) -> dict[str, Directive]:
    return {name: Directive(sides, repeats=repeats) for name in names}


def _changes(sides: str, name: str, note: str, needs: str) -> dict[str, Directive]:
    return {name: Directive(sides, changes=note, needs=needs, repeats=True)}


DIRECTIVES: dict[str, Directive] = {
    **_mapped(BOTH, "mode", "disabled", "enabled", "retries", "balance", "hash-type"),
    **_mapped(FRONT, "maxconn", "default_backend"),
    **_mapped(FRONT, "bind", "use_backend", repeats=True),
    **_mapped(BOTH, "acl", "tcp-request", repeats=True),
    **_mapped(BACK, "server", "server-template", "default-server", repeats=True),
    **_mapped(BACK, "http-check", "tcp-check", "dispatch", repeats=True),
    **_mapped(BACK, "fullconn", "hash-balance-factor", "retry-on", "source"),
    **_mapped(FRONT, "clitcpka-cnt", "clitcpka-idle", "clitcpka-intvl"),
    **_mapped(BACK, "srvtcpka-cnt", "srvtcpka-idle", "srvtcpka-intvl"),
    **_mapped(FRONT, "timeout client", "timeout client-fin"),
    **_mapped(
        BACK, "timeout connect", "timeout server", "timeout server-fin", "timeout tunnel",
        "timeout queue", "timeout check",
    ),
    **_harmless(
        HTTP, BOTH,
        "timeout http-request", "timeout http-keep-alive", "timeout tarpit", "timeout client-hs",
        "http-request", "http-response", "http-after-response", "http-error", "http-reuse",
        "http-send-name-header", "errorfile", "errorfiles", "errorloc", "errorloc302",
        "errorloc303", "compression", "cookie", "capture", "declare", "monitor-uri", "monitor",
        "redirect", "stats", "force-persist", "ignore-persist", "max-keep-alive-queue",
        "use-fcgi-app", "option http-server-close", "option http-keep-alive", "option httpclose",
        "option forceclose", "option forwardfor", "option forwarded", "option originalto",
        "option http-buffer-request", "option http-ignore-probes", "option http-no-delay",
        "option http-pretend-keepalive", "option http-use-proxy-header",
        "option http-restrict-req-hdr-names", "option accept-invalid-http-request",
        "option accept-invalid-http-response", "option accept-unsafe-violations-in-http-request",
        "option accept-unsafe-violations-in-http-response", "option checkcache",
        "option disable-h2-upgrade", "option h1-case-adjust-bogus-client",
        "option h1-case-adjust-bogus-server", "option idle-close-on-response",
        "option prefer-last-server", "option http-use-htx", "option persist",
        "option http-drop-request-trailers", "option http-drop-response-trailers",
        "max-session-srv-conns",
    ),
    **_harmless(
        LOGS, BOTH,
        "log", "log-format", "log-format-sd", "log-tag", "log-steps", "error-log-format",
        "unique-id-format", "unique-id-header", "email-alert", "option httplog", "option httpslog",
        "option tcplog", "option dontlognull", "option dontlog-normal", "option logasap",
        "option log-health-checks", "option log-separate-errors", "option httplog clf",
    ),
    **_harmless(NAMES, BOTH, "description", "id", "guid"),
    **_harmless(
        "affects how HAProxy works, not where connections go", BOTH,
        "bind-process", "option socket-stats", "option contstats", "option splice-auto",
        "option splice-request", "option splice-response", "option tcp-smart-accept",
        "option tcp-smart-connect", "server-state-file-name", "load-server-state-from-file",
        "external-check",
    ),
    **_harmless("tcpmux uses the longest backlog that the system allows", BOTH, "backlog"),
    **_harmless("connections end at the same time, but with a reset", BOTH, "option nolinger"),
    **_harmless("tcpmux closes a connection whose client has left", BOTH, "option abortonclose"),
    **_harmless(
        "stores data for `stick` and `track-sc`: see there", BOTH, "stick-table"
    ),
    **_mapped(BOTH, "option tcpka"),
    **_mapped(FRONT, "option clitcpka"),
    **_mapped(
        BACK, "option srvtcpka", "option allbackups", "option redispatch", "option httpchk",
        "option tcp-check", "option redis-check", "option mysql-check", "option pgsql-check",
        "option smtpchk", "option ldap-check", "option ssl-hello-chk", "option spop-check",
        "option external-check",
    ),
    **_changes(
        BOTH, "option independent-streams",
        "in HAProxy each direction has its own idle timeout", "idle timeouts per direction",
    ),
    **_changes(
        BACK, "option transparent",
        "tcpmux does not connect to the client's original destination", "source addresses",
    ),
    **_changes(
        BACK, "transparent",
        "tcpmux does not connect to the client's original destination", "source addresses",
    ),
    **_mapped(BACK, "stick", repeats=True),
    **_changes(BACK, "persist", "tcpmux does not choose servers by cookies", "sticky sessions"),
    **_changes(BACK, "use-server", "tcpmux does not choose servers by rules", "rules for servers"),
    **_changes(
        BOTH, "filter", "tcpmux has no filters", "filters",
    ),
    **_changes(
        BACK, "tcp-response", "tcpmux does not read what servers send", "rules on content"
    ),
    **_changes(
        FRONT, "rate-limit",
        "tcpmux sets no limit: beyond it, clients wait in HAProxy (a route's `rate` would reset "
        "them)", "queues at a rate limit",
    ),
    **_changes(
        FRONT, "monitor-net", "tcpmux does not close these clients' connections at once",
        "answers to probes",
    ),
}  # fmt: skip

GONE = ("clitimeout", "srvtimeout", "contimeout", "redispatch", "reqadd", "reqrep", "rspadd")
# Words of `global` that change nothing about connections, by their reason. A name that ends in a
# dot stands for all that begin so.
_PROCESS = "affects only HAProxy's processes"
GLOBAL_HARMLESS: dict[str, str] = {
    **dict.fromkeys(
        (
            "chroot", "cpu-map", "cpu-policy", "cpu-set", "daemon", "default-path", "user", "group",
            "uid", "gid", "nbthread", "nbproc", "pidfile", "quiet", "ulimit-n", "fd-hard-limit",
            "node", "description", "localpeer", "master-worker", "mworker-max-reloads",
            "mworker-prealloc", "numa-cpu-mapping", "set-dumpable", "strict-limits", "setenv",
            "presetenv", "unsetenv", "resetenv", "stats", "zero-warning", "busy-polling",
            "thread-group", "thread-groups", "thread-hard-limit", "noepoll", "nokqueue", "nopoll",
            "noevports", "nogetaddrinfo", "noreuseport", "nosplice", "no-memory-trimming",
            "maxpipes", "insecure-fork-wanted", "insecure-setuid-wanted", "external-check",
            "server-state-base", "server-state-file", "expose-experimental-directives",
            "expose-deprecated-directives", "no-quic", "limited-quic", "tune.", "profiling.",
            "set-var", "set-var-fmt", "cluster-secret", "prealloc-fd", "anonkey",
            "harden.reject-privileged-ports.quic", "harden.reject-privileged-ports.tcp", "setcap",
            "shm-stats-file", "shm-stats-file-max-objects", "force-cfg-parser-pause",
            "warn-blocked-traffic-after", "stress-level", "dns-accept-family", "mworker",
            "debug", "nodebug",
        ),
        _PROCESS,
    ),
    **dict.fromkeys(("log", "log-send-hostname", "log-tag"), LOGS),
    **dict.fromkeys(
        (
            "ca-base", "crt-base", "key-base", "issuers-chain-path", "ssl-", "maxsslconn",
            "maxsslrate", "ocsp-update.", "acme.",
        ),
        "applies to TLS only",
    ),
    **dict.fromkeys(
        (
            "lua-", "httpclient.", "h1-", "h2-", "maxcompcpuusage", "maxcomprate", "maxzlibmem",
            "51degrees-", "deviceatlas-", "wurfl-", "pp2-never-send-local", "http-err-codes",
            "http-fail-codes", "uri-", "tune.http.",
        ),
        "does not apply to TCP proxies",
    ),
    **dict.fromkeys(
        ("max-spread-checks", "spread-checks"), "affects only when a check runs"
    ),
    **dict.fromkeys(
        ("grace", "close-spread-time", "mworker-"), "affects only how HAProxy stops"
    ),
}  # fmt: skip
GLOBAL_CHANGES = {
    "maxconnrate": "tcpmux sets no limit: clients connect at any rate",
    "maxsessrate": "tcpmux sets no limit: clients connect at any rate",
}


def global_reason(keyword: str) -> str:
    """Why a word of `global` is harmless; "" = it is not known to be."""
    if keyword in GLOBAL_HARMLESS:
        return GLOBAL_HARMLESS[keyword]
    for prefix, reason in GLOBAL_HARMLESS.items():
        if prefix[-1] in ".-" and keyword.startswith(prefix):
            return reason
    return ""
