"""Variables: what they are for a listener, as far as nothing but chance decides."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tcpmux.config.address import Address
from tcpmux.config.rule import MAX_RULES
from tcpmux.config.settings import Clients
from tcpmux.convert.clients import TooManyNetworks
from tcpmux.convert.decisions import Cases
from tcpmux.convert.hellos import OTHER, Hello, TooManyHellos, hellos
from tcpmux.convert.nginx.maps import (
    NAME,
    OF_CLIENT,
    OF_HELLO,
    PROTOCOLS,
    VERSION,
    Geo,
    Map,
    Parts,
    Unresolved,
    read_geo,
    read_map,
)
from tcpmux.convert.nginx.scope import is_block, is_plain
from tcpmux.convert.nginx.splits import Split, Values, read_split
from tcpmux.convert.nginx.tables import need_of
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.nginx.values import VARIABLE, names_in
from tcpmux.convert.report import Effect, Report, Word
from tcpmux.convert.truth import within

MAX_TEXT = 4096  # characters of a value
MAX_DEPTH = 16  # variables within variables
MAX_REACHED = 1000  # definitions that a value may depend on
# name: (has braces, fewest, most arguments, which of them is the variable)
_DEFINE = {
    "geo": (True, 1, 2, -1),
    "keyval": (False, 3, 3, 1),
    "map": (True, 2, 2, 1),
    "set": (False, 2, 2, 0),
    "split_clients": (True, 2, 2, 1),
}


class _NeedsSplit(Exception):
    def __init__(self, name: str, split: Split) -> None:
        super().__init__(name)
        self.name, self.split = name, split


class _NeedsClient(Exception):
    def __init__(self, name: str, parts: Parts) -> None:
        super().__init__(name)
        self.name, self.parts = name, parts


@dataclass(slots=True)
class _Place:
    """What values are asked for. hello: of a class of clients. done: variables whose value is
    known."""

    listener: Address
    hello: Hello
    done: dict[str, str]


@dataclass(slots=True)
class _Definition:
    """Of one variable. template: of `set`. needs: of one that nothing here can resolve."""

    at: Directive
    split: Split | None = None
    map: Map | None = None
    geo: Geo | None = None
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
            made.split = read_split(one, self.report)
        elif one.name == "map":
            made.map = read_map(one, self.report)
        elif one.name == "geo":
            made.geo = read_geo(one, self.report)
        elif one.name == "set":
            made.template = one.argument(1)
        else:
            made.needs = "rules by table"
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

    # --- values -----------------------------------------------------------------------------

    def classes(self, text: str, *, reads_hello: bool) -> list[Hello]:
        """What a value may depend on of clients' first bytes. Raises Unresolved."""
        if not reads_hello:
            return [OTHER]
        reached = self._reached(text)
        maps = [one.map for one in reached.values() if one.map]
        named = {*names_in(text)}.union(*(names_in(one.source) for one in maps))
        names = [name for one in maps if _is(one, NAME) for name in one.asked_names]
        protocols = [p for one in maps if _is(one, PROTOCOLS) for p in one.asked_protocols]
        try:
            return hellos(names, protocols, asks_tls=bool(named & {*OF_HELLO}))
        except TooManyHellos:
            raise Unresolved("it depends on too many names", "longer lists") from None

    def values(self, text: str, listener: Address, hello: Hello = OTHER) -> Cases[Values]:
        """By client, with the share of connections that have each. Raises Unresolved."""
        if len(self._reached(text)) > MAX_REACHED:
            raise Unresolved(f"it depends on more than {MAX_REACHED} variables")
        found: list[tuple[tuple[Clients, ...] | None, Values]] = []
        try:
            self._by_client(text, _Place(listener, hello, {}), None, found)
        except TooManyNetworks:
            raise Unresolved("it depends on too many networks", "longer lists") from None
        return tuple(found)

    def _by_client(
        self,
        text: str,
        place: _Place,
        clients: tuple[Clients, ...] | None,
        found: list[tuple[tuple[Clients, ...] | None, Values]],
    ) -> None:
        if len(found) > MAX_RULES:
            raise Unresolved(f"it would take more than {MAX_RULES} rules", "longer lists")
        try:
            found.append((clients, self._values(text, place)))
        except _NeedsClient as needed:
            parts, default = needed.parts
            for some, value in parts:
                both = within(clients, some)
                if both:
                    self._by_client(text, _with(place, needed.name, value), both, found)
            self._by_client(text, _with(place, needed.name, default), clients, found)

    def _values(self, text: str, place: _Place, split: str = "") -> Values:
        """split: the one whose part is chosen."""
        try:
            value = self._value(text, replace(place, done=dict(place.done)))
            return Values(((Fraction(1), value),))
        except _NeedsSplit as needed:
            if split:
                first, second = sorted((split, needed.name))
                note = f"it depends on two splits, ${first} and ${second}"
                raise Unresolved(note) from None
            name, needs = needed.name, needed.split
            shares = tuple(
                (share * part, value)
                for share, chosen in needs.shares
                for part, value in self._values(text, _with(place, name, chosen), name).shares
            )
            return Values(shares, name if needs.by else "")

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

    def _value(self, text: str, place: _Place, depth: int = 0) -> str:
        if names_in(text) >= {"$"}:
            raise Unresolved(f"{text} has a $ that does not start a variable")

        def one(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            if name not in place.done:
                if depth > MAX_DEPTH:
                    raise Unresolved(f"${name} refers to itself")
                place.done[name] = self._variable(name, place, depth + 1)
            return place.done[name]

        value = VARIABLE.sub(one, text)
        if len(value) > MAX_TEXT:
            raise Unresolved(f"its value would exceed {MAX_TEXT} characters")
        return value

    def _variable(self, name: str, place: _Place, depth: int) -> str:
        found = self.get(name)
        if found is None:
            return _of_hello(name, place.hello) if name in OF_HELLO else _own(name, place.listener)
        self.used.add(name)
        if found.template is not None:
            return self._value(found.template, place, depth)
        if found.split is not None:
            raise _NeedsSplit(name, found.split)
        if found.geo is not None and names_in(found.geo.source) == {OF_CLIENT}:
            raise _NeedsClient(name, found.geo.by_client())
        if found.map is None:
            needs = need_of(found.geo.source[1:]) if found.geo else found.needs
            raise Unresolved(f"it depends on ${name}, and tcpmux has no {found.at.name}", needs)
        return self._value(self._looked_up(name, found.map, place, depth), place, depth)

    def _looked_up(self, name: str, table: Map, place: _Place, depth: int) -> str:
        """What the table has; it may have variables."""
        if _is(table, NAME):
            return table.of_name(place.hello)
        if _is(table, PROTOCOLS):
            return table.of_protocols(place.hello)
        if _is(table, VERSION):
            return table.of_version(place.hello)
        if _is(table, OF_CLIENT):
            raise _NeedsClient(name, self._plain(table.by_client()))
        return table.of_text(self._value(table.source, place, depth).lower())

    @staticmethod
    def _plain(parts: Parts) -> Parts:
        """Raises Unresolved if values have variables, which are not looked up here."""
        if any("$" in value for value in (*(v for _, v in parts[0]), parts[1])):
            raise Unresolved("a map of clients has variables as values", "rules by source")
        return parts

    def splits_of(self, text: str) -> dict[str, Split]:
        """Those that a text depends on, by name."""
        return {name: one.split for name, one in self._reached(text).items() if one.split}

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
                found.split.mark_mapped()
            else:
                found.at.mapped()
                _note_case(found)

    def mark_changes(self, text: str, note: str, needs: str) -> None:
        for found in self.reached_from(text):
            if found.at.at.words[0].effect is not Effect.CHANGES:
                found.at.changes(note, needs)

    def mark_unused(self) -> None:
        for name, found in self.own.items():
            if name not in self.used:
                found.at.harmless("no mapped directive uses it")


def _note_case(found: _Definition) -> None:
    """Of names in regular expressions; in others nginx ignores the case as well."""
    for entry in found.at.inside or () if found.map and _is(found.map, NAME) else ():
        if re.match(r"~[^*]", entry.name):
            entry.at.words[0].note = "tcpmux ignores the case of names"


def _is(table: Map, variable: str) -> bool:
    return table.source in (f"${variable}", f"${{{variable}}}")


def _with(place: _Place, name: str, value: str) -> _Place:
    return replace(place, done={**place.done, name: value})


def _of_hello(name: str, hello: Hello) -> str:
    if not hello.tls:
        return ""
    if name == NAME and hello.sni and not hello.sni.startswith("*"):
        return hello.sni
    raise Unresolved(f"it depends on ${name}, which tcpmux does not evaluate", need_of(name))


def _own(name: str, listener: Address) -> str:
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
