"""nginx.conf: what stands in no braces, and in stream {}."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tcpmux.config.address import Address
from tcpmux.config.rows import DAY
from tcpmux.config.schema import MAX_WORKERS
from tcpmux.convert.draft import MAX_NAME, Draft
from tcpmux.convert.kinds import Input, Result
from tcpmux.convert.nginx.access import Zones
from tcpmux.convert.nginx.listen import ANY_V4, ANY_V6, Listens
from tcpmux.convert.nginx.scope import Scope, is_block, is_plain, mark_tls
from tcpmux.convert.nginx.server import Proxied, Routes, read_server
from tcpmux.convert.nginx.server_names import ServerNames
from tcpmux.convert.nginx.tables import HARMLESS_IN_MAIN
from tcpmux.convert.nginx.tree import OTHERS, Directive, Tree
from tcpmux.convert.nginx.upstream import UpstreamReader
from tcpmux.convert.nginx.values import milliseconds, number
from tcpmux.convert.nginx.variables import Variables
from tcpmux.convert.report import Report

MAX_DRAIN = 7 * DAY
_WITH_VARIABLES = ("proxy_bind", "proxy_download_rate", "proxy_upload_rate")


def read(files: Sequence[Input], report: Report) -> Result:
    tree = Tree(report)
    for file in files:
        tree.add(file)
    main = _Main(report)
    for one in tree.main:
        main.take(one)
    stream = _Stream(report, main.workers)
    stream.take(tree.stream)
    result = stream.result()
    result.settings |= main.settings
    return result


@dataclass(slots=True)
class _Main:
    """workers: of nginx; None = as many as CPUs."""

    report: Report
    workers: int | None = 1
    settings: dict[str, object] = field(default_factory=dict)

    def take(self, one: Directive) -> None:
        name = one.name
        if name in OTHERS:
            self._other(one)
        elif name == "events":
            one.at.harmless(note="affects only nginx's processes")
            for inner in one.inside or ():
                self.take(inner)
        elif name in HARMLESS_IN_MAIN:
            one.at.harmless(note=HARMLESS_IN_MAIN[name])
        elif name == "worker_processes" and is_plain(one, self.report, 1, 2):
            self._workers(one)
        elif name == "worker_shutdown_timeout" and is_plain(one, self.report, 1, 1):
            self._drain(one)

    def _other(self, one: Directive) -> None:
        what = OTHERS[one.name]
        texts = set(one.at.texts)
        if texts & {"server", "include"}:
            one.at.changes(note=f"its ports are not opened: tcpmux has no {what}", needs=what)
        else:
            one.at.harmless(note="it opens no port")

    def _workers(self, one: Directive) -> None:
        word = one.at.words[1]
        count = number(word.text)
        if word.text == "auto":
            self.workers = None
            one.at.mapped()
        elif not count:
            self.report.problem(one.at, "expected a number from 1, or auto", word)
        elif count > MAX_WORKERS:
            self.workers = count
            one.at.harmless(
                note=f"tcpmux has at most {MAX_WORKERS} workers; here it starts one for each CPU"
            )
        else:
            self.workers = count
            self.settings["workers"] = count
            one.at.mapped()

    def _drain(self, one: Directive) -> None:
        found = milliseconds(one.argument())
        if found is None:
            self.report.problem(one.at, "expected a time such as 10s", one.at.words[1])
        elif found > MAX_DRAIN * 1000:
            one.at.changes(note="it is above 7d, tcpmux's maximum")
        else:
            self.settings["drain_timeout"] = found / 1000
            one.at.mapped(note="applies to a stop; a reload of tcpmux closes no connection")


@dataclass(slots=True)
class _Stream:
    report: Report
    workers: int | None
    upstreams: dict[str, Directive] = field(default_factory=dict)
    servers: list[Proxied] = field(default_factory=list)

    scope: Scope = field(init=False)
    variables: Variables = field(init=False)
    zones: Zones = field(init=False)
    listens: Listens = field(init=False)

    def __post_init__(self) -> None:
        self.scope = Scope(self.report)
        self.variables = Variables(self.report)
        self.zones = Zones(self.report)
        self.listens = Listens(self.report)

    def take(self, directives: Sequence[Directive]) -> None:
        servers = []
        for one in directives:
            if one.name == "server":
                if is_block(one, self.report, 0, 0):
                    servers.append(one)
            elif one.name == "upstream":
                self._upstream(one)
            elif one.name == "limit_conn_zone":
                self.zones.define(one)
            elif not self.variables.define(one):
                self.scope.take(one)
        for one in servers:
            found = read_server(one, self.listens, self.variables, self.report)
            if found is not None:
                self.servers.append(found)

    def _upstream(self, one: Directive) -> None:
        if not is_block(one, self.report, 1, 1):
            return
        key = one.argument().lower()
        if key in self.upstreams:
            self.report.problem(one.at, f"the upstream {one.argument()} is already defined")
            return
        self.upstreams[key] = one

    def result(self) -> Result:
        by_name = ServerNames(self.scope)
        self.servers = by_name.choose(self.servers)
        reader = UpstreamReader(self.report, self.workers)
        routes = Routes(self.report, self.scope, self.upstreams, reader, self.zones)
        routes.v4 = {
            address.port
            for server in self.servers
            for listen in server.listens
            for address in listen.addresses
            if address.host == ANY_V4
        }
        drafts = [routes.drafts(server) for server in self.servers]
        of = {id(server): made for server, made in zip(self.servers, drafts, strict=True)}
        by_name.join(of, routes.counts)
        for server in self.servers:
            server.mark_alone()
        for server, made in zip(self.servers, drafts, strict=True):
            routes.limit(server, made)
        routes.sticking.agree()
        settings = self._resolver(routes)
        self._mark_unused(routes)
        mark_tls(self.scope.tls, to_clients=routes.to_clients, to_servers=routes.to_servers)
        for key, count in routes.counts.items():
            if count > 1:
                reader.shared(self.upstreams[key])
        found = [draft for made in drafts for draft in made]
        _tell_apart(found)
        return Result(found, settings)

    def _resolver(self, routes: Routes) -> dict[str, object]:
        """The name servers, if names are looked up with them."""
        found = [
            one
            for scope in [self.scope, *(server.scope for server in self.servers)]
            if (one := scope.settings.get("resolver")) is not None
        ]
        uses = routes.resolves or any(one.resolves for one in routes.used.values())
        servers: list[Address] = []
        for one in found:
            if not uses:
                one.at.harmless(note="no name needs it")
                continue
            one.at.mapped(one.at.words[0])
            mine = []
            for word in one.arguments:
                if word.text.startswith("valid="):
                    one.at.mapped(word, note="tcpmux resolves names again when their TTL expires")
                elif word.text in ("ipv6=on", "ipv4=on") or word.text.startswith("status_zone="):
                    one.at.harmless(word)
                elif word.text in ("ipv6=off", "ipv4=off"):
                    one.at.changes(word, note="tcpmux uses a name's IPv4 and IPv6 addresses")
                else:
                    try:
                        text = word.text if _has_port(word.text) else f"{word.text}:53"
                        mine.append(Address.parse(text))
                        one.at.mapped(word)
                    except ValueError:
                        one.at.changes(word, note="it is left out: expected a numeric address")
            if servers and servers != mine:
                one.at.changes(note="tcpmux has one list of name servers")
            servers = servers or mine
        return {"dns_servers": tuple(servers)} if servers else {}

    def _mark_unused(self, routes: Routes) -> None:
        for key, head in self.upstreams.items():
            if key not in routes.used:
                head.harmless("no server uses it")
        self._mark_used_elsewhere(routes)
        for variables in [self.variables, *(server.variables for server in self.servers)]:
            variables.mark_unused()
        self.zones.mark_unused()
        for one in [
            *self.scope.settings.values(),
            *(one for list_ in self.scope.lists.values() for one in list_),
        ]:
            if one.at.words[0].effect is None:
                one.at.harmless(note="no server uses it")

    def _mark_used_elsewhere(self, routes: Routes) -> None:
        """Variables of directives that are not mapped if they have one."""
        users = [zone for name, zone in self.zones.zones.items() if name in self.zones.users]
        for key in routes.used:
            users += [one for one in self.upstreams[key].inside or () if one.name == "hash"]
        for scope in [self.scope, *(server.scope for server in self.servers)]:
            users += [scope.settings[name] for name in _WITH_VARIABLES if name in scope.settings]
        for one in users:
            if "$" in one.argument():
                note = f"the {one.name} in line {one.at.line} uses it"
                self.variables.mark_changes(one.argument(), note, "")


def _has_port(text: str) -> bool:
    return text.rpartition(":")[2].isdigit() and (text.count(":") == 1 or "]:" in text)


def _tell_apart(drafts: Sequence[Draft]) -> None:
    """Routes of the same name get their ports into it; those that have it, their addresses."""
    count = Counter(draft.name for draft in drafts)
    for draft in drafts:
        first = draft.listen[0]
        if count[draft.name] == 1 or not first.port:
            continue
        if draft.name != f"tcp-{first.port}":
            draft.name = f"{draft.name[: MAX_NAME - 6]}-{first.port}"
        elif first.host not in (ANY_V4, ANY_V6):
            draft.name = f"tcp-{first.host.strip(':')}-{first.port}"
