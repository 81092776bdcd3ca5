"""Frontends as routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tcpmux.config.address import Address
from tcpmux.config.preread import Preread
from tcpmux.config.rows import DAY, MAX_CONNECTIONS
from tcpmux.config.settings import (
    AcceptProxy,
    Clients,
    DestinationPolicy,
    Queue,
    Retry,
    RoutePolicy,
    Source,
)
from tcpmux.convert.decisions import Decided, Shares
from tcpmux.convert.draft import Branch, Draft, Pool
from tcpmux.convert.haproxy.access import Access, Lists, access_of, counted, lists_of
from tcpmux.convert.haproxy.binds import (
    FULL,
    RESETS,
    Binds,
    binds_of,
    mark_v6only,
)
from tcpmux.convert.haproxy.headers import headers_at
from tcpmux.convert.haproxy.pools import Backend, backend_of, pool_of
from tcpmux.convert.haproxy.proxies import Section, guarded, mark_known
from tcpmux.convert.haproxy.routing import (
    Choice,
    Deciding,
    choices_of,
    decided_at,
    default_of,
)
from tcpmux.convert.haproxy.timeouts import MOST_QUEUED
from tcpmux.convert.haproxy.values import whole, whole_milliseconds
from tcpmux.convert.report import Report

BROKEN_HELLO = (
    "a client with a malformed ClientHello, or one that is not whole by then, is reset; HAProxy "
    "goes on as if it had none"
)
NO_BACKEND = "connections without a backend are closed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happens to connections to an address. port: 0 = it does not matter. limit: of it.
    headers: of the PROXY protocol."""

    to: Decided[Shares]
    lists: Lists
    port: int
    limit: int
    headers: AcceptProxy

    @property
    def names(self) -> list[str]:
        """Of the backends."""
        return _names_in(self.to)


def _every(to: Decided[Shares]) -> list[Shares]:
    """Of each rule, and of the rest."""
    return [*(shares for _, shares in to.rules), to.rest]


def _names_in(to: Decided[Shares]) -> list[str]:
    """Of the backends."""
    return [*dict.fromkeys(name for shares in _every(to) for name, _ in shares if name)]


@dataclass(slots=True)
class Front:
    """What a frontend says."""

    section: Section
    binds: Binds
    choices: list[Choice]
    default: str
    access: Access
    maxconn: int
    backends: dict[str, Backend] = field(default_factory=dict)


def drafts_of(
    sections: Sequence[Section], backends: dict[str, Section], most: int, report: Report
) -> list[Draft]:
    """Of all frontends. most: global maxconn, 0 = none."""
    drafts: list[Draft] = []
    every: list[Binds] = []
    uses: dict[str, list[Backend]] = {}
    for section in sections:
        if section.kind in ("frontend", "listen") and section.head is not None:
            binds = binds_of(section, report)
            every.append(binds)
            drafts += _drafts(section, binds, backends, sections, most, uses, report)
    listen = {address for draft in drafts for address in draft.listen}
    for binds in every:
        mark_v6only(binds, listen)
    for routes in uses.values():
        if len(routes) > 1:
            _mark_shared(routes)
    return drafts


def _mark_shared(uses: Sequence[Backend]) -> None:
    """What follows from a backend that is a destination of several routes."""
    for line in (line for used in uses for line in used.servers.all if line.maxconn):
        line.options["maxconn"].changes(
            "several routes lead to the server, each of which would have this limit",
            "limits across routes",
        )


def _drafts(
    front: Section,
    binds: Binds,
    backends: dict[str, Section],
    sections: Sequence[Section],
    most: int,
    uses: dict[str, list[Backend]],
    report: Report,
) -> list[Draft]:
    """uses: the backends of each route, by name; they are added."""
    mark_known(front, report)
    if not binds.listen:
        front.at.harmless(note="it has no listener")
        return []
    front.at.mapped()
    access = access_of(front, report)
    found = Front(
        front,
        binds,
        choices_of(front, backends, report),
        default_of(front, backends, report),
        access,
        _maxconn(front, most, report),
    )
    counted(found.access, front, sections)
    outcomes = _outcomes(found, backends, report)
    drafts = [_draft(found, outcome, listen) for outcome, listen in outcomes.items()]
    for name in (name for outcome in outcomes for name in outcome.names):
        uses.setdefault(name, []).append(found.backends[name])
    for setting in access.delays:
        if setting.at.words[0].effect is None:
            setting.at.harmless(note="HAProxy waits only for content that rules read")
    if len(drafts) > 1:
        _split(found, drafts)
    return drafts


def _split(front: Front, drafts: Sequence[Draft]) -> None:
    """What follows from a frontend that is several routes."""
    for draft in drafts:
        draft.name = f"{front.section.name}-{draft.listen[0].port or 'unix'}"
    note = "each of its ports becomes a route, which would have its own limit"
    setting = front.section.last("maxconn")
    if setting is not None:
        setting.at.changes(note=note, needs="limits across routes")
    for rule in front.access.limits:
        rule.setting.at.changes(note=note, needs="limits across routes")


def _maxconn(front: Section, most: int, report: Report) -> int:
    setting = front.last("maxconn")
    found: list[int] = []
    if setting is not None:
        guarded(report, setting.at, lambda: found.append(whole(setting.arg().text, 0, 2**31 - 1)))
        setting.at.mapped()
    limits = [limit for limit in (*found, most) if limit]
    return min(limits, default=0)


