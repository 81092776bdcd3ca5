"""Settings as text: as they stand in a file, and what a number of the route table stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tcpmux.config.duration import format_duration
from tcpmux.config.rows import Kind, Row, Rule, rows_of, types_in
from tcpmux.config.size import format_size

Pairs = Iterator[tuple[str, str]]


def _per_second(rate: float) -> str:
    hourly = rate * 3600
    if abs(rate - round(rate, 6)) > 1e-9 and hourly == round(hourly):
        return f"{hourly:.0f}/h"
    return f"{rate:.6f}".rstrip("0").rstrip(".") + "/s"


_TEXTS: dict[Kind, Callable[[Any], str]] = {
    Kind.SECONDS: format_duration,
    Kind.WHOLE_SECONDS: format_duration,
    Kind.PERCENT: lambda value: f"{value}%",
    Kind.BANDWIDTH: lambda value: f"{format_size(value)}/s",
    Kind.SIZE: format_size,
    Kind.FLAG: lambda value: "true" if value else "false",
    Kind.TYPE: lambda value: f"{value:#04x}" if value else "0",
    Kind.TYPES: lambda value: f"[{', '.join(f'{each:#04x}' for each in value)}]",
    Kind.RATE: lambda value: flow(
        [("rate", _per_second(value.per_second)), ("burst", str(value.burst))]
    ),
}


def text_of(row: Row, value: Any) -> str:
    """As it stands in a file."""
    return _TEXTS.get(row.kind, str)(value)


def rule_text(rule: Rule, number: int) -> str:
    """A number of the route table as it stands in a file, as far as one stands there."""
    row, unit = rule.row, rule.unit
    if row.words:
        return [*row.words][number] if number < len(row.words) else str(number)
    if unit == "ms":
        return format_duration(number / 1000)
    if unit == "ns":
        return _per_second(1e9 / number) if number else "off"
    if row.kind is Kind.TYPES:
        return text_of(row, types_in(number, int(rule.name[-1])))
    return str(number) if row.kind in (Kind.OTHER, Kind.RATE) else text_of(row, number)


def by_text(by: str, tlv: int) -> str:
    """Of `sticky`."""
    return f"tlv:0x{tlv:02X}" if by == "tlv" else by


def flow(pairs: Iterable[tuple[str, str]]) -> str:
    return f"{{{', '.join(f'{key}: {value}' for key, value in pairs)}}}"


def texts(
    settings: Any,
    others: Mapping[str, Callable[[Any], Pairs]],
    base: Any = None,
    *,
    whole: bool = False,
) -> Pairs:
    """The keys that say something else than base, in order; None: than the defaults. others: how
    to write those that are not for all rows. whole: the defaults as well."""
    base = type(settings)() if base is None else base
    for key, row in rows_of(type(settings)).items():
        value = getattr(settings, key)
        if key in others:
            yield from others[key](settings)
        elif row.kind is Kind.OTHER or (value == getattr(base, key) and not whole):
            continue
        elif row.kind is not Kind.SECTION:
            yield row.key or key, text_of(row, value)
        elif row.off and not getattr(value, row.off):
            yield key, "off"
        else:
            yield key, flow(texts(value, {}, whole=bool(row.short)))
