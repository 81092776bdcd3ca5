"""What somebody asks about whom a connection would go to: from texts to the facts that rules are
about."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from tcpmux.config.address import Address
from tcpmux.config.rule import tlv_number, tlv_value
from tcpmux.config.rule_match import Client, Facts
from tcpmux.config.settings import UNIX

MAX_TEXT = 4096  # of one
ALPN_KEPT = 64  # TM_ALPN_MAX
TLVS_KEPT = 112  # TM_TLVS_MAX


def facts_of(
    listen: Sequence[Address],
    *,
    source: str | None = None,
    port: str | None = None,
    sni: str | None = None,
    alpn: Sequence[str] = (),
    tls: bool | None = None,
    tlvs: Sequence[str] = (),
) -> Facts:
    """listen: of the route. port: a port, or an address of listen; of a single one it follows.
    tls: follows from sni and alpn. tlvs: TYPE=VALUE each, as a file has them. Raises ValueError."""
    if tls is False and (sni is not None or alpn):
        raise ValueError("a client without TLS sends no name and offers no protocol")
    return Facts(
        None if source is None else _client(source),
        _listener(listen, port),
        True if sni is not None or alpn else tls,
        "" if sni is None else _name(sni),
        _offered(alpn),
        _kept(tlvs),
    )


def _client(text: str) -> Client:
    if text == UNIX:
        return UNIX
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"source: expected an address, or unix, got {text[:60]!r}") from None


def _name(text: str) -> str:
    """As workers keep it."""
    from tcpmux.config.rule_schema import MAX_SNI  # with pydantic
    from tcpmux.config.rule_schema import sni as host_name

    if not text:
        raise ValueError("sni: expected a host name, got an empty string")
    if len(text.removesuffix(".")) > MAX_SNI:
        raise ValueError(
            f"sni: {text[:60]!r}... is longer than {MAX_SNI} characters: "
            "to rules its client asks for none"
        )
    try:
        name = host_name(text)
    except ValueError:
        name = "*"
    if name.startswith("*"):
        raise ValueError(f"sni: {text[:60]!r} is no host name: to rules its client asks for none")
    return name


def _offered(protocols: Sequence[str]) -> tuple[str, ...]:
    if not all(protocols):
        raise ValueError("alpn: expected a protocol such as postgresql, got an empty string")
    if sum(1 + len(each.encode()) for each in protocols) > ALPN_KEPT:
        raise ValueError(f"alpn: of a list rules see {ALPN_KEPT} bytes, one of them for each size")
    return tuple(protocols)


def _listener(listen: Sequence[Address], port: str | None) -> Address | None:
    if port is None:
        return listen[0] if len(listen) == 1 else None
    found = [a for a in listen if port in (str(a), None if a.path else str(a.port))]
    if not found:
        known = ", ".join(map(str, listen[:20])) or "no address"
        raise ValueError(f"port: the route listens on {known}, not on {port[:60]!r}")
    return found[0]


def _kept(texts: Sequence[str]) -> tuple[tuple[int, bytes], ...]:
    tlvs = tuple(map(_tlv, texts))
    if sum(3 + len(value) for _, value in tlvs) > TLVS_KEPT:
        raise ValueError(f"tlv: of a header {TLVS_KEPT} bytes are kept, three of each for its head")
    return tlvs


def _tlv(text: str) -> tuple[int, bytes]:
    kind, equals, value = text.partition("=")
    number = tlv_number(kind)
    if not equals or not number:
        raise ValueError(f"tlv: expected TYPE=VALUE such as 0xEA=vpce-123, got {text[:60]!r}")
    try:
        return number, tlv_value(number, value)
    except ValueError:
        raise ValueError(
            f"tlv: expected hexadecimal digits after hex:, got {value[:60]!r}"
        ) from None
