"""What finds the first rule that a connection meets: from a route's rules to the lists of
csrc/pick_rules.h. Runs in the master."""

from __future__ import annotations

import struct
from bisect import insort
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tcpmux.config import Rule
from tcpmux.shm._pick import name_hash
from tcpmux.shm.ranges import RANGE, ranges_of
from tcpmux.shm.rule_rows import text_of

MAX_NUMBERS = 1 << 20  # in the lists of one route
_SEGMENT = struct.Struct("=QQII")  # csrc/route_table.h: tm_segment
_NAME = struct.Struct("=QIHHII")  # tm_rule_name
_VALUE = struct.Struct("=IHH")  # tm_rule_value
_NUMBER = struct.Struct("=H")
List = tuple[int, int]  # tm_list: first, count
_LOW = (1 << 64) - 1
_LAST = (1 << 128) - 1


class TooMany(ValueError):
    """The conditions of a route's rules overlap so often that its lists would have no bound."""


@dataclass(frozen=True, slots=True)
class RuleLists:
    """Of one rule. sources: ranges; None = everybody. said: its conditions, in the text."""

    sources: bytes | None
    protocols: List
    tlvs: List
    said: List


@dataclass(frozen=True, slots=True)
class Index:
    """Of a route, as arrays of structs."""

    segments: bytes = b""
    names: bytes = b""
    others: List = (0, 0)
    numbers: bytes = b""
    values: bytes = b""
    text: bytes = b""
    rules: tuple[RuleLists, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Ranges, segments, names, numbers, values, bytes of text."""
        return (
            sum(len(rule.sources or b"") for rule in self.rules) // RANGE,
            len(self.segments) // _SEGMENT.size,
            len(self.names) // _NAME.size,
            len(self.numbers) // _NUMBER.size,
            len(self.values) // _VALUE.size,
            len(self.text),
        )


EMPTY = Index()


@dataclass(slots=True)
class _Lists:
    """Lists of rules. What many have in common is there once."""

    numbers: bytearray = field(default_factory=bytearray)
    known: dict[tuple[int, ...], List] = field(default_factory=dict)

    def add(self, rules: tuple[int, ...]) -> List:
        if rules not in self.known:
            first = len(self.numbers) // _NUMBER.size
            if first + len(rules) > MAX_NUMBERS:
                raise TooMany(
                    "the sources of its rules overlap too often: the lists of who meets which rule "
                    f"would have more than {MAX_NUMBERS:,} entries"
                )
            self.known[rules] = first, len(rules)
            self.numbers += struct.pack(f"={len(rules)}H", *rules)
        return self.known[rules]


def index_of(rules: Sequence[Rule]) -> Index:
    """Raises TooMany."""
    if not rules:
        return EMPTY
    lists, text, values = _Lists(), bytearray(), bytearray()

    def put_text(said: bytes) -> List:
        text.extend(said)
        return len(text) - len(said), len(said)

    def put_values(entries: Iterable[tuple[int, bytes]]) -> List:
        first = len(values) // _VALUE.size
        for kind, value in entries:
            values.extend(_VALUE.pack(len(text), len(value), kind))
            text.extend(value)
        return first, len(values) // _VALUE.size - first

    made = tuple(
        RuleLists(
            ranges_of(rule.sources) if rule.sources else None,
            put_values((0, protocol.encode()) for protocol in rule.alpn),
            put_values((kind, value) for kind, of in rule.tlvs for value in of),
            put_text(text_of(rule)),
        )
        for rule in rules
    )
    names = b"".join(_names(rules, lists, text))
    by_source = {n: made[n].sources or b"" for n, r in enumerate(rules) if r.sources and not r.sni}
    segments = b"".join(_segments(rules, by_source, lists))
    others = [n for n, rule in enumerate(rules) if not rule.sources and not rule.sni]
    return Index(
        segments,
        names,
        lists.add(_shortened(others, {n for n in others if _has_only(rules[n])})),
        bytes(lists.numbers),
        bytes(values),
        bytes(text),
        made,
    )


def _names(rules: Sequence[Rule], lists: _Lists, text: bytearray) -> Iterator[bytes]:
    found: dict[str, list[int]] = {}
    for number, rule in enumerate(rules):
        for name in dict.fromkeys(rule.sni):
            found.setdefault(name, []).append(number)
    final = {number for number, rule in enumerate(rules) if _has_only(rule, "sni")}
    entries = []
    for name, numbers in found.items():
        plain = name.removeprefix("*.").encode()
        is_suffix = name.startswith("*.")
        entries.append((name_hash(plain, is_suffix), plain, is_suffix, _shortened(numbers, final)))
    for hashed, plain, is_suffix, of in sorted(entries):
        yield _NAME.pack(hashed, len(text), len(plain), is_suffix, *lists.add(of))
        text += plain


def _segments(
    rules: Sequence[Rule], sources: Mapping[int, bytes], lists: _Lists
) -> Iterator[bytes]:
    """From the lowest address on; where the same rules go on, the same segment does."""
    begins: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for number, ranges in sources.items():
        for at in range(0, len(ranges), RANGE):
            first, last = ranges[at : at + 16], ranges[at + 16 : at + RANGE]
            begins.setdefault(int.from_bytes(first, "big"), []).append(number)
            ends.setdefault(int.from_bytes(last, "big") + 1, []).append(number)
    final = {number for number in sources if _has_only(rules[number], "sources")}
    active: list[int] = []
    before: tuple[int, ...] = ()
    for address in sorted(begins.keys() | ends.keys()):
        for number in ends.get(address, ()):
            active.remove(number)
        for number in begins.get(address, ()):
            insort(active, number)
        now = _shortened(active, final)
        if now != before and address <= _LAST:
            yield _SEGMENT.pack(address >> 64, address & _LOW, *lists.add(now))
            before = now


def _has_only(rule: Rule, *fields: str) -> bool:
    """Whether it asks for nothing else."""
    asked = ("sources", "ports", "listen", "sni", "alpn", "tlvs")
    return rule.tls is None and not any(getattr(rule, f) for f in asked if f not in fields)


def _shortened(numbers: Iterable[int], final: Container[int]) -> tuple[int, ...]:
    """Without what comes after one that is met by whoever gets to it."""
    found = []
    for number in numbers:
        found.append(number)
        if number in final:
            break
    return tuple(found)
