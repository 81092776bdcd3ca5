"""Beside Envoy."""

from tests.convert.looks import (
    answers,
    case,
    fails_over,
    idle_closes,
    limited,
    named,
    named_split,
    shares,
    split,
    sticks,
    told,
    without,
)

CASES = [
    case("envoy/plain.yaml", shares(19001)),
    case(
        "envoy/chains.yaml",
        named(
            19001, "shop.example", "SHOP.example", "shop.example.org", "other.example", "", "plain"
        ),
        named_split(19001, "a.b.shop.example", {"19101": 0.25, "19102": 0.75}),
        named(19001, "test.shop.example", "plain"),
        named(19001, "test.shop.example", "shop.example", "plain", source="127.0.0.2"),
        named(19001, "shop.example", "plain", source="127.0.0.17"),
        named(19001, "plain", source="127.0.1.1"),
        named(19002, "any.example", "plain"),
        named(19002, "any.example", offers=("http/1.1", "h2")),
        named(19003, "any.example", "plain"),
        named(19004, "any.example", "plain"),
    ),
    case("envoy/camel.json", answers(19001)),
    case("envoy/split.yaml", split(19001, {"19101": 0.4, "19102": 0.4, "19103": 0.2})),
    case("envoy/scaled.yaml", split(19001, {"19101": 1 / 3, "19102": 0.5, "19103": 1 / 6})),
    case("envoy/check.yaml", shares(19001), fails_over(19001, 19101, 19102)),
    case("envoy/idle.yaml", idle_closes(19001, 1), idle_closes(19002, 1.5)),
    case("envoy/limits.yaml", limited(19001, 4), limited(19002, 5), limited(19003, 6)),
    case(
        "envoy/clients.yaml",
        *(
            answers(port, source)
            for port in (19001, 19002, 19003)
            for source in ("127.0.0.1", "127.0.0.2", "127.0.0.17", "127.0.0.32")
        ),
    ),
    case(
        "envoy/hash.yaml", sticks(19001), sticks(19002), split(19003, {"19101": 0.5, "19102": 0.5})
    ),
    case(
        "envoy/least.yaml",
        split(19001, {"19101": 0.5, "19102": 0.5}),
        split(19002, {"19101": 0.5, "19102": 0.5}),
    ),
    case(
        "envoy/headers.yaml",
        told(19001, "v1", "v1 IPv6", "v1 UNKNOWN", "v2", "v2 IPv6", "v2 LOCAL", "another v1", "no"),
        told(19002, "v1", "v2", "v2 LOCAL", "no", source="127.0.0.3"),
        told(19003, "no", source="127.0.0.3"),
    ),
    case("envoy/backup.yaml", shares(19001, 20), fails_over(19001, 19101, 19102)),
    case("envoy/retry.yaml", without(19001, 19101), answers(19002), without(19002, 19103)),
]
