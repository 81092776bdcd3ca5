"""What a row of settings.py says, and what is read off a table of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

HOUR, DAY = 3600.0, 86400.0
MAX_CONNECTIONS = 10_000_000
MAX_BANDWIDTH = 1 << 40  # bytes per second


class Kind(Enum):
    """How a value is written, and of what type it is."""

    WHOLE = "a number"
    LIMIT = "a number; nothing said = 0 = no limit"
    PERCENT = "20%; a whole number"
    SECONDS = "a duration; float, s"
    WHOLE_SECONDS = "a duration; int, s"
    BANDWIDTH = "10MiB/s; int, 0 = no limit"
    SIZE = "16KiB; int, bytes"
    FLAG = "true or false; on and off are that in YAML 1.1"
    WORD = "one of some words"
    RATE = "100/s or a mapping; Rate or None"
    TYPE = "a type of TLVs of the PROXY protocol, as 0xEA; int, 0 = none"
    TYPES = "a list of them; tuple of int"
    SECTION = "a mapping: a table of its own"
    OTHER = "written by hand in policy.py and native.py"


UNITS = {  # in the route table
    Kind.PERCENT: "%",
    Kind.SECONDS: "ms",
    Kind.WHOLE_SECONDS: "s",
    Kind.FLAG: "0 or 1",
    Kind.BANDWIDTH: "bytes/s",
    Kind.SIZE: "bytes",
    Kind.LIMIT: "connections",
    Kind.TYPE: "type of a TLV",
    Kind.TYPES: "types of TLVs, a bit each",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a setting besides its name and its default.

    rules: its numbers in the route table, with their units; none = workers do not read it.
    shared: it may stand in `defaults` and in a route as well, for their destinations.
    required: wherever its section is given.
    raised_to: what is taken for smaller ones.
    table: of a section.
    short: of a section, the key that a text alone stands for.
    off: of a section, the key that is 0 when `off` stands for it.
    former: a name that files may still use, with a warning.
    key: the name in files, where that is none in Python.
    """

    kind: Kind
    help: str
    low: float = 0
    high: float = 0
    rules: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    shared: bool = True
    required: bool = False
    raised_to: int = 0
    table: type = object
    short: str = ""
    off: str = ""
    former: str = ""
    key: str = ""


def _row(kind: Kind, text: str, default: Any, *, rule: str = "", **others: Any) -> Any:
    unit = others.pop("unit", "") or UNITS.get(kind, "")
    row = Row(kind, text, rules={rule: unit} if rule else {}, **others)
    return field(default=default, metadata={"row": row})


def whole(text: str, default: int, low: int, high: int, unit: str, **others: Any) -> Any:
    return _row(Kind.WHOLE, text, default, low=low, high=high, unit=unit, **others)


def limit(text: str, high: int = MAX_CONNECTIONS, **others: Any) -> Any:
    return _row(Kind.LIMIT, text, 0, low=1, high=high, **others)


def percent(text: str, default: int, **others: Any) -> Any:
    return _row(Kind.PERCENT, text, default, low=0, high=100, **others)


def seconds(
    text: str, default: float, low: float = 0.0, high: float = 30 * DAY, **others: Any
) -> Any:
    return _row(Kind.SECONDS, text, default, low=low, high=high, **others)


def whole_seconds(text: str, default: int, low: int, high: int, **others: Any) -> Any:
    return _row(Kind.WHOLE_SECONDS, text, default, low=low, high=high, **others)


def bandwidth(text: str, **others: Any) -> Any:
    return _row(Kind.BANDWIDTH, text, 0, low=1, high=MAX_BANDWIDTH, **others)


def size(text: str, default: int, low: int, high: int, **others: Any) -> Any:
    return _row(Kind.SIZE, text, default, low=low, high=high, **others)


def flag(text: str, default: bool, **others: Any) -> Any:
    return _row(Kind.FLAG, text, default, **others)


def word(text: str, default: str, words: Mapping[str, str], **others: Any) -> Any:
    return _row(Kind.WORD, text, default, words=words, **others)


def tlv_type(text: str, low: int, high: int, **others: Any) -> Any:
    return _row(Kind.TYPE, text, 0, low=low, high=high, **others)


def tlv_types(text: str, rule: str, **others: Any) -> Any:
    """rule: its four numbers in the route table, each with a digit behind it."""
    rules = {f"{rule}{word}": UNITS[Kind.TYPES] for word in range(4)}
    row = Row(Kind.TYPES, text, low=1, high=255, rules=rules, **others)
    return field(default=(), metadata={"row": row})


def rate(text: str, interval: str, burst: str) -> Any:
    """interval, burst: its two numbers in the route table."""
    rules = {interval: "ns", burst: "connections"}
    return field(default=None, metadata={"row": Row(Kind.RATE, text, rules=rules)})


def section(text: str, default: Any, **others: Any) -> Any:
    return _row(Kind.SECTION, text, default, table=type(default), **others)


def other(text: str, default: Any, **others: Any) -> Any:
    return _row(Kind.OTHER, text, default, **others)


# --- what is made of them -----------------------------------------------------------------------


def rows_of(table: type) -> dict[str, Row]:
    """By key."""
    return {of.name: of.metadata["row"] for of in fields(table) if "row" in of.metadata}


@dataclass(frozen=True, slots=True)
class Rule:
    """One number of the route table. path: of its setting, such as (retry, budget)."""

    name: str
    unit: str
    row: Row
    path: tuple[str, ...]


def rules_of(table: type, *inside: str) -> Iterator[Rule]:
    """The numbers that workers read of a table, in order."""
    for key, row in rows_of(table).items():
        for name, unit in row.rules.items():
            yield Rule(name, unit, row, (*inside, row.key or key))
        if row.table is not object:
            yield from rules_of(row.table, *inside, row.key or key)


def milliseconds(value: float) -> int:
    """Whole milliseconds of seconds, at least 1 unless it is 0 (= off)."""
    return max(1, round(value * 1000)) if value > 0 else 0


def type_bits(types: Iterable[int]) -> tuple[int, ...]:
    """The four numbers of a list of types."""
    found = 0
    for each in types:
        found |= 1 << each
    return tuple(found >> 64 * word & (1 << 64) - 1 for word in range(4))


def types_in(number: int, word: int) -> tuple[int, ...]:
    """Those of one of the four."""
    return tuple(64 * word + bit for bit in range(64) if number >> bit & 1)


def numbers(settings: Any) -> dict[str, int]:
    """The numbers that workers read, by rule; of a RoutePolicy all but `fallback`."""
    found: dict[str, int] = {}
    for key, row in rows_of(type(settings)).items():
        value = getattr(settings, key)
        if row.table is not object:
            found |= numbers(value)
        elif row.kind is Kind.RATE:
            interval, burst = (round(1e9 / value.per_second), value.burst) if value else (0, 1)
            found |= dict(zip(row.rules, (interval, burst), strict=True))
        elif row.kind is Kind.TYPES:
            found |= dict(zip(row.rules, type_bits(value), strict=True))
        elif row.words:
            found |= dict.fromkeys(row.rules, list(row.words).index(value))
        elif not isinstance(value, str):
            found |= {
                rule: milliseconds(value) if unit == "ms" else int(value)
                for rule, unit in row.rules.items()
            }
    return found
