"""The schema of `converge` in a route. Private to the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from tcpmux.config.converge import (
    CONVERGE_WHEN,
    GOODBYES,
    Converge,
    rate_of,
    why_not_rehome,
)
from tcpmux.config.keys import model_of, settings_of
from tcpmux.config.problems import describe
from tcpmux.config.rows import rows_of
from tcpmux.config.values import Strict

_ROWS = rows_of(Converge)
MANUAL = "manual"

if TYPE_CHECKING:
    _ConvergeKeys = Strict
else:
    _ConvergeKeys = model_of(Converge)


def _when(value: Any) -> int:
    if value == MANUAL:
        return 0
    known = ", ".join(CONVERGE_WHEN)
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected manual, or a list of {known}; got {describe(value)}")
    for cause in value:
        if not isinstance(cause, str) or cause not in CONVERGE_WHEN:
            raise ValueError(f"expected some of {known}, got {describe(cause)}")
    return sum(1 << bit for bit, cause in enumerate(CONVERGE_WHEN) if cause in value)


def _rate(value: Any) -> tuple[int, int]:
    if not isinstance(value, str):
        raise ValueError(f"expected a rate such as 10/s or 1%/s, got {describe(value)}")
    return rate_of(value)


class ConvergeModel(_ConvergeKeys):
    when: Annotated[
        int,
        BeforeValidator(_when),
        WithJsonSchema(
            {
                "anyOf": [
                    {"const": MANUAL},
                    {"type": "array", "items": {"enum": [*CONVERGE_WHEN]}, "minItems": 1},
                ]
            }
        ),
    ] = Field(description=_ROWS["when"].help)
    rate: Annotated[
        tuple[int, int],
        BeforeValidator(_rate),
        WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%?/s$"}),
    ] = Field(default=rate_of("10/s"), description=_ROWS["rate"].help)

    @model_validator(mode="after")
    def _can_rehome(self) -> ConvergeModel:
        found = self.made()
        why = why_not_rehome(found.protocol, found.goodbye) if found.method == "rehome" else ""
        if why:
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _has_goodbye(self) -> ConvergeModel:
        made = self.made()
        if made.goodbye and made.protocol not in GOODBYES:
            raise ValueError(
                f"goodbye needs a protocol that has one, {', '.join(GOODBYES[:-1])} or "
                f"{GOODBYES[-1]}; it is {made.protocol}: leave out goodbye, or set protocol"
            )
        return self

    def made(self) -> Converge:
        rate, percent = self.rate
        return settings_of(
            Converge, [self], is_set=True, when=self.when, rate=rate, rate_percent=percent
        )


def why_no_tls(model: ConvergeModel | None, starttls: str) -> str:
    """Why connections that begin with TLS in the end can't go as it says; "" = they can."""
    if model is None or model.made().method != "rehome" or starttls == "none":
        return ""
    return (
        "converge: method rehome can't work with preread: starttls, as another endpoint does not "
        "know the TLS session of a client: use method close"
    )
