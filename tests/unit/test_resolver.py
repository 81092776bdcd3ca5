"""What host names mean: real questions to a name server of ours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tcpmux.config import HostName
from tcpmux.control import dns_records, hosts_file, resolver
from tcpmux.control.resolver import (
    MAX_ADDRESSES,
    MAX_TARGETS,
    Found,
    LookupFailed,
    Memory,
    Resolver,
    look_up_all,
)
from tests.dns_server import AAAA, REFUSED, SERVFAIL, SRV, A, DnsServer

T = TypeVar("T")
SHOP = HostName("shop.test", 80)
SERVICE = HostName("_shop._tcp.test", 0)


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    server = DnsServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _each_lookup_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a test follow one another faster than any that tcpmux makes for one name."""
    monkeypatch.setattr(resolver, "CHANNEL_TIME", -1.0)


def asking(use: Callable[[Resolver], Awaitable[T]], *servers: DnsServer) -> T:
    async def run() -> T:
        asked = Resolver([server.address for server in servers])
        try:
            return await use(asked)
        finally:
            await asked.close()

    return asyncio.run(run())


def found(name: HostName, dns: DnsServer) -> Found:
    return asking(lambda asked: asked.look_up(name), dns)


def addresses(found: Found) -> list[str]:
    return list(map(str, found.addresses))


def failure(name: HostName, dns: DnsServer) -> str:
    with pytest.raises(LookupFailed) as caught:
        found(name, dns)
    return str(caught.value)


# --- the same resolver, again and again -------------------------------------------------------


def test_a_name_without_records_is_asked_for_again(dns: DnsServer) -> None:
    """An answer without records is nothing to go by for an hour."""

    async def use(asked: Resolver) -> list[str]:
        dns.set_empty("shop.test")
        for _ in range(2):
            with pytest.raises(LookupFailed, match="no data"):
                await asked.look_up(SHOP)
        dns.set_a("shop.test", "192.0.2.1")
        return addresses(await asked.look_up(SHOP))

    assert asking(use, dns) == ["192.0.2.1:80"]
    assert dns.asked == 6


