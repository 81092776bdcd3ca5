"""Beside HAProxy."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from tests.convert.beside import Seen, answer_of
from tests.convert.looks import (
    EARLY,
    Look,
    answers,
    case,
    fails_over,
    idle_closes,
    limited,
    listens,
    named,
    named_by_header,
    named_split,
    shares,
    split,
    told,
    without,
)
from tests.support import DEADLINE

SHORT = 0.3  # s in which nothing comes of a connection that waits


def waits_beyond(port: int, count: int) -> Look:
    """One connection more than `count` waits, and is served when one of them ends."""

    def take(seen: Seen) -> str:
        found = seen.hold(port, count)
        with socket.create_connection(("127.0.0.1", seen.ports[port]), timeout=DEADLINE) as more:
            more.settimeout(SHORT)
            more.sendall(b"?\n")
            with suppress(TimeoutError):
                found.append(f"not {more.recv(100).decode()!r}")
            seen.clients.pop(0).close()
            more.settimeout(DEADLINE)
            found.append(f"then {more.recv(100).decode().strip()}")
        seen.close_clients()
        return ", ".join(found)

    return Look(f"{count + 1} connections to {port} that stay open", take)


def half_open_closes(port: int, server: int, seconds: float, at_most: float) -> Look:
    """A client that has sent its FIN is left after that time, if the server keeps silent."""

    def take(seen: Seen) -> str:
        seen.servers[server].stop()
        with socket.create_server(("127.0.0.1", seen.ports[server])) as silent:
            silent.settimeout(DEADLINE)
            with socket.create_connection(("127.0.0.1", seen.ports[port]), DEADLINE) as client:
                accepted, _ = silent.accept()
                with accepted, suppress(ConnectionResetError):
                    client.sendall(b"?")  # else HAProxy may still connect, and gives up at the FIN
                    assert accepted.recv(1)
                    start = time.monotonic()
                    client.shutdown(socket.SHUT_WR)
                    client.recv(1)
                    took = time.monotonic() - start
        assert seconds * EARLY <= took < at_most, took
        return f"closed after {seconds:g} s"

    return Look(f"a half-open connection to {port}", take)


def names_without(port: int, dead: int, count: int = 12) -> Look:
    """Server `dead` refuses connections: who answers instead."""

    def take(seen: Seen) -> str:
        seen.servers[dead].stop()
        found = seen.shares(port, count)
        seen.servers[dead].start()
        return ", ".join(found)

    return Look(f"connections to {port} while {dead} is dead", take)


def split_without(port: int, dead: int, expected: Mapping[str, float]) -> Look:
    """As split(), while server `dead` refuses connections."""
    look = split(port, expected)

    def take(seen: Seen) -> str:
        seen.servers[dead].stop()
        return look.take(seen)

    return Look(f"{look.what} while {dead} is dead", take)


def answers_unix(name: str) -> Look:
    """What answers at a UNIX socket in the test's directory."""

    def take(seen: Seen) -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(seen.directory / name))
            return answer_of(sock)

    return Look(f"a client of the UNIX socket {name}", take)


CASES = [
    case("haproxy/accept-proxy-all.cfg", named_by_header(19001, "198.51.100.7", "203.0.113.7")),
    case(
        "haproxy/expect-proxy.cfg",
        told(19001, "no"),
        told(19001, "v1", "v2 IPv6", "v2 LOCAL", "another v1", source="127.0.0.2"),
        told(19001, "v1", "no", source="127.0.0.17"),
        told(19002, "v1", "v2", "no", source="127.0.0.3"),
        told(19003, "no", source="127.0.0.3"),
        told(19004, "v2", source="127.0.0.3"),
    ),
    case(
        "haproxy/sni.cfg",
        named(
            19001, "shop.example", "WWW.shop.example", "old.example", "other.example", "", "plain"
        ),
        named(19001, "eu.example", "shop.example.org", "a.shop.example"),
        named_split(19001, "a.b.eu.example", {"19103": 0.2, "19102": 0.8}),
        named(19001, "shop.example", "plain", source="127.0.0.2"),
        named(19001, "www.shop.example", "shop.example", "any.example", offers=("acme-tls/1",)),
        named(19002, "forbidden.example", "a.shop.example", "shop.example", "plain"),
        named(19002, "forbidden.example", "b.shop.example", source="127.0.0.2"),
        named(19002, "forbidden.example", "b.shop.example", "any.example", "", source="127.0.0.3"),
    ),
    case(
        "haproxy/map.cfg",
        named(19001, "SHOP.example", "old.example", "other.example", "any.example", "", "plain"),
        named(19001, "x.eu.example", "x.test.eu.example", "eu.example", "", source="127.0.0.2"),
    ),
    case("haproxy/two-servers.cfg", shares(19001)),
    case("haproxy/weights.cfg", shares(19001)),
    case("haproxy/weights-large.cfg", shares(19001)),
    case("haproxy/default-server.cfg", shares(19001, 60)),
    case("haproxy/leastconn.cfg", fails_over(19001, 19101, 19102)),
    case("haproxy/backup.cfg", fails_over(19001, 19101, 19102)),
    case("haproxy/two-backups.cfg", fails_over(19001, 19101, 19102)),
    case("haproxy/allbackups.cfg", fails_over(19001, 19101, 19102, 19103)),
    case("haproxy/backup-unchecked.cfg", shares(19001, 20), without(19001, 19101, 1)),
    case("haproxy/redispatch-unchecked.cfg", shares(19001, 60), names_without(19001, 19101)),
    case("haproxy/rand-down.cfg", split_without(19001, 19102, {"19101": 0.75, "": 0.25})),
    case("haproxy/per-client.cfg", limited(19001, 4)),
    case("haproxy/server-down.cfg", shares(19001)),
    case("haproxy/maxconn-frontend.cfg", waits_beyond(19001, 5)),
    case("haproxy/maxconn-servers.cfg", waits_beyond(19001, 5)),
    case("haproxy/first.cfg", waits_beyond(19001, 4)),
    case("haproxy/idle.cfg", idle_closes(19001, 1)),
    case("haproxy/idle-tunnel.cfg", idle_closes(19001, 1.5)),
    case("haproxy/half-open.cfg", half_open_closes(19001, 19101, 1, 20)),
    case("haproxy/refused-source.cfg", answers(19001), answers(19001, "127.0.0.2")),
    case(
        "haproxy/source-list.cfg",
        answers(19001),
        answers(19001, "127.0.0.2"),
        answers(19001, "127.0.0.3"),
    ),
    case("haproxy/rand.cfg", split(19001, {"19101": 0.4, "19102": 0.2, "19103": 0.4})),
    case(
        "haproxy/dst-port.cfg",
        shares(19001, 5),
        shares(19002, 5),
        answers(19003),
        listens(19001, 19002, 19003),
    ),
    case("haproxy/ranges.cfg", listens(19001, 19002, 19003, 19004), shares(19004, 5)),
    case("haproxy/unix.cfg", answers_unix("local.sock"), answers(19001)),
    case(
        "haproxy/v4-v6.cfg",
        answers(19001),
        answers(19001, "::1", "::1"),
        answers(19003),
        answers(19003, "::1", "::1"),
    ),
    case(
        "haproxy/source-hash.cfg",
        Look("one client, 20 connections", lambda seen: str(len(seen.shares(19001, 20)))),
    ),
    case("haproxy/no-servers.cfg", answers(19001), answers(19002)),
    case("haproxy/checks-script.cfg", listens(19001)),
]
