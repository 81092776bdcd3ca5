"""use_backend and default_backend: the shares that backends have of a frontend's connections."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tcpmux.config.address import Address
from tcpmux.convert.clients import TooManyNetworks
from tcpmux.convert.decisions import Choice as Choice_
from tcpmux.convert.decisions import Decided, Shares, TooManyRules, cases_of, decided
from tcpmux.convert.haproxy.access import Rule, mark_changes, truth_of
from tcpmux.convert.haproxy.acl_hellos import Asked
from tcpmux.convert.haproxy.acls import Condition, condition_of
from tcpmux.convert.haproxy.lookups import Lookup, lookup_of
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.values import Refused
from tcpmux.convert.hellos import Hello, TooManyHellos, hellos, patterns_of
from tcpmux.convert.report import Report, Word
from tcpmux.convert.truth import MAX_BITS, TOO_FINE, Truth, Unknown, all_of, any_of, negated

ANY_CASE = "tcpmux ignores the case of names"
NOT_AWAITED = Unknown(
    "HAProxy does not wait for the ClientHello here, so that chance decides: give the frontend an "
    "`inspect-delay` and a `tcp-request content` rule that reads it",
    "rules that do not wait",
)


@dataclass(slots=True)
class Choice:
    setting: Setting
    backend: str
    condition: Condition


def choices_of(front: Section, backends: dict[str, Section], report: Report) -> list[Choice]:
    found: list[Choice] = []
    for setting in front.all("use_backend"):

        def read(s: Setting = setting) -> None:
            name = s.arg().text
            condition = condition_of(s.args[1:], front)
            looked_up = lookup_of(name, s.at.file)
            if looked_up is not None:
                found.extend(_by_map(s, looked_up, condition, front, backends))
                return
            if "%[" in name:
                mark_changes(s, condition, "the backend's name depends on the connection",
                             "rules by " + ("SNI" if "sni" in name else "content"))  # fmt: skip
                return
            _known(name, backends)
            found.append(Choice(s, name, condition))

        guarded(report, setting.at, read)
    return found


def _by_map(
    setting: Setting,
    looked_up: Lookup,
    condition: Condition,
    front: Section,
    backends: dict[str, Section],
) -> Iterator[Choice]:
    """Of a name that is no backend, HAProxy goes on with default_backend."""
    default = front.last("default_backend")
    otherwise = default.arg().text if default else front.name if front.kind == "listen" else ""
    for words, value in looked_up.tests():
        to = value if value in backends else otherwise
        if to:
            _known(to, backends)
        yield Choice(setting, to, condition.with_test(words))
    to = looked_up.default if looked_up.default in backends else otherwise
    if to:
        _known(to, backends)
    if to != otherwise:
        note = f"clients that ask for no name go to {to} as well: HAProxy sends them to " + (
            otherwise or "no backend"
        )
        setting.at.changes(setting.arg(), note=note, needs="rules by a missing name")
        words = [Word(text, 0, 0) for text in ("req.ssl_hello_type", "1")]
        yield Choice(setting, to, condition.with_test(words))
    yield Choice(setting, otherwise, condition)


def _known(name: str, backends: dict[str, Section]) -> None:
    if name not in backends:
        raise Refused(f"there is no backend {name}")
    if backends[name].mode != "tcp":
        raise Refused(f"backend {name} has mode {backends[name].mode}, not tcp")


def default_of(front: Section, backends: dict[str, Section], report: Report) -> str:
    setting = front.last("default_backend")
    if setting is None:
        return front.name if front.kind == "listen" else ""
    found: list[str] = []

    def read() -> None:
        name = setting.arg().text
        _known(name, backends)
        setting.at.mapped(*setting.at.words[:2])
        found.append(name)

    guarded(report, setting.at, read)
    return found[0] if found else ""


@dataclass(slots=True)
class Deciding:
    """What decides where connections of a frontend go. rejects: the rules of its stage `content`,
    if they are about more than clients."""

    choices: Sequence[Choice]
    default: str
    rejects: Sequence[Rule]
    waits: bool

    @property
    def conditions(self) -> list[tuple[Setting, Condition]]:
        found = [(rule.setting, rule.condition) for rule in self.rejects]
        return found + [(choice.setting, choice.condition) for choice in self.choices]


def decided_at(deciding: Deciding, at: Address, report: Report) -> Decided[Shares]:
    """For connections to that address."""
    asked = Asked()
    for setting, condition in deciding.conditions:
        try:
            asked.add(condition.asked)
        except Refused as error:
            report.problem(setting.at, str(error))
            return _all_to_default(deciding)
    try:
        classes = hellos(asked.names, asked.protocols, asks_tls=asked.tls)
    except TooManyHellos:
        return _nothing(deciding, "it has too many names", "longer lists")
    choices = {
        hello: [Choice_(truth, "")] if truth is not False else []
        for hello, truth in _rejected(deciding, classes, at, report).items()
    }
    _add_choices(choices, deciding, at, report)
    try:
        return decided(classes, lambda hello: cases_of(choices[hello], deciding.default))
    except (TooManyRules, TooManyNetworks) as error:
        return _nothing(deciding, str(error) or "it has too many networks", "longer lists")


def _nothing(deciding: Deciding, note: str, needs: str) -> Decided[Shares]:
    for setting, condition in deciding.conditions:
        told = f"{note}: these connections would go to {deciding.default or 'no backend'}"
        mark_changes(setting, condition, told, needs)
    return _all_to_default(deciding)


def _all_to_default(deciding: Deciding) -> Decided[Shares]:
    return Decided((), ((deciding.default, Fraction(1)),))


Truths = dict[Hello, Truth]


def _truths(
    setting: Setting,
    condition: Condition,
    classes: Iterable[Hello],
    at: Address,
    report: Report,
    *,
    waits: bool,
) -> Truths | Unknown:
    """Unknown if it is that for some class."""
    if condition.depends_on_hello and not waits:
        return NOT_AWAITED
    names = frozenset(condition.asked.names)
    known: dict[Hashable, Truth] = {}  # by what the condition looks at
    found: Truths = {}
    for hello in classes:
        key = hello.tls, hello.offers, hello.undecided, names & patterns_of(hello.sni)
        if key not in known:
            known[key] = truth_of(setting, condition, at, report, hello)
        found[hello] = known[key]
    return _all_known(found)


def _all_known(truths: Truths) -> Truths | Unknown:
    return next((t for t in truths.values() if isinstance(t, Unknown)), truths)


def _rejected(deciding: Deciding, classes: Sequence[Hello], at: Address, report: Report) -> Truths:
    """Whether the stage `content` rejects: its first rule that holds decides."""
    rejected: Truths = dict.fromkeys(classes, False)
    for rule in reversed(deciding.rejects):
        truths = _truths(rule.setting, rule.condition, classes, at, report, waits=deciding.waits)
        if not isinstance(truths, Unknown):
            truths = _all_known(
                {
                    hello: all_of([negated(truth), rejected[hello]])
                    if rule.accepts
                    else any_of([truth, rejected[hello]])
                    for hello, truth in truths.items()
                }
            )
        if isinstance(truths, Unknown):
            refused = "are accepted" if not rule.accepts else "are left to the rules after it"
            note = f"{truths.note}: clients {refused}"
            mark_changes(rule.setting, rule.condition, note, truths.needs)
            continue
        _mark_mapped(rule.setting, rule.condition)
        rejected = truths
    return rejected


def _add_choices(
    found: dict[Hello, list[Choice_]], deciding: Deciding, at: Address, report: Report
) -> None:
    """Those that tcpmux can tell, to each class for which they may hold; the others are marked."""
    left = Fraction(1)
    for choice in deciding.choices:
        truths = _truths(choice.setting, choice.condition, found, at, report, waits=deciding.waits)
        if left.denominator.bit_length() > MAX_BITS:
            truths = TOO_FINE
        if isinstance(truths, Unknown):
            note = f"{truths.note}: these connections would go to "
            note += deciding.default or "no backend"
            mark_changes(choice.setting, choice.condition, note, truths.needs)
            continue
        _mark_mapped(choice.setting, choice.condition)
        for hello, truth in truths.items():
            if truth is not False:
                found[hello].append(Choice_(truth, choice.backend))
        values = [*truths.values()]
        if all(value is True for value in values):
            break
        if isinstance(values[0], Fraction) and values.count(values[0]) == len(values):
            left *= 1 - values[0]


def _mark_mapped(setting: Setting, condition: Condition) -> None:
    setting.at.mapped()
    for definition in condition.definitions:
        definition.at.mapped()
    if condition.depends_on_hello and condition.asked.minds_case:
        setting.at.mapped(note=ANY_CASE)
