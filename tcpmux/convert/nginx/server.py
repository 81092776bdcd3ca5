"""A `server` of stream {}: what stands in it, and the routes that it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from tcpmux.config.address import Address, HostName
from tcpmux.config.schema import MAX_ENDPOINTS
from tcpmux.config.settings import Clients, Keepalive, RoutePolicy
from tcpmux.convert.clients import EVERYBODY, ClientRule
from tcpmux.convert.draft import Branch, Draft, plain_name
from tcpmux.convert.nginx.access import Zones, client_lists, client_rules
from tcpmux.convert.nginx.header import NEEDS, Headers, headers_of, names_all
from tcpmux.convert.nginx.listen import KERNEL_KEEPALIVE, Listen, Listens
from tcpmux.convert.nginx.maps import Unresolved
from tcpmux.convert.nginx.proxy import Behaviour, behaviour
from tcpmux.convert.nginx.scope import Scope, is_on, is_plain, mark_tls
from tcpmux.convert.nginx.splits import Split, Sticking
from tcpmux.convert.nginx.targets import (
    REJECTED,
    Pools,
    Target,
    is_closed,
    policy_of,
    pool_of,
    target_at,
    values_of,
)
from tcpmux.convert.nginx.tree import STREAM, Directive
from tcpmux.convert.nginx.upstream import Upstream, UpstreamReader, plain_endpoint, single
from tcpmux.convert.nginx.variables import Variables
from tcpmux.convert.report import Report

NO_KEEPALIVE = Keepalive(idle=0)
MAX_ALL_NETWORKS = 100_000  # of all routes' lists of clients
_IPV4 = ip_network("0.0.0.0/0")

Lists = tuple[tuple[Clients, ...], tuple[Clients, ...]]
NOBODY: Lists = ((), EVERYBODY)


@dataclass(slots=True)
class Proxied:
    """A server whose connections go somewhere. variables: with those that it sets."""

    at: Directive
    scope: Scope
    variables: Variables
    listens: list[Listen] = field(default_factory=list)
    proxy_pass: Directive | None = None
    names: list[Directive] = field(default_factory=list)  # server_name

    @property
    def addresses(self) -> list[Address]:
        return [address for listen in self.listens for address in listen.addresses]

    @property
    def is_default(self) -> bool:
        return any(listen.default for listen in self.listens)

    @property
    def place(self) -> str:
        return f"{self.at.at.file}:{self.at.at.line}"

    def leave(self, address: Address, why: str, needs: str) -> None:
        """Another server has all connections to that address."""
        for listen in self.listens:
            if address in listen.addresses:
                listen.addresses.remove(address)
                note = f"{why} gets all connections to {address}"
                listen.at.changes(listen.at.words[1], note=note, needs=needs)
        if not self.addresses:
            _mark_without_route(self.at)

    def mark_chosen(self) -> None:
        """It is chosen by its names, or as no other's fits."""
        for one in self.names:
            one.at.mapped()
        for listen in self.listens:
            if listen.default:
                listen.at.mapped(listen.default)

    def mark_alone(self) -> None:
        """Unless it is marked as one among others."""
        note = "the only server on this listener"
        for one in self.names:
            one.at.harmless(note=note)
        for listen in self.listens:
            if listen.default:
                listen.at.harmless(listen.default, note=note)

    @property
    def target(self) -> str:
        return self.proxy_pass.argument() if self.proxy_pass else ""

    def take(self, inner: Directive, report: Report) -> bool:
        """Whether what stands in it is known."""
        if inner.name == "set":
            return self.variables.define(inner)
        if inner.name == "server_name":
            self.names.append(inner)
            return True
        if inner.name != "proxy_pass":
            return self.scope.take(inner)
        if self.proxy_pass is not None:
            report.problem(inner.at, "it is already set in this server")
        elif is_plain(inner, report, 1, 1):
            self.proxy_pass = inner
        return True


