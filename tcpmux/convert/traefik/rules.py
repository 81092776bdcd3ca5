"""A router's rule as a condition: what it is for connections that begin in a certain way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from tcpmux.convert.clients import without_mapped
from tcpmux.convert.hellos import Hello, pattern_of, patterns_of_regex, protocol_of
from tcpmux.convert.truth import Among, Truth, Unknown, all_of, any_of, negated

MAX_DEPTH = 32
_TOKEN = re.compile(
    r"\s*(&&|\|\||!|\(|\)|[A-Za-z]+\(\s*(?:`[^`]*`|\"[^\"\\]*\")(?:\s*,\s*(?:`[^`]*`|\"[^\"\\]*\"))*"
    r"\s*\))"
)
_VALUE = re.compile(r"`([^`]*)`|\"([^\"]*)\"")
_NAMES = ("HostSNI", "HostSNIRegexp", "ClientIP", "ALPN")
_KINDS = {
    spelt: name
    for name in _NAMES
    for spelt in (name, name.lower(), name.upper(), name.capitalize())
}
_ANY_NAME = ("", ".*", "^.*", ".*$", "^.*$")


class Malformed(ValueError):
    """Traefik would refuse the rule."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """kind: of _NAMES."""

    kind: str
    values: tuple[str, ...]

    def truth(self, hello: Hello) -> Truth:
        return any_of([_TRUTHS[self.kind](value, hello) for value in self.values])


@dataclass(frozen=True, slots=True)
class Combined:
    """operator: && or ||, or ! of a single one."""

    operator: str
    parts: tuple[Tree, ...]

    def truth(self, hello: Hello) -> Truth:
        found = [part.truth(hello) for part in self.parts]
        if self.operator == "!":
            return negated(found[0])
        return all_of(found) if self.operator == "&&" else any_of(found)


Tree = Matcher | Combined


def matchers(tree: Tree) -> Iterator[Matcher]:
    if isinstance(tree, Matcher):
        yield tree
    else:
        for part in tree.parts:
            yield from matchers(part)


def names_in(tree: Tree) -> Iterator[str]:
    """As rules have them, of what tcpmux can tell."""
    for one in matchers(tree):
        for value in one.values:
            if one.kind == "HostSNI" and not isinstance(found := _pattern(value), Unknown):
                yield found
            elif one.kind == "HostSNIRegexp":
                yield from _patterns(value) or ()


def protocols_in(tree: Tree) -> Iterator[str]:
    for one in matchers(tree):
        yield from one.values if one.kind == "ALPN" else ()


def tree_of(text: str) -> Tree:
    """Raises Malformed."""
    tokens, at = [], 0
    text = text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise Malformed(f"expected HostSNI(`...`) or another matcher, got {text[at : at + 40]}")
        tokens.append(found[1])
        at = found.end()
    reader = _Reader(tokens)
    tree = reader.either(0)
    if reader.at != len(tokens):
        raise Malformed(f"expected && or ||, got {tokens[reader.at]}")
    return tree


@dataclass(slots=True)
class _Reader:
    tokens: list[str]
    at: int = 0

    def either(self, depth: int) -> Tree:
        return self._joined("||", lambda: self._joined("&&", lambda: self._term(depth)))

    def _joined(self, operator: str, part: Callable[[], Tree]) -> Tree:
        parts = [part()]
        while self._next(operator):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Combined(operator, tuple(parts))

    def _next(self, token: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == token:
            self.at += 1
            return True
        return False

    def _term(self, depth: int) -> Tree:
        if depth > MAX_DEPTH:
            raise Malformed(f"it is nested more than {MAX_DEPTH} deep")
        if self._next("!"):
            return Combined("!", (self._term(depth + 1),))
        if self._next("("):
            found = self.either(depth + 1)
            if not self._next(")"):
                raise Malformed("expected )")
            return found
        if self.at >= len(self.tokens) or len(self.tokens[self.at]) < 3:
            raise Malformed("expected a matcher after the last operator")
        self.at += 1
        return _matcher(self.tokens[self.at - 1])


def _matcher(token: str) -> Matcher:
    name, _, rest = token.partition("(")
    if name not in _KINDS:
        raise Malformed(f"expected {', '.join(_NAMES)}, got {name}")
    values = tuple(found[1] or found[2] or "" for found in _VALUE.finditer(rest))
    for value in values:
        if not value:
            raise Malformed(f"expected a value in {token}")
        try:
            if _KINDS[name] == "ClientIP":
                ip_network(value, strict=False)
            elif _KINDS[name] == "ALPN":
                _check_protocol(value)
        except ValueError as error:
            raise Malformed(f"{error}, got {value}") from None
    return Matcher(_KINDS[name], values)


def _check_protocol(name: str) -> None:
    """Raises ValueError."""
    protocol_of(name)
    if name == "acme-tls/1":
        raise ValueError("expected a protocol whose clients Traefik does not answer itself")


# --- what each matcher is for a connection --------------------------------------------------------


def _pattern(name: str) -> str | Unknown:
    if name.startswith("*"):
        note = f"in {name}, Traefik's * stands for one label, tcpmux's for one or more"
        return Unknown(note, "rules by single labels")
    try:
        return pattern_of(name)
    except ValueError as error:
        return Unknown(str(error), "rules by SNI")


def _patterns(regex: str) -> list[str] | None:
    """Of a regular expression, for names in lower case."""
    if regex != regex.lower() and not regex.startswith("(?i)"):
        return None
    return patterns_of_regex(regex.removeprefix("(?i)"))


def _by_name(name: str, hello: Hello) -> Truth:
    found = _pattern(name) if name != "*" else ""
    return found if isinstance(found, Unknown) else not found or hello.is_named(found)


def _by_regex(regex: str, hello: Hello) -> Truth:
    if regex in _ANY_NAME:
        return True
    found = _patterns(regex)
    if found is None:
        note = f"{regex} stands for neither a name nor all names with an end"
        return Unknown(note, "rules by parts of names")
    return any(map(hello.is_named, found))


def _by_client(client: str, _hello: Hello) -> Truth:
    return Among(without_mapped(ip_network(client, strict=False)))


def _by_protocol(protocol: str, hello: Hello) -> Truth:
    found = hello.is_offered(protocol)
    if found is None:
        return Unknown("it depends on several protocols", "rules by lists of protocols")
    return found


_TRUTHS: dict[str, Callable[[str, Hello], Truth]] = {
    "HostSNI": _by_name,
    "HostSNIRegexp": _by_regex,
    "ClientIP": _by_client,
    "ALPN": _by_protocol,
}
