"""Of a list of which the first match decides, an allow and a deny list that mean the same."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmux.config.settings import UNIX, Clients
from tcpmux.convert.clients import (
    EVERYBODY,
    MAX_NETWORKS,
    ClientRule,
    TooManyNetworks,
    allow_and_deny,
    without_mapped,
)


def clients(text: str) -> Clients:
    return UNIX if text == UNIX else ip_network(text)


def rules(text: str) -> list[ClientRule]:
    """`+10.0.0.0/8 -all`"""
    found = []
    for word in text.split():
        named = EVERYBODY if word[1:] == "all" else (clients(word[1:]),)
        found += [ClientRule(word[0] == "+", one) for one in named]
    return found


@pytest.mark.parametrize(
    ("text", "allow", "deny"),
    [
        ("", "", ""),
        ("+all", "", ""),
        ("+10.0.0.0/8 +all", "", ""),
        ("-10.0.0.0/8", "", "10.0.0.0/8"),
        ("-10.0.0.0/8 -192.168.0.0/16 +all", "", "10.0.0.0/8 192.168.0.0/16"),
        ("+10.0.0.0/8 -all", "10.0.0.0/8", ""),
        ("+10.0.0.0/8 +::1/128 -all", "10.0.0.0/8 ::1/128", ""),
        ("+10.0.0.0/8 +unix -all", "10.0.0.0/8 unix", ""),
        ("-10.1.0.0/16 +10.0.0.0/8 -all", "10.0.0.0/8", "10.1.0.0/16"),
        ("-unix", "", "unix"),
        # An IPv6 network of theirs has no IPv4 in it; tcpmux's ::/0 is everybody.
        ("-::/0 +all", "0.0.0.0/0 unix", ""),
        (
            "+10.0.0.0/8 -0.0.0.0/0",
            "",
            (
                "0.0.0.0/5 8.0.0.0/7 11.0.0.0/8 12.0.0.0/6 16.0.0.0/4 "
                "32.0.0.0/3 64.0.0.0/2 128.0.0.0/1"
            ),
        ),
        ("+10.0.0.0/30 -10.0.0.1/32 -10.0.0.4/32", "", "10.0.0.4/32"),
        # Within what is denied, a part is not.
        ("+10.1.1.0/24 -10.1.0.0/16 +10.0.0.0/15 -all", "10.0.0.0/16 10.1.1.0/24", ""),
    ],
)
def test_lists_keep_their_words_where_they_can(text: str, allow: str, deny: str) -> None:
    found = allow_and_deny(rules(text))
    assert found == (tuple(map(clients, allow.split())), tuple(map(clients, deny.split())))


def test_nobody_is_accepted() -> None:
    assert allow_and_deny(rules("-all")) == ((), EVERYBODY)


NETWORKS = st.builds(
    lambda address, prefix: ip_network((address, prefix), strict=False),
    st.integers(0, 255).map(lambda last: f"10.0.0.{last}"),
    st.integers(24, 32),
) | st.sampled_from([ip_network(text) for text in ("0.0.0.0/0", "::/0", "2000::/3", "::/64")])


@given(
    st.lists(st.builds(ClientRule, st.booleans(), NETWORKS | st.just(UNIX)), max_size=12),
    st.booleans(),
)
def test_every_client_is_judged_alike(some: list[ClientRule], otherwise: bool) -> None:
    def first_match(client: str) -> bool:
        for rule in some:
            if _is_in(client, rule.clients):
                return rule.accepts
        return otherwise

    allow, deny = allow_and_deny(some, otherwise=otherwise)
    for client in [*(f"10.0.0.{last}" for last in range(256)), "192.0.2.1", "2001:db8::1", UNIX]:
        accepted = (not allow or any(_is_to_tcpmux(client, one) for one in allow)) and not any(
            _is_to_tcpmux(client, one) for one in deny
        )
        assert accepted == first_match(client), client


def _is_in(client: str, one: Clients) -> bool:
    if isinstance(one, str) or client == UNIX:
        return client == one
    return ip_address(client) in one


def _is_to_tcpmux(client: str, one: Clients) -> bool:
    """IPv4 is a part of IPv6 to it: ::ffff:0:0/96."""
    is_mapped = "." in client and not isinstance(one, str) and one.version == 6
    return _is_in(f"::ffff:{client}" if is_mapped else client, one)


def test_a_list_that_would_be_cut_to_pieces_is_refused() -> None:
    """Every other address is denied, but one of them has been accepted before."""
    denied = " ".join(f"-10.0.{n >> 7}.{n % 128 * 2}" for n in range(MAX_NETWORKS))
    allow, deny = allow_and_deny(rules(f"{denied} +10.0.0.0/7 -all"))
    assert (len(allow), len(deny)) == (1, MAX_NETWORKS)
    with pytest.raises(TooManyNetworks):
        allow_and_deny(rules(f"+10.0.0.0 {denied} +10.0.0.0/7 -all"))


@pytest.mark.parametrize("text", ["::/0", "::/80", "::fffe:0:0/95", "::ffff:0:0/96", "8000::/1"])
def test_networks_of_programs_to_which_ipv4_is_not_a_part_of_ipv6(text: str) -> None:
    net = ip_network(text)
    found = without_mapped(net)
    for client in ("10.0.0.1", "::1", "::fffe:0:1", "::1:0:0:1", "9000::1"):
        is_meant = ip_address(client) in net
        assert any(_is_to_tcpmux(client, one) for one in found) == is_meant, client
