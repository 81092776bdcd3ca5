"""From the rows of settings.py to keys of routes.yaml: the models that pydantic checks, and
their JSON Schema. Private to the package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema

from tcpmux.config.problems import describe
from tcpmux.config.rows import Kind, Row, rows_of
from tcpmux.config.rule import tlv_number
from tcpmux.config.settings import DestinationPolicy, EndpointPolicy, Rate, RoutePolicy
from tcpmux.config.size import format_size, parse_size
from tcpmux.config.values import (
    DURATION_SCHEMA,
    OrText,
    Strict,
    boolean,
    duration,
    measure,
    whole,
)

T = TypeVar("T")
FORMER_NAMES = {
    row.former: key
    for table in (RoutePolicy, DestinationPolicy, EndpointPolicy)
    for key, row in rows_of(table).items()
    if row.former
}
MAX_RATE = 1_000_000.0  # per second
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)/(s|m|h)", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TYPES: dict[Kind, Any] = {  # of the others: int
    Kind.SECONDS: float,
    Kind.FLAG: bool,
    Kind.WORD: str,
    Kind.TYPES: tuple[int, ...],
}
_TLV_SCHEMA = {"type": ["integer", "string"], "examples": ["0xEA"]}


def is_off(value: Any) -> bool:
    return value is False or value == "off"  # YAML 1.1 reads off as false


def entry(key: str) -> Callable[[Any], Any]:
    """A mapping, or a text that stands for its one key."""
    return lambda value: value if isinstance(value, dict) else {key: value}


class OrOff:
    """In the JSON Schema: off as well."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["off", False]}, handler(schema)]}


