"""`tcp-request`: which clients may connect, and how many connections each may have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tcpmux.config.address import Address
from tcpmux.config.settings import Clients
from tcpmux.convert.clients import (
    EVERYBODY,
    ClientRule,
    TooManyNetworks,
    accepted_by,
    allow_and_deny,
)
from tcpmux.convert.haproxy.acls import Condition, condition_of
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.values import Refused, seconds, whole
from tcpmux.convert.hellos import Hello
from tcpmux.convert.report import Report
from tcpmux.convert.truth import Among, Truth, Unknown

MAX_RULES = 100_000  # networks of all rules of a stage
STAGES = ("connection", "session", "content")
_HARMLESS = (
    "set-var", "set-var-fmt", "unset-var", "capture", "set-log-level", "set-nice", "sc-inc-gpc",
    "sc-inc-gpc0", "sc-inc-gpc1", "sc-add-gpc", "sc-set-gpt", "sc-set-gpt0", "track-sc0",
    "track-sc1", "track-sc2", "track-sc", "do-log",
)  # fmt: skip
EXPECTS_PROXY = "expect-proxy"
_CHANGES = {
    "expect-netscaler-cip": ("tcpmux would relay NetScaler's header as data", "NetScaler's CIP"),
    "silent-drop": ("tcpmux does not drop these clients", "dropping without a reset"),
    "use-service": ("tcpmux sends no answers of its own", "answers"),
    "set-dst": ("tcpmux does not change the destination address", "source addresses"),
    "set-dst-port": ("tcpmux does not change the destination address", "source addresses"),
    "set-src": ("servers see the source address that the system chooses", "source addresses"),
    "set-src-port": ("servers see the source address that the system chooses", "source addresses"),
    "switch-mode": ("tcpmux does not switch to HTTP", "mode http"),
    "set-bandwidth-limit": ("tcpmux sets no limit by rule", "limits by rules"),
}
_COUNT = re.compile(r"(?:src_conn_cur|sc0_conn_cur|sc_conn_cur\(0\))(?:\((?P<table>[^()]*)\))?")


@dataclass(slots=True)
class Rule:
    """accepts: None = it only tracks clients."""

    setting: Setting
    stage: str
    accepts: bool | None
    condition: Condition
    action: str


@dataclass(slots=True)
class Access:
    """rules: of the frontend, then of backends that are the only ones. expects: of peers that have
    to send a PROXY header."""

    rules: list[Rule] = field(default_factory=list)
    per_client: int = 0  # connections, 0 = no limit
    limits: list[Rule] = field(default_factory=list)  # which per_client is of
    expects: list[Rule] = field(default_factory=list)
    delay: float | None = None  # in s; None = HAProxy does not wait
    delays: list[Setting] = field(default_factory=list)

    @property
    def contents(self) -> list[Rule]:
        """Of the stage `content`, those that decide."""
        return [r for r in self.rules if r.stage == "content" and r.accepts is not None]

    @property
    def waits(self) -> bool:
        """For the ClientHello, before a backend is chosen."""
        return bool(self.delay) and any(r.condition.depends_on_hello for r in self.contents)

    @property
    def is_by_rule(self) -> bool:
        """Whether more than the client decides in the stage `content`."""
        return any(r.condition.depends_on_more for r in self.contents)


def access_of(section: Section, report: Report, *, stages: Sequence[str] = STAGES) -> Access:
    access = Access()
    for setting in section.all("tcp-request"):
        guarded(report, setting.at, lambda s=setting: _read(s, section, access, stages))  # type: ignore[misc]
    return access


def _read(setting: Setting, section: Section, access: Access, stages: Sequence[str]) -> None:
    at, words = setting.at, setting.args
    stage = setting.arg().text
    if stage == "inspect-delay":
        access.delay = seconds(setting.arg(1).text)
        access.delays.append(setting)
        return
    if stage not in STAGES:
        raise Refused(f"expected connection, session or content, got {stage}")
    if stage not in stages:
        at.harmless(note=f"HAProxy ignores it in a {section.kind}")
        return
    action = setting.arg(1).text
    name = re.split(r"[(]", action)[0]
    start = next((i for i, w in enumerate(words) if i > 1 and w.text in ("if", "unless")), None)
    condition = condition_of(words[start:] if start is not None else [], section)
    if action in ("accept", "reject"):
        if start is None and len(words) > 2:
            raise Refused(f"unexpected {words[2].text} after {action}")
        access.rules.append(Rule(setting, stage, action == "accept", condition, action))
    elif name in _HARMLESS:
        at.harmless(note="only stores a value")
        access.rules.append(Rule(setting, stage, None, condition, action))
        for definition in condition.definitions:
            definition.at.mapped()
    elif action == EXPECTS_PROXY and stage == "connection":
        if setting.arg(2).text != "layer4" or start not in (None, 3):
            raise Refused("expected layer4 after expect-proxy")
        access.expects.append(Rule(setting, stage, None, condition, action))
    else:
        unknown = (f"tcpmux has no action {action}", "rules on content")
        note, needs = _CHANGES.get(name, unknown)
        at.changes(note=note, needs=needs)


def counted(access: Access, section: Section, sections: Iterable[Section]) -> None:
    """Takes rules out that limit the connections of each client, as `source` does."""
    for index, rule in enumerate(access.rules):
        limit = _limit_of(rule)
        if limit is None:
            continue
        before = access.rules[:index]
        tracks = [r for r in before if r.action == "track-sc0" and not r.condition.alternatives]
        exact = (
            limit > 0
            and len(tracks) == 1
            and [w.text for w in tracks[0].setting.args[2:]] == ["src"]
            and tracks[0].stage == rule.stage
            and not any(r.accepts is not None for r in before if _limit_of(r) is None)
            and _own_table(section, sections)
        )
        if exact:
            access.per_client = min(access.per_client or limit, limit)
            access.limits.append(rule)
            rule.setting.at.mapped(note="tcpmux counts an IPv6 /64 network as one client")
            tracks[0].setting.at.mapped(*tracks[0].setting.at.words)
            for definition in rule.condition.definitions:
                definition.at.mapped()
    if access.per_client:
        access.rules[:] = [r for r in access.rules if _limit_of(r) is None]


def _own_table(section: Section, sections: Iterable[Section]) -> bool:
    """Whether it counts addresses of this section's clients alone."""
    tables = section.all("stick-table")
    texts = [word.text for word in tables[-1].args] if tables else []
    elsewhere = any(
        section.name in [word.text for word in line.words]
        for other in sections
        if other is not section
        for line in other.raw.lines
        if line.words[0].text in ("stick", "tcp-request")
        and "table" in [w.text for w in line.words]
    )
    own = not elsewhere and tables[-1].at.section == section.label if tables else False
    return (
        own
        and texts[:1] == ["type"]
        and texts[1:2] in (["ip"], ["ipv6"])
        and any("conn_cur" in text.split(",") for text in texts)
    )


