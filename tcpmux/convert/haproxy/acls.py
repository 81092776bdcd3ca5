"""ACLs, named and anonymous, and the conditions that are made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from ipaddress import ip_address, ip_network

from tcpmux.config.address import Address
from tcpmux.config.settings import Clients
from tcpmux.convert.clients import with_mapped
from tcpmux.convert.haproxy.acl_hellos import Asked, Test, asked_by, reads_hello, truth_of_hello
from tcpmux.convert.haproxy.proxies import Section, Setting
from tcpmux.convert.haproxy.values import Refused, whole
from tcpmux.convert.hellos import Hello
from tcpmux.convert.report import Word
from tcpmux.convert.truth import (
    MAX_NETWORKS,
    TOO_MANY,
    Among,
    Truth,
    Unknown,
    all_of,
    any_of,
    negated,
)
from tcpmux.files import Unreadable, read_file

_OPERATORS = ("eq", "ge", "gt", "le", "lt")
MAX_NUMBER = 2**63 - 1
Key = tuple[Address | None, Hello | None]
_PREDEFINED = {"TRUE": ["always_true"], "FALSE": ["always_false"],
               "LOCALHOST": ["src", "127.0.0.1/8", "::1"],
               "WAIT_END": ["wait_end"], "REQ_CONTENT": ["req.len", "gt", "0"]}  # fmt: skip
# What begins so needs this feature.
_NEEDS = (
    (r"(req[._]?)?ssl_(sni|hello)|req\.ssl_(sni|ec|alpn|st_ext|cipherlist)", "rules by SNI"),
    (r"ssl_|req\.ssl|req_ssl", "TLS"),
    (r"src_port|sc_|sc[0-2]_|src_|so_id|fe_id|dst_conn", "tracking of clients"),
    (r"nbsrv|connslots|queue|avg_queue|be_|fe_|srv_|table_", "rules by load"),
    (r"src", "rules by source"),
    (r"dst", "rules by destination address"),
)


@dataclass(slots=True)
class Term:
    """One criterion of a condition: an ACL's lines (any of them), or an anonymous one."""

    negated: bool
    tests: list[list[Word]]
    definitions: list[Setting] = field(default_factory=list)
    known: dict[Key, Truth] = field(default_factory=dict)

    @property
    def depends_on_address(self) -> bool:
        """That the client has connected to."""
        return any(test and test[0].text.startswith("dst") for test in self.tests)

    @property
    def depends_on_hello(self) -> bool:
        return any(test and reads_hello(test[0].text) for test in self.tests)

    def key(self, at: Address | None, hello: Hello | None) -> Key:
        """What its truth depends on."""
        return at if self.depends_on_address else None, hello if self.depends_on_hello else None


@dataclass(slots=True)
class Condition:
    """Any of these alternatives, of which all terms hold. No alternative = always."""

    alternatives: list[list[Term]] = field(default_factory=list)
    inverted: bool = False  # unless
    known: dict[Key, Truth] = field(default_factory=dict)

    @property
    def definitions(self) -> list[Setting]:
        return [d for terms in self.alternatives for term in terms for d in term.definitions]

    def with_test(self, words: list[Word]) -> Condition:
        """It, and this test. Raises Refused."""
        if self.inverted:
            raise Refused("expected if before a condition of a map, got unless")
        test = Term(negated=False, tests=[words])
        return Condition([[*terms, test] for terms in self.alternatives or [[]]])

    @property
    def terms(self) -> list[Term]:
        return [term for terms in self.alternatives for term in terms]

    def truth(self, at: Address | None, hello: Hello | None = None) -> Truth:
        """For connections to that address, which begin so; None = that is not known. Raises
        Refused."""
        if not self.alternatives:
            return True
        key = at if self.depends_on_address else None, hello if self.depends_on_hello else None
        if key not in self.known:
            found = any_of(
                all_of(_term_truth(term, at, hello) for term in terms)
                for terms in self.alternatives
            )
            self.known[key] = negated(found) if self.inverted else found
        return self.known[key]

    @property
    def depends_on_address(self) -> bool:
        """That the client has connected to."""
        return any(term.depends_on_address for term in self.terms)

    @property
    def depends_on_hello(self) -> bool:
        """On what the client begins with."""
        return any(term.depends_on_hello for term in self.terms)

    @property
    def depends_on_more(self) -> bool:
        """Than the client's address: on its hello, or on chance."""
        chance = any(
            test and test[0].text.startswith("rand") for t in self.terms for test in t.tests
        )
        return chance or self.depends_on_hello

    @property
    def asked(self) -> Asked:
        """What it asks of a hello."""
        tests = [[w.text for w in test] for term in self.terms for test in term.tests if test]
        parsed = [_parsed(test) for test in tests if reads_hello(test[0])]
        return asked_by(test for test in parsed if not isinstance(test, Unknown))


