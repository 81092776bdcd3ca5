"""Rules of a route as the route table holds them for readers: their conditions as text."""

from __future__ import annotations

import json
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

from tcpmux.config import Address, Rule
from tcpmux.config.settings import UNIX
from tcpmux.shm._declared import MAX_ALL_RULES


def text_of(rule: Rule) -> bytes:
    """All but the weights."""
    said: dict[str, Any] = {
        "name": rule.name,
        "source": [*map(str, rule.sources)],
        "port": [*rule.ports],
        "listen": [*map(str, rule.listen)],
        "sni": [*rule.sni],
        "alpn": [*rule.alpn],
        "tlv": [[kind, [value.hex() for value in values]] for kind, values in rule.tlvs],
        "tls": rule.tls,
        "reject": rule.reject,
    }
    said = {key: value for key, value in said.items() if value not in ([], "", None)}
    return json.dumps(said, separators=(",", ":")).encode()


@lru_cache(MAX_ALL_RULES)  # each generation has the same
def rule_of(text: bytes) -> Rule:
    """Raises ValueError; KeyError and TypeError are not possible with what text_of() makes."""
    said = json.loads(text)
    return Rule(
        name=said.get("name", ""),
        sources=tuple(s if s == UNIX else ip_network(s) for s in said.get("source", ())),
        ports=tuple(said.get("port", ())),
        sni=tuple(said.get("sni", ())),
        alpn=tuple(said.get("alpn", ())),
        tlvs=tuple(
            (kind, tuple(map(bytes.fromhex, values))) for kind, values in said.get("tlv", ())
        ),
        tls=said.get("tls"),
        reject=said["reject"],
        listen=tuple(map(Address.parse, said.get("listen", ()))),
    )