def test_lookups_at_the_same_time_share_what_is_known(
    dns: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are looked up together, as those of a start, cost no channel each."""
    monkeypatch.setattr(resolver, "CHANNEL_TIME", 60.0)
    dns.set_a("shop.test", "192.0.2.1")

    async def use(asked: Resolver) -> None:
        await asked.look_up(SHOP)
        await asked.look_up(HostName("shop.test", 81))

    asking(use, dns)
    assert dns.asked == 2


def test_a_name_with_a_records_learns_a_new_aaaa(dns: DnsServer) -> None:
    async def use(asked: Resolver) -> list[Found]:
        dns.ttl = 3600
        dns.set_a("shop.test", "192.0.2.1")
        before = await asked.look_up(SHOP)
        dns.set_aaaa("shop.test", "2001:db8::1")
        return [before, await asked.look_up(SHOP)]

    before, after = asking(use, dns)
    assert addresses(before) == ["192.0.2.1:80"]
    assert before.ttl == resolver.NEGATIVE_TTL, "that there is no AAAA is not good for an hour"
    assert addresses(after) == ["192.0.2.1:80", "[2001:db8::1]:80"]
    assert after.ttl == 3600


@pytest.mark.parametrize("trouble", ["servfail", "silence"])
def test_a_family_that_can_t_be_asked_for_keeps_its_addresses(
    dns: DnsServer, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "OTHER_FAMILY_TIME", 0.2)

    async def use(asked: Resolver) -> Found:
        memory: Memory = {}
        dns.set_a("shop.test", "192.0.2.1")
        dns.set_aaaa("shop.test", "2001:db8::1")
        await asked.look_up(SHOP, memory)
        dns.set_a("shop.test", "192.0.2.2")
        if trouble == "servfail":
            dns.codes["shop.test", AAAA] = SERVFAIL
        else:
            dns.mute_types.add(AAAA)
        for _ in range(2):
            after = await asked.look_up(SHOP, memory)
        return after

    after = asking(use, dns)
    assert addresses(after) == ["192.0.2.2:80", "[2001:db8::1]:80"]
    assert "the lookup of AAAA records failed" in after.notes[0]


def test_a_family_that_is_gone_is_gone(dns: DnsServer) -> None:
    async def use(asked: Resolver) -> Found:
        memory: Memory = {}
        dns.set_a("shop.test", "192.0.2.1")
        dns.set_aaaa("shop.test", "2001:db8::1")
        await asked.look_up(SHOP, memory)
        dns.set_aaaa("shop.test")
        return await asked.look_up(SHOP, memory)

    assert addresses(asking(use, dns)) == ["192.0.2.1:80"]


# --- servers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [None, SERVFAIL, REFUSED])
def test_the_next_server_is_asked_even_if_the_first_is_listed_twice(
    dns: DnsServer, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "QUERY_TIME", 0.25)
    dns.set_a("shop.test", "192.0.2.1")
    bad = DnsServer()
    if code is None:
        bad.mute = True
    else:
        bad.codes.update({("shop.test", A): code, ("shop.test", AAAA): code})
    try:
        answer = asking(lambda asked: asked.look_up(SHOP), bad, bad, dns, bad)
    finally:
        bad.close()
    assert addresses(answer) == ["192.0.2.1:80"]
    assert bad.asked >= 1


def test_nobody_answers(dns: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "QUERY_TIME", 0.1)
    dns.mute = True
    assert "imeout" in failure(SHOP, dns)
    monkeypatch.setattr(resolver, "LOOK_UP_TIME", 0.05)
    assert failure(SHOP, dns) == "no answer within 0.05 s"


# --- what is in an answer is not trusted ------------------------------------------------------


def test_every_a_record_that_an_answer_has_room_for_is_used(dns: DnsServer) -> None:
    """Some 65,000 bytes, over TCP."""
    texts = [f"10.1.{i // 250}.{i % 250 + 1}" for i in range(4000)]
    dns.set_a("shop.test", *texts)
    answer = found(SHOP, dns)
    assert len(answer.addresses) == 4000
    assert not answer.notes


def test_the_number_of_addresses_of_a_name_is_bounded_loudly(dns: DnsServer) -> None:
    dns.set_a("shop.test", *(f"10.1.{i // 250}.{i % 250 + 1}" for i in range(3000)))
    dns.set_aaaa("shop.test", *(f"2001:db8::{i:x}" for i in range(1, 1501)))
    answer = found(SHOP, dns)
    assert len(answer.addresses) == MAX_ADDRESSES
    assert answer.notes == ("4500 addresses, of which the first 4096 are used",)
    assert found(SHOP, dns).addresses == answer.addresses, "always the same ones"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0", "cannot be a host's"),
        ("0.1.2.3", "cannot be a host's"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("::", "cannot be a host's"),
        ("ff02::1", "multicast"),
        ("fe80::1", "one link"),
        ("::ffff:224.0.0.1", "multicast"),
        ("::ffff:0.0.0.0", "cannot be a host's"),
    ],
)
def test_an_address_that_no_endpoint_can_have_is_left_out(
    dns: DnsServer, text: str, why: str
) -> None:
    if ":" in text:
        dns.set_aaaa("shop.test", text, "2001:db8::7")
        rest = ["[2001:db8::7]:80"]
    else:
        dns.set_a("shop.test", text, "192.0.2.7")
        rest = ["192.0.2.7:80"]
    answer = found(SHOP, dns)
    assert addresses(answer) == rest
    assert why in answer.notes[0]
    assert ": ignored" in answer.notes[0]


def test_a_name_with_nothing_but_such_addresses_has_none(dns: DnsServer) -> None:
    dns.set_a("shop.test", "0.0.0.0")
    assert "cannot be a host's" in failure(SHOP, dns)


@pytest.mark.parametrize(
    ("ttl", "used"), [(0, 10.0), (1, 1.0), (60, 60.0), (0x7FFFFFFF, 3600.0), (0xFFFFFFFF, None)]
)
def test_how_long_an_answer_is_good_for_has_bounds(
    dns: DnsServer, ttl: int, used: float | None
) -> None:
    dns.ttl = ttl
    dns.set_a("shop.test", "192.0.2.1")
    dns.set_aaaa("shop.test", "2001:db8::1")
    good = found(SHOP, dns).ttl
    assert dns_records.MIN_TTL <= good <= dns_records.MAX_TTL
    assert used in (None, good)


# --- SRV --------------------------------------------------------------------------------------


def test_one_target_that_does_not_exist_does_not_fail_the_others(dns: DnsServer) -> None:
    dns.ttl = 3600
    dns.set_a("a.test", "192.0.2.1")
    dns.set_aaaa("a.test", "2001:db8::1")
    dns.set_srv("_shop._tcp.test", (0, 1, 81, "a.test"), (0, 1, 82, "gone.test"))
    answer = found(SERVICE, dns)
    assert addresses(answer) == ["192.0.2.1:81", "[2001:db8::1]:81"]
    assert "SRV target gone.test can't be resolved" in answer.notes[0]
    assert answer.ttl == resolver.NEGATIVE_TTL, "it may come"


def test_the_next_priority_is_used_if_nothing_of_the_first_has_an_address(dns: DnsServer) -> None:
    dns.set_a("b.test", "192.0.2.2")
    dns.set_srv("_shop._tcp.test", (0, 1, 81, "gone.test"), (5, 1, 82, "b.test"))
    assert addresses(found(SERVICE, dns)) == ["192.0.2.2:82"]


def test_all_targets_gone_is_a_failure_that_says_which(dns: DnsServer) -> None:
    dns.set_srv("_shop._tcp.test", (0, 1, 81, "gone.test"), (1, 1, 82, "lost.test"))
    reason = failure(SERVICE, dns)
    assert "none of the 2 SRV targets" in reason
    assert "gone.test" in reason
    assert "lost.test" in reason


def test_port_0_is_not_taken(dns: DnsServer) -> None:
    dns.set_a("a.test", "192.0.2.1")
    dns.set_srv("_shop._tcp.test", (0, 1, 0, "a.test"), (1, 1, 80, "a.test"))
    answer = found(SERVICE, dns)
    assert addresses(answer) == ["192.0.2.1:80"]
    assert answer.notes == ("SRV target a.test has port 0: ignored",)
    dns.set_srv("_shop._tcp.test", (0, 1, 0, "a.test"))
    assert "port 0" in failure(SERVICE, dns)


def test_a_dot_as_target_means_that_there_is_no_service(dns: DnsServer) -> None:
    """RFC 2782. Said of the whole name it takes the addresses away; beside others it is a slip."""
    dns.set_a("a.test", "192.0.2.1")
    dns.set_srv("_shop._tcp.test", (0, 0, 0, "."))
    answer = found(SERVICE, dns)
    assert answer.addresses == ()
    assert "no such service" in answer.notes[0]
    dns.set_srv("_shop._tcp.test", (0, 0, 80, "."), (0, 0, 80, "a.test"))
    assert addresses(found(SERVICE, dns)) == ["192.0.2.1:80"]


def test_a_target_that_is_no_host_name_is_left_out(dns: DnsServer) -> None:
    dns.set_a("a.test", "192.0.2.1")
    dns.set_srv("_shop._tcp.test", (0, 1, 80, "10.0.0.1"), (0, 1, 80, ""), (0, 1, 80, "a.test"))
    notes = "\n".join(found(SERVICE, dns).notes)
    assert "10.0.0.1 is no host name" in notes
    assert 'target "." is no host name' in notes


def test_the_number_of_targets_is_bounded_loudly(dns: DnsServer) -> None:
    dns.set_a("a.test", "192.0.2.1")
    dns.set_srv("_shop._tcp.test", *((0, 1, 1 + i, "a.test") for i in range(MAX_TARGETS + 1)))
    answer = found(SERVICE, dns)
    assert len(answer.addresses) == MAX_TARGETS
    assert "257 SRV records, of which the first 256 are used" in answer.notes[0]
    assert dns.asked == 4, "for SRV over UDP and TCP, and then for the one host"


def test_many_bad_things_are_told_in_a_few_notes(dns: DnsServer) -> None:
    dns.set_a("a.test", "192.0.2.1")
    bad = [(0, 1, 80, f"gone{i}.test") for i in range(50)]
    dns.set_srv("_shop._tcp.test", *bad, (0, 1, 80, "a.test"))
    answer = found(SERVICE, dns)
    assert addresses(answer) == ["192.0.2.1:80"]
    assert len(answer.notes) == resolver.MAX_NOTES + 1
    assert answer.notes[-1] == "and 40 more"


def test_weights_of_many_addresses_cost_no_time(dns: DnsServer) -> None:
    """Each target a different weight, each with many addresses: the order of turns of thousands
    has to be found without looking at all of them for each turn."""
    texts = [f"10.1.{i // 250}.{i % 250 + 1}" for i in range(1000)]
    for host in "abcd":
        dns.set_a(f"{host}.test", *texts)
    targets = [(0, 60000 + 7 * i, 80 + i, f"{host}.test") for i, host in enumerate("abcd")]
    dns.set_srv("_shop._tcp.test", *targets)
    assert len(set(found(SERVICE, dns).addresses)) == 4000


def test_no_srv_record(dns: DnsServer) -> None:
    dns.records["_shop._tcp.test", SRV] = []
    assert failure(SERVICE, dns)


# --- garbage ----------------------------------------------------------------------------------


def test_garbage_is_a_failure_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes back, a lookup ends, with an answer or a reason."""
    monkeypatch.setattr(resolver, "QUERY_TIME", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{sock.getsockname()[1]}"

        async def run() -> str:
            loop = asyncio.get_running_loop()
            sock.setblocking(False)

            def answer() -> None:
                query, peer = sock.recvfrom(4096)
                head = query[:2] + b"\x81\x80\0\1\xff\xff\0\0\0\0"
                sock.sendto(head + query[12:] + b"\xc0\x0c" * 200, peer)

            loop.add_reader(sock, answer)
            answers = await look_up_all([SHOP, SERVICE], [server], 5.0)
            loop.remove_reader(sock)
            assert all(isinstance(answer, str) for answer in answers.values())
            return str(answers[SHOP])

        assert asyncio.run(run())


def test_localhost_is_known_to_all(dns: DnsServer) -> None:
    """Be it in /etc/hosts or not: no server is asked."""
    answer = found(HostName("localhost", 80), dns)
    assert "127.0.0.1:80" in addresses(answer)
    assert dns.asked == 0


def test_the_hosts_file_comes_first_and_is_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dns: DnsServer
) -> None:
    file = tmp_path / "hosts"
    monkeypatch.setattr(hosts_file, "PATH", str(file))
    dns.set_a("shop.test", "192.0.2.1")
    dns.set_aaaa("shop.test", "2001:db8::1")

    async def use(asked: Resolver) -> list[Found]:
        answers = [await asked.look_up(SHOP)]
        file.write_bytes(b"10.0.0.1 other.test SHOP.test # shop.test\nnonsense shop.test\n\xff\n")
        answers.append(await asked.look_up(SHOP))
        file.write_text(
            "10.0.0.2 shop.test\nfe80::1%lo shop.test\n::2 shop.test\n# 10.0.0.3 shop.test"
        )
        answers.append(await asked.look_up(SHOP))
        file.unlink()
        answers.append(await asked.look_up(SHOP))
        return answers

    in_dns = ["192.0.2.1:80", "[2001:db8::1]:80"]
    answers = asking(use, dns)
    assert [addresses(answer) for answer in answers] == [
        in_dns,
        ["10.0.0.1:80"],
        ["10.0.0.2:80", "[::2]:80"],
        in_dns,
    ]
    assert answers[1].ttl == dns_records.UNKNOWN_TTL
    assert dns.asked == 4, "nobody is asked for what is in the file"
