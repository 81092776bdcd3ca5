"""A rule of a route: which connections it is about, and where they go instead of by the route's
weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import blake2b

from tcpmux.config.address import Address
from tcpmux.config.settings import Clients

MAX_RULES = 1024  # of a route
VPCE_TLV = 0xEA  # AWS: an endpoint of a VPC
_VPCE_ID = b"\x01"  # the subtype in front of its name
_SHOWN = 3  # values of a condition


@dataclass(frozen=True, slots=True)
class Rule:
    """Connections that meet every condition; one without any is about all. A condition with several
    values is met by each of them.

    sources: clients. ports, listen: of the listener that took the connection. sni: names in lower
    case; *.x stands for all that end with .x. alpn: protocols, of which the client offers one.
    tlvs: types of the PROXY protocol, with their possible values. tls: whether the client begins
    with a TLS ClientHello; None = either. weights: of destinations; one alone takes all. reject:
    reset, then there are no weights.
    """

    name: str = ""  # "" = it has none of its own: called
    sources: tuple[Clients, ...] = ()
    ports: tuple[int, ...] = ()
    sni: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()
    tlvs: tuple[tuple[int, tuple[bytes, ...]], ...] = ()
    tls: bool | None = None
    weights: tuple[tuple[str, int], ...] = ()
    reject: bool = False
    listen: tuple[Address, ...] = ()
    _called: str = field(default="", init=False, compare=False, repr=False)  # once it is known

    @property
    def called(self) -> str:
        """Its name, or one that follows from its conditions: counters, its turn and weights set at
        run time stay with that when other rules come, go or change places."""
        if not self._called:
            object.__setattr__(self, "_called", self.name or self._from_conditions())
        return self._called

    def _from_conditions(self) -> str:
        whole = "; ".join(f"{key} {', '.join(sorted(set(of)))}" for key, of in self.conditions)
        slug = re.sub(r"[^a-z0-9.]+[.]*", "-", whole.lower()).strip("-.")[:40].rstrip("-.")
        return f"{slug or 'all'}-{blake2b(whole.encode(), digest_size=4).hexdigest()}"

    @property
    def conditions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The key of each in a file, and its values as text."""
        tlvs = (f"{kind:#04x}={tlv_text(kind, v)}" for kind, values in self.tlvs for v in values)
        found = (
            ("source", tuple(map(str, self.sources))),
            ("port", tuple(map(str, self.ports))),
            ("listen", tuple(map(str, self.listen))),
            ("sni", self.sni),
            ("alpn", self.alpn),
            ("tlv", tuple(tlvs)),
            ("tls", () if self.tls is None else ("true" if self.tls else "false",)),
        )
        return tuple((key, values) for key, values in found if values)

    def is_for(self, listener: Address | str) -> bool:
        """Whether it is about connections that this listener takes; an address, or its text."""
        address = Address.parse(listener) if isinstance(listener, str) else listener
        if self.ports and (address.path or address.port not in self.ports):
            return False
        return not self.listen or address in self.listen

    @property
    def reads_hello(self) -> bool:
        """It asks for what a ClientHello says."""
        return bool(self.sni or self.alpn or self.tls is not None)

    def __str__(self) -> str:
        """`source 10.9.0.0/16; port 5432`: its conditions, for people."""
        parts = (f"{key} {_some(values)}" for key, values in self.conditions)
        return "; ".join(parts) or "every connection"


def _some(values: tuple[str, ...]) -> str:
    shown = ", ".join(values[:_SHOWN])
    more = len(values) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def tlv_number(text: str) -> int:
    """A type of the PROXY protocol, 0xEA or 234; 0 = the text is none."""
    found = int(text, 0) if re.fullmatch(r"0x[0-9a-fA-F]{1,2}|[1-9][0-9]{0,2}", text) else 0
    return found if found <= 255 else 0


def tlv_value(kind: int, text: str) -> bytes:
    """As it is in a header: that of an endpoint of a VPC has its subtype in front. hex:0aff stands
    for these bytes. Raises ValueError."""
    if text.startswith("hex:"):
        return bytes.fromhex(text[4:])
    value = text.encode("utf-8", "surrogateescape")
    return _VPCE_ID + value if kind == VPCE_TLV else value


def tlv_text(kind: int, value: bytes) -> str:
    """What tlv_value() makes that value of; hex:0aff of one that no text stands for."""
    if kind == VPCE_TLV and value[:1] == _VPCE_ID:
        shown = value[1:]
    elif kind == VPCE_TLV:
        return f"hex:{value.hex()}"
    else:
        shown = value
    text = shown.decode("ascii", "replace")
    plain = re.fullmatch(r"[ -~]+", text) and not text.startswith("hex:")
    return text if plain else f"hex:{value.hex()}"
