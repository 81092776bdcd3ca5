"""The rows of settings.py that are about headers of the PROXY protocol."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from tcpmux.config.rows import DAY, flag, other, seconds, tlv_type, tlv_types, whole


@dataclass(frozen=True, slots=True)
class AcceptProxy:
    """The PROXY protocol's header in front of connections from some peers. senders: those; () =
    none. versions: a bit for each. timeout in s, from the accept."""

    senders: tuple[IPv4Network | IPv6Network | str, ...] = other(  # str: UNIX
        "Peers that send it: addresses, networks, and unix for those of UNIX sockets. From these "
        "it must come, from others it must not.",
        (),
    )
    versions: int = other(
        "Versions of the header that are accepted.", 3, rule="proxy_versions", unit="a bit each"
    )
    timeout: float = seconds(
        "How long a peer may take to send it.", 5.0, 0.001, DAY, rule="proxy_timeout_ms"
    )
    keep: tuple[int, ...] = tlv_types(
        "Types of TLVs in it that are kept, to be shown and logged.", rule="keep_tlvs"
    )


@dataclass(frozen=True, slots=True)
class SendProxy:
    """The PROXY protocol's header to endpoints, and what it has besides addresses."""

    version: int = whole(
        "Version of the header, 1 or 2; 0 = none.",
        0, 0, 2, "version", rule="send_proxy", required=True,
    )  # fmt: skip
    crc32c: bool = flag("A checksum over the header.", False, rule="send_crc32c")
    unique_id: bool = flag(
        "The id of the connection when it was accepted, unique_id of the access log.",
        False, rule="send_unique_id",
    )  # fmt: skip
    authority: bool = flag(
        "The server name that the client asks for: that of its ClientHello, or of the header that "
        "came in.",
        False, rule="send_authority",
    )  # fmt: skip
    alpn: bool = flag(
        "The application protocol, if the ClientHello offers a single one, or as the header that "
        "came in has it.",
        False, rule="send_alpn",
    )  # fmt: skip
    decision: int = tlv_type(
        "Type of a TLV that says which destination was picked, by which generation and why; 0 = "
        "none.",
        0xE0, 0xEF, rule="send_decision",
    )  # fmt: skip
    passed: tuple[int, ...] = tlv_types(
        "Types of TLVs that are passed on from the header that came in.",
        rule="pass_tlvs", key="pass",
    )  # fmt: skip

    def problem(self) -> str:
        """What is wrong with it; "" = nothing."""
        if self.version != 2 and self != SendProxy(self.version):
            given = f"version {self.version}" if self.version else "no header"
            return f"expected version 2 with these keys, got {given}: only version 2 has TLVs"
        if self.decision in self.passed:
            return f"expected different types for decision and pass, got {self.decision:#04x} twice"
        return ""
