"""Variables: what they are for a listener, as far as nothing but chance decides."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from tcpmux.config.address import Address
from tcpmux.config.schema import MAX_DESTINATIONS
from tcpmux.convert.nginx.scope import is_block, is_plain
from tcpmux.convert.nginx.tables import need_of
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.report import Effect, Report, Word

MAX_TEXT = 4096  # characters of a value
MAX_DEPTH = 16  # variables within variables
MAX_REACHED = 1000  # definitions that a value may depend on
_NAME = re.compile(r"\$(?:\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))")
_PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?%")
_EACH_CONNECTION = {"remote_port", "connection", "msec"}
# name: (has braces, fewest, most arguments, which of them is the variable)
_DEFINE = {
    "geo": (True, 1, 2, -1),
    "keyval": (False, 3, 3, 1),
    "map": (True, 2, 2, 1),
    "set": (False, 2, 2, 0),
    "split_clients": (True, 2, 2, 1),
}


def names_in(text: str) -> set[str]:
    """Of the variables in a text; of a $ that begins none, `$`."""
    found = {braced or plain for braced, plain in _NAME.findall(text)}
    return found | {"$"} if "$" in _NAME.sub("", text) else found


class Unresolved(Exception):
    """A value depends on what tcpmux does not look at. needs: the feature that would."""

    def __init__(self, note: str, needs: str = "") -> None:
        super().__init__(note)
        self.needs = needs


@dataclass(slots=True)
class _Map:
    """A map whose entries are strings. default: of what has no entry."""

    source: str
    entries: dict[str, str] = field(default_factory=dict)
    default: str = ""
    obstacle: str = ""  # an entry that is no plain string


@dataclass(slots=True)
class _Definition:
    """Of one variable. template: of `set`. needs: of one that nothing here can resolve."""

    at: Directive
    split: list[tuple[Fraction, str]] | None = None
    map: _Map | None = None
    template: str | None = None
    needs: str = ""
    is_marked: bool = False
    mentions: frozenset[str] | None = None  # once it has been asked for

    def names(self) -> frozenset[str]:
        """Of the variables in it."""
        if self.mentions is None:
            words = {word.text for one in self.at.all() for word in one.at.words}
            self.mentions = frozenset(name for text in words for name in names_in(text))
        return self.mentions


@dataclass(slots=True)
class Variables:
    """Those of stream {}; those of a server, which has the stream's as well."""

    report: Report
    stream: Variables | None = None
    own: dict[str, _Definition] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def of_server(self) -> Variables:
        return Variables(self.report, self, used=self.used)

    def get(self, name: str) -> _Definition | None:
        found = self.own.get(name)
        return self.stream.own.get(name) if found is None and self.stream else found

    # --- definitions ------------------------------------------------------------------------

    def define(self, one: Directive) -> bool:
        """Whether it is a directive that defines a variable."""
        if one.name not in _DEFINE:
            return False
        has_braces, fewest, most, at = _DEFINE[one.name]
        if not (is_block if has_braces else is_plain)(one, self.report, fewest, most):
            return True
        made = _Definition(one)
        if one.name == "split_clients":
            made.split = self._split(one)
        elif one.name == "map":
            made.map = self._map(one)
        elif one.name == "set":
            made.template = one.argument(1)
        else:
            made.needs = "rules by source" if one.name == "geo" else "rules by table"
        self._add(made, one.arguments[at])
        return True

    def _add(self, made: _Definition, word: Word) -> None:
        one = made.at
        if not re.fullmatch(r"\$\w+", word.text, re.ASCII):
            self.report.problem(one.at, f"expected $VARIABLE, got {word.text}", word)
            return
        name = word.text[1:]
        before = self.get(name)
        if before is not None:
            one.changes(f"${name} is already defined in line {before.at.at.line}")
            made = _Definition(one, needs="several definitions of a variable")
        self.own[name] = made

    def _split(self, one: Directive) -> list[tuple[Fraction, str]]:
        """What is missing to 100 % is "", as in nginx."""
        shares: list[tuple[Fraction, str]] = []
        left = Fraction(100)
        for part in one.inside or ():
            if not is_plain(part, self.report, 1, 1):
                continue
            found = _PERCENT.fullmatch(part.name)
            if part.name == "*":
                share = left
            elif found is None or not (share := Fraction(part.name[:-1])):
                expected = "expected a share such as 20% or 0.5%, or *"
                self.report.problem(part.at, f"{expected}, got {part.name}")
                continue
            if share > left or (not left and part.name != "*"):
                self.report.problem(part.at, "the shares add up to more than 100%")
                continue
            left -= share
            if share:
                shares.append((share, part.argument()))
        if left:
            shares.append((left, ""))
        if len(shares) > MAX_DESTINATIONS:
            one.changes(f"a route of tcpmux has at most {MAX_DESTINATIONS} destinations")
        return shares[:MAX_DESTINATIONS]

    def _map(self, one: Directive) -> _Map:
        found = _Map(one.argument())
        for entry in one.inside or ():
            key, value = entry.name, entry.argument()
            if key in ("hostnames", "volatile") and not entry.arguments:
                continue
            if not is_plain(entry, self.report, 1, 1):
                continue
            if key == "default":
                found.default = value
            elif key.startswith(("~", ".")) or "*" in key:
                found.obstacle = key
            else:
                found.entries.setdefault(key.removeprefix("\\").lower(), value)
        return found

    # --- values -----------------------------------------------------------------------------

    def values(self, text: str, listener: Address) -> list[tuple[Fraction, str]]:
        """With the share of connections that have each. Raises Unresolved."""
        splits = sorted(self._splits_in(text))
        if len(splits) > 1:
            raise Unresolved(f"it depends on two splits, ${splits[0]} and ${splits[1]}")
        if not splits:
            return [(Fraction(1), self._value(text, listener, {}))]
        split = self.get(splits[0])
        shares = (split.split if split else None) or []
        return [(share, self._value(text, listener, {splits[0]: part})) for share, part in shares]

    def _splits_in(self, text: str) -> set[str]:
        reached = self._reached(text)
        if len(reached) > MAX_REACHED:
            raise Unresolved(f"it depends on more than {MAX_REACHED} variables")
        return {name for name, found in reached.items() if found.split is not None}

    def _reached(self, text: str) -> dict[str, _Definition]:
        """The definitions that a text depends on, and those on which these depend; if there are
        too many, one more than that."""
        pending, seen = names_in(text), set()
        found: dict[str, _Definition] = {}
        while pending and len(found) <= MAX_REACHED:
            name = pending.pop()
            seen.add(name)
            one = self.get(name)
            if one is not None:
                found[name] = one
                pending |= one.names() - seen - {name}
        return found

    def _value(self, text: str, listener: Address, done: dict[str, str], depth: int = 0) -> str:
        """done: the variables whose value is known."""
        if names_in(text) >= {"$"}:
            raise Unresolved(f"{text} has a $ that does not start a variable")

        def one(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            if name not in done:
                if depth > MAX_DEPTH:
                    raise Unresolved(f"${name} refers to itself")
                done[name] = self._variable(name, listener, done, depth + 1)
            return done[name]

        value = _NAME.sub(one, text)
        if len(value) > MAX_TEXT:
            raise Unresolved(f"its value would exceed {MAX_TEXT} characters")
        return value

    def _variable(self, name: str, listener: Address, done: dict[str, str], depth: int) -> str:
        found = self.get(name)
        if found is None:
            return _of_listener(name, listener)
        self.used.add(name)
        if found.template is not None:
            return self._value(found.template, listener, done, depth)
        if found.map is None:
            raise Unresolved(
                f"it depends on ${name}, and tcpmux has no {found.at.name}", found.needs
            )
        source = self._value(found.map.source, listener, done, depth).lower()
        if source not in found.map.entries and found.map.obstacle:
            raise Unresolved(f"the map has the pattern {found.map.obstacle}", "patterns")
        value = found.map.entries.get(source, found.map.default)
        return self._value(value, listener, done, depth)

    # --- what becomes of the definitions ----------------------------------------------------

    def reached_from(self, text: str) -> list[_Definition]:
        """The definitions that a text depends on, and those on which these depend."""
        found = self._reached(text)
        self.used.update(found)
        return [*found.values()]

    def mark_mapped(self, text: str) -> None:
        for found in self.reached_from(text):
            if found.is_marked:
                continue
            found.is_marked = True
            if found.split is not None:
                _mark_split(found.at)
            else:
                found.at.mapped()

    def mark_changes(self, text: str, note: str, needs: str) -> None:
        for found in self.reached_from(text):
            if found.at.at.words[0].effect is not Effect.CHANGES:
                found.at.changes(note, needs)

    def mark_unused(self) -> None:
        for name, found in self.own.items():
            if name not in self.used:
                found.at.harmless("no mapped directive uses it")


def _mark_split(one: Directive) -> None:
    one.mapped()
    key = one.at.words[1]
    names = names_in(key.text)
    if not names & _EACH_CONNECTION:
        note = "tcpmux splits by counting connections: a client does not keep its destination"
        if not names & {"remote_addr", "binary_remote_addr"}:
            note = "tcpmux splits by counting connections, not by this value"
        one.at.changes(key, note=note, needs="sticky sessions")
    elif not key.note:
        key.note = "nginx splits at random; tcpmux counts connections, so the shares are exact"


def _of_listener(name: str, listener: Address) -> str:
    """A variable of nginx's own."""
    if name == "server_port":
        return str(listener.port) if listener.port else ""
    if name == "server_addr":
        if listener.path:
            return f"unix:{listener.path}"
        if listener.host not in ("0.0.0.0", "::"):  # noqa: S104
            return listener.host
        raise Unresolved(
            "it depends on the address that a client connects to", "rules by destination address"
        )
    if name == "protocol":
        return "TCP"
    raise Unresolved(f"it depends on ${name}, which tcpmux does not evaluate", need_of(name))
