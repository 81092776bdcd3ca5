"""`converge.protocol`: what the file may say, and why connections can't leave yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpmux.config import ConfigError, load
from tcpmux.config.converge import CONVERGE_PROTOCOL, GOODBYES
from tcpmux.control.converge_text import waiting_text
from tcpmux.control.convergence import NO_RULE, Blocked, Candidate, why_not_yet

QUIET = 300


def loaded(tmp_path: Path, converge: str, more: str = "") -> list[str]:
    """Its warnings."""
    file = tmp_path / "r.yaml"
    file.write_text(
        "routes:\n  - name: r\n    listen: 127.0.0.1:1\n"
        f"    converge: {{when: manual, {converge}}}\n{more}"
        "    destinations: [{name: v1, endpoints: ['127.0.0.1:2']}]\n"
    )
    return [f"{found.where}: {found.message}" for found in load([file]).warnings]


@pytest.mark.parametrize("protocol", CONVERGE_PROTOCOL)
def test_a_goodbye_needs_a_protocol_that_has_one(tmp_path: Path, protocol: str) -> None:
    text = f"protocol: {protocol}, goodbye: true"
    if protocol in GOODBYES:
        assert loaded(tmp_path, text) == []
        return
    with pytest.raises(ConfigError, match=f"goodbye needs a protocol .*; it is {protocol}"):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("    preread: {starttls: postgres}\n", "preread.starttls is postgres"),
        ("    rules: [{sni: a.example, to: v1}]\n", "rules go by the TLS ClientHello"),
        ("    sticky: sni\n", "sticky is by sni"),
    ],
)
def test_with_tls_nothing_is_understood(tmp_path: Path, more: str, reason: str) -> None:
    (warning,) = loaded(tmp_path, "protocol: postgres", more)
    assert warning == (
        f"routes[0].converge.protocol: what is encrypted is not understood, and {reason}: "
        "connections with TLS stay until the deadline"
    )
    assert loaded(tmp_path, "protocol: none", more) == []


def candidate(moment: str, *, idle: int = QUIET, last: bool = True) -> Candidate:
    return Candidate(0, 1, 1, NO_RULE, 1, 2, idle, 5000, last, moment=moment)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (candidate("safe"), None),
        (candidate("safe", idle=QUIET - 1), "busy"),
        (candidate("safe", last=False), "unanswered"),
        (candidate("busy"), "busy"),
        (candidate("busy", last=False), "unanswered"),
        (candidate("transaction"), "in_transaction"),
        (candidate("transaction", idle=0, last=False), "in_transaction"),
        (candidate("subscribed"), "subscribed"),
        (candidate("stateful"), "stateful"),
        (candidate("turned_away", idle=0), "turned_away"),
        (candidate("unknown"), "unknown"),
        (candidate("unknown", idle=0), "busy"),  # what moves just now may look so
    ],
)
def test_why_a_connection_can_not_leave(one: Candidate, why: str | None) -> None:
    assert why_not_yet(one, QUIET) == why


def test_the_reasons_in_words() -> None:
    blocked = Blocked(busy=2, in_transaction=1, unknown=3)
    assert waiting_text(blocked._asdict()) == "2 busy, 1 in a transaction, 3 not understood"
    assert waiting_text(Blocked()._asdict()) == ""
    assert blocked + Blocked(1, 1, 1, 1, 1, 1, 1) == Blocked(3, 1, 2, 1, 4, 1, 1)
    elsewhere = Blocked(stateful=1, turned_away=2)
    assert waiting_text(elsewhere._asdict()) == (
        "1 with state that can't go along, 2 not accepted by the other endpoint"
    )
