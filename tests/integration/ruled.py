"""Routes with rules, and who answers clients of theirs that a PROXY header names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.integration import test_accept_proxy
from tests.integration.proxy import Proxy
from tests.support import EchoServer, free_port

Rules = Sequence[dict[str, Any]]
TESTERS: dict[str, Any] = {"name": "testers", "source": "198.51.100.0/28", "to": "v2"}
SPLIT: dict[str, Any] = {
    "name": "split",
    "source": "198.51.100.16/28",
    "weights": {"v1": 2, "v2": 1},
}
BANNED: dict[str, Any] = {"name": "banned", "source": ["198.51.100.32/28"], "reject": True}


def ruled(one: EchoServer, two: EchoServer, rules: Rules, **more: Any) -> dict[str, Any]:
    """A route of v1 (all the weight) and v2 with rules, behind a load balancer."""
    return {
        "name": "r",
        "listen": f"127.0.0.1:{free_port()}",
        "accept_proxy": {"from": ["127.0.0.1"], "timeout": "10m"},
        "destinations": [
            {"name": "v1", "weight": 1, "endpoints": [one.address]},
            {"name": "v2", "weight": 0, "endpoints": [two.address]},
        ],
        "rules": [*rules],
        **more,
    }


def who_answers(proxy: Proxy, sent: bytes) -> str:
    """Raises ConnectionResetError."""
    return test_accept_proxy.ask(proxy, sent).partition(b" ")[0].decode()


def ask(proxy: Proxy, client: int) -> str:
    """Who answers 198.51.100.`client`. Raises ConnectionResetError."""
    head = f"PROXY TCP4 198.51.100.{client} 192.0.2.1 1000 443\r\n"
    return who_answers(proxy, f"{head}hello\n".encode())


def who(proxy: Proxy, clients: Sequence[int]) -> dict[str, int]:
    return Counter(ask(proxy, client) for client in clients)
