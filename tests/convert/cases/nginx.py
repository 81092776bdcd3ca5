"""Beside Nginx."""

from tests.convert.looks import (
    Case,
    answers,
    answers_at,
    case,
    fails_over,
    held,
    idle_closes,
    limited,
    listens,
    shares,
    split,
    without,
)

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
    case("nginx/same-upstream.conf", shares(19001), shares(19002)),
]
