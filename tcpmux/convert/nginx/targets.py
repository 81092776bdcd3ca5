"""Where connections to a listener of a server go, by what `proxy_pass` is for them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from tcpmux.config.address import Address
from tcpmux.convert.decisions import Decided, TooManyRules, decided
from tcpmux.convert.draft import Pool, Shares
from tcpmux.convert.nginx.maps import OF_HELLO, Unresolved
from tcpmux.convert.nginx.upstream import Upstream
from tcpmux.convert.nginx.variables import Values, Variables, names_in

REJECTED = "rejected"  # the destination of connections that nginx closes
Target = Decided[Values]


def target_at(variables: Variables, text: str, listener: Address, *, reads_hello: bool) -> Target:
    """Raises Unresolved."""
    if not reads_hello and names_in(text) & {*OF_HELLO}:
        raise Unresolved("ssl_preread is off here", "rules by SNI")
    classes = variables.classes(text, reads_hello=reads_hello)
    try:
        return decided(classes, lambda hello: variables.values(text, listener, hello))
    except TooManyRules as error:
        raise Unresolved(str(error), "longer lists") from None


def values_of(target: Target) -> list[str]:
    """Each once."""
    every = (*(values for _, values in target.rules), target.rest)
    return [*dict.fromkeys(value for values in every for _, value in values)]


@dataclass(slots=True)
class Pools:
    """By value of proxy_pass, in lower case. closed: those to which nothing is passed on."""

    of: dict[str, Pool]
    closed: set[str]

    def shares(self, values: Values, *, beside_rules: bool) -> Shares:
        """beside_rules: of a route with rules, one of which resets connections as well."""
        merged: dict[str, Fraction] = {}
        for share, value in values:
            key = value.lower()
            merged[key] = merged.get(key, Fraction(0)) + share
        if beside_rules and merged.keys() <= self.closed:
            return []
        return [(self.of[key], share) for key, share in merged.items()]


def is_closed(upstream: Upstream) -> bool:
    return upstream.name == REJECTED
