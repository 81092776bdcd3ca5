"""`upstream`: a destination with its endpoints."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tcpmux.config.address import Endpoint, HostName, parse_endpoint
from tcpmux.config.duration import format_duration
from tcpmux.config.rows import DAY, MAX_CONNECTIONS
from tcpmux.config.settings import EndpointPolicy, Passive, SlowStart
from tcpmux.convert.draft import Server
from tcpmux.convert.nginx.balance import METHODS, Balance
from tcpmux.convert.nginx.scope import is_plain
from tcpmux.convert.nginx.tables import CHANGES_IN_UPSTREAM, HARMLESS_IN_UPSTREAM
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.nginx.values import milliseconds, number
from tcpmux.convert.report import Report, Statement, Word

MAX_ERRORS = 1000
# nginx leaves a server out for fail_timeout after max_fails failed connects: 10 s after 1, if the
# file says nothing. However many others it leaves out already.
MAX_FAILS, FAIL_TIMEOUT = 1, 10.0
NEVER = Passive(errors=0)


@dataclass(slots=True)
class Peer:
    """A `server` of an upstream. fails: how it is left out. is_backup: priority 1."""

    at: Statement
    endpoint: Endpoint | None
    weight: int = 1
    max_connections: int = 0
    max_fails: int = MAX_FAILS
    fail_timeout: float = FAIL_TIMEOUT
    slow_start: float = 0.0
    is_backup: bool = False
    is_down: bool = False

    @property
    def ejects(self) -> tuple[int, float]:
        return self.max_fails, self.fail_timeout if self.max_fails else 0.0

    def words_of(self, *names: str) -> list[Word]:
        return [word for word in self.at.words[2:] if word.text.partition("=")[0] in names]


@dataclass(slots=True)
class Upstream:
    """section: whose remarks go with it. servers: [] = its share is reset, as nginx ends it."""

    name: str
    section: str = ""
    servers: list[Server] = field(default_factory=list)
    balance: str = "round_robin"
    passive: Passive = NEVER
    slow_start: SlowStart = field(default_factory=SlowStart)
    resolves: bool = False  # names, by `resolver`
    by_header: Directive | None = None  # a hash of the client that a header names


def passive(max_fails: int = MAX_FAILS, fail_timeout: float = FAIL_TIMEOUT) -> Passive:
    """fail_timeout in s."""
    if not max_fails:
        return NEVER
    return Passive(max_fails, fail_timeout, fail_timeout, most_ejected=100)


def single(name: str, endpoint: Endpoint) -> Upstream:
    """Of an address in proxy_pass itself. Of the addresses of a name, failing ones are left out."""
    ejects = passive() if isinstance(endpoint, HostName) else NEVER
    return Upstream(name, servers=[Server(endpoint)], passive=ejects)


@dataclass(slots=True)
class UpstreamReader:
    """workers: of nginx; None = as many as CPUs."""

    report: Report
    workers: int | None

    def read(self, one: Directive) -> Upstream:
        found = Upstream(one.argument(), one.at.section)
        one.at.mapped()
        balance = Balance()
        peers: list[Peer] = []
        is_shared = any(inner.name == "zone" for inner in one.inside or ())
        for inner in one.inside or ():
            name = inner.name
            if name == "server":
                peers += self._server(inner, balance, is_shared=is_shared)
            elif name in METHODS:
                balance.take(inner, self.report)
            elif name in HARMLESS_IN_UPSTREAM:
                inner.at.harmless(note=HARMLESS_IN_UPSTREAM[name])
            elif name in CHANGES_IN_UPSTREAM:
                inner.changes(*CHANGES_IN_UPSTREAM[name])
            elif name == "resolver":
                inner.changes("tcpmux has one list of name servers")
        known = any(inner.name == "state" for inner in one.inside or ())
        if not known and not any(not peer.is_backup for peer in peers):
            self.report.problem(one.at, "expected a server that is not a backup")
        found.balance, found.by_header = balance.word, balance.by_header
        found.passive = self._passive(peers)
        found.slow_start = self._slow_start(peers)
        found.servers = self._servers(peers)
        found.resolves = any(peer.words_of("resolve") for peer in peers)
        return found

    def shared(self, one: Directive) -> None:
        """It is the destination of several routes."""
        for inner in one.inside or ():
            for word in inner.at.words[2:] if inner.name == "server" else ():
                if word.text.startswith("max_conns=") and word.text != "max_conns=0":
                    note = "each route has its own limit; in nginx, the upstream has one"
                    inner.at.changes(word, note=note, needs="limits across routes")
            if inner.name == "least_conn":
                inner.at.remark("tcpmux counts connections for each route separately")

    def _server(self, one: Directive, balance: Balance, *, is_shared: bool) -> list[Peer]:
        if not is_plain(one, self.report, 1, 99):
            return []
        at = one.at
        at.mapped(at.words[0], at.words[1])
        peer = Peer(at, None)
        for word in at.words[2:]:
            self._parameter(peer, word)
        if peer.is_backup and balance.refuses_backups:
            self.report.problem(
                at, f"{balance.method} does not allow backups", *peer.words_of("backup")
            )
        peer.endpoint = self._endpoint(peer)
        if peer.max_connections and not is_shared and self.workers != 1:
            each = f"each of {self.workers} workers" if self.workers else "every worker"
            note = (
                f"the limit covers all workers; in nginx, without a zone, {each} has its own limit"
            )
            for word in peer.words_of("max_conns"):
                word.note = note
        if peer.is_down:
            at.remark("it is left out: it is marked `down`")
        return [peer]

    def _endpoint(self, peer: Peer) -> Endpoint | None:
        at, word = peer.at, peer.at.words[1]
        service = peer.words_of("service")
        if service:
            label = service[0].text.partition("=")[2]
            name = f"{label}.{word.text}" if "." in label else f"_{label}._tcp.{word.text}"
            return endpoint_of(f"srv:{name}", at, word)
        found = plain_endpoint(at, word, self.report)
        if isinstance(found, HostName) and not peer.words_of("resolve"):
            word.note = "tcpmux resolves it again when its TTL expires; nginx only when it starts"
        return found

    def _parameter(self, peer: Peer, word: Word) -> None:
        name, equals, text = word.text.partition("=")
        at = peer.at
        if word.text == "backup":
            peer.is_backup = True
        elif word.text == "down":
            peer.is_down = True
        elif word.text == "resolve":
            pass
        elif name == "service" and equals and peer.words_of("resolve"):
            word.note = "tcpmux uses only the records with the lowest priority"
        elif name in ("fail_timeout", "slow_start"):
            self._time(peer, word, name, text)
        elif name in ("weight", "max_conns", "max_fails"):
            self._number(peer, word, name, text)
        else:
            return
        at.mapped(word, note=word.note)

    def _time(self, peer: Peer, word: Word, name: str, text: str) -> None:
        found = milliseconds(text, whole_seconds=True)
        if found is None:
            self.report.problem(peer.at, f"expected a time such as 10s, got {text!r}", word)
        elif found > DAY * 1000:
            peer.at.changes(word, note=f"it is above {format_duration(DAY)}, tcpmux's maximum")
        elif name == "slow_start":
            peer.slow_start = found / 1000
        else:
            peer.fail_timeout = max(found / 1000, 1.0)  # the rest of the second, if it is 0
            word.note = (
                "after each failed test tcpmux waits this much longer, up to 10 times as long"
            )

    def _number(self, peer: Peer, word: Word, name: str, text: str) -> None:
        found = number(text)
        if found is None or (name == "weight" and not found):
            lowest = 1 if name == "weight" else 0
            self.report.problem(peer.at, f"expected a number from {lowest}, got {text!r}", word)
        elif name == "weight":
            peer.weight = found
        elif name == "max_conns" and found > MAX_CONNECTIONS:
            peer.at.changes(word, note=f"it is above {MAX_CONNECTIONS}, tcpmux's maximum")
        elif name == "max_conns":
            peer.max_connections = found
        elif found > MAX_ERRORS:
            peer.at.changes(word, note=f"it is above {MAX_ERRORS}, tcpmux's maximum")
        else:
            peer.max_fails = found

    def _passive(self, peers: list[Peer]) -> Passive:
        words = [(peer, word) for peer in peers for word in peer.words_of(*_OF_FAILURES)]
        if len(peers) == 1 and not isinstance(peers[0].endpoint, HostName):
            for peer, word in words:
                peer.at.mapped(word)
                word.note = "nginx never ejects an upstream's only server"
            return NEVER
        used = [peer for peer in peers if not peer.is_down]
        first = [peer for peer in used if not peer.is_backup] or used
        kinds = {peer.ejects for peer in first}
        if len(kinds) > 1:
            for peer, word in words:
                note = "tcpmux ejects all endpoints of a destination by the same rule"
                peer.at.changes(word, note=note, needs="ejection rules per endpoint")
        for peer in used:
            if len(kinds) == 1 and peer.ejects not in kinds:
                peer.at.remark("tcpmux ejects a backup by the same rule as the others")
        return passive(first[0].max_fails, first[0].fail_timeout) if first else NEVER

    def _slow_start(self, peers: list[Peer]) -> SlowStart:
        used = [peer for peer in peers if not peer.is_down]
        kinds = {peer.slow_start for peer in used}
        if len(kinds) > 1:
            for peer in used:
                note = "tcpmux has one value for all endpoints of a destination"
                words = peer.words_of("slow_start")
                if words:
                    peer.at.changes(*words, note=note, needs="slow start per endpoint")
        longest = max(kinds, default=0.0)
        return SlowStart(longest, 1) if longest else SlowStart()

    def _servers(self, peers: list[Peer]) -> list[Server]:
        """The same server twice is one of both weights."""
        merged: dict[Endpoint, Peer] = {}
        for peer in peers:
            if peer.endpoint is None or peer.is_down:
                continue
            before = merged.setdefault(peer.endpoint, peer)
            if before is peer:
                continue
            if before.is_backup != peer.is_backup:
                words = before.words_of("backup") + peer.words_of("backup")
                owner = peer if peer.is_backup else before
                owner.at.changes(*words, note="the same server is not a backup in another line")
                continue
            limits = (before.max_connections, peer.max_connections)
            merged[peer.endpoint] = replace(
                before,
                weight=before.weight + peer.weight,
                max_connections=sum(limits) if all(limits) else 0,
            )
            peer.at.remark(
                f"its weight is added to that of the same server in line {before.at.line}"
            )
        return [_server(peer) for peer in merged.values()]


_OF_FAILURES = ("max_fails", "fail_timeout")


def _server(peer: Peer) -> Server:
    assert peer.endpoint is not None
    policy = EndpointPolicy(peer.max_connections, int(peer.is_backup))
    return Server(peer.endpoint, peer.weight, policy)


def plain_endpoint(
    at: Statement, word: Word, report: Report, value: str | None = None
) -> Endpoint | None:
    """Of ADDRESS:PORT, NAME:PORT or unix:PATH; None = in the report. value: of a word that has
    variables."""
    text = word.text if value is None else value
    host, colon, port = text.rpartition(":")
    if not text.startswith("unix:"):
        if not colon or text.endswith("]") or not host:
            report.problem(at, f"expected a port after {text}", word)
            return None
        if not (port.isascii() and port.isdigit() and len(port) < 6 and 1 <= int(port) <= 65535):
            report.problem(at, f"expected a port from 1 to 65535, got {port!r}", word)
            return None
    return endpoint_of(text, at, word)


def endpoint_of(text: str, at: Statement, word: Word) -> Endpoint | None:
    try:
        return parse_endpoint(text)
    except ValueError as error:
        at.changes(word, note=f"it is left out: {error}")
        return None