class OrShort:
    """In the JSON Schema: what stands for a mapping of one key as well."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [_schema(self._row), handler(schema)]}


# --- rates --------------------------------------------------------------------------------------


def _rate(value: Any) -> float:
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected a rate such as 100/s or 30/m, got {describe(value)}")
    rate = float(found[1]) / _SECONDS[found[2]]
    if not 1e-4 <= rate <= MAX_RATE:
        raise ValueError(f"expected 1/h..{MAX_RATE:g}/s, got {describe(value)}")
    return rate


def _burst(value: Any) -> int:
    return whole(value, 1, 1_000_000)


class RateModel(Strict):
    rate: Annotated[
        float,
        BeforeValidator(_rate),
        WithJsonSchema({"type": "string", "pattern": r"^[0-9]+([.][0-9]+)?/[smh]$"}),
    ] = Field(description="New connections: 100/s, 30/m or 10/h.")
    burst: (
        Annotated[
            int,
            BeforeValidator(_burst),
            WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 1_000_000}),
        ]
        | None
    ) = Field(
        default=None,
        description="Connections accepted at once; default: those of one second, at least 1.",
    )

    def made(self) -> Rate:
        return Rate(self.rate, self.burst or max(1, round(self.rate)))


# --- one value ----------------------------------------------------------------------------------


def _percent(value: Any, low: float, high: float) -> int:
    text = value[:-1] if isinstance(value, str) and value.endswith("%") else ""
    if not re.fullmatch("[0-9]{1,3}", text, re.ASCII) or not low <= int(text) <= high:
        raise ValueError(f"expected {low}%..{high}%, got {describe(value)}")
    return int(text)


def _bandwidth(value: Any, low: int, high: int) -> int:
    text = value[:-2] if isinstance(value, str) and value.endswith("/s") else value
    if text is value and isinstance(value, str):
        raise ValueError(f"expected a rate such as 10MiB/s, got {describe(value)}")
    return measure(text, parse_size, format_size, (low, high), "rate such as 10MiB/s")


def _size(value: Any, low: int, high: int) -> int:
    return measure(value, parse_size, format_size, (low, high), f"size such as {format_size(high)}")


def tlv_type(value: Any, low: int = 1, high: int = 255) -> int:
    """Of the PROXY protocol. Raises ValueError."""
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    found = tlv_number(text)
    if not low <= found <= high:
        example = max(low, min(high, 0xEA))
        raise ValueError(
            f"expected a type such as {example:#04x}, {low:#04x}..{high:#04x}, "
            f"got {describe(value)}"
        )
    if found in (0x03, 0x04):
        raise ValueError(f"{found:#04x} is of one header alone (a checksum, a padding)")
    return found


def _tlv_types(value: Any, low: int, high: int) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of types such as [0xEA], got {describe(value)}")
    return tuple(sorted({tlv_type(each, low, high) for each in value}))


def one_of(value: Any, words: Iterable[str]) -> str:
    """Raises ValueError."""
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"expected one of {', '.join(words)}, got {describe(value)}")
    return value


def parser(row: Row) -> Callable[[Any], Any]:
    """Checks a value as it stands in a file. Raises ValueError."""
    low, high = row.low, row.high
    checks: dict[Kind, Callable[[Any], Any]] = {
        Kind.WHOLE: lambda value: whole(value, int(low), int(high)),
        Kind.LIMIT: lambda value: whole(value, int(low), int(high)),
        Kind.PERCENT: lambda value: max(row.raised_to, _percent(value, low, high)),
        Kind.SECONDS: lambda value: duration(value, low, high),
        Kind.WHOLE_SECONDS: lambda value: round(duration(value, low, high)),
        Kind.BANDWIDTH: lambda value: _bandwidth(value, int(low), int(high)),
        Kind.SIZE: lambda value: _size(value, int(low), int(high)),
        Kind.FLAG: boolean,
        Kind.WORD: lambda value: one_of(value, row.words),
        Kind.TYPE: lambda value: tlv_type(value, int(low), int(high)) if value != 0 else 0,
        Kind.TYPES: lambda value: _tlv_types(value, int(low), int(high)),
    }
    return checks[row.kind]


def _schema(row: Row) -> dict[str, Any]:
    if row.kind in (Kind.WHOLE, Kind.LIMIT):
        return {"type": "integer", "minimum": row.low, "maximum": row.high}
    schemas: dict[Kind, dict[str, Any]] = {
        Kind.PERCENT: {"type": "string", "pattern": "^[0-9]{1,3}%$"},
        Kind.SECONDS: DURATION_SCHEMA,
        Kind.WHOLE_SECONDS: DURATION_SCHEMA,
        Kind.BANDWIDTH: {"type": "string", "pattern": "^[0-9]+([.][0-9]+)?(B|KiB|MiB|GiB)/s$"},
        Kind.SIZE: {"type": "string", "pattern": "^[0-9]+([.][0-9]+)?(B|KiB|MiB|GiB)$"},
        Kind.FLAG: {"type": "boolean"},
        Kind.WORD: {"enum": list(row.words)},
        Kind.TYPE: _TLV_SCHEMA,
        Kind.TYPES: {"type": "array", "items": _TLV_SCHEMA},
    }
    return schemas[row.kind]


# --- models -------------------------------------------------------------------------------------


def _section(row: Row) -> Any:
    model = model_of(row.table)
    if row.off:
        off: Any = model.model_construct(None, **{row.off: 0})

        def check(value: Any) -> Any:
            return off if is_off(value) else value

        return Annotated[model, BeforeValidator(check), OrOff()]
    if row.short:
        short = rows_of(row.table)[row.short]
        return Annotated[model, BeforeValidator(entry(row.short)), OrShort(short)]
    return model


def _type(row: Row) -> Any:
    if row.kind is Kind.SECTION:
        return _section(row)
    if row.kind is Kind.RATE:
        return Annotated[RateModel, BeforeValidator(entry("rate")), OrText()]
    kind = _TYPES.get(row.kind, int)
    return Annotated[kind, BeforeValidator(parser(row)), WithJsonSchema(_schema(row))]


def fields_of(table: type, *, shared: bool | None = None) -> dict[str, Any]:
    """For create_model(): a field for each key. shared: only those that may stand in `defaults`
    as well, which then say nothing unless they are given; or only the others."""
    found: dict[str, Any] = {}
    defaults = {of.name: of.default for of in fields(table)}
    for key, row in rows_of(table).items():
        if row.kind is Kind.OTHER or (shared is not None and row.shared is not shared):
            continue
        default = defaults[key]
        if row.required:
            default = ...
        elif shared or row.kind in (Kind.LIMIT, Kind.RATE):
            default = None
        elif row.kind is Kind.SECTION:
            default = model_of(row.table)()
        kind = _type(row)
        names: Any = AliasChoices(key, row.former) if row.former else row.key or None
        found[key] = (
            kind | None if default is None else kind,
            Field(default=default, description=row.help, validation_alias=names),
        )
    return found


@cache
def model_of(table: type, *, shared: bool | None = None) -> type[Strict]:
    """What a section may say."""
    checks: dict[str, Any] = {}
    if hasattr(table, "problem"):

        def fits(model: Strict) -> Strict:
            made: Any = settings_of(table, [model])
            problem: str = made.problem()
            if problem:
                raise ValueError(problem)
            return model

        checks["fits"] = model_validator(mode="after")(fits)
    return create_model(
        f"{table.__name__}Model",
        __base__=Strict,
        __validators__=checks,
        **fields_of(table, shared=shared),
    )


def settings_of(table: type[T], models: Sequence[object], **others: Any) -> T:
    """What the first of the models says that says something; of a row that is not shared, the
    first alone. others: what is not for all rows."""
    values: dict[str, Any] = {}
    for key, row in rows_of(table).items():
        said = (getattr(model, key, None) for model in (models if row.shared else models[:1]))
        value = None if row.kind is Kind.OTHER else next((v for v in said if v is not None), None)
        if value is None:
            continue
        if row.kind is Kind.SECTION:
            value = settings_of(row.table, [value])
        values[key] = value.made() if isinstance(value, RateModel) else value
    return table(**values, **others)