def _outcomes(
    front: Front, backends: dict[str, Section], report: Report
) -> dict[Outcome, list[Address]]:
    """Addresses by what happens there."""
    made: dict[Outcome, list[Address]] = {}
    access = front.access
    rejects = access.contents if access.is_by_rule else []
    deciding = Deciding(front.choices, front.default, rejects, access.waits)
    conditions = [choice.condition for choice in front.choices]
    conditions += [rule.condition for rule in access.rules]
    differs = any(condition.depends_on_address for condition in conditions)
    to: Decided[Shares] | None = None
    lists: Lists = ((), ())
    for address in dict.fromkeys(front.binds.listen):
        if differs or to is None:
            to = decided_at(deciding, address, report)
            lists = lists_of(access, address, report)
        port = 0
        for name in _names_in(to):
            if name not in front.backends:
                front.backends[name] = backend_of(front.section, backends[name], report)
            if front.backends[name].servers.mapped_ports:
                port = address.port
        limit = front.binds.limits.get(address, 0)
        headers = headers_at(front.section, front.binds, front.access, address, report)
        outcome = Outcome(to, lists, port, limit, headers)
        made.setdefault(outcome, []).append(address)
    return made


def _draft(front: Front, outcome: Outcome, listen: list[Address]) -> Draft:
    section = front.section
    parts = [front.backends[name] for name in outcome.names]
    pools = {name: pool_of(front.backends[name], outcome.port) for name in outcome.names}
    for part in parts:
        if not part.servers.all:
            part.section.at.mapped(note="it has no usable server: tcpmux resets its connections")
    nowhere = Pool("no-backend")
    if not front.default and any(not name for of in _every(outcome.to) for name, _ in of):
        section.at.mapped(note=NO_BACKEND)

    def led(of: Shares) -> list[tuple[Pool, Fraction]]:
        if outcome.to.rules and [name for name, _ in of] == [""]:
            return []
        return [(pools.get(name, nowhere), share) for name, share in of]

    shares = led(outcome.to.rest)
    branches = [Branch(when, led(of)) for when, of in outcome.to.rules]
    policy = _policy(front, outcome, parts)
    if len(shares) == 1 and not branches and front.maxconn:
        pool = shares[0][0]
        queued = _queued(pool.policy, front.maxconn)
        if queued is None:
            policy = _limited(front, policy)
        else:
            pool.policy = queued
            _note_limit(front, f"{FULL}; in tcpmux too, for at most a day")
    elif front.maxconn:
        policy = _limited(front, policy)
    labels = {section.label, *(s.label for s in section.chain)}
    labels.update(s.label for part in parts for s in part.section.chain)
    source = f"{section.label} at {section.at.file}:{section.at.line}"
    return Draft(section.name, listen, shares, section.at, source, policy, labels, branches)


def _queued(policy: DestinationPolicy, limit: int) -> DestinationPolicy | None:
    """With a limit beyond which connections wait; None = they wait for servers already."""
    if policy.on_full != "reject":
        return None
    size = min(limit, MAX_CONNECTIONS)
    return replace(policy, max_connections=size, on_full="queue", queue=Queue(size, MOST_QUEUED))


def _limited(front: Front, policy: RoutePolicy) -> RoutePolicy:
    _note_limit(front, RESETS)
    return replace(policy, max_connections=min(front.maxconn, MAX_CONNECTIONS))


def _note_limit(front: Front, note: str) -> None:
    setting = front.section.last("maxconn")
    if setting is not None:
        setting.at.mapped(*setting.at.words, note=note)


def _preread(access: Access) -> Preread:
    """HAProxy takes a client that says nothing in time as one that says nothing of TLS."""
    setting = access.delays[-1]
    setting.at.mapped(note=BROKEN_HELLO)
    if (access.delay or 0.0) > DAY:
        setting.at.changes(note="it is above 1d, tcpmux's maximum")
    return Preread(is_asked=True, timeout=min(whole_milliseconds(access.delay or 0.0), DAY))


def _policy(front: Front, outcome: Outcome, parts: Sequence[Backend]) -> RoutePolicy:
    allow: tuple[Clients, ...]
    allow, deny = outcome.lists
    source = Source(max_connections=front.access.per_client)
    policy = RoutePolicy(
        allow=allow,
        deny=deny,
        source=source,
        listener_max_connections=min(outcome.limit, MAX_CONNECTIONS),
        accept_proxy=outcome.headers,
    )
    if any(when.reads_hello for when, _ in outcome.to.rules):
        policy = replace(policy, preread=_preread(front.access))
    if len(outcome.to.rest) > 1 or outcome.to.rules:
        policy = replace(policy, on_unavailable="reject")
    retries = {part.retry for part in parts} - {None}
    if len(retries) == 1:
        return replace(policy, retry=retries.pop() or Retry())
    if retries:
        for part in parts:
            for key in ("retries", "option redispatch", "retry-on"):
                said = part.section.last(key)
                if said is not None:
                    said.at.changes(
                        note="the frontend's backends differ here, but `retry` belongs to a route",
                        needs="retries of a destination",
                    )
    return policy
