"""The words of `server`, `server-template` and `default-server`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tcpmux.convert.haproxy.values import Refused
from tcpmux.convert.report import Statement, Word

TLS_NOTE = "tcpmux does not encrypt connections to servers"
PROXY_NOTE = "tcpmux does not send this extension"
_FLAGS = ("check", "backup", "disabled")
# Option: how many words it takes. Translated in servers.py and health.py.
MAPPED = {
    "weight": 1, "maxconn": 1, "minconn": 1, "maxqueue": 1, "inter": 1, "fastinter": 1,
    "downinter": 1, "fall": 1, "rise": 1, "port": 1, "addr": 1, "slowstart": 1, "id": 1,
    "check": 0, "backup": 0, "disabled": 0, "observe": 1, "on-error": 1, "error-limit": 1,
    "resolvers": 1, "track": 1, "check-ssl": 0, "verify": 1, "init-addr": 1,
    "send-proxy": 0, "send-proxy-v2": 0, "check-send-proxy": 0, "send-proxy-v2-ssl": 0,
    "send-proxy-v2-ssl-cn": 0, "proxy-v2-options": 1,
}  # fmt: skip
_INVERSE = {"enabled": "disabled", "no-check": "check", "no-backup": "backup",
            "no-check-ssl": "check-ssl"}  # fmt: skip
HARMLESS = {
    "cookie": (1, "HAProxy ignores it in mode tcp"),
    "redir": (1, "HAProxy ignores it in mode tcp"),
    "proto": (1, "HAProxy ignores it in mode tcp"),
    "ws": (1, "HAProxy ignores it in mode tcp"),
    "pool-low-conn": (1, "HAProxy ignores it in mode tcp"),
    "pool-max-conn": (1, "HAProxy ignores it in mode tcp"),
    "pool-purge-delay": (1, "HAProxy ignores it in mode tcp"),
    "pool-conn-name": (1, "HAProxy ignores it in mode tcp"),
    "max-reuse": (1, "HAProxy ignores it in mode tcp"),
    "idle-ping": (1, "HAProxy ignores it in mode tcp"),
    "guid": (1, "only a name"),
    "tfo": (0, "saves only a round trip"),
    "no-tfo": (0, ""),
    "stick": (0, "it is the default"),
    "non-stick": (0, "has no effect without `stick`"),
    "log-proto": (1, "logs"),
    "log-bufsize": (1, "logs"),
    "cc": (1, "tcpmux uses the host's congestion control"),
    "no-agent-check": (0, "it is the default"),
    "no-send-proxy": (0, "it is the default"),
    "no-send-proxy-v2": (0, "it is the default"),
    "no-send-proxy-v2-ssl": (0, "it is the default"),
    "no-send-proxy-v2-ssl-cn": (0, "it is the default"),
    "no-check-send-proxy": (0, "it is the default"),
    "no-ssl": (0, "it is the default"),
    "init-state": (1, "tcpmux uses an endpoint until a check fails"),
}
_AGENT = "tcpmux does not query the agent"
CHANGES = {
    "set-proxy-v2-tlv-fmt": (1, PROXY_NOTE, "PROXY header extensions"),
    "check-via-socks4": (0, "tcpmux does not check through SOCKS", "SOCKS"),
    "socks4": (1, "tcpmux does not connect through SOCKS", "SOCKS"),
    "ssl": (0, TLS_NOTE, "TLS"),
    "agent-check": (0, _AGENT, "agent checks"),
    "agent-addr": (1, _AGENT, "agent checks"),
    "agent-inter": (1, _AGENT, "agent checks"),
    "agent-port": (1, _AGENT, "agent checks"),
    "agent-send": (1, _AGENT, "agent checks"),
    "on-marked-down": (
        1, "connections to a server that goes down stay open", "closing open connections",
    ),
    "on-marked-up": (
        1, "connections to backups stay open", "closing open connections",
    ),
    "source": (
        1, "servers see the source address that the system chooses", "source addresses",
    ),
    "usesrc": (1, "servers see tcpmux's address, not the client's", "source addresses"),
    "namespace": (1, "tcpmux connects from its own network namespace", "network namespaces"),
    "tcp-ut": (1, "tcp_user_timeout applies to both sides", "timeouts of one side"),
    "tcp-md5sig": (1, "tcpmux does not sign segments", "TCP signatures"),
    "resolve-prefer": (1, "tcpmux uses all addresses of a name", "one family of addresses"),
    "resolve-net": (1, "tcpmux uses all addresses of a name", "one network of addresses"),
    "resolve-opts": (1, "tcpmux uses each address of a name once", "options of names"),
    "check-sni": (1, "tcpmux sends no SNI in checks", "TLS"),
    "check-alpn": (1, "tcpmux sends no ALPN in checks", "TLS"),
    "check-proto": (1, "tcpmux does not use this protocol in checks", "scripted checks"),
    "check-pool-conn-name": (1, "tcpmux opens a new connection for each check", "scripted checks"),
    "external-check": (0, "tcpmux does not run a program as a check", "scripted checks"),
}  # fmt: skip
_TLS_VALUES = {
    "ca-file": 1, "crl-file": 1, "crt": 1, "ciphers": 1, "ciphersuites": 1, "sni": 1, "alpn": 1,
    "npn": 1, "verifyhost": 1, "ssl-min-ver": 1, "ssl-max-ver": 1, "curves": 1, "sigalgs": 1,
    "client-sigalgs": 1, "renegotiate": 0, "no-renegotiate": 0, "allow-0rtt": 0, "ssl-reuse": 0,
    "no-ssl-reuse": 0, "tls-tickets": 0, "no-tls-tickets": 0, "strict-maxconn": 0,
}  # fmt: skip


@dataclass(slots=True)
class Option:
    """One that is set. values: what is after its name."""

    at: Statement
    word: Word
    values: list[Word] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.values[0].text if self.values else ""

    def mapped(self, note: str = "") -> None:
        self.at.mapped(self.word, *self.values, note=note)

    def harmless(self, note: str) -> None:
        self.at.harmless(self.word, *self.values, note=note)

    def changes(self, note: str, needs: str = "") -> None:
        self.at.changes(self.word, *self.values, note=note, needs=needs)


Options = dict[str, Option]


def parse(at: Statement, words: Sequence[Word], inherited: Options) -> Options:
    """Those of a line over those of default-server. Words that are not known stay unmarked. Raises
    Refused."""
    found = dict(inherited)
    index = 0
    while index < len(words):
        word = words[index]
        name = word.text
        count = _count(name)
        values = list(words[index + 1 : index + 1 + count])
        if len(values) < count:
            raise Refused(f"expected a value after {name}")
        index += 1 + count
        if name == "source" and index < len(words) and words[index].text == "usesrc":
            values += words[index : index + 2]
            index += 2
        if name in _INVERSE:
            _drop(found, _INVERSE[name], at)
            at.mapped(word)
        elif name.startswith("no-send-proxy") or name in ("no-ssl", "no-agent-check"):
            for other in [o for o in found if o.startswith(name.removeprefix("no-"))]:
                _drop(found, other, at)
            at.harmless(word, note="it is the default")
        elif count or name in MAPPED or name in HARMLESS or name in CHANGES or name in _TLS_VALUES:
            _drop(found, name, at)
            found[name] = Option(at, word, values)
        elif name.startswith(("force-", "no-sslv3", "no-tlsv", "sslv3", "tlsv")):
            found[name] = Option(at, word)
    return found


def _drop(found: Options, name: str, at: Statement) -> None:
    """One of the same line is marked: nothing else can use it."""
    option = found.pop(name, None)
    if option is not None and option.at is at:
        option.harmless("a later word of the line overrides it")


def mark_unused(at: Statement, words: Sequence[Word]) -> None:
    """Of default-server, once all servers are read: what none of them has taken."""
    for option in parse(at, words, {}).values():
        if option.word.effect is None:
            option.harmless("no server in use has it")


def _count(name: str) -> int:
    for table in (MAPPED, _TLS_VALUES):
        if name in table:
            return table[name]
    for other in (HARMLESS, CHANGES):
        if name in other:
            return int(other[name][0])
    return 0


def mark_plain(options: Options) -> None:
    """All that tables decide; of TLS, by whether it is used."""
    tls = "ssl" in options or "check-ssl" in options
    for name, option in options.items():
        if name in HARMLESS:
            option.harmless(HARMLESS[name][1])
        elif name in CHANGES:
            option.changes(*CHANGES[name][1:])
        elif name in MAPPED and (name != "verify" or ("ssl" not in options and tls)):
            pass  # it is translated elsewhere
        elif tls:
            option.changes("tcpmux does not use TLS to servers", "TLS")
        else:
            option.harmless("has no effect without ssl")
