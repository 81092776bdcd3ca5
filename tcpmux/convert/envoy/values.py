"""Values as Envoy's files have them: protocol buffers written as YAML or JSON."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from ipaddress import ip_network
from typing import Any

from tcpmux.config.address import Address, Endpoint, parse_endpoint
from tcpmux.config.problems import describe
from tcpmux.config.rows import DAY
from tcpmux.config.settings import Network
from tcpmux.convert.report import Effect
from tcpmux.convert.seconds import limited
from tcpmux.convert.tree import Node

HARMLESS, CHANGES, MAPPED = Effect.HARMLESS, Effect.CHANGES, Effect.MAPPED
_DURATION = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s", re.ASCII)
_TYPE = re.compile(r"(?:type\.googleapis\.com/)?([A-Za-z0-9_.]+)", re.ASCII)


def fold(key: str) -> str:
    """snake_case, which is as good as lowerCamelCase there."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower() if key[:1].islower() else key


def _duration(value: Any) -> Fraction:
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(f"expected seconds such as 5s or 0.25s, got {describe(value)}")
    return Fraction(value[:-1])


def seconds(
    node: Node, default: float, low: float = 0.001, high: float = DAY, *, zero: bool = False
) -> float:
    """A duration within tcpmux's limits, in s; what is beyond them changes traffic. zero: 0s is
    allowed as well."""
    found = node.read(_duration, None)
    if found is None:
        return default
    if found == 0 and zero:
        return 0.0
    return limited(node, found, default, low, high)


def percent(node: Node, default: int) -> int:
    """Of type Percent, {value: 50}; a number of whole percent."""
    value = node["value"]
    found = value.read(_number, None)
    if found is None:
        return default if not node else 0
    if not 0 <= found <= 100:
        value.problem(f"expected a percentage from 0 to 100, got {describe(value.value)}")
        return default
    if found % 1:
        value.changes("tcpmux counts in whole percentages")
    return math.floor(found)


def _number(value: Any) -> Fraction:
    if not isinstance(value, (int, float, str)) or not re.fullmatch(
        r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?", str(value)
    ):
        raise ValueError(f"expected a number, got {describe(value)}")
    return Fraction(str(value))


def enum(node: Node, default: str) -> str:
    """The name of an enum's value, or its number. Envoy takes names in lower case as well."""
    return node.text(default).upper()


def number(node: Node, default: Fraction) -> Fraction:
    return node.read(_number, default)


def runtime_value(node: Node) -> Node:
    """default_value of what may be changed by a runtime key."""
    node["runtime_key"].mapped("tcpmux has no runtime values: the default applies")
    return node["default_value"]


def type_of(node: Node) -> str:
    """The message's name of a typed_config, without its package."""
    found = _TYPE.fullmatch(node["@type"].text())
    return found[1].rpartition(".")[2] if found else ""


def network(node: Node) -> Network | None:
    """Of type CidrRange."""
    prefix, length = node["address_prefix"], node["prefix_len"]
    text = prefix.text()
    try:
        return ip_network(f"{text}/{length.integer(0, 0, 128)}", strict=False)
    except ValueError as error:
        prefix.problem(f"expected a network: {error}")
        return None


def endpoint(node: Node) -> Endpoint | None:
    """Of type Address."""
    text = _address(node)
    if not text:
        return None
    try:
        return parse_endpoint(text)
    except ValueError as error:
        node.changes(f"{error}, got {text}")
        return None


def listen_address(node: Node) -> Address | None:
    """Of type Address. Everything about it that tcpmux has not changes traffic."""
    text = _address(node)
    if not text:
        return None
    try:
        found = Address.parse(text)
    except ValueError as error:
        node.changes(f"{error}, got {text}")
        return None
    if found.host == "::" and not node["socket_address"]["ipv4_compat"].flag():
        node["socket_address"]["address"].changes(
            "Envoy accepts only IPv6 clients there; tcpmux also accepts IPv4 clients",
            "IPv6-only listeners",
        )
    return found


def _address(node: Node) -> str:
    """As tcpmux writes it; "" = it can't."""
    pipe = node["pipe"]
    if pipe:
        pipe["mode"].changes("tcpmux sets the socket's permissions itself")
        return f"unix:{pipe['path'].text()}"
    at = node["socket_address"]
    if not at:
        node.changes("it is neither a TCP address nor a UNIX socket")
        return ""
    protocol = at["protocol"]
    if enum(protocol, "TCP") not in ("TCP", "0"):
        at.changes("tcpmux relays TCP: its port is not opened", "UDP")
        return ""
    host, port = at["address"].text(), at["port_value"].integer(0, 0, 65535)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
