"""What an answer of DNS says, and what of it can be used. Runs in control."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

from tcpmux.config.address import is_host_name
from tcpmux.errors import printable

if TYPE_CHECKING:
    import pycares

MIN_TTL, MAX_TTL = 1.0, 3600.0  # s
UNKNOWN_TTL = 10.0  # s; of what /etc/hosts says, and of records that say 0


def rank(data: pycares.SRVRecordData) -> tuple[int, int, str, int]:
    return data.priority, -data.weight, str(data.target), data.port


def why_not(data: pycares.SRVRecordData) -> str:
    """Why an SRV record can't be used; "" = it can."""
    if not data.port:
        return "has port 0"
    # The library gives bytes for what is not ASCII, which then begins with b'.
    return "" if is_host_name(str(data.target)) else "is no host name"


def shown(target: object) -> str:
    return printable(str(target))[:80] or '"."'


def unusable(text: str) -> str:
    """Why no endpoint can have this address; "" = one can."""
    ip = ip_address(text)
    mapped = None if isinstance(ip, IPv4Address) else ip.ipv4_mapped
    ip = mapped or ip
    if ip.is_unspecified or (isinstance(ip, IPv4Address) and ip.packed[0] == 0):
        return "which cannot be a host's"
    if ip.is_multicast:
        return "which is multicast"
    if text == "255.255.255.255" or str(ip) == "255.255.255.255":
        return "which is broadcast"
    if ip.version == 6 and ip.is_link_local:
        return "which is valid on one link only"
    return ""


def usable_ttl(seconds: int) -> float:
    return min(max(float(seconds), MIN_TTL), MAX_TTL) if seconds > 0 else UNKNOWN_TTL


def reason(error: Exception) -> str:
    return str(error.args[1] if len(error.args) > 1 else error)
