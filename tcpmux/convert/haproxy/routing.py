"""use_backend and default_backend: the shares that backends have of a frontend's connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tcpmux.config.address import Address
from tcpmux.convert.haproxy.access import mark_changes, truth_of
from tcpmux.convert.haproxy.acls import Condition, condition_of
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.values import Refused
from tcpmux.convert.report import Report
from tcpmux.convert.truth import MAX_BITS, TOO_FINE, Among, Split, Unknown

Shares = tuple[tuple[str, Fraction], ...]  # by the backend's name; "" = none: they are closed


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
            if "%[" in name:
                mark_changes(s, condition, "the backend's name depends on the connection",
                             "rules by " + ("SNI" if "sni" in name else "content"))  # fmt: skip
                return
            _known(name, backends)
            found.append(Choice(s, name, condition))

        guarded(report, setting.at, read)
    return found


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


def shares_of(choices: Sequence[Choice], default: str, at: Address, report: Report) -> Shares:
    """Of connections to that address. A rule applies to those that the rules before it left."""
    shares: dict[str, Fraction] = {}
    left = Fraction(1)
    for choice in choices:
        truth = truth_of(choice.setting, choice.condition, at, report)
        if left.denominator.bit_length() > MAX_BITS:
            truth = TOO_FINE
        if isinstance(truth, Unknown | Among | Split):
            note = truth.note if isinstance(truth, Unknown) else "it depends on the client"
            needs = truth.needs if isinstance(truth, Unknown) else "rules by source"
            mark_changes(
                choice.setting, choice.condition,
                f"{note}: these connections would go to {default or 'no backend'}", needs,
            )  # fmt: skip
            continue
        choice.setting.at.mapped()
        for definition in choice.condition.definitions:
            definition.at.mapped()
        taken = left * Fraction(truth)
        if taken:
            shares[choice.backend] = shares.get(choice.backend, Fraction(0)) + taken
        left -= taken
        if not left:
            break
    if left:
        shares[default] = shares.get(default, Fraction(0)) + left
    return tuple(shares.items())
