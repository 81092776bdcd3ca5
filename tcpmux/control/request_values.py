"""Validates a request against the row of its operation. Runs in control.

The part of JSON Schema that the rows use, read as an operator would want to be told of a mistake.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tcpmux.control.master_link import MasterRefused

if TYPE_CHECKING:
    from tcpmux.control.operation import Row, Schema


def is_text(value: object) -> bool:
    """JSON has half characters, and nothing else does."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


# By JSON type: what a refusal calls it, and whether a value is one.
_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "string": ("a string", is_text),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("a whole number", lambda value: type(value) is int),
    "number": ("a number", lambda value: type(value) in (int, float)),
    "array": ("a list", lambda value: isinstance(value, list)),
    "object": ("an object", lambda value: isinstance(value, dict)),
}


class _Wrong(Exception):
    """where: the keys that lead to it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.where: list[str] = []


def _check(value: Any, schema: Schema) -> None:
    """Raises _Wrong."""
    if "enum" in schema:
        if not (is_text(value) and value in schema["enum"]):
            raise _Wrong(f"expected one of {', '.join(schema['enum'])}")
        return
    name, is_one = _TYPES[schema["type"]]
    if not is_one(value) or not _is_in_range(value, schema):
        raise _Wrong(f"expected {name}{_range_text(schema)}")
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        raise _Wrong(f"{value[:100]!r} is not {schema['description']}")
    if isinstance(value, dict):
        _check_object(value, schema)
    elif isinstance(value, list):
        for item in value:
            _check_part("", item, schema["items"])


def _check_object(value: dict[str, Any], schema: Schema) -> None:
    known, others = schema.get("properties", {}), schema["additionalProperties"]
    for name in schema.get("required", ()):
        if name not in value:
            raise _Wrong(f"{name} is missing")
    for name, part in value.items():
        if name in known:
            _check_part(name, part, known[name])
        elif others is False or not is_text(name):
            raise _Wrong(f"unknown: {name[:100]!r}")
        else:
            _check_part(name, part, others)


def _check_part(name: str, value: Any, schema: Schema) -> None:
    try:
        _check(value, schema)
    except _Wrong as wrong:
        wrong.where[:0] = [name] if name else []
        raise


def _is_in_range(value: Any, schema: Schema) -> bool:
    if isinstance(value, str):
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))
    if isinstance(value, list):
        return bool(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)))
    if isinstance(value, (bool, dict)):
        return True
    # Not a number (NaN) is in no range.
    return bool(
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and value > schema.get("exclusiveMinimum", float("-inf"))
    )


def _range_text(schema: Schema) -> str:
    if "maximum" in schema:
        if "minimum" in schema:
            return f" {schema['minimum']}..{schema['maximum']}"
        return f" over {schema['exclusiveMinimum']}, up to {schema['maximum']}"
    if "maxLength" in schema:
        return f" of {schema['minLength']} to {schema['maxLength']} characters"
    if "maxItems" in schema:
        return f" of {schema.get('minItems', 0)} to {schema['maxItems']}"
    return ""


def body_values(row: Row, body: bytes) -> dict[str, Any]:
    """The JSON object of a request; no body counts as {}. Raises MasterRefused."""
    try:
        value = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise MasterRefused("invalid", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MasterRefused("invalid", "the body is not a JSON object")
    if row.body is not None and not row.checked_by_master:
        try:
            _check(value, row.body)
        except _Wrong as wrong:
            where = f"{'.'.join(wrong.where)}: " if wrong.where else ""
            raise MasterRefused("invalid", f"{where}{wrong}; the body is {row.example}") from None
    return value


def query_flags(row: Row, query: Mapping[str, str]) -> dict[str, bool]:
    """Parameters that are true or false, by default false. Raises MasterRefused."""
    flags = {}
    for name, schema in row.query.items():
        if schema.get("type") == "boolean":
            text = query.get(name, "false")
            if text not in ("true", "false"):
                raise MasterRefused("invalid", f"{name}: expected true or false, got {text!r}")
            flags[name] = text == "true"
    return flags