def _term_truth(term: Term, at: Address | None, hello: Hello | None) -> Truth:
    key = term.key(at, hello)
    if key not in term.known:
        tests = [[word.text for word in test] for test in term.tests]
        found = any_of([truth_of_test(test, at, hello) for test in tests])
        term.known[key] = negated(found) if term.negated else found
    return term.known[key]


def condition_of(words: Sequence[Word], section: Section) -> Condition:
    """From `if` or `unless` on; nothing = always. Raises Refused."""
    if not words:
        return Condition()
    keyword, *rest = words
    if keyword.text not in ("if", "unless"):
        raise Refused(f"expected if or unless, got {keyword.text}")
    if not rest:
        raise Refused(f"expected a condition after {keyword.text}")
    made = Condition([[]], inverted=keyword.text == "unless")
    index, is_negated = 0, False
    while index < len(rest):
        text = rest[index].text.lstrip("!")
        is_negated ^= (len(rest[index].text) - len(text)) % 2 == 1
        if text == "{":
            end = _end_of_test(rest, index)
            made.alternatives[-1].append(Term(is_negated, [list(rest[index + 1 : end])]))
            index, is_negated = end, False
        elif text in ("or", "||"):
            made.alternatives.append([])
        elif text:
            made.alternatives[-1].append(_named(text, is_negated, section))
            is_negated = False
        index += 1
    if not all(made.alternatives) or is_negated:
        raise Refused("expected an ACL before and after each operator")
    return made


def _end_of_test(words: Sequence[Word], start: int) -> int:
    """Of the } that ends the test. Raises Refused."""
    end = start + 1
    while end < len(words) and words[end].text != "}":
        end += 1
    if end == len(words) or end == start + 1:
        raise Refused("expected a test and } after {")
    return end


def _named(name: str, is_negated: bool, section: Section) -> Term:
    if section.acls is None:
        section.acls = {}
        for setting in section.all("acl"):
            if setting.args:
                section.acls.setdefault(setting.args[0].text, []).append(setting)
    definitions = section.acls.get(name)
    if definitions:
        tests = [s.args[1:] for s in definitions]
        made = Term(is_negated, tests, definitions)
        known: Term = section.terms.setdefault((name, is_negated), made)
        return known
    if name in _PREDEFINED:
        words = [Word(text, 0, 0) for text in _PREDEFINED[name]]
        return Term(is_negated, [words])
    if re.fullmatch(r"HTTP(_[A-Z0-9.]+)?|METH_[A-Z]+|RDP_COOKIE|REQ_CONTENT", name):
        return Term(is_negated, [[Word("req.payload", 0, 0)]])
    raise Refused(f"there is no acl {name}")


# --- a single test --------------------------------------------------------------------------------


def _parsed(words: list[str]) -> Test | Unknown:
    """Raises Refused."""
    if not words:
        raise Refused("expected a criterion in the acl")
    fetch, *rest = words
    made = Test(fetch)
    while rest and rest[0].startswith("-") and not re.fullmatch(r"-[0-9].*", rest[0]):
        flag = rest.pop(0)
        if flag == "--":
            break
        if flag in ("-i", "-n"):
            made.ignores_case |= flag == "-i"
            continue
        if flag in ("-f", "-m", "-u") and rest:
            value = rest.pop(0)
            if flag == "-f":
                made.values += _lines(value)
            elif flag == "-m" and value not in ("ip", "int", "bool") and not reads_hello(fetch):
                return Unknown(f"the match -m {value} is not supported", _needs(fetch))
            elif flag == "-m":
                made.match = value
            continue
        return Unknown(f"the flag {flag} is not supported", _needs(fetch))
    if rest and rest[0] in _OPERATORS:
        made.operator = rest.pop(0)
    made.values += rest
    return made


def _lines(path: str) -> list[str]:
    try:
        text = read_file(path).data.decode("utf-8", "surrogateescape")
    except (Unreadable, ValueError) as error:
        raise Refused(f"the list {path} can't be read: {error}") from None
    found = [line.strip() for line in text.split("\n")]
    return [line.split()[0] for line in found if line and not line.startswith("#")]


