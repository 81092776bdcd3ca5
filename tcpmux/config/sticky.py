"""The settings of `sticky`, as rows: settings.py."""

from __future__ import annotations

from dataclasses import dataclass

from tcpmux.config.rows import other, section, whole, word

STICKY_BY = {
    "none": "by ticket: exactly",
    "source": "the client's address",
    "sni": "the name that it asks for in its TLS ClientHello",
    "tlv": "a TLV of its PROXY header",
}
STICKY_ZERO = {
    "leave": "its clients go to others",
    "stay": "it keeps those that it had, and gets no others",
}


@dataclass(frozen=True, slots=True)
class Prefix:
    """How much of a client's address counts."""

    ipv4: int = whole("Bits of an IPv4 address.", 32, 1, 32, "bits", rule="sticky_ipv4")
    ipv6: int = whole("Bits of an IPv6 address.", 64, 1, 128, "bits", rule="sticky_ipv6")


@dataclass(frozen=True, slots=True)
class Sticky:
    """Whether a client gets the same destination each time. tlv: the type, if that is what it goes
    by. group: routes with the same one agree; "" = the route's name."""

    by: str = other(
        "What tells one client from another: source (its address), sni (the name in its TLS "
        "ClientHello) or tlv:0xEA (a TLV of its PROXY header, by type).",
        "none", words=STICKY_BY, rule="sticky_by", unit="tm_sticky_by",
    )  # fmt: skip
    tlv: int = other("The type of the TLV.", 0, rule="sticky_tlv", unit="type")
    prefix: Prefix = section("Bits of the client's address that count.", Prefix())
    group: str = other(
        "Routes with the same group, destinations and weights send a client to the same "
        "destination; default: the route's name.",
        "", rule="sticky_salt", unit="hash",
    )  # fmt: skip
    zero: str = word(
        "What happens to the clients of a destination whose weight becomes 0: leave (they go to "
        "others) or stay (it keeps those that it had, and gets no others).",
        "leave", STICKY_ZERO, rule="sticky_zero", unit="index",
    )  # fmt: skip

    @property
    def is_on(self) -> bool:
        return self.by != "none"
