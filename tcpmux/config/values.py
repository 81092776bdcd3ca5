"""Types that several schemas share: numbers, durations, sizes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

from tcpmux.config.document import Substituted
from tcpmux.config.duration import format_duration, parse_duration
from tcpmux.config.problems import describe

N = TypeVar("N", int, float)
MAX_DIGITS = 20
_LIKE_NUMBER = re.compile(r"[+-]?[0-9][0-9_]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
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
    return int(value) if digits and len(value) <= MAX_DIGITS else value


def unlike_number(value: Any) -> str:
    """As describe(), of what stands where a number belongs: one in quotes is a text."""
    # One with more digits than Python reads is a text, too, however it is written.
    if isinstance(value, str) and len(value) <= MAX_DIGITS and _LIKE_NUMBER.fullmatch(value):
        return f'the string "{describe(value)}": write it without quotes'
    return describe(value)


def whole(value: Any, low: int, high: int) -> int:
    """A number within bounds. Raises ValueError."""
    value = number(value)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"expected {low}..{high}, got {unlike_number(value)}")
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
        in_quotes = isinstance(value, str) and value in texts
        got = f'the string "{value}": write it without quotes' if in_quotes else describe(value)
        raise ValueError(f"expected true or false, got {got}")
    return value


Flag = Annotated[bool, BeforeValidator(boolean), WithJsonSchema({"type": "boolean"})]


def name(value: Any) -> str:
    """Of a route or a destination. Raises ValueError."""
    if not isinstance(value, str):
        hint = "" if value is None or isinstance(value, (dict, list)) else " (put it in quotes)"
        raise ValueError(f"expected a name, got {describe(value)}{hint}")
    if not _NAME.fullmatch(value):
        raise ValueError(
            "expected 1 to 63 letters, digits, '.', '_' or '-', beginning with a "
            f"letter or digit, got {describe(value)}"
        )
    return value


Name = Annotated[
    str, BeforeValidator(name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})
]
