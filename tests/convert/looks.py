"""What a client can see of a proxy: each look is taken at both, and says what it saw in words."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.convert.beside import CLOSED, Seen, answer_of, asked_in_tls, is_open
from tests.convert.servers import HEADERS
from tests.support import DEADLINE, wait_for

SIGMAS = 5  # a split by chance is further off once in two million times
EARLY = 0.9  # of a timeout: clocks of a proxy may be coarse, and it may look before the time


@dataclass(frozen=True, slots=True)
class Look:
    """what: for the table in docs/. take: what was seen; the same of both programs, or the test
    fails."""

    what: str
    take: Callable[[Seen], str]


@dataclass(frozen=True, slots=True)
class Case:
    """file: below files/, such as haproxy/backup.cfg. is_partial: some of it changes traffic."""

    file: str
    looks: tuple[Look, ...]
    is_partial: bool = False


def case(file: str, *looks: Look, partial: bool = False) -> Case:
    return Case(file, looks, partial)


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in found.items())


def _about(
    found: Mapping[str, int], expected: Mapping[str, float], count: int, *, slack: int = 1
) -> str:
    """slack: connections beyond SIGMAS."""
    assert set(found) <= {name or CLOSED for name in expected}, found
    for name, part in expected.items():
        off = abs(found.get(name or CLOSED, 0) - part * count)
        assert off <= SIGMAS * math.sqrt(count * part * (1 - part)) + slack, found
    return ", ".join(f"{name or CLOSED}: about {part:.0%}" for name, part in expected.items())


def shares(port: int, count: int = 200) -> Look:
    """Exact: whose turn it is depends on nothing but the order of connections."""
    return Look(
        f"servers of {count} connections to {port}", lambda seen: _counts(seen.shares(port, count))
    )


def split(port: int, expected: Mapping[str, float], count: int = 400) -> Look:
    """By chance in one of them: each within SIGMAS of what is expected, in parts of 1. A name
    stands for a server; "" for connections that are closed."""

    def take(seen: Seen) -> str:
        return _about(seen.shares(port, count), expected, count)

    return Look(f"split of {count} connections to {port}", take)


def sticks(port: int, count: int = 20) -> Look:
    """All connections of a client go to one server, whichever that is."""

    def take(seen: Seen) -> str:
        (only,) = seen.shares(port, count).values()
        return f"one server: {only}"

    return Look(f"servers of {count} connections of a client to {port}", take)


def keeps(ports: Sequence[int], expected: Mapping[str, float], count: int = 200) -> Look:
    """Each client has one server, at whichever of these ports and each time; of the clients, each
    server has what is expected, in parts of 1 and within SIGMAS."""

    def take(seen: Seen) -> str:
        found: Counter[str] = Counter()
        for number in range(count):
            source = f"127.0.1.{number + 1}"
            (only,) = {seen.ask(port, source) for port in (*ports, ports[0])}
            found[only] += 1
        return _about(found, expected, count)

    told = " and ".join(map(str, ports))
    return Look(f"servers of {count} clients, with several connections each to {told}", take)


def answers(port: int, source: str = "127.0.0.1", host: str = "127.0.0.1") -> Look:
    """Whose answer a client from that address gets (127.0.0.2 and so on are loopback, too)."""
    to = f"[{host}]" if ":" in host else host
    return Look(f"a client from {source} at {to}:{port}", lambda seen: seen.ask(port, source, host))


def answers_at(path: str) -> Look:
    """Whose answer a client of a UNIX socket gets; path: as it stands in the file, below
    /tmp/tcpmux-test."""

    def take(seen: Seen) -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(seen.directory / Path(path).name))
            return answer_of(sock)

    return Look(f"a client of unix:{path}", take)


def told(port: int, *headers: str, source: str = "127.0.0.1") -> Look:
    """Whose answer clients get that send these headers (HEADERS), and who the server is told that
    they are."""

    def take(seen: Seen) -> str:
        found = []
        for header in headers:
            with socket.socket() as sock:
                sock.settimeout(DEADLINE)
                sock.bind((source, 0))
                sock.connect(("127.0.0.1", seen.ports[port]))
                found.append(f"{header}: {answer_of(sock, HEADERS[header])}")
        return ", ".join(found)

    return Look(f"PROXY headers from {source} to {port}", take)


def named(port: int, *names: str, source: str = "127.0.0.1", offers: tuple[str, ...] = ()) -> Look:
    """What answers clients of TLS that ask for these names; "" = one that asks for none, "plain" =
    one without TLS."""

    def take(seen: Seen) -> str:
        return ", ".join(
            f"{name or 'no name'}: {asked_in_tls(seen.ports[port], name, source, offers)}"
            for name in names
        )

    clients = f"clients of TLS to {port}" + (f" from {source}" if source != "127.0.0.1" else "")
    return Look(clients + (f" that offer {' and '.join(offers)}" if offers else ""), take)


def named_split(port: int, name: str, expected: Mapping[str, float], count: int = 120) -> Look:
    """As split(), of clients of TLS that ask for this name."""

    def take(seen: Seen) -> str:
        found = Counter(asked_in_tls(seen.ports[port], name) for _ in range(count))
        return _about(found, expected, count, slack=0)

    return Look(f"{count} clients of TLS to {port} that ask for {name}", take)


def named_by_header(port: int, *clients: str) -> Look:
    """Whose answer clients get that a PROXY header names."""

    def take(seen: Seen) -> str:
        found = []
        for client in clients:
            with socket.create_connection(("127.0.0.1", seen.ports[port]), DEADLINE) as sock:
                sock.sendall(f"PROXY TCP4 {client} 192.0.2.1 4711 80\r\n".encode())
                found.append(answer_of(sock))
        return ", ".join(found)

    return Look(f"clients {', '.join(clients)} by PROXY header at {port}", take)


def fails_over(port: int, first: int, *then: int) -> Look:
    """Server `first` dies, those of `then` take over; it comes back, and it serves again."""

    def take(seen: Seen) -> str:
        before = {seen.ask(port) for _ in range(4)}
        seen.servers[first].stop()
        seen.is_answered_by(port, *map(str, then))
        seen.servers[first].start()
        wait_for(lambda: seen.ask(port) == str(first), f"{first} to serve again")
        return f"{', '.join(sorted(before))}; dead: {', '.join(map(str, then))}; back: {first}"

    return Look(f"death and return of {first} behind {port}", take)


def without(port: int, dead: int, count: int = 20) -> Look:
    """Server `dead` refuses connections: what clients get."""

    def take(seen: Seen) -> str:
        seen.servers[dead].stop()
        found = seen.shares(port, count)
        seen.servers[dead].start()
        return _counts(found)

    return Look(f"{count} connections to {port} while {dead} is dead", take)


def limited(port: int, count: int, *, settles: bool = False) -> Look:
    """What becomes of so many connections that stay open, in order. settles: the program counts a
    connection for a moment after its end, so that two looks have to agree."""

    def once(seen: Seen) -> str:
        found = seen.hold(port, count)
        seen.close_clients()
        return ", ".join(found)

    def take(seen: Seen) -> str:
        found = [once(seen)]

        def is_settled() -> bool:
            found.append(once(seen))
            return found[-1] == found[-2]

        if settles:
            wait_for(is_settled, "two outcomes that are the same")
        return found[-1]

    return Look(f"{count} connections to {port} that stay open", take)


def held(port: int, count: int) -> Look:
    """How many of so many connections that stay open each server has, in whatever order."""

    def take(seen: Seen) -> str:
        found = Counter(seen.hold(port, count))
        seen.close_clients()
        return _counts(dict(sorted(found.items())))

    return Look(f"servers of {count} connections to {port} that stay open", take)


def idle_closes(port: int, seconds: float) -> Look:
    """An idle connection is closed after that time, and not before."""

    def take(seen: Seen) -> str:
        took = seen.idle_for(port)
        assert took >= seconds * EARLY, took
        return f"closed after {seconds:g} s"

    return Look(f"an idle connection to {port}", take)


def listens(*ports: int) -> Look:
    """Which of these ports accept connections; all that the file names are looked at."""

    def take(seen: Seen) -> str:
        return ", ".join(
            f"{port}: {'open' if is_open(seen.ports[port]) else 'closed'}" for port in ports
        )

    return Look(f"listeners on {', '.join(map(str, ports))}", take)
