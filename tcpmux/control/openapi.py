"""The OpenAPI document of the admin API, made of its table of operations. Runs in control."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tcpmux.control.operation import Row, Schema, closed_object

_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    dict: {"type": "object"},
}
_REFUSALS = {
    400: "The request is malformed.",
    401: "Over TCP: without a token.",
    403: "Not for this user or with a token that may only read, or from another site.",
    404: "Not found.",
    405: "The method is not allowed.",
    408: "The body did not arrive in time.",
    409: "Refused in the current state; nothing has changed.",
    413: "The body is too large.",
    414: "The path and the query are too long.",
    422: "The configuration files contain an error; nothing has changed.",
    500: "Internal error.",
    503: "The master is not running, or too many streams are open.",
    504: "The master did not answer in time.",
}


def _schema(kind: Any, components: dict[str, Schema]) -> Schema:
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], components)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], components)}
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is types.UnionType:
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return {"anyOf": [_schema(inner, components), {"type": "null"}]}
    name: str = kind.__name__
    if name not in components:
        components[name] = {}  # itself may be in it
        hints = get_type_hints(kind)
        components[name] = {
            "type": "object",
            "properties": {key: _schema(hint, components) for key, hint in hints.items()},
            "required": sorted(kind.__required_keys__),
        }
    return {"$ref": f"#/components/schemas/{name}"}


def document(rows: Iterable[Row], version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    error = closed_object(
        ["error"],
        error={"type": "string"},
        hint={"enum": ["force"], "description": "the parameter that would have it done"},
    )
    components: dict[str, Schema] = {"Error": error}
    refusals = {
        str(status): {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status, text in _REFUSALS.items()
    }
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        answer = {
            "description": row.summary,
            "content": {row.media: {"schema": _schema(row.answer, components)}},
        }
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in row.parameters
        ]
        parameters += [
            {"name": name, "in": "query", "schema": schema} for name, schema in row.query.items()
        ]
        made: dict[str, Any] = {
            "operationId": row.name,
            "summary": row.summary,
            "description": " ".join(row.help.split()),
            "parameters": parameters,
            "responses": {str(row.status): answer, **refusals},
        }
        if row.body is not None:
            content = {"application/json": {"schema": row.body}}
            made["requestBody"] = {"required": "required" in row.body, "content": content}
        paths.setdefault(row.path, {})[row.method.lower()] = made
    return {
        "openapi": "3.1.0",
        "info": {"title": "tcpmux", "version": version, "description": "The admin API."},
        "paths": paths,
        "components": {"schemas": components},
    }
