"""The schema of `hooks` in `rollout`. Private to the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from tcpmux.config.address import parse_endpoint
from tcpmux.config.duration import format_duration
from tcpmux.config.problems import describe
from tcpmux.config.values import DURATION_SCHEMA, Strict, duration
from tcpmux.config.written import Pairs, flow
from tcpmux.rollout.hooks import (
    MAX_QUERIES,
    NO_HOOKS,
    TIMEOUTS,
    Hooks,
    Query,
    checked_path,
    checked_query,
    checked_url,
    site_of,
)

_URL_SCHEMA = {"type": "string", "pattern": "^https?://"}


def _url(value: Any, *, is_base: bool = False) -> str:
    text = checked_url(value, is_base=is_base)
    site = site_of(text)
    host = f"[{site.host}]" if ":" in site.host else site.host
    parse_endpoint(f"{host}:{site.port}")
    return text


def _value(value: Any) -> float:
    """In a file a number with a point is a text."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"expected a number, got {describe(value)}")
    return found


Url = Annotated[str, BeforeValidator(_url), WithJsonSchema(_URL_SCHEMA)]
Value = Annotated[float, BeforeValidator(_value), WithJsonSchema({"type": "number"})]


class QueryModel(Strict):
    url: Annotated[
        str,
        BeforeValidator(lambda value: _url(value, is_base=True)),
        WithJsonSchema(_URL_SCHEMA),
    ] = Field(description="Of a Prometheus server: what stands before /api/v1/query.")
    query: Annotated[
        str, BeforeValidator(checked_query), WithJsonSchema({"type": "string", "minLength": 1})
    ] = Field(description="An instant query.")
    min: Value | None = Field(default=None, description="Its value has to be at least this.")
    max: Value | None = Field(default=None, description="Its value has to be at most this.")

    @model_validator(mode="after")
    def _has_threshold(self) -> QueryModel:
        if self.min is None and self.max is None:
            raise ValueError("expected min or max: without one the query decides nothing")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("expected a min that is not above max")
        return self

    def made(self) -> Query:
        return Query(
            self.url,
            self.query,
            -math.inf if self.min is None else self.min,
            math.inf if self.max is None else self.max,
        )


def _queries(value: Any) -> Any:
    if not isinstance(value, list) or len(value) > MAX_QUERIES:
        raise ValueError(f"expected a list of at most {MAX_QUERIES}, got {describe(value)}")
    return value


class HooksModel(Strict):
    gate: Url | None = Field(
        default=None, description="A URL that answers 200 to a GET when a step may begin."
    )
    events: Url | None = Field(
        default=None, description="A URL to which what happens is sent, as JSON."
    )
    exec: Annotated[
        str | None,
        BeforeValidator(lambda value: None if value is None else checked_path(value)),
        WithJsonSchema({"type": "string", "pattern": "^/"}),
    ] = Field(default=None, description="A program that is run when something happens.")
    prometheus: Annotated[list[QueryModel], BeforeValidator(_queries)] = Field(
        default=[], description="Queries whose values have to be within bounds when a step ends."
    )
    timeout: Annotated[
        float,
        BeforeValidator(lambda value: duration(value, *TIMEOUTS)),
        WithJsonSchema(DURATION_SCHEMA),
    ] = Field(
        default=NO_HOOKS.timeout, description="Time limit of each request, and of the program."
    )

    def made(self) -> Hooks:
        return Hooks(
            self.gate or "",
            self.events or "",
            self.exec or "",
            tuple(each.made() for each in self.prometheus),
            self.timeout,
        )


def _query_pairs(query: Query, scalar: Callable[[str], str]) -> Pairs:
    yield "url", scalar(query.url)
    yield "query", scalar(query.query)
    for key, bound in (("min", query.low), ("max", query.high)):
        if math.isfinite(bound):
            yield key, repr(bound)


def hooks_pairs(hooks: Hooks, scalar: Callable[[str], str]) -> Pairs:
    """As they stand in a file."""
    for key in ("gate", "events", "exec"):
        if text := getattr(hooks, key):
            yield key, scalar(text)
    if hooks.prometheus:
        queries = (flow(_query_pairs(each, scalar)) for each in hooks.prometheus)
        yield "prometheus", f"[{', '.join(queries)}]"
    if hooks.timeout != NO_HOOKS.timeout:
        yield "timeout", format_duration(hooks.timeout)
