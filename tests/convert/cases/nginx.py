"""Beside Nginx."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from tests.convert.beside import CLOSED, Seen, answer_of
from tests.convert.looks import (
    Case,
    Look,
    answers,
    answers_at,
    case,
    fails_over,
    held,
    idle_closes,
    keeps,
    limited,
    listens,
    named,
    named_split,
    shares,
    split,
    told,
    without,
)
from tests.convert.servers import HEADERS
from tests.support import DEADLINE


def of_one_client(port: int, header: str, another: str) -> Look:
    """Two connections that a header names a client for: on one server, and a third is closed. The
    client of another header is served meanwhile."""

    def take(seen: Seen) -> str:
        with ExitStack() as stack:
            found = []
            for one in (header, header, header, another):
                sock = socket.create_connection(("127.0.0.1", seen.ports[port]), DEADLINE)
                found.append(answer_of(stack.enter_context(sock), HEADERS[one]))
        assert found[0] == found[1] != CLOSED != found[3], found
        return f"one server, the same, {found[2]}; another client is served"

    return Look(f"3 connections of one client by header to {port}", take)


CASES: list[Case] = [
    case("nginx/weights.conf", shares(19001)),
    case("nginx/least-conn.conf", held(19001, 6)),
    case("nginx/backup.conf", fails_over(19001, 19101, 19102)),
    case("nginx/down.conf", shares(19001, 201)),
    case("nginx/max-conns.conf", limited(19001, 5)),
    case("nginx/max-conns-backup.conf", limited(19001, 5)),
    case(
        "nginx/split.conf",
        split(19001, {"19104": 0.2, "19101": 0.8 / 3, "19102": 0.8 / 3, "19103": 0.8 / 3}),
    ),
    case(
        "nginx/split-sticky.conf",
        keeps((19001, 19002, 19006), {"19101": 0.5, "19102": 0.5}),
        answers(19006, "127.0.0.2"),
    ),
    case("nginx/split-without-rest.conf", split(19001, {"19101": 0.125, "19102": 0.375, "": 0.5})),
    case(
        "nginx/access.conf",
        *(
            answers(port, source)
            for port in (19001, 19002, 19003)
            for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.9")
        ),
    ),
    case("nginx/timeouts.conf", idle_closes(19001, 1), idle_closes(19002, 2)),
    case(
        "nginx/next-upstream.conf",
        without(19001, 19102),
        without(19002, 19104),
        without(19003, 19105),
    ),
    case("nginx/ranges.conf", listens(19001, 19021, 19022, 19023)),
    case(
        "nginx/both-families.conf",
        *(
            answers(port, host=host)
            for port in (19001, 19002, 19003, 19004)
            for host in ("127.0.0.1", "::1")
        ),
    ),
    case("nginx/unix.conf", answers_at("/tmp/tcpmux-test/outer.sock")),
    case("nginx/limit-conn.conf", limited(19001, 4)),
    case("nginx/limit-listener.conf", limited(19001, 5)),
    case("nginx/by-port.conf", *(answers(port) for port in (19001, 19002, 19003))),
    case("nginx/same-server-twice.conf", shares(19001)),
    case("nginx/all-down.conf", answers(19001)),
    case("nginx/failover.conf", without(19001, 19101)),
    case("nginx/set-variable.conf", answers(19001)),
    case(
        "nginx/random.conf",
        split(19001, {"19101": 0.5, "19102": 0.5}),
        split(19002, {"19103": 0.75, "19104": 0.25}),
    ),
    case("nginx/overlap.conf", answers(19001), answers(19001, host="127.0.0.2")),
    case("nginx/hash.conf", split(19002, {"19103": 0.5, "19104": 0.5})),
    case(
        "nginx/headers.conf",
        told(19001, "v1", "v1 IPv6", "v1 UNKNOWN", "v2", "v2 IPv6", "v2 LOCAL", "no"),
        told(19002, "v1", "another v1", "v2", "v1 UNKNOWN", "no"),
        told(19003, "no", source="127.0.0.3"),
        told(19004, "v1", "no"),
        told(19005, "no", source="127.0.0.5"),
        of_one_client(19006, "v1", "another v1"),
    ),
    case(
        "nginx/sni.conf",
        named(19001, "shop.example", "x.eu.example", "OLD.example", "a.shop.example", "plain"),
        named(19001, "old.example.org", "other.example", "", source="127.0.0.3"),
        named_split(19001, "eu.example", {"19102": 0.2, "19101": 0.8}),
        named(19001, "shop.example", "other.example", "", "plain", source="127.0.0.2"),
        named(19001, "shop.example", "plain", source="127.0.0.65"),
        named(19001, "shop.example", "other.example", "", offers=("http/1.1", "acme-tls/1")),
        named(19001, "a.eu.example", "other.example", offers=("http/1.1", "h2")),
        named(19001, "shop.example", offers=("h2", "acme-tls/1")),
        named(19002, "shop.example", "plain"),
        named(19003, "shop.example", "plain"),
        named(19003, "shop.example", "plain", source="127.0.0.2"),
    ),
    case("nginx/by-client.conf", answers(19001), answers(19001, "127.0.0.2")),
    case("nginx/same-upstream.conf", shares(19001), shares(19002)),
]
