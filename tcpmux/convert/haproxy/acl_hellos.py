"""Tests of ACLs on the TLS ClientHello."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tcpmux.convert.haproxy.values import Refused
from tcpmux.convert.hellos import ALONE, Hello, pattern_of, patterns_of_regex
from tcpmux.convert.truth import Truth, Unknown

_NAME = re.compile(r"req[._]ssl_sni(,lower)?")
_TYPE = ("req.ssl_hello_type", "req_ssl_hello_type")
_PROTOCOLS = "req.ssl_alpn"
CLIENT_HELLO = 1
NEEDS = "rules by SNI"


@dataclass(slots=True)
class Test:
    """match: of -m; "" = that of the fetch."""

    fetch: str
    values: list[str] = field(default_factory=list)
    operator: str = "eq"
    match: str = ""
    ignores_case: bool = False


@dataclass(slots=True)
class Asked:
    """What tests ask of a ClientHello. minds_case: one tells upper from lower case."""

    names: list[str] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    tls: bool = False
    minds_case: bool = False

    def add(self, other: Asked) -> None:
        self.names += other.names
        self.protocols += other.protocols
        self.tls = self.tls or other.tls
        self.minds_case = self.minds_case or other.minds_case


def reads_hello(fetch: str) -> bool:
    """Whether its value is of a class of hellos."""
    return bool(_NAME.fullmatch(fetch)) or fetch in _TYPE or fetch == _PROTOCOLS


def asked_by(tests: Iterable[Test]) -> Asked:
    found = Asked()
    for test in tests:
        if test.fetch in _TYPE:
            found.tls = True
        elif test.fetch == _PROTOCOLS:
            found.protocols += [value for value in test.values if value == ALONE]
        elif not isinstance(names := _patterns(test), Unknown):
            found.names += names
            found.minds_case |= not test.ignores_case and not test.fetch.endswith(",lower")
    return found


def truth_of_hello(
    test: Test, hello: Hello, counted: Callable[[Test, tuple[int, int]], int]
) -> Truth:
    """counted: how many numbers of a range the test's values match. Raises Refused."""
    if test.fetch in _TYPE:
        return hello.tls and counted(test, (CLIENT_HELLO, CLIENT_HELLO)) == 1
    if not test.values and test.match != "found":
        raise Refused(f"expected values after {test.fetch}")
    if test.fetch == _PROTOCOLS:
        if test.match not in ("", "str") or set(test.values) != {ALONE}:
            note = "HAProxy compares the whole list of protocols, tcpmux each of them"
            return Unknown(note, "rules by lists of protocols")
        return hello.is_offered(ALONE) is True  # it is the whole list then
    names = _patterns(test)
    return names if isinstance(names, Unknown) else any(map(hello.is_named, names))


def _patterns(test: Test) -> list[str] | Unknown:
    """Of names, as rules have them."""
    found: list[str] = []
    for value in test.values or [""]:
        names: list[str] | None = None
        if not test.ignores_case and value != value.lower():
            return Unknown("without -i HAProxy minds capital letters", "rules that mind the case")
        if test.match in ("", "str"):
            names = _valid(value)
        elif test.match == "end" and value.startswith("."):
            names = _valid(f"*{value}")
        elif test.match == "reg":
            names = patterns_of_regex(value)
        if names is None:
            what = f"-m {test.match} {value}".rstrip() if test.match else f"{value!r}"
            note = f"tcpmux compares whole names and ends that begin with a dot, not {what}"
            return Unknown(note, "rules by parts of names")
        found += names
    return found


def _valid(name: str) -> list[str] | None:
    try:
        return [pattern_of(name)]
    except ValueError:
        return None
