"""Values of the schema that stand in many places: numbers, durations, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from tcpmux.config.document import Substituted
from tcpmux.config.duration import format_duration, parse_duration
from tcpmux.config.problems import describe

N = TypeVar("N", int, float)
DURATION_SCHEMA = {
    "type": ["string", "integer"],
    "pattern": r"^(0|([0-9]+([.][0-9]+)?(ms|[dhms]))+)$",
    "examples": ["250ms", "10s", "1h30m"],
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class OrText:
    """In the JSON Schema: the short form as well."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


def number(value: Any) -> Any:
    """What the environment has put in is a text."""
    digits = isinstance(value, Substituted) and value.isascii() and value.isdigit()
    return int(value[:20]) if digits else value


def whole(value: Any, low: int, high: int) -> int:
    """A number within bounds. Raises ValueError."""
    value = number(value)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"expected {low}..{high}, got {describe(value)}")
    return value


def measure(
    value: Any,
    parse: Callable[[str], N],
    show: Callable[[N], str],
    range_: tuple[N, N],
    example: str,
) -> N:
    """A number that is written with its unit."""
    if not isinstance(value, str):
        raise ValueError(f"expected a {example}, got {describe(value)}")
    try:
        found = parse(value)
    except ValueError as error:
        raise ValueError(f"{error}, got {describe(value)}") from None
    low, high = range_
    if not low <= found <= high:
        raise ValueError(f"expected {show(low)}..{show(high)}, got {describe(value)}")
    return found


def duration(value: Any, low: float, high: float) -> float:
    """Seconds. Raises ValueError."""
    text = str(value) if type(value) is int else value
    example = "duration such as 10s, 250ms or 1h30m"
    return measure(text, parse_duration, format_duration, (low, high), example)


def boolean(value: Any) -> bool:
    """Raises ValueError."""
    texts = {"true": True, "false": False}
    if isinstance(value, Substituted) and value in texts:
        return texts[value]
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {describe(value)}")
    return value