def truth_of_test(words: list[str], at: Address | None, hello: Hello | None = None) -> Truth:
    """at: what the client has connected to. hello: what it begins with. Raises Refused."""
    test = _parsed(words)
    if isinstance(test, Unknown):
        return test
    if reads_hello(test.fetch):
        if hello is None:
            return Unknown(f"it depends on {test.fetch}", _needs(test.fetch))
        return truth_of_hello(test, hello, _counted)
    name, _, rest = test.fetch.partition("(")
    if name in _TESTS and re.fullmatch(r"\w+(\([^()]*\))?", test.fetch):  # no converter
        return _TESTS[name](test, rest.removesuffix(")"), at)
    return Unknown(f"it depends on {test.fetch}", _needs(test.fetch))


def _needs(fetch: str) -> str:
    for pattern, needs in _NEEDS:
        if re.match(pattern, fetch):
            return needs
    return "rules on content"


def _always(value: bool) -> Callable[[Test, str, Address | None], Truth]:
    return lambda _test, _rest, _at: value


def _src(test: Test, rest: str, _at: Address | None) -> Truth:
    if rest:
        return Unknown(f"it depends on {test.fetch}", "rules by source")
    if len(test.values) > MAX_NETWORKS:
        return TOO_MANY
    networks: list[Clients] = []
    for value in test.values:
        network = _network(value)
        if network is None:
            return Unknown(f"{value} is a name, which HAProxy resolves", "rules by source")
        networks += with_mapped(network)
    if not networks:
        raise Refused("expected addresses after src")
    return Among(tuple(networks))


def _network(text: str) -> Clients | None:
    """None: a host's name. Raises Refused."""
    address, slash, length = text.partition("/")
    try:
        ip_address(address)
    except ValueError:
        if re.fullmatch(r"[A-Za-z0-9._-]+", text) and not re.fullmatch(r"[0-9.]+", text):
            return None
        raise Refused(f"expected an address or a network, got {text}") from None
    try:
        return ip_network(f"{address}/{length}" if slash else address, strict=False)
    except ValueError:
        raise Refused(f"expected a network, got {text}") from None


def _dst(test: Test, _rest: str, at: Address | None) -> Truth:
    if at is None or at.path or at.host in ("0.0.0.0", "::"):  # noqa: S104
        return Unknown("it depends on the address that the client connects to",
                       "rules by destination address")  # fmt: skip
    here = ip_address(at.host)
    for value in test.values:
        network = _network(value)
        if network is None:
            return Unknown(
                f"{value} is a name, which HAProxy resolves", "rules by destination address"
            )
        if not isinstance(network, str) and network.version == here.version and here in network:
            return True
    return False


def _dst_port(test: Test, _rest: str, at: Address | None) -> Truth:
    if at is None:
        return Unknown("it depends on the port that the client connects to", "rules by port")
    return not at.path and _counted(test, (at.port, at.port)) == 1


def _rand(test: Test, rest: str, _at: Address | None) -> Truth:
    """rand(N) is 0 to N - 1."""
    size = whole(rest, 1, 2**32 - 1) if rest.strip() else 2**32
    share = Fraction(_counted(test, (0, size - 1)), size)
    return share if 0 < share < 1 else share == 1


def _counted(test: Test, within: tuple[int, int]) -> int:
    """How many numbers of the range the values match. Raises Refused."""
    if not test.values:
        raise Refused("expected numbers in the acl")
    spans = sorted(span for value in test.values for span in _spans(test.operator, value))
    count, reached = 0, within[0]
    for low, high in spans:
        first, last = max(low, reached), min(high, within[1])
        if first <= last:
            count += last - first + 1
            reached = last + 1
    return count


def _spans(operator: str, value: str) -> list[tuple[int, int]]:
    if operator in ("lt", "le"):
        return [(0, whole(value, 0, MAX_NUMBER) - (operator == "lt"))]
    if operator in ("gt", "ge"):
        return [(whole(value, 0, MAX_NUMBER) + (operator == "gt"), MAX_NUMBER)]
    low, colon, high = value.partition(":")
    if not colon:
        return [(whole(value, 0, MAX_NUMBER),) * 2]
    return [(whole(low or "0", 0, MAX_NUMBER), whole(high or str(MAX_NUMBER), 0, MAX_NUMBER))]


_TESTS: dict[str, Callable[[Test, str, Address | None], Truth]] = {
    "always_true": _always(True),
    "always_false": _always(False),
    "src": _src,
    "dst": _dst,
    "dst_port": _dst_port,
    "rand": _rand,
}
