"""The schema of what a route does when things go wrong, and of its limits: keys that stand beside
listen and endpoints. Most are made of the rows of settings.py; here are those that are more than a
number or a word. Private to the package: others see the types of model.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from tcpmux.config.check import CHECK_KINDS, Check
from tcpmux.config.converge import Converge
from tcpmux.config.converge_key import ConvergeModel, why_no_tls
from tcpmux.config.keys import entry, is_off, model_of, one_of, settings_of
from tcpmux.config.mirror import Mirror
from tcpmux.config.mirror_key import MirrorModel
from tcpmux.config.patterns import compiled
from tcpmux.config.preread import Preread
from tcpmux.config.preread_key import PrereadModel
from tcpmux.config.problems import describe
from tcpmux.config.rows import DAY, rows_of
from tcpmux.config.settings import (
    UNIX,
    AcceptProxy,
    Clients,
    DestinationPolicy,
    EndpointPolicy,
    Queue,
    RoutePolicy,
    Timeouts,
)
from tcpmux.config.sticky import Sticky
from tcpmux.config.sticky_key import StickyModel
from tcpmux.config.values import (
    DURATION_SCHEMA,
    Flag,
    Name,
    OrText,
    Strict,
    duration,
    number,
    whole,
)

MAX_BYTES = 64 * 1024  # that a check sends or expects
_ROUTE, _DESTINATION, _CHECK, _PROXY = map(
    rows_of, (RoutePolicy, DestinationPolicy, Check, AcceptProxy)
)


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {describe(value)}")
    return _not_too_long(value.encode("utf-8", "surrogateescape"))


def _hex(value: Any) -> bytes:
    try:
        found = bytes.fromhex(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected hexadecimal digits, got {describe(value)}") from None
    return _not_too_long(found)


def _not_too_long(value: bytes) -> bytes:
    """As much as is looked at of an answer."""
    if len(value) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES} bytes, got {len(value)}")
    return value


def _pattern(value: Any) -> bytes:
    pattern = _text(value)
    try:
        compiled(pattern)
    except ValueError as error:
        raise ValueError(
            "expected a regular expression as RE2 has them (no look-around, no backreferences), "
            f"got one that fails: {error}"
        ) from None
    return pattern


def _plain(pattern: str, what: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(f"expected {what}, got {describe(value)}")
        return value

    return check


def _status(value: Any) -> tuple[int, int]:
    found = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", str(number(value)), re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise ValueError(f"expected a status such as 200 or 200-399, got {describe(value)}")
    return first, last


def _clients(value: Any) -> Clients:
    if value == UNIX:
        return UNIX
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"expected {_network_hint(value)}, got {describe(value)}") from None


def _network_hint(value: Any) -> str:
    try:
        network = ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        return "an address, a network such as 10.0.0.0/8, or unix"
    return f"{network} (bits after the prefix must be 0)"


def _word_or_mapping(words: tuple[str, ...], example: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, dict) or (isinstance(value, str) and value in words):
            return value
        raise ValueError(f"expected {', '.join(words)} or {example}, got {describe(value)}")

    return check


def _check_entry(value: Any) -> Any:
    if is_off(value):
        return {"type": "off"}
    return value if isinstance(value, dict) else {"type": value}


_CLIENTS_SCHEMA = {"type": "string", "examples": ["10.0.0.0/8", UNIX]}
_CHECK_TYPES = ("off", *CHECK_KINDS)
Seconds = Annotated[
    float,
    BeforeValidator(lambda value: duration(value, 0.001, DAY)),
    WithJsonSchema(DURATION_SCHEMA),
]


def _check_type(value: Any) -> str:
    return one_of(value, _CHECK_TYPES)


# --- keys that are made of rows: keys.py ---------------------------------------------------------

if TYPE_CHECKING:  # their fields are asked for by key
    _SharedKeys = Strict
    _DestinationKeys = Strict
    _RouteKeys = Strict
    _EndpointKeys = Strict
    _CheckKeys = Strict
    _ProxyKeys = Strict
    QueueModel = Strict

    class TimeoutsModel(Strict): ...

else:
    _SharedKeys = model_of(DestinationPolicy, shared=True)
    _DestinationKeys = model_of(DestinationPolicy, shared=False)
    _RouteKeys = model_of(RoutePolicy)
    _EndpointKeys = model_of(EndpointPolicy, shared=True)
    _CheckKeys = model_of(Check)
    _ProxyKeys = model_of(AcceptProxy)
    QueueModel = model_of(Queue)
    TimeoutsModel = model_of(Timeouts)


# --- checks -------------------------------------------------------------------------------------


class CheckModel(_CheckKeys):
    type: Annotated[
        str, BeforeValidator(_check_type), WithJsonSchema({"enum": list(_CHECK_TYPES)})
    ] = Field(
        description="tcp (connect), send (and expect), tls (handshake), http (GET); redis, "
        "postgres and mysql: what a client says first."
    )
    send: Annotated[bytes, BeforeValidator(_text), WithJsonSchema({"type": "string"})] | None = (
        Field(default=None, description=_CHECK["send"].help)
    )
    send_hex: Annotated[bytes, BeforeValidator(_hex), WithJsonSchema({"type": "string"})] | None = (
        Field(default=None, description="send: bytes to send first, in hexadecimal.")
    )
    expect: Annotated[bytes, BeforeValidator(_text), WithJsonSchema({"type": "string"})] | None = (
        Field(default=None, description=_CHECK["expect"].help)
    )
    expect_hex: (
        Annotated[bytes, BeforeValidator(_hex), WithJsonSchema({"type": "string"})] | None
    ) = Field(default=None, description="send: bytes that the answer must contain, in hexadecimal.")
    expect_regex: (
        Annotated[bytes, BeforeValidator(_pattern), WithJsonSchema({"type": "string"})] | None
    ) = Field(
        default=None, description="send: regular expression (RE2) that the answer must match."
    )
    path: Annotated[
        str,
        BeforeValidator(_plain(r"/[!-~]{0,1023}", "a path such as /health")),
        WithJsonSchema({"type": "string", "pattern": "^/"}),
    ] = Field(default="/", description=_CHECK["path"].help)
    host: (
        Annotated[
            str,
            BeforeValidator(_plain(r"[A-Za-z0-9.:_\[\]-]{1,255}", "a host name")),
            WithJsonSchema({"type": "string"}),
        ]
        | None
    ) = Field(default=None, description=_CHECK["host"].help)
    status: Annotated[
        tuple[int, int],
        BeforeValidator(_status),
        WithJsonSchema({"type": ["string", "integer"], "examples": ["200-399"]}),
    ] = Field(default=(200, 399), description=_CHECK["status"].help)

    proxy: Flag | None = Field(default=None, description=_CHECK["proxy"].help)

    @model_validator(mode="after")
    def _fits(self) -> CheckModel:
        given = [key for key in ("expect", "expect_hex", "expect_regex") if getattr(self, key)]
        if len(given) > 1 or (self.send and self.send_hex):
            raise ValueError(
                "expected one of expect, expect_hex and expect_regex, and one of send and send_hex"
            )
        own = {
            "send": ("send", "send_hex", "expect", "expect_hex", "expect_regex"),
            "http": ("path", "status", "tls", "host"),
            "tls": ("host",),
        }
        fits = own.get(self.type, ())
        alien = [
            key
            for keys in own.values()
            for key in keys
            if key in self.model_fields_set and key not in fits
        ]
        if alien:
            raise ValueError(f"{alien[0]} is not for checks of type {self.type}")
        return self

    def made(self) -> Check | None:
        if self.type == "off":
            return None
        made = settings_of(
            Check,
            [self],
            kind=self.type,
            send=self.send or self.send_hex or b"",
            expect=self.expect or self.expect_hex or self.expect_regex or b"",
            is_pattern=self.expect_regex is not None,
            path=self.path,
            host=self.host or "",
            status=self.status,
        )
        return replace(made, fast_interval=min(made.fast_interval, made.interval))


# --- what defaults, routes and destinations may say ---------------------------------------------


class SharedModel(_SharedKeys):
    """In defaults for all, in a route for its destinations, in a destination."""

    check: Annotated[CheckModel, BeforeValidator(_check_entry), OrText()] | None = Field(
        default=None, description=_DESTINATION["check"].help
    )


# --- routes -------------------------------------------------------------------------------------


class FallbackModel(Strict):
    fallback: Name = Field(description=_ROUTE["fallback"].help)


class HoldModel(Strict):
    hold: Seconds = Field(description=_ROUTE["hold"].help)


ClientsText = Annotated[
    IPv4Network | IPv6Network | str, BeforeValidator(_clients), WithJsonSchema(_CLIENTS_SCHEMA)
]


VersionNumber = Annotated[
    int,
    BeforeValidator(lambda value: whole(value, 1, 2)),
    WithJsonSchema({"enum": [1, 2]}),
]


class AcceptProxyModel(_ProxyKeys):
    senders: Annotated[list[ClientsText], Field(min_length=1)] = Field(
        validation_alias="from", description=_PROXY["senders"].help
    )
    versions: Annotated[list[VersionNumber], Field(min_length=1)] = Field(
        default=[1, 2], description=_PROXY["versions"].help
    )

    def made(self) -> AcceptProxy:
        versions = sum({1 << (version - 1) for version in self.versions})
        return settings_of(AcceptProxy, [self], senders=tuple(self.senders), versions=versions)


class RoutePolicyModel(_RouteKeys):
    accept_proxy: AcceptProxyModel | None = Field(
        default=None, description=_ROUTE["accept_proxy"].help
    )
    preread: PrereadModel | None = Field(default=None, description=_ROUTE["preread"].help)
    sticky: Annotated[StickyModel, BeforeValidator(entry("by")), OrText()] | None = Field(
        default=None, description=_ROUTE["sticky"].help
    )
    converge: ConvergeModel | None = Field(default=None, description=_ROUTE["converge"].help)
    mirror: MirrorModel | None = Field(default=None, description=_ROUTE["mirror"].help)
    allow: list[ClientsText] = Field(default=[], description=_ROUTE["allow"].help)
    deny: list[ClientsText] = Field(default=[], description=_ROUTE["deny"].help)
    on_unavailable: Annotated[
        FallbackModel | str,
        BeforeValidator(_word_or_mapping(("redistribute", "reject"), "{fallback: NAME}")),
    ] = Field(default="redistribute", description=_ROUTE["on_unavailable"].help)
    on_all_unavailable: Annotated[
        HoldModel | str,
        BeforeValidator(_word_or_mapping(("reset", "refuse"), "{hold: 5s}")),
    ] = Field(default="reset", description=_ROUTE["on_all_unavailable"].help)

    @model_validator(mode="after")
    def _has_tlvs(self) -> RoutePolicyModel:
        if self.sticky and self.sticky.by[0] == "tlv" and not self.accept_proxy:
            raise ValueError("sticky by a TLV needs accept_proxy, whose headers have it")
        return self

    @model_validator(mode="after")
    def _can_rehome(self) -> RoutePolicyModel:
        why = why_no_tls(self.converge, self.preread.made().starttls) if self.preread else ""
        if why:
            raise ValueError(why)
        return self

    def made(self, defaults: SharedModel) -> RoutePolicy:
        unavailable, all_unavailable = self.on_unavailable, self.on_all_unavailable
        fallback = unavailable.fallback if isinstance(unavailable, FallbackModel) else ""
        hold = all_unavailable.hold if isinstance(all_unavailable, HoldModel) else 0.0
        return settings_of(
            RoutePolicy,
            [self, defaults],
            on_unavailable="fallback" if fallback else str(unavailable),
            fallback=fallback,
            on_all_unavailable="hold" if hold else str(all_unavailable),
            hold=hold,
            allow=tuple(self.allow),
            deny=tuple(self.deny),
            accept_proxy=self.accept_proxy.made() if self.accept_proxy else AcceptProxy(),
            preread=self.preread.made() if self.preread else Preread(),
            sticky=self.sticky.made() if self.sticky else Sticky(),
            converge=self.converge.made() if self.converge else Converge(),
            mirror=self.mirror.made() if self.mirror else Mirror(),
        )


class FullModel(Strict):
    queue: QueueModel = Field(description=_DESTINATION["queue"].help)


class DestinationPolicyModel(_DestinationKeys):
    on_full: Annotated[
        FullModel | str,
        BeforeValidator(_word_or_mapping(("reject", "spill"), "{queue: {size: 100, timeout: 5s}}")),
    ] = Field(default="reject", description=_DESTINATION["on_full"].help)

    def made(self, shared: Sequence[SharedModel]) -> DestinationPolicy:
        """shared: those that may say it as well, the nearest first; the first is this one."""
        check = next((model.check for model in shared if model.check is not None), None)
        full = self.on_full
        queue = {"queue": settings_of(Queue, [full.queue])} if isinstance(full, FullModel) else {}
        policy = settings_of(
            DestinationPolicy,
            shared,
            check=check.made() if check else None,
            on_full="queue" if queue else str(full),
            **queue,
        )
        if check is None or policy.check is None:
            return policy
        sends = not policy.check.port if check.proxy is None else check.proxy
        version = policy.send_proxy.version if sends else 0
        return replace(policy, check=replace(policy.check, proxy=version))


class EndpointLimits(_EndpointKeys):
    backup: Flag = Field(default=False, description="Short for priority: 1.")

    def made(self) -> EndpointPolicy:
        return settings_of(EndpointPolicy, [self, EndpointPolicy(priority=int(self.backup))])