def _limit_of(rule: Rule) -> int | None:
    """The most connections of a client, if it rejects those with more."""
    terms = [term for alternative in rule.condition.alternatives for term in alternative]
    if rule.accepts is not False or len(terms) != 1 or rule.condition.inverted:
        return None
    tests = terms[0].tests
    texts = [word.text for word in tests[0]]
    if terms[0].negated or len(tests) != 1 or len(texts) != 3 or texts[1] not in ("gt", "ge"):
        return None
    found = _COUNT.fullmatch(texts[0])
    if not found or found["table"]:
        return None
    try:
        return whole(texts[2], 1, 10_000_000) - (texts[1] == "ge")
    except Refused:
        return None


Lists = tuple[tuple[Clients, ...], tuple[Clients, ...]]


def lists_of(access: Access, at: Address, report: Report) -> Lists:
    """(allow, deny) for connections to that address. Rules that depend on more are marked."""
    try:
        listed = STAGES[:2] if access.is_by_rule else STAGES
        stages = [_rules_at(access, stage, at, report) for stage in listed]
        used = [rules for rules in stages if rules]
        if len(used) <= 1:
            return _lists(used[0]) if used else ((), ())
        return _lists(_merged(used))
    except TooManyNetworks as error:
        for rule in access.rules:
            rule.setting.at.changes(note=str(error), needs="longer lists")
        return (), ()


def _merged(stages: Sequence[Sequence[ClientRule]]) -> list[ClientRule]:
    """A client must be accepted in each."""
    return [
        ClientRule(accepts=False, clients=clients)
        for rules in stages
        for clients in accepted_by(
            (ClientRule(not rule.accepts, rule.clients) for rule in rules), otherwise=False
        )
    ]


def _lists(rules: Sequence[ClientRule]) -> Lists:
    """Not those that `reject unless` has come to, but what it says. Raises TooManyNetworks."""
    plain = allow_and_deny(rules)
    with suppress(TooManyNetworks):
        accepted = accepted_by(rules, otherwise=True)
        if accepted and any(plain) and 2 * len(accepted) < len(plain[0]) + len(plain[1]):
            return accepted, ()
    return plain


def _rules_at(access: Access, stage: str, at: Address, report: Report) -> list[ClientRule]:
    made: list[ClientRule] = []
    for rule in access.rules:
        if rule.stage != stage or rule.accepts is None:
            continue
        truth = truth_of(rule.setting, rule.condition, at, report)
        if isinstance(truth, bool | Among):
            rule.setting.at.mapped()
            for definition in rule.condition.definitions:
                definition.at.mapped()
        if isinstance(truth, Among):
            made += [ClientRule(rule.accepts, clients) for clients in truth.clients]
            if len(made) > MAX_RULES:
                raise TooManyNetworks(f"the rules have more than {MAX_RULES} networks")
        elif truth is True:
            made += [ClientRule(rule.accepts, clients) for clients in EVERYBODY]
            break
        elif truth is not False:
            refused = "are accepted" if not rule.accepts else "are left to the rules after it"
            told = truth.note if isinstance(truth, Unknown) else "it depends on chance"
            needs = truth.needs if isinstance(truth, Unknown) else "rules by chance"
            mark_changes(rule.setting, rule.condition, f"{told}: clients {refused}", needs)
    return made


def truth_of(
    setting: Setting,
    condition: Condition,
    at: Address,
    report: Report,
    hello: Hello | None = None,
) -> Truth:
    found: list[Truth] = []
    guarded(report, setting.at, lambda: found.append(condition.truth(at, hello)))
    return found[0] if found else False


def mark_changes(setting: Setting, condition: Condition, note: str, needs: str) -> None:
    setting.at.changes(note=note, needs=needs)
    for definition in condition.definitions:
        definition.at.changes(note=f"line {setting.at.line} uses it: {note}", needs=needs)