def read_server(
    one: Directive, listens: Listens, variables: Variables, report: Report
) -> Proxied | None:
    """None if tcpmux has no route for it, which is in the report then."""
    if one.own < len(one.at.words):
        one.at.changes(note="tcpmux relays TCP: its port is not opened", needs="UDP")
        return None
    one.at.mapped()
    found = Proxied(one, Scope(report), variables.of_server())
    inside = one.inside or []
    listening = [inner for inner in inside if inner.name == "listen"]
    names = next((inner for inner in inside if inner.name == "server_name"), None)
    found.listens = [made for inner in listening if (made := listens.read(inner, names))]
    others = [inner for inner in inside if inner.name != "listen"]
    unknown = [inner for inner in others if not found.take(inner, report)]
    if not listening:
        report.problem(one.at, "expected a listen directive")
    if found.proxy_pass is None and found.scope.handler is None and not unknown:
        report.problem(one.at, "expected a proxy_pass directive")
    if found.listens and found.proxy_pass and not found.scope.handler:
        return found
    _mark_without_route(one)
    return None


def _mark_without_route(one: Directive) -> None:
    for inner in one.all():
        for word in inner.at.words:
            if word.effect is None:
                inner.at.changes(word, note="part of a server that is not converted")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What addresses must have in common to be one route."""

    keepalive: Keepalive
    v6_only: bool
    has_headers: bool


@dataclass(slots=True)
class Routes:
    """Makes them of servers. upstreams: by name in lower case. v4: ports that some server listens
    on at 0.0.0.0."""

    report: Report
    stream: Scope
    upstreams: Mapping[str, Directive]
    reader: UpstreamReader
    zones: Zones
    v4: set[int] = field(default_factory=set)
    used: dict[str, Upstream] = field(default_factory=dict)  # by name in lower case
    resolves: bool = False  # names that variables have
    networks: int = 0  # of all routes
    endpoints: int = 0
    to_clients: bool = False  # some server speaks TLS with them
    to_servers: bool = False
    lists: dict[tuple[int, bool], Lists] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # routes of each upstream
    sticking: Sticking = field(default_factory=Sticking)

    def drafts(self, server: Proxied) -> list[Draft]:
        how = behaviour(server.scope, self.stream, self.report)
        listens_with_tls = any(listen.has_tls for listen in server.listens)
        mark_tls(server.scope.tls, to_clients=listens_with_tls, to_servers=how.has_tls)
        self.to_clients = self.to_clients or listens_with_tls
        self.to_servers = self.to_servers or how.has_tls
        reads = any(listen.header for listen in server.listens)
        headers = headers_of(server.scope, self.stream, self.report, reads=reads)
        found = []
        for kind, by_target in self._groups(server, how).items():
            for target, addresses in by_target.items():
                draft = self._draft(server, how, addresses, target, kind)
                splits = self.sticking.stick(
                    draft,
                    target,
                    server.variables.splits_of(server.target),
                    reads_hello=how.preread.is_asked,
                    has_headers=kind.has_headers,
                )
                self._read_headers(draft, server, headers, kind, splits)
                found.append(draft)
        for draft in found:
            self.zones.use(self._list(server, "limit_conn"), f"{server.at.at.section} {draft.name}")
        if not found:
            _mark_without_route(server.at)
        return found

    def limit(self, server: Proxied, drafts: list[Draft]) -> None:
        """Once drafts() has been called for all servers."""
        one = server.scope.settings.get("limit_conn_dry_run") or self.stream.settings.get(
            "limit_conn_dry_run"
        )
        dry = False
        if one is not None:
            dry = is_on(one, self.report)
            one.at.mapped()
        for draft in drafts:
            limits = self._list(server, "limit_conn")
            draft.policy = self.zones.apply(draft.policy, limits, len(draft.listen), dry=dry)

    def _list(self, server: Proxied, key: str) -> list[Directive]:
        return server.scope.lists.get(key) or self.stream.lists.get(key) or []

    # --- which listeners go where -----------------------------------------------------------

    def _groups(self, server: Proxied, how: Behaviour) -> dict[_Kind, dict[Target, list[Address]]]:
        """Addresses of the same kind and with the same targets."""
        groups: dict[_Kind, dict[Target, list[Address]]] = {}
        proxy_pass = server.proxy_pass
        assert proxy_pass is not None
        is_resolved = True
        for listen in server.listens:
            keepalive = self._keepalive(listen, how)
            for address in listen.addresses:
                try:
                    target = target_at(
                        server.variables, server.target, address, reads_hello=how.preread.is_asked
                    )
                except Unresolved as error:
                    note = f"its port is not opened: {error}"
                    proxy_pass.at.changes(note=note, needs=error.needs)
                    server.variables.mark_changes(server.target, str(error), error.needs)
                    is_resolved = False
                    continue
                v6_only = listen.v6_only and address.port not in self.v4
                kind = _Kind(keepalive, v6_only, listen.header is not None)
                groups.setdefault(kind, {}).setdefault(target, []).append(address)
        if is_resolved:
            proxy_pass.at.mapped()
            server.variables.mark_mapped(server.target)
        return groups

    def _keepalive(self, listen: Listen, how: Behaviour) -> Keepalive:
        if listen.keepalive is None and not how.keepalive:
            return NO_KEEPALIVE
        if (listen.keepalive is None) is how.keepalive or listen.keepalive != KERNEL_KEEPALIVE:
            listen.at.remark("tcpmux uses keepalive on both sides of a connection")
        return listen.keepalive or KERNEL_KEEPALIVE

    # --- routes -----------------------------------------------------------------------------

    def _draft(
        self,
        server: Proxied,
        how: Behaviour,
        addresses: list[Address],
        target: Target,
        kind: _Kind,
    ) -> Draft:
        at = server.at.at
        pools = Pools({}, set())
        sections = {at.section, STREAM}
        values = values_of(target)
        for value in values:
            upstream = self._upstream(server, value)
            sections.add(upstream.section)
            pools.of.setdefault(value.lower(), pool_of(upstream, how, kind.keepalive))
            pools.closed |= {value.lower()} if is_closed(upstream) else set()
        sections |= {found.at.at.section for found in server.variables.reached_from(server.target)}
        if kind.v6_only:
            at.remark("in tcpmux [::] also accepts IPv4: these clients are reset")
        allow, deny = self._clients(server, v6_only=kind.v6_only)
        policy = policy_of(how, [*pools.of.values()])
        policy = replace(policy, allow=allow, deny=deny)
        self.counts.update({value.lower() for value in values} & self.used.keys())
        has_rules = bool(target.rules)
        return Draft(
            name=self._name(server, addresses),
            listen=addresses,
            shares=pools.shares(target.rest, beside_rules=has_rules),
            at=at,
            source=f"server at {at.file}:{at.line}",
            policy=policy,
            sections=sections - {""},
            branches=[
                Branch(when, pools.shares(of, beside_rules=True)) for when, of in target.rules
            ],
        )

    def _read_headers(
        self,
        draft: Draft,
        server: Proxied,
        headers: Headers,
        kind: _Kind,
        splits: Sequence[Split],
    ) -> None:
        """And send_proxy, as far as one follows from the other."""
        upstreams = [self.used.get(pool.name.lower()) for pool in draft.pools]
        hashes = [used for used in upstreams if used and used.balance == "source_hash"]
        if kind.has_headers:
            uses = ["hash"] if any(not used.by_header for used in hashes) else []
            uses += ["split_clients"] if any(split.is_by_peer for split in splits) else []
            draft.policy = self._accepting(draft, server, headers, uses, kind)
        if names_all(draft.policy.accept_proxy):
            return
        note = "not every client has a header that names it"
        for used in hashes:
            if used.by_header:
                used.by_header.changes(note, NEEDS)
        for split in splits:
            if split.is_by_header:
                split.changes(note, NEEDS)

    def _accepting(
        self,
        draft: Draft,
        server: Proxied,
        headers: Headers,
        by_client: Sequence[str],
        kind: _Kind,
    ) -> RoutePolicy:
        sends = any(pool.policy.send_proxy.version for pool in draft.pools)
        uses = ["proxy_protocol"] if sends else []
        uses += by_client
        uses += ["geo and map"] if any(b.when.sources for b in draft.branches) else []
        uses += ["allow and deny"] if self._list(server, "allow") else []
        limits = self._list(server, "limit_conn")
        uses += ["limit_conn"] if self.zones.are_of_clients(limits) else []
        listens = [
            one for one in server.listens if one.header and {*one.addresses} & {*draft.listen}
        ]
        accept = headers.accepted(listens, draft.listen, uses, v6_only=kind.v6_only)
        if sends:
            note = "tcpmux also tells servers the destination address that is in the header it read"
            draft.at.remark(note)
        return replace(draft.policy, accept_proxy=accept)

    def _clients(self, server: Proxied, *, v6_only: bool) -> Lists:
        """(allow, deny). Those of stream {} are worked out once for all servers."""
        rules_of = self._list(server, "allow")
        key = id(rules_of), v6_only
        if key not in self.lists or not rules_of:
            rules = client_rules(rules_of, self.report)
            if v6_only:
                rules.insert(0, ClientRule(accepts=False, clients=_IPV4))
            self.lists[key] = client_lists(rules, rules_of)
        found = self.lists[key]
        self.networks += len(found[0]) + len(found[1])
        if self.networks > MAX_ALL_NETWORKS:
            if self.lists[key] != NOBODY:
                note = (
                    f"no client may connect: all routes have more than {MAX_ALL_NETWORKS} networks"
                )
                for one in rules_of:
                    one.at.changes(note=note)
            self.lists[key] = NOBODY
        return self.lists[key]

    def _name(self, server: Proxied, addresses: list[Address]) -> str:
        target = server.target
        if target.startswith("$") or target.lower() in self.upstreams:
            name = re.sub(r"\W+", "-", target, flags=re.ASCII).strip("-")
            if name:
                return plain_name(name)
        first = addresses[0]
        return plain_name(first.path.rpartition("/")[2]) if first.path else f"tcp-{first.port}"

    def _upstream(self, server: Proxied, value: str) -> Upstream:
        """Where connections go that have this value of proxy_pass."""
        key = value.lower()
        if key in self.upstreams:
            if key not in self.used:
                self.used[key] = self.reader.read(self.upstreams[key])
            self.endpoints += len(self.used[key].servers)
            if self.endpoints > MAX_ENDPOINTS:
                message = f"the routes have more than {MAX_ENDPOINTS} endpoints"
                self.report.problem(server.at.at, message)
                self.report.complain()
            return self.used[key]
        assert server.proxy_pass is not None
        at, word = server.proxy_pass.at, server.proxy_pass.at.words[1]
        is_variable = "$" in server.target
        host, _, port = key.rpartition(":")
        if host in self.upstreams and not is_variable:
            self.report.problem(at, f"unexpected port after the upstream {host}", word)
        if is_variable and not port.isdigit() and not key.startswith("unix:"):
            what = (
                f"there is no upstream {value}" if value else "it has no value for some connections"
            )
            at.remark(f"{what}: tcpmux resets these connections, where nginx closes them")
            return Upstream(REJECTED)
        endpoint = plain_endpoint(at, word, self.report, value)
        if endpoint is None:
            return Upstream(REJECTED)
        if isinstance(endpoint, HostName):
            self._named(server, endpoint, is_variable=is_variable)
        return single(_label(value), endpoint)

    def _named(self, server: Proxied, endpoint: HostName, *, is_variable: bool) -> None:
        assert server.proxy_pass is not None
        if not is_variable:
            note = "tcpmux resolves it again when its TTL expires; nginx only when it starts"
            server.proxy_pass.at.words[1].note = note
            return
        self.resolves = True
        if not (server.scope.settings.get("resolver") or self.stream.settings.get("resolver")):
            note = f"without a resolver for {endpoint.name}, nginx closes these connections"
            server.proxy_pass.at.changes(note=note)


def _label(value: str) -> str:
    """A destination's name of an address: 10.0.0.1-80, ipv6-fd00-1-80, the last of a path."""
    if value.startswith("unix:"):
        return value.rpartition("/")[2]
    return f"ipv6-{plain_name(value)}" if value.startswith("[") else value
