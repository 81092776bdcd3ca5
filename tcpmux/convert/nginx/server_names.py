"""Several servers on one address: since nginx 1.25.5 the name that a client of TLS asks for chooses
one of them, with `ssl_preread on`. One that no name fits gets the default server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tcpmux.config.address import Address
from tcpmux.config.rule import Rule
from tcpmux.convert.draft import Branch, Draft, Pool, Shares
from tcpmux.convert.hellos import pattern_of
from tcpmux.convert.nginx.scope import Scope
from tcpmux.convert.nginx.server import Proxied
from tcpmux.convert.report import Word

NEEDS = "rules by SNI"
ONE_POLICY = (
    "a route has one set of limits, lists of clients and timeouts before its rules: those of the "
    "default server"
)


@dataclass(slots=True)
class _Chosen:
    """Servers on the same addresses, the default one first. names: of each, as rules have them."""

    servers: list[Proxied]
    names: list[list[str]]


@dataclass(slots=True)
class ServerNames:
    """Of all servers. stream: what stands beside them."""

    stream: Scope
    _chosen: list[_Chosen] = field(default_factory=list)

    def choose(self, servers: Sequence[Proxied]) -> list[Proxied]:
        """Those that have connections. What tcpmux can't choose by is in the report then."""
        self._chosen = []
        handled: set[Address] = set()
        for address in dict.fromkeys(a for server in servers for a in server.addresses):
            holders = [server for server in servers if address in server.addresses]
            if len(holders) < 2 or address in handled:
                continue
            obstacle = self._obstacle(holders)
            if obstacle:
                default = _default_of(holders)
                for server in holders:
                    if server is not default:
                        server.leave(address, f"{obstacle}: the server at {default.place}", NEEDS)
            else:
                handled |= {*holders[0].addresses}
                _share_options(holders)
                self._chosen.append(_chosen_of(holders))
        return [server for server in servers if server.addresses]

    def _obstacle(self, holders: Sequence[Proxied]) -> str:
        """Why tcpmux can't choose among them; "" = it can."""
        if len({frozenset(server.addresses) for server in holders}) > 1:
            return "tcpmux chooses among servers that listen on the same addresses"
        one = _default_of(holders).scope.settings.get("ssl_preread") or self.stream.settings.get(
            "ssl_preread"
        )
        if one is None or one.argument() != "on":
            return "without ssl_preread on in the default server nginx does not look for a name"
        for server in holders:
            for word in _names(server):
                try:
                    _patterns(word.text)
                except ValueError as error:
                    return f"{word.text}: {error}"
        return ""

    def join(self, drafts: dict[int, list[Draft]], counts: Counter[str]) -> None:
        """Makes one route of those of servers that are chosen by name. drafts: by id of the server;
        those of all but the default one are emptied. counts: routes of each upstream."""
        for chosen in self._chosen:
            every = [drafts[id(server)] for server in chosen.servers]
            default, *others = chosen.servers
            first = every[0]
            if any(len(made) != 1 or made[0].branches for made in every):
                for server, made in zip(others, every[1:], strict=True):
                    note = "its own rules by name or client are not put into those by server_name"
                    server.at.at.changes(note=note, needs="rules of rules")
                    made.clear()
                continue
            (draft,) = first
            for server, (other,) in zip(others, every[1:], strict=True):
                differs = replace(other.policy, preread=draft.policy.preread) != draft.policy
                if differs or server.scope.lists.get("limit_conn"):
                    server.at.at.changes(note=ONE_POLICY, needs="limits of rules")
            uses = Counter(
                name for made in every for name in {pool.name.lower() for pool in made[0].pools}
            )
            counts.subtract({name: uses[name] - 1 for name in uses.keys() & counts.keys()})
            shares = _same_pools([made[0].shares for made in every])
            draft.shares = shares[0]
            draft.branches = [*_branches(chosen, shares)]
            draft.policy = replace(draft.policy, on_unavailable="reject")
            for made in every[1:]:
                draft.sections |= made[0].sections
                made.clear()
            for server in chosen.servers:
                server.mark_chosen()
            default.at.at.remark("nginx chooses servers by name since 1.25.5")


def _default_of(holders: Sequence[Proxied]) -> Proxied:
    return next((one for one in holders if one.is_default), holders[0])


def _chosen_of(holders: Sequence[Proxied]) -> _Chosen:
    default = _default_of(holders)
    servers = [default, *(one for one in holders if one is not default)]
    taken: set[str] = set()
    names: dict[int, list[str]] = {id(server): [] for server in servers}
    for server in holders:  # of one name that two have, nginx takes the first
        for word in _names(server):
            for pattern in _patterns(word.text):
                if pattern not in taken:
                    taken.add(pattern)
                    names[id(server)].append(pattern)
    return _Chosen(servers, [names[id(server)] for server in servers])


def _share_options(holders: Sequence[Proxied]) -> None:
    """What one says of the listener is so for all."""
    listens = [listen for server in holders for listen in server.listens]
    for listen in listens:
        same = [one for one in listens if {*one.addresses} & {*listen.addresses}]
        listen.keepalive = next((one.keepalive for one in same if one.keepalive), None)
        listen.header = next((one.header for one in same if one.header), None)
        listen.v6_only = all(one.v6_only for one in same)


def _names(server: Proxied) -> list[Word]:
    return [word for one in server.names for word in one.arguments]


def _patterns(name: str) -> list[str]:
    """Raises ValueError."""
    if not name:
        return []  # no client asks for it
    if name.startswith("~"):
        raise ValueError("tcpmux has no rules by regular expressions of names")
    if name.endswith(".*"):
        raise ValueError("tcpmux has no rules by the beginning of a name")
    if name.startswith("."):
        return [pattern_of(name[1:]), pattern_of(f"*{name}")]
    return [pattern_of(name)]


def _branches(chosen: _Chosen, shares: Sequence[Shares]) -> Iterator[Branch]:
    """Names as they are before those with a *, of which the longest is first."""
    ends = []
    for names, of in zip(chosen.names, shares, strict=True):
        exact = tuple(name for name in names if not name.startswith("*"))
        ends += [(name, of) for name in names if name.startswith("*")]
        if exact:
            yield Branch(Rule(sni=exact), of)
    for name, of in sorted(ends, key=lambda end: -len(end[0])):
        yield Branch(Rule(sni=(name,)), of)


def _same_pools(every: Sequence[Shares]) -> list[Shares]:
    """An upstream of several servers is one pool."""
    pools: list[Pool] = []
    made: list[Shares] = []
    for shares in every:
        found: Shares = []
        for pool, share in shares:
            same = next((one for one in pools if one == pool), pool)
            pools += [pool] if same is pool else []
            found.append((same, share))
        made.append(found)
    return made
