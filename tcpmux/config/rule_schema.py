"""The schema of a route's rules. Private to the package: others see the Rule of rule.py."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema

from tcpmux.config.address import Address, parse_listen
from tcpmux.config.keys import tlv_type
from tcpmux.config.model import MAX_WEIGHT
from tcpmux.config.policy import ClientsText
from tcpmux.config.problems import describe
from tcpmux.config.rule import Rule, tlv_value
from tcpmux.config.values import Flag, Name, Strict, whole

MAX_SNI = 253  # bytes of a name; RFC 1035 without the last dot
MAX_ALPN = 63  # workers keep 64 bytes of what a client offers, sizes included
MAX_TLV = 109  # workers keep 112 bytes, types and sizes included
LISTEN_FORMS = "IP:port, [IPv6]:port or unix:/path"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


def listen_address(value: Any) -> list[Address]:
    """Addresses of a listener. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"expected {LISTEN_FORMS}, got {describe(value)}")
    try:
        return parse_listen(value)
    except ValueError as error:
        raise ValueError(f"{error}, got {describe(value)}") from None


def share(value: Any) -> int:
    return whole(value, 0, MAX_WEIGHT)


def _port(value: Any) -> int:
    return whole(value, 1, 65535)


def sni(value: Any) -> str:
    """A name, or *. and the end of one, in lower case. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"expected a host name such as shop.example, got {describe(value)}")
    if value == "*":
        raise ValueError("expected a host name or *.SUFFIX, got * (tls: true is any client of TLS)")
    if not value.isascii():
        raise ValueError(f"expected a host name as clients send it{_a_label(value)}, got {value}")
    name = value.lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    is_address = labels[-1].isdigit()  # which no client asks for, as workers see it
    if len(name) > MAX_SNI or is_address or not all(map(_LABEL.fullmatch, labels)):
        hint = " (* stands for whole labels at the beginning)" if "*" in labels[0] else ""
        raise ValueError(
            f"expected a host name such as shop.example or *.example, got {describe(value)}{hint}"
        )
    return name


def _a_label(value: str) -> str:
    try:
        return f": {value.encode('idna').decode('ascii')}"
    except UnicodeError:
        return " (xn--...)"


def _alpn(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(rf"[!-~]{{1,{MAX_ALPN}}}", value, re.ASCII):
        raise ValueError(
            f"expected a protocol of 1 to {MAX_ALPN} characters such as postgresql, "
            f"got {describe(value)}"
        )
    return value


def _tlvs(value: Any) -> Any:
    """A mapping of types to values, or to lists of them."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping such as {{0xEA: vpce-123}}, got {describe(value)}")
    found: dict[int, tuple[bytes, ...]] = {}
    for key, values in value.items():
        kind = tlv_type(key)
        if kind in found:
            raise ValueError(f"expected each type once, got {kind:#04x} twice")
        several = values if isinstance(values, list) else [values]
        if not several:
            raise ValueError(f"expected a value of {kind:#04x}, got an empty list")
        found[kind] = tuple(_tlv_value(kind, one) for one in several)
    if not found:
        raise ValueError("expected a mapping such as {0xEA: vpce-123}, got an empty one")
    return tuple(sorted(found.items()))


def _tlv_value(kind: int, value: Any) -> bytes:
    if not isinstance(value, str):
        hint = "" if isinstance(value, (list, dict)) or value is None else " (put it in quotes)"
        raise ValueError(
            f"expected a text as the value of {kind:#04x}, got {describe(value)}{hint}"
        )
    try:
        found = tlv_value(kind, value)
    except ValueError:
        raise ValueError(f"expected hexadecimal digits after hex:, got {describe(value)}") from None
    if not 1 <= len(found) <= MAX_TLV:
        raise ValueError(f"expected 1 to {MAX_TLV} bytes, got {len(found)}")
    return found


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class OneOrMore:
    """In the JSON Schema: one entry of the list without it, as well."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        several = handler(schema)
        return {"anyOf": [several["items"], several]}


T = TypeVar("T")
Some = Annotated[list[T], BeforeValidator(_listed), Field(min_length=1), OneOrMore()]
Port = Annotated[
    int,
    BeforeValidator(_port),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65535}),
]
Listen = Annotated[
    list[Address], BeforeValidator(listen_address), WithJsonSchema({"type": "string"})
]
HostText = Annotated[
    str,
    BeforeValidator(sni),
    WithJsonSchema({"type": "string", "examples": ["shop.example", "*.example"]}),
]
Protocol = Annotated[
    str, BeforeValidator(_alpn), WithJsonSchema({"type": "string", "examples": ["postgresql"]})
]
Tlvs = Annotated[
    tuple[tuple[int, tuple[bytes, ...]], ...],
    BeforeValidator(_tlvs),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
            },
        }
    ),
]
Weight = Annotated[
    int,
    BeforeValidator(share),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT}),
]


class RuleModel(Strict):
    name: Name | None = Field(
        default=None,
        description="Its counters, its exact share and weights set at run time stay with the name; "
        "default: one that follows from the conditions.",
    )
    source: Some[ClientsText] | None = Field(
        default=None, description="Clients: addresses, networks, and unix for UNIX sockets."
    )
    port: Some[Port] | None = Field(
        default=None, description="Ports of the route that the client connects to."
    )
    listen: Some[Listen] | None = Field(
        default=None, description="Addresses of the route's listen, as an alternative to ports."
    )
    sni: Some[HostText] | None = Field(
        default=None,
        description="Names that a TLS client asks for: exact, or *.SUFFIX for one or more labels "
        "in front of it.",
    )
    alpn: Some[Protocol] | None = Field(
        default=None, description="Protocols (ALPN) of which a TLS client offers one."
    )
    tlv: Tlvs | None = Field(
        default=None,
        description="Types of the PROXY protocol's header, each with a value or a list of them; "
        "hex:0aff for bytes.",
    )
    tls: Flag | None = Field(
        default=None, description="Whether the client begins with a TLS ClientHello."
    )
    to: Name | None = Field(default=None, description="The destination of these connections.")
    weights: Annotated[dict[Name, Weight], Field(min_length=1)] | None = Field(
        default=None, description="Or weights of several destinations; those not named have 0."
    )
    reject: Flag = Field(default=False, description="Or true: these connections are reset.")

    @model_validator(mode="after")
    def _fits(self) -> RuleModel:
        given = [key for key in ("to", "weights", "reject") if getattr(self, key)]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise ValueError(f"expected to, weights or reject: true, got {got}")
        wants = [key for key in ("sni", "alpn") if getattr(self, key)]
        if self.tls is False and wants:
            raise ValueError(f"{wants[0]} needs TLS: with tls: false nothing would ever match")
        return self

    def made(self) -> Rule:
        return Rule(
            name=self.name or "",
            sources=tuple(self.source or ()),
            ports=tuple(self.port or ()),
            sni=tuple(self.sni or ()),
            alpn=tuple(self.alpn or ()),
            tlvs=self.tlv or (),
            tls=self.tls,
            weights=((self.to, 1),) if self.to else tuple((self.weights or {}).items()),
            reject=self.reject,
            listen=tuple(_flat(self.listen or ())),
        )


def _flat(lists: Iterable[Iterable[Address]]) -> Iterable[Address]:
    return (address for addresses in lists for address in addresses)
