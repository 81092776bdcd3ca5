""".if, .elif, .else and .endif (section 2.4 of HAProxy's manual)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_DEPTH = 16
MAX_BLOCKS = 100  # as in HAProxy
_TOKEN = re.compile(r"\s*(\|\||&&|!|\(|\)|[A-Za-z_]+\([^()]*\)|[A-Za-z_]+|-?[0-9]+)")
CONDITIONALS = (".if", ".elif", ".else", ".endif")


class Malformed(ValueError):
    """HAProxy would refuse the condition."""


def value_of(text: str, environment: Mapping[str, str]) -> bool | None:
    """None: it depends on the HAProxy that reads it. Raises Malformed."""
    tokens, at = [], 0
    text = text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise Malformed("expected a condition such as defined(NAME)")
        tokens.append(found[1])
        at = found.end()
    if not tokens:
        return False
    reader = _Expression(tokens, environment)
    value = reader.either(0)
    if reader.at != len(tokens):
        raise Malformed("expected && or || between conditions")
    return value


@dataclass(slots=True)
class _Expression:
    tokens: list[str]
    environment: Mapping[str, str]
    at: int = 0

    def either(self, depth: int) -> bool | None:
        values = [self._both(depth)]
        while self._next("||"):
            values.append(self._both(depth))
        return True if True in values else None if None in values else False

    def _both(self, depth: int) -> bool | None:
        values = [self._term(depth)]
        while self._next("&&"):
            values.append(self._term(depth))
        return False if False in values else None if None in values else True

    def _next(self, token: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == token:
            self.at += 1
            return True
        return False

    def _term(self, depth: int) -> bool | None:
        if depth > MAX_DEPTH:
            raise Malformed(f"conditions are nested more than {MAX_DEPTH} deep")
        if self._next("!"):
            value = self._term(depth + 1)
            return None if value is None else not value
        if self._next("("):
            value = self.either(depth + 1)
            if not self._next(")"):
                raise Malformed("expected )")
            return value
        if self.at >= len(self.tokens):
            raise Malformed("expected a condition after the last operator")
        self.at += 1
        return self._predicate(self.tokens[self.at - 1])

    def _predicate(self, text: str) -> bool | None:
        if re.fullmatch(r"-?[0-9]+", text):
            return any(digit in "123456789" for digit in text)
        name, _, rest = text.partition("(")
        values = [value.strip().strip("\"'") for value in rest.removesuffix(")").split(",")]
        if name == "defined" and len(values) == 1:
            return values[0] in self.environment
        if name in ("streq", "strneq") and len(values) == 2:
            return (values[0] == values[1]) == (name == "streq")
        if name in ("feature", "version_atleast", "version_before", "openssl_version_atleast",
                    "openssl_version_before", "ssllib_name_startswith", "enabled", "strstr",
                    "awslc_api_atleast", "awslc_api_before", "fips_mode"):  # fmt: skip
            return None
        raise Malformed(f"unknown condition {text}")


@dataclass(slots=True)
class _Block:
    """active: the branch at hand is read. decided: a branch has been. None = not known."""

    active: bool | None
    decided: bool | None
    has_else: bool = False


@dataclass(slots=True)
class Conditions:
    """The blocks that are open in a file."""

    blocks: list[_Block] = field(default_factory=list)

    @property
    def active(self) -> bool | None:
        """Whether lines are read here; None = it depends on the HAProxy that reads them."""
        values = [block.active for block in self.blocks]
        return False if False in values else None if None in values else True

    def take(self, keyword: str, text: str, environment: Mapping[str, str]) -> bool | None:
        """The condition's value. Raises Malformed."""
        if keyword == ".if":
            if len(self.blocks) >= MAX_BLOCKS:
                raise Malformed(f"more than {MAX_BLOCKS} .if within each other")
            value = value_of(text, environment) if self.active is not False else False
            self.blocks.append(_Block(value, value))
            return value
        if not self.blocks:
            raise Malformed(f"{keyword} without .if")
        block = self.blocks[-1]
        if keyword == ".endif":
            self.blocks.pop()
            return True
        if block.has_else:
            raise Malformed(f"{keyword} after .else")
        block.has_else = keyword == ".else"
        if block.decided:
            block.active = False
            return False
        value = True if keyword == ".else" else value_of(text, environment)
        if block.decided is None:  # an earlier branch may be the one
            block.active = False if value is False else None
        else:
            block.active, block.decided = value, value
        return block.active
