"""Numbers, times and addresses of haproxy.cfg."""

from __future__ import annotations

import re

from tcpmux.config.address import Address, Endpoint, parse_endpoint
from tcpmux.config.duration import format_duration

_UNITS = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MAX_TIME = 2_147_483.647  # s: HAProxy's largest
MAX_DIGITS = 20
MAX_PORTS = 4096  # of a range


class Refused(ValueError):
    """HAProxy would refuse this value."""


class Unsupported(ValueError):
    """tcpmux has nothing like it. needs: the feature that would be."""

    def __init__(self, message: str, needs: str = "") -> None:
        super().__init__(message)
        self.needs = needs


def whole(text: str, low: int, high: int) -> int:
    """Raises Refused."""
    if not re.fullmatch(rf"-?[0-9]{{1,{MAX_DIGITS}}}", text, re.ASCII):
        raise Refused(f"expected a number, got {text}")
    if not low <= int(text) <= high:
        raise Refused(f"expected {low}..{high}, got {text}")
    return int(text)


def seconds(text: str, unit: str = "ms") -> float:
    """Of a time such as 30s; unit: that of a number alone. Raises Refused."""
    found = re.fullmatch(r"([0-9]{1,20})(us|ms|[smhd]|)", text, re.ASCII)
    if not found:
        raise Refused(f"expected a time such as 10s, got {text}")
    time = int(found[1]) * _UNITS[found[2] or unit]
    if time > MAX_TIME:
        raise Refused(f"{text} is more than HAProxy's longest time, 24.8 days")
    return time


def whole_milliseconds(time: float) -> float:
    """HAProxy rounds times up to its ticks of 1 ms."""
    return -(-round(time * 1e6) // 1000) / 1000


def within(time: float, low: float, high: float) -> float:
    """Raises Unsupported unless tcpmux has such a time."""
    if not low <= time <= high:
        raise Unsupported(
            f"{format_duration(time)} is outside tcpmux's range, "
            f"{format_duration(low)}..{format_duration(high)}"
        )
    return time


_NO_TCP = {
    "abns@": "an abstract UNIX socket is not supported",
    "abnsz@": "an abstract UNIX socket is not supported",
    "fd@": "an inherited file descriptor is not supported",
    "sockpair@": "a socket pair is not supported",
    "rhttp@": "reverse HTTP is not supported",
}
_UDP = ("udp@", "udp4@", "udp6@", "quic4@", "quic6@", "uxdg@", "quic@", "uxst@")


def _transport(text: str) -> tuple[str, str]:
    """The family that is asked for (4, 6, unix or ""), and the address. Raises Unsupported."""
    for prefix, reason in _NO_TCP.items():
        if text.startswith(prefix):
            raise Unsupported(reason, "other kinds of sockets")
    for prefix in _UDP:
        if text.startswith(prefix):
            if prefix == "uxst@":
                return "unix", text.removeprefix(prefix)
            raise Unsupported("UDP and QUIC are not supported", "UDP")
    text = text.removeprefix("stream+")
    for prefix, family in (
        ("unix@", "unix"), ("ipv4@", "4"), ("ipv6@", "6"), ("tcp4@", "4"), ("tcp6@", "6"),
        ("tcp@", ""), ("mptcp4@", "4"), ("mptcp6@", "6"), ("mptcp@", ""),
    ):  # fmt: skip
        if text.startswith(prefix):
            return family, text.removeprefix(prefix)
    return ("unix" if text.startswith("/") else ""), text


def split_port(text: str) -> tuple[str, str]:
    """Host without brackets, and what is after the last colon; "" = nothing."""
    if text.startswith("[") and "]" in text:
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, colon, port = text.rpartition(":")
    return (host, port) if colon else (text, "")


def ports_of(text: str) -> list[int]:
    """From 80 or 8080-8090. Raises Refused or Unsupported."""
    low, dash, high = text.partition("-")
    first = whole(low, 1, 65535)
    last = whole(high, 1, 65535) if dash else first
    if last < first:
        raise Refused(f"expected a range of ports from low to high, got {text}")
    if last - first >= MAX_PORTS:
        raise Unsupported(f"{text} is more than {MAX_PORTS} ports")
    return [*range(first, last + 1)]


def listen_addresses(text: str) -> list[Address]:
    """Of one address of `bind`. Raises Refused or Unsupported."""
    family, rest = _transport(text)
    if family == "unix":
        return [_unix(rest)]
    host, port = split_port(rest)
    if not port:
        raise Refused(f"expected a port in {text}")
    if host in ("", "*"):
        host = "::" if family == "6" else "0.0.0.0"  # noqa: S104
    try:
        return [Address.of_ip(host, number) for number in ports_of(port)]
    except Refused:
        raise
    except ValueError as error:
        if isinstance(error, Unsupported):
            raise
        raise Unsupported(
            f"{host} is not a numeric address: HAProxy resolves the name when it starts",
            "names to listen on",
        ) from None


def _unix(path: str) -> Address:
    try:
        return Address.parse(f"unix:{path}")
    except ValueError as error:
        raise Unsupported(str(error), "other kinds of sockets") from None


def endpoint(text: str) -> tuple[Endpoint | None, str, str]:
    """Of a server: (endpoint, "", ""), or (None, host, port) if its port depends on the one that
    the client has connected to ("" = it is that; +N or -N: above or below). Raises Refused or
    Unsupported."""
    family, rest = _transport(text)
    if family == "unix":
        return _unix(rest), "", ""
    host, port = split_port(rest)
    if host in ("", "*", "0.0.0.0", "::"):  # noqa: S104
        raise Unsupported(
            "tcpmux does not connect to the client's original destination", "source addresses"
        )
    if port in ("", "0") or port[0] in "+-":
        return None, host, "" if port in ("", "0") else port
    return named(host, str(whole(port, 1, 65535))), "", ""


def named(host: str, port: str) -> Endpoint:
    """Raises Unsupported."""
    try:
        return parse_endpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except ValueError as error:
        raise Unsupported(f"{host}: {error}") from None


def service(name: str) -> Endpoint:
    """Of SRV records. Raises Unsupported."""
    try:
        return parse_endpoint(f"srv:{name}")
    except ValueError as error:
        raise Unsupported(f"{name}: {error}") from None
